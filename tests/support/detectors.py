"""Detectors for tests: of real weights, seeded, and one that finds bright squares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.models.held_detector import HeldDetector
from geoscale.models.parts import Parts

SIDE = 9
"""Of the squares that `bright_squares` draws and `find_squares` finds, in px."""


def squares_card(**detection: Any) -> ModelCard:
    """Card of a finder of bright squares, which gives what YOLOv8 does."""
    spec = {"form": "yolov8", "max_object_px": SIDE, "score_threshold": 0.75}
    return ModelCard.from_dict({
        "name": "squares",
        "task": "detection",
        "weights": {"href": "none.onnx"},
        "input": {"bands": ["b0"], "patch": {"size": 48}},
        "output": {
            "classes": [{"value": 7, "name": "square"}],
            "activation": "none",
            "detection": spec | detection,
        },
    })  # fmt: skip


def find_squares(patches: np.ndarray, *, jitter: float = 0.0) -> np.ndarray:
    """Find where the mean over a square is greatest: (n, 5, y * x), as YOLOv8 gives it.

    With `jitter` the box moves by what else is in the patch, as boxes of networks do.
    """
    n, _, height, width = patches.shape
    ring = SIDE // 2
    padded = np.pad(patches[:, 0], ((0, 0), (ring, ring), (ring, ring)))
    view = np.lib.stride_tricks.sliding_window_view(padded, (SIDE, SIDE), (1, 2))
    mean = view.mean((-1, -2))
    y, x = np.mgrid[:height, :width] + 0.5
    out = np.zeros((n, 5, height, width), np.float32)
    for i, one in enumerate(mean):
        move = jitter * np.sin(1e3 * patches[i].sum(dtype=np.float64))
        out[i, 0], out[i, 1] = x + move, y + move
        out[i, 2:4], out[i, 4] = SIDE, one
    return out.reshape(n, 5, -1)


def save_program(path: Path, network: Any, shape: tuple[int, ...]) -> None:
    """Write a network of torch as .pt2 or .torchscript; a batch of 0 stands for any."""
    import torch

    given = torch.zeros(shape[0] or 2, *shape[1:])
    if path.suffix == ".pt2":
        side = {0: torch.export.Dim("n", min=1, max=64)}
        more = {} if shape[0] else {"dynamic_shapes": (side,)}
        made = torch.export.export(network.eval(), (given,), **more)
        torch.export.save(made, path)
    else:
        torch.jit.save(torch.jit.trace(network.eval(), given), path)


def squares_network(glance: float = 0.0, jitter: float = 0.0) -> Any:
    """Make the same finder in torch.

    With `glance` scores hang on the whole patch, with `jitter` boxes do.
    """
    import torch

    class Squares(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            n, _, height, width = x.shape
            mean = torch.nn.functional.avg_pool2d(x, SIDE, 1, SIDE // 2)
            mean = mean + glance * x.square().mean((1, 2, 3), keepdim=True)
            move = jitter * torch.sin(1e3 * x.sum((1, 2, 3)))[:, None, None, None]
            column = torch.arange(width, dtype=torch.float32) + 0.5 + move
            row = torch.arange(height, dtype=torch.float32)[:, None] + 0.5 - move
            box = [column + 0 * mean, row + 0 * mean, SIDE + 0 * mean, SIDE + 0 * mean]
            return torch.cat([*box, mean], 1).reshape(n, 5, -1)

    return Squares()


def write_squares_job(folder: Path, image: np.ndarray, **inference: Any) -> Path:
    """Write imagery of squares, the finder as TorchScript, its card and a job."""
    import rasterio
    import yaml
    from affine import Affine

    height, width = image.shape
    with rasterio.open(
        folder / "scene.tif", "w", driver="GTiff", dtype="float32", count=1,
        height=height, width=width, crs="EPSG:32636",
        transform=Affine(0.5, 0, 5e5, 0, -0.5, 2e6),
    ) as file:  # fmt: skip
        file.write(image, 1)
    save_program(folder / "net.torchscript", squares_network(), (1, 1, 96, 96))
    card: dict[str, Any] = squares_card().to_dict()
    card["weights"] = {"href": "net.torchscript", "format": "torchscript"}
    card["input"] = {"bands": ["b1"], "units": "raw", "patch": {"size": 96}}
    (folder / "card.yaml").write_text(yaml.safe_dump(card))
    job = {
        "imagery": {"files": str(folder / "scene.tif"), "bands": ["b1"]},
        "model": str(folder / "card.yaml"),
        "inference": inference,
        "output": {"to": str(folder / "out")},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def yolox_network(classes: int) -> Any:
    """Make a network that gives what YOLOX does, of three grids; seeded."""
    import torch
    from torch import nn

    class Yolox(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Sequential(
                nn.Conv2d(3, 8, 8, stride=8), nn.SiLU(), nn.Conv2d(8, 8, 3, padding=1)
            )
            self.down = nn.ModuleList(nn.Conv2d(8, 8, 2, stride=2) for _ in range(2))
            self.heads = nn.ModuleList(nn.Conv2d(8, 5 + classes, 1) for _ in range(3))

        def forward(self, x: Any) -> Any:
            x, rows = self.stem(x), []
            for i, head in enumerate(self.heads):
                x = self.down[i - 1](x) if i else x
                out = head(x)
                out = torch.cat([out[:, :4], out[:, 4:].sigmoid()], 1)
                rows.append(out.flatten(2).transpose(1, 2))
            return torch.cat(rows, 1)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        return Yolox().eval()


def squares_detector(card: ModelCard, *, batch: int = 3, jitter: float = 0.0):
    return HeldDetector(
        lambda patches: find_squares(patches, jitter=jitter),
        card,
        parts=Parts(batch, "cpu"),
        model_id="0",
        told={},
    )


def bright_squares(shape: tuple[int, int], places: list[tuple[int, int]]) -> np.ndarray:
    """Draw squares, float32 (y, x): 1 inside, 0 else; places are their middles."""
    image, ring = np.zeros(shape, np.float32), SIDE // 2
    for y, x in places:
        image[max(0, y - ring) : y + ring + 1, max(0, x - ring) : x + ring + 1] = 1
    return image


def yolox_dict(data: Path, **detection: Any) -> dict[str, Any]:
    """YOLOX-nano of COCO, real weights; what it sees from above is mostly wrong."""
    spec = {"form": "yolox", "max_object_px": 96, "score_threshold": 0.1}
    spec["suppression"] = {"iou": 0.45}
    return {
        "name": "yolox-nano",
        "task": "detection",
        "weights": {"href": str(data / "yolox_nano" / "yolox_nano.onnx")},
        "license": "Apache-2.0",
        "input": {
            "bands": ["red", "green", "blue"],
            "units": "raw",
            "patch": {"size": 416, "fixed": True},
        },
        "output": {
            "classes": [{"value": i, "name": f"coco{i}"} for i in range(80)],
            "activation": "none",
            "detection": spec | detection,
        },
    }


def seeded_dict(folder: Path, kind: str, **detection: Any) -> dict[str, Any]:
    """Make a detector of torchvision with seeded weights, and give its card."""
    import torch
    from safetensors.torch import save_file

    from geoscale.models.detectors import detector

    args = {
        "kind": kind,
        "classes": 3,
        "backbone": "resnet18",
        "anchors": [16, 24, 32, 48, 64],
    }
    if kind.endswith("rcnn"):
        args |= {"box_detections_per_img": 40, "rpn_post_nms_top_n_test": 100}
    else:
        # seeded scores are low, and any of the three labels may come
        args |= {"score_thresh": 0.0, "detections_per_img": 40}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = detector(**args)
    href = folder / f"{kind}.safetensors"
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, href)
    spec = {"form": "torchvision", "max_object_px": 64, "score_threshold": 0.05}
    return {
        "name": kind,
        "task": "detection",
        "architecture": "geoscale.models.detectors:detector",
        "architecture_args": args,
        "weights": {"href": str(href)},
        "license": "MIT",
        "input": {
            "bands": ["red", "green", "blue"],
            "units": "raw",
            "normalization": {
                "type": "mean-std",
                "mean": [124.0, 116.0, 104.0],
                "std": [58.0, 57.0, 57.0],
            },
            "patch": {"size": 256, "multiple_of": 32},
        },
        "output": {
            "classes": [
                *[{"value": 0, "name": "road"}] * (not kind.endswith("rcnn")),
                {"value": 1, "name": "building"},
                {"value": 2, "name": "tree"},
            ],
            "activation": "none",
            "detection": spec | detection,
        },
    }

"""What a map is worth: agreement with a reference, truth where there is one, seams.

``python -m benchmarks.quality WORKLOAD SIZE`` makes the reference and prints where.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import scratch, test_data

DENSE_STRIDE = 61
REFERENCES = {
    "whole": "the whole image in one pass of the same network, torch eager float32",
    "dense": (
        f"the mean score of patches of 256 px every {DENSE_STRIDE} px (about 17 a "
        "pixel, mirrored at the edges), ONNX Runtime float32: the network takes no "
        "other size"
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("workload")
    parser.add_argument("size", type=int)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    print(json.dumps(make_reference(args.workload, args.size)))


LEAST_SHARE = 0.01
"""Share of the pixels from which a class counts as there."""


def make_reference(workload: str, size: int) -> dict[str, Any]:
    """Class map to which the contenders' are held; kept between runs."""
    from benchmarks.peer_recipes import Network, Scene, read_whole
    from benchmarks.workloads import get_peer_workload
    from geoscale.memory import allowed_cpus
    from geoscale.models import resolve_weights

    chosen = get_peer_workload(workload)
    kind = "dense" if chosen.card.input.patch.fixed else "whole"
    _, sha256 = resolve_weights(chosen.card)
    scene = chosen.items(size)
    name = f"reference-{workload}-{scene.parent.name}-{sha256[:12]}.npy"
    path = scratch() / name
    if not path.is_file():
        net = Network(chosen.card, allowed_cpus())
        pixels = read_whole(Scene(scene, size, net, path))
        infer = infer_dense if kind == "dense" else infer_whole
        np.save(path, infer(net, pixels))
    shares = np.bincount(np.load(path).ravel()) / size**2
    if (shares > LEAST_SHARE).sum() < 2:
        raise SystemExit(
            f"the reference of {workload} is one class ({shares.round(4).tolist()}): "
            "every contender would agree with it; use another scene"
        )
    return {"path": str(path), "kind": kind, "what": REFERENCES[kind]}


def infer_whole(net: Any, pixels: np.ndarray) -> np.ndarray:
    """One pass; padded below and to the right to what the network divides by."""
    import torch

    height, width = pixels.shape[1:]
    pads = [(0, -n % 32) for n in (height, width)]
    x = np.pad(pixels, ((0, 0), *pads), mode="symmetric")
    scores = net(torch.from_numpy(x)[None])[0, :, :height, :width]
    return scores.argmax(0).numpy().astype(np.uint8)


def infer_dense(net: Any, pixels: np.ndarray) -> np.ndarray:
    """Mean of the scores of densely overlapping patches."""
    import torch

    patch, (height, width) = net.fixed, pixels.shape[1:]
    rim = patch - DENSE_STRIDE
    ends = [-(-(n + 2 * rim - patch) // DENSE_STRIDE) for n in (height, width)]
    size = [n * DENSE_STRIDE + patch for n in ends]
    pads = [(rim, s - rim - n) for s, n in zip(size, (height, width), strict=True)]
    x = np.pad(pixels, ((0, 0), *pads), mode="symmetric")
    total = np.zeros((len(net.card.output.classes), *size), np.float32)
    columns = range(0, size[1] - patch + 1, DENSE_STRIDE)
    for y in range(0, size[0] - patch + 1, DENSE_STRIDE):
        for first in range(0, len(columns), 4):
            group = columns[first : first + 4]
            batch = np.stack([x[:, y : y + patch, c : c + patch] for c in group])
            found = net.scores(torch.from_numpy(batch)).numpy()
            for c, scores in zip(group, found, strict=True):
                total[:, y : y + patch, c : c + patch] += scores
    inside = total[:, rim : rim + height, rim : rim + width]
    return inside.argmax(0).astype(np.uint8)


def open_map(path: str) -> np.ndarray:
    """A contender's class map, (y, x), from its GeoTIFF or Zarr."""
    if path.endswith(".tif"):
        import rasterio

        with rasterio.open(path) as file:
            return file.read(1)
    import zarr

    found = zarr.open(path, mode="r")
    if isinstance(found, zarr.Array):
        return np.asarray(found[:])
    return np.asarray(found["classes"][0])


def rate(labels: np.ndarray, reference: np.ndarray) -> dict[str, Any]:
    """Share of pixels with the reference's label, in all and away from edges."""
    same = labels == reference
    found = {"agreement": round(float(same.mean()), 6)}
    if min(same.shape) > 512:
        inside = same[128:-128, 128:-128]
        found["agreement_inside"] = round(float(inside.mean()), 6)
    return found


def seams(labels: np.ndarray, borders: list[list[int]]) -> dict[str, Any]:
    """Changes of class along a map's own patch borders, against other lines."""
    from geoscale.testing import measure_seams

    worst, means = [], []
    for axis, lines in enumerate(borders):
        if not lines:
            continue
        worst.append(measure_seams(labels, lines, axis).ratio)
        means.append(_mean_ratio(np.moveaxis(labels, axis, 0), lines))
    if not worst:
        return {"seam_worst": None, "seam_mean": None, "borders": 0}
    return {
        "seam_worst": round(max(worst), 3),
        "seam_mean": round(max(means), 3),
        "borders": sum(map(len, borders)),
    }


def _mean_ratio(labels: np.ndarray, lines: list[int]) -> float:
    """Mean change across borders divided by the mean change across other lines."""
    changes = (labels[1:] != labels[:-1]).mean(axis=1)
    at = [i - 1 for i in lines]
    others = np.delete(changes, at).mean()
    return float(changes[at].mean() / others) if others else 1.0


def judge_truth(labels: np.ndarray) -> dict[str, Any]:
    """Accuracy and kappa against the cloud model's label, mirrored as the scene."""
    from benchmarks.workloads import mirror

    path = test_data() / "ukis_csmask" / "sentinel2.npz"
    if not path.is_file():
        return {}
    with np.load(path) as file:
        label = next(file[k] for k in file.files if file[k].shape[-1] != 6)
    # the label's codes → the network's: background, clouds, shadows
    truth = np.array([2, 0, 0, 0, 1], np.uint8)[np.squeeze(label).astype(int)]
    truth = mirror(truth, labels.shape[0])
    return {
        "accuracy": round(float((truth == labels).mean()), 4),
        "kappa": round(kappa(truth, labels), 4),
    }


def kappa(a: np.ndarray, b: np.ndarray) -> float:
    """Cohen's kappa of two class maps."""
    n = int(max(a.max(), b.max())) + 1
    pairs = a.ravel().astype(np.int64) * n + b.ravel()
    share = np.bincount(pairs, minlength=n * n).reshape(n, n) / a.size
    chance = (share.sum(0) * share.sum(1)).sum()
    return float((np.trace(share) - chance) / (1 - chance)) if chance < 1 else 1.0


def judge(
    workload: str, path: str, reference: Path, borders: list[list[int]]
) -> dict[str, Any]:
    """Everything that is said of one map."""
    labels, wanted = open_map(path), np.load(reference)
    if labels.shape != wanted.shape:
        return {"wrong_shape": f"{labels.shape}, the scene has {wanted.shape}"}
    found = rate(labels, wanted) | seams(labels, borders)
    return found | (judge_truth(labels) if workload == "ukis" else {})


if __name__ == "__main__":
    main()

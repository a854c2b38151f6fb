"""How each peer is used on a whole scene, as its own documentation writes it.

A recipe reads the scene's COGs, runs the network, and ends with a class map (uint8)
in a file. Nothing is tuned for a peer that its users would not do; where a choice
was open, the faster one was taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard

PATCH, BATCH = 256, 4
SCALE = 1e-4


class Network:
    """The network of a card as plain torch (or ONNX Runtime) calls it."""

    def __init__(self, card: ModelCard, threads: int) -> None:
        from geoscale.models import resolve_weights

        self.card, self.threads, self.seen_px = card, threads, 0
        path, _ = resolve_weights(card)
        onnx = Path(path).suffix == ".onnx"
        self._call = _onnx_call(path, threads) if onnx else _torch_call(card, path)
        self.kind = "ONNX Runtime float32" if onnx else "torch eager float32"
        self.fixed = card.input.patch.size if card.input.patch.fixed else None

    def __call__(self, x: Any) -> Any:
        """float32 (n, channel, y, x) → logits (n, class, y, x), torch tensors."""
        self.seen_px += x.shape[0] * x.shape[-2] * x.shape[-1]
        return self._call(x)

    def scores(self, x: Any) -> Any:
        """Probabilities: what blending peers average."""
        return self(x).softmax(1)

    def warm(self) -> None:
        import torch

        self(torch.zeros(BATCH, self.card.input.channels, PATCH, PATCH))
        self.seen_px = 0


def _torch_call(card: ModelCard, path: Any) -> Callable[[Any], Any]:
    import importlib

    import torch
    from safetensors.torch import load_file

    module, _, name = str(card.architecture).partition(":")
    args = dict(card.architecture_args)
    if module.startswith("segmentation_models_pytorch"):
        args["encoder_weights"] = None
    net = getattr(importlib.import_module(module), name)(**args)
    net.load_state_dict(load_file(path))
    net.eval()

    def call(x: Any) -> Any:
        with torch.inference_mode():
            return net(x)

    return call


def _onnx_call(path: Any, threads: int) -> Callable[[Any], Any]:
    import onnxruntime
    import torch

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(
        str(path), sess_options=options, providers=["CPUExecutionProvider"]
    )
    name = session.get_inputs()[0].name

    def call(x: Any) -> Any:
        return torch.from_numpy(session.run(None, {name: x.numpy()})[0])

    return call


@dataclass
class Scene:
    """What a peer is given."""

    items: Path
    size: int
    net: Network
    out: Path
    """Without suffix; the recipe chooses one."""
    bands: tuple[str, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.bands = tuple(self.net.card.input.bands)

    @property
    def paths(self) -> list[Path]:
        return [self.items.parent / f"{name}.tif" for name in self.bands]

    def normalise(self, stored: np.ndarray) -> np.ndarray:
        """Stored uint16 (band, y, x) → the network's float32 input."""
        return self.standardise(stored.astype(np.float32) * np.float32(SCALE))

    def standardise(self, reflectance: np.ndarray) -> np.ndarray:
        norm = self.net.card.input.normalization
        mean, std = (np.asarray(v, np.float32)[:, None, None] for v in norm_of(norm))
        reflectance -= mean
        reflectance /= std
        return reflectance


def norm_of(norm: Any) -> tuple[Any, Any]:
    return norm.mean, norm.std


@dataclass
class Made:
    """A finished map, and where its patches meet."""

    path: Path
    borders: list[int]
    """First pixels after each border, along both axes."""
    how: str


def read_whole(scene: Scene) -> np.ndarray:
    """Read every band whole, normalised (band, y, x)."""
    import rasterio

    stack = np.empty((len(scene.bands), scene.size, scene.size), np.float32)
    for plane, path in zip(stack, scene.paths, strict=True):
        with rasterio.open(path) as file:
            plane[:] = file.read(1)
    stack *= np.float32(SCALE)
    return scene.standardise(stack)


def write_tiff(scene: Scene, labels: np.ndarray) -> Path:
    import rasterio

    path = scene.out.with_suffix(".tif")
    with rasterio.open(scene.paths[0]) as like:
        profile = {"crs": like.crs, "transform": like.transform}
    with rasterio.open(
        path, "w", driver="GTiff", height=scene.size, width=scene.size, count=1,
        dtype="uint8", tiled=True, blockxsize=512, blockysize=512,
        compress="deflate", num_threads="all_cpus", **profile,
    ) as file:  # fmt: skip
        file.write(labels, 1)
    return path


def _edges(starts: list[int], patch: int, size: int) -> list[int]:
    ends = [s + patch for s in starts]
    return sorted({b for b in starts + ends if 0 < b < size})


def monai(scene: Scene) -> Made:
    """MONAI: sliding_window_inference over the whole scene in memory."""
    import torch
    from monai.inferers import sliding_window_inference

    x = torch.from_numpy(read_whole(scene))[None]
    scores = sliding_window_inference(
        x, (PATCH, PATCH), BATCH, scene.net.scores, overlap=0.25, mode="gaussian"
    )
    labels = scores[0].argmax(0).to(torch.uint8).numpy()
    step = PATCH * 3 // 4
    starts = [min(s, scene.size - PATCH) for s in range(0, scene.size, step)]
    how = "sliding_window_inference, roi 256, overlap 0.25, gaussian; whole-scene read"
    return Made(write_tiff(scene, labels), _edges(starts, PATCH, scene.size), how)


def torchgeo(scene: Scene) -> Made:
    """TorchGeo: RasterDataset, GridGeoSampler, DataLoader, middles stitched."""
    import torch
    from torch.utils.data import DataLoader
    from torchgeo.datasets import RasterDataset, stack_samples
    from torchgeo.samplers import GridGeoSampler

    class Bands(RasterDataset):
        filename_glob = f"{scene.bands[0]}.tif"
        filename_regex = r"^(?P<band>[a-z0-9]+)\.tif$"
        separate_files = True
        all_bands = scene.bands

    def prepare(sample: dict[str, Any]) -> dict[str, Any]:
        pixels = scene.standardise(sample["image"].numpy() * np.float32(SCALE))
        return sample | {"image": torch.from_numpy(pixels)}

    data = Bands(str(scene.items.parent), bands=scene.bands, transforms=prepare)
    step, rim = 192, 32
    sampler = GridGeoSampler(data, size=PATCH, stride=step)
    loader = DataLoader(
        data, batch_size=BATCH, sampler=sampler, collate_fn=stack_samples
    )
    west, _, _, north = data.index.total_bounds
    res = data.res[0]
    labels = np.full((scene.size, scene.size), 255, np.uint8)
    lines: set[int] = set()
    for batch in loader:
        found = scene.net(batch["image"]).argmax(1).to(torch.uint8).numpy()
        for patch, (xs, ys, _) in zip(found, _bounds(batch), strict=True):
            y, x = round((north - ys.stop) / res), round((xs.start - west) / res)
            rows, columns = _middle(y, rim, scene.size), _middle(x, rim, scene.size)
            labels[slice(*rows), slice(*columns)] = patch[
                rows[0] - y : rows[1] - y, columns[0] - x : columns[1] - x
            ]
            lines |= {rows[0], rows[1], columns[0], columns[1]}
    assert (labels != 255).all(), "the stitching left a hole"
    how = (
        "RasterDataset + GridGeoSampler (256, stride 192) + DataLoader (no workers); "
        "the middle 192 px of each patch are kept"
    )
    borders = sorted(b for b in lines if 0 < b < scene.size)
    return Made(write_tiff(scene, labels), borders, how)


def _bounds(batch: dict[str, Any]) -> list[tuple[slice, slice, Any]]:
    """Slices of each sample, however the collate function of the day keeps them."""
    bounds = batch["bounds"]
    if isinstance(bounds, list | tuple) and isinstance(bounds[0], tuple):
        return [tuple(b) for b in bounds]  # type: ignore[misc]
    rows = [[float(v) for v in row] for row in bounds]
    return [(slice(r[0], r[1]), slice(r[3], r[4]), None) for r in rows]


def _middle(start: int, rim: int, size: int) -> tuple[int, int]:
    """Pixels that a patch gives to the map: all of it at the scene's edges."""
    first = 0 if start <= 0 else start + rim
    end = size if start + PATCH >= size else start + PATCH - rim
    return first, end


def ukis(scene: Scene) -> Made:
    """ukis-csmask's own class, over the whole scene in memory."""
    import rasterio
    from ukis_csmask.mask import CSmask

    stack = np.empty((scene.size, scene.size, len(scene.bands)), np.float32)
    for i, path in enumerate(scene.paths):
        with rasterio.open(path) as file:
            stack[..., i] = file.read(1)
    stack *= np.float32(SCALE)
    mask = CSmask(
        img=stack, band_order=list(scene.bands), product_level="l1c", nodata_value=0,
        intra_op_num_threads=scene.net.threads, providers=["CPUExecutionProvider"],
    )  # fmt: skip
    step, lead = int(PATCH - PATCH * 0.2), int(PATCH * 0.2)
    starts = list(range(-lead, scene.size, step))
    scene.net.seen_px += (len(starts) * PATCH) ** 2
    how = "CSmask as its README has it (tiles of 256, overlap 0.2, tukey, batch 1)"
    path = write_tiff(scene, mask.csm[..., 0])
    return Made(path, _edges(starts, PATCH, scene.size), how)


def terratorch(scene: Scene) -> Made:
    """terratorch: tiled_inference over the whole scene in memory."""
    import torch
    from terratorch.tasks.tiled_inference import tiled_inference

    step, delta = 224, 8
    x = torch.from_numpy(read_whole(scene))[None]
    scores = tiled_inference(
        scene.net.scores, x, crop=PATCH, stride=step, delta=delta, batch_size=BATCH
    )
    labels = scores[0].argmax(0).to(torch.uint8).numpy()
    padded = scene.size + 2 * delta
    starts = [*range(0, padded - PATCH - 1, step), padded - PATCH]
    # it pads by delta and crops delta: patches give [start, start + 240) of the scene
    borders = _edges(starts, PATCH - 2 * delta, scene.size)
    how = (
        "tiled_inference, crop 256, its default overlap of 32 px and delta 8, blended; "
        "whole-scene read"
    )
    return Made(write_tiff(scene, labels), borders, how)


def dask_overlap(scene: Scene) -> Made:
    """Stackstac + map_overlap: what a notebook with Dask does."""
    import pystac
    import rasterio
    import stackstac
    import torch

    found = json.loads(scene.items.read_text(encoding="utf-8"))
    items = [pystac.Item.from_dict(f) for f in found["features"]]
    for item in items:
        item.set_self_href(str(scene.items))
        item.make_asset_hrefs_absolute()
    depth = 32
    # a network of fixed size gets chunks that are just that with their overlap
    chunk = 1024 if scene.net.fixed is None else scene.net.fixed - 2 * depth
    read = 1024 if scene.net.fixed is None else 8 * chunk
    # without bounds it takes the item's footprint in degrees, and a grid beside ours
    with rasterio.open(scene.paths[0]) as like:
        bounds = tuple(like.bounds)
    stack = stackstac.stack(
        items, assets=list(scene.bands), epsg=32633, resolution=10, bounds=bounds,
        chunksize=read,
    )  # fmt: skip
    pixels = stack.isel(time=0).data.rechunk({0: -1, 1: chunk, 2: chunk})

    def infer(block: np.ndarray) -> np.ndarray:
        height, width = block.shape[-2:]
        x = scene.standardise(block.astype(np.float32))
        goal = scene.net.fixed or 32
        pads = [(0, -n % goal) for n in (height, width)]
        x = np.pad(x, ((0, 0), *pads), mode="symmetric")
        found = scene.net(torch.from_numpy(np.ascontiguousarray(x))[None])
        return found[0, :, :height, :width].argmax(0).to(torch.uint8).numpy()

    labels = pixels.map_overlap(
        infer, depth={0: 0, 1: depth, 2: depth}, boundary={0: "none", 1: "reflect",
        2: "reflect"}, drop_axis=0, dtype=np.uint8, meta=np.empty((0, 0), np.uint8),
    )  # fmt: skip
    path = scene.out.with_suffix(".zarr")
    labels.rechunk((read, read)).to_zarr(str(path))
    borders = list(range(chunk, scene.size, chunk))
    how = (
        f"stackstac.stack (chunks {read}) + map_overlap (chunks {chunk}, depth 32, "
        "reflect), Dask's threads; Zarr"
    )
    return Made(path, borders, how)


def xbatcher(scene: Scene) -> Made:
    """Xbatcher: BatchGenerator over a padded stack; it drops partial patches."""
    import rioxarray
    import torch
    import xarray as xr
    from xbatcher import BatchGenerator

    rim = 32
    step = PATCH - 2 * rim
    planes = [
        rioxarray.open_rasterio(p).squeeze("band", drop=True) for p in scene.paths
    ]
    stack = xr.concat(planes, dim="band").transpose("band", "y", "x").load()
    over = -(-scene.size // step) * step - scene.size
    margin = (rim, rim + over)
    stack = stack.pad(y=margin, x=margin, mode="symmetric")
    batches = BatchGenerator(
        stack.drop_vars(["x", "y", "spatial_ref"], errors="ignore"),
        input_dims={"y": PATCH, "x": PATCH},
        input_overlap={"y": 2 * rim, "x": 2 * rim},
    )
    across = (scene.size + over) // step
    labels = np.empty((across * step, across * step), np.uint8)
    for first in range(0, len(batches), BATCH):
        numbers = range(first, min(first + BATCH, len(batches)))
        group = [
            scene.normalise(batches[i].transpose("band", ...).values) for i in numbers
        ]
        found = scene.net(torch.from_numpy(np.stack(group))).argmax(1)
        for i, patch in zip(numbers, found.to(torch.uint8).numpy(), strict=True):
            y, x = divmod(i, across)
            labels[y * step : (y + 1) * step, x * step : (x + 1) * step] = patch[
                rim:-rim, rim:-rim
            ]
    path = write_tiff(scene, np.ascontiguousarray(labels[: scene.size, : scene.size]))
    how = (
        "BatchGenerator (256, overlap 64) over a loaded stack, mirrored so that no "
        "partial patch is lost; the middle 192 px are kept"
    )
    return Made(path, list(range(step, scene.size, step)), how)


PEERS: dict[str, Callable[[Scene], Made]] = {
    "monai": monai,
    "torchgeo": torchgeo,
    "ukis-csmask": ukis,
    "terratorch": terratorch,
    "stackstac+dask": dask_overlap,
    "xbatcher": xbatcher,
}

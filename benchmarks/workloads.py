"""Workloads: imagery as COGs with a STAC item, and the networks that run on it."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import scratch, test_data
from geoscale.card import ModelCard

BANDS = ("blue", "green", "red", "nir", "swir16", "swir22")
EPSG, ORIGIN, STEP_M = 32633, (500_000.0, 4_900_020.0), 10.0
CLASSES = 5
SEED = 20240615
# of the imagery, roughly; in reflectance
MEAN = (0.2, 0.18, 0.18, 0.26, 0.2, 0.15)
STD = (0.15,) * 6


SIAMESE = {
    "siamese": ("FCSiamDiff", "resnet18"),
    "siamese50": ("FCSiamConc", "resnet50"),
}
"""Networks of pairs: a small one, beside which reading shows, and a usual one."""


@dataclass(frozen=True)
class Workload:
    """A network and how it is run."""

    name: str
    card: ModelCard
    options: dict[str, Any] = field(default_factory=dict)
    imagery: str = "six"
    """``six``: one item of six bands; ``pair``: two dates of it; ``demo``: the demo's
    six overlapping scenes."""

    def items(self, size: int) -> Path:
        makers = {"demo": demo_items, "pair": pair_items, "six": six_band_items}
        return makers[self.imagery](size)


def get_workload(name: str) -> Workload:
    """Find a workload by name."""
    from geoscale.models.catalog import find_card

    if name == "landcover":
        options = {"patch_px": 568, "stride_px": 512, "block_px": 1024}
        return Workload(name, find_card("s2-landcover-unet"), options, "demo")
    if name == "ukis":
        return Workload(name, find_card("ukis-csmask-6b-l1c"))
    if name == "unet":
        return Workload(name, unet_card(), {"patch_px": 512})
    if name in SIAMESE:
        return Workload(name, siamese_card(*SIAMESE[name]), {"patch_px": 512}, "pair")
    if name == "tiny":
        options = {"patch_px": 512, "stride_px": 512, "block_px": 1024}
        return Workload(name, tiny_card(), options)
    raise KeyError(name)


def get_peer_workload(name: str) -> Workload:
    """A workload on one item of plain COGs: what every peer can read alike.

    The U-Net's squeeze-and-excitation looks at the whole patch, so that larger patches
    come closer to the whole image; one peer runs it on 1,088 px.
    """
    found = replace(get_workload(name), imagery="six")
    return replace(found, options={"patch_px": 1152}) if name == "unet" else found


def sample() -> tuple[np.ndarray, str]:
    """Six bands of real imagery, reflectance x 10000, uint16 (band, y, x)."""
    path = test_data() / "ukis_csmask" / "sentinel2.npz"
    if path.is_file():
        with np.load(path) as file:
            image = next(file[k] for k in file.files if file[k].ndim == 3)
        pixels = np.moveaxis(image, -1, 0)[:6]
        note = "Sentinel-2 L1C chip of 512 x 512 px, mirrored at its edges"
        whole = (pixels * 10_000).round().clip(1, 65535)
        return np.ascontiguousarray(whole, np.uint16), note
    from geoscale.demo.scenes import load_pixels

    four = load_pixels(300)
    note = (
        "Sentinel-2 sample of 300 x 300 px from spyndex, mirrored at its edges; it has "
        "four bands, so red and nir stand in for the two SWIR bands"
    )
    return np.ascontiguousarray(np.concatenate([four, four[2:]])), note


def six_band_items(size: int) -> Path:
    """Write one item of six COGs, or find it there; gives its ``items.json``."""
    pixels, note = sample()
    # Named by its pixels: another sample, or none of the test data, is another scene.
    folder = scratch() / f"six-{size}-{hashlib.sha256(pixels).hexdigest()[:8]}"
    path = folder / "items.json"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for name, band in zip(BANDS, pixels, strict=True):
        _write_cog(folder / f"{name}.tif", mirror(band, size))
    path.write_text(json.dumps(describe_items(size, note)), encoding="utf-8")
    return path


def pair_items(size: int) -> Path:
    """Two dates of the six COGs: the later one is the same ground, upside down."""
    first = six_band_items(size)
    folder = first.parent.with_name(f"{first.parent.name}-later")
    path = folder / "items.json"
    if path.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    pixels, note = sample()
    for name, band in zip(BANDS, pixels, strict=True):
        _write_cog(folder / f"{name}.tif", mirror(band[::-1], size))
    before = json.loads(first.read_text(encoding="utf-8"))["features"][0]
    for asset in before["assets"].values():
        asset["href"] = str(first.parent / asset["href"])
    after = describe_items(size, note)["features"][0] | {"id": f"bench-{size}-later"}
    after["properties"]["datetime"] = "2025-06-15T10:00:31Z"
    both = {"type": "FeatureCollection", "features": [before, after]}
    path.write_text(json.dumps(both), encoding="utf-8")
    return path


def mirror(band: np.ndarray, size: int) -> np.ndarray:
    """Mirror a band at its edges until it fills a square."""
    return mirror_window(band, (0, size), (0, size))


def mirror_window(
    band: np.ndarray, rows: tuple[int, int], columns: tuple[int, int]
) -> np.ndarray:
    """Part of the square that a mirrored band fills."""
    indexes = []
    for (first, end), length in zip((rows, columns), band.shape, strict=True):
        at = np.arange(first, end) % (2 * length - 2)
        indexes.append(np.minimum(at, 2 * length - 2 - at))
    return np.ascontiguousarray(band[np.ix_(*indexes)])


def write_mirrored(path: Path, band: np.ndarray, size: int) -> None:
    """Write a mirrored band strip by strip: no more than a row of tiles in memory.

    A tiled GeoTIFF without overviews; at its own resolution it reads as a COG does.
    """
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(
        path, "w", driver="GTiff", height=size, width=size, count=1, tiled=True,
        blockxsize=512, blockysize=512, compress="deflate", predictor=2, zlevel=6,
        num_threads="all_cpus", bigtiff="if_safer", **_profile(band),
    ) as file:  # fmt: skip
        for y in range(0, size, 512):
            rows = min(512, size - y)
            strip = mirror_window(band, (y, y + rows), (0, size))
            file.write(strip, 1, window=Window(0, y, size, rows))


def _profile(band: np.ndarray) -> dict[str, Any]:
    from affine import Affine

    transform = Affine(STEP_M, 0, ORIGIN[0], 0, -STEP_M, ORIGIN[1])
    crs = f"EPSG:{EPSG}"
    return {"dtype": band.dtype, "nodata": 0, "crs": crs, "transform": transform}


def _write_cog(path: Path, data: np.ndarray) -> None:
    import rasterio

    with rasterio.open(
        path, "w", driver="COG", height=data.shape[0], width=data.shape[1], count=1,
        COMPRESS="DEFLATE", PREDICTOR="YES", BLOCKSIZE=512, NUM_THREADS="ALL_CPUS",
        **_profile(data),
    ) as file:  # fmt: skip
        file.write(data, 1)


def describe_items(
    size: int, note: str, bands: tuple[str, ...] = BANDS
) -> dict[str, Any]:
    """Collection of one item, its bands beside it as files of their names."""
    import rasterio.warp

    west, north = ORIGIN
    east, south = west + size * STEP_M, north - size * STEP_M
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    flat = {"type": "Polygon", "coordinates": [ring]}
    geometry = rasterio.warp.transform_geom(f"EPSG:{EPSG}", "EPSG:4326", flat)
    xs, ys = zip(*geometry["coordinates"][0], strict=True)
    assets = {
        name: {
            "href": f"./{name}.tif",
            "type": "image/tiff; application=geotiff; profile=cloud-optimized",
            "roles": ["data", "reflectance"],
            "eo:bands": [{"name": name, "common_name": name}],
            "raster:bands": [
                {"nodata": 0, "data_type": "uint16", "scale": 0.0001, "offset": 0,
                 "spatial_resolution": STEP_M}
            ],
        }
        for name in bands
    }  # fmt: skip
    item = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
        ],
        "id": f"bench-{size}",
        "geometry": geometry,
        "bbox": [min(xs), min(ys), max(xs), max(ys)],
        "properties": {
            "datetime": "2024-06-15T10:00:31Z",
            "description": note,
            "proj:code": f"EPSG:{EPSG}",
            "proj:epsg": EPSG,
            "proj:shape": [size, size],
            "proj:transform": [STEP_M, 0, west, 0, -STEP_M, north],
        },
        "links": [],
        "assets": assets,
    }
    return {"type": "FeatureCollection", "features": [item]}


def demo_items(size: int) -> Path:
    """Lay out the demo's six overlapping scenes of four bands, or find them."""
    from geoscale.demo.scenes import write_scenes

    folder = scratch() / f"demo-{size}"
    path = folder / "items.json"
    return path if path.is_file() else write_scenes(folder, size)


def _card(name: str, weights: Path, **more: Any) -> ModelCard:
    return ModelCard.from_dict(
        {
            "name": name,
            "weights": {"href": str(weights)},
            "output": {
                "classes": [{"value": i, "name": f"c{i}"} for i in range(CLASSES)],
                "activation": "softmax",
            },
        }
        | more
    )


def _input(bands: tuple[str, ...] = BANDS, **patch: Any) -> dict[str, Any]:
    n = len(bands)
    return {
        "bands": list(bands),
        "units": "reflectance",
        "normalization": {"type": "mean-std", "mean": MEAN[:n], "std": STD[:n]},
        "patch": patch,
    }


def unet_card() -> ModelCard:
    """U-Net of segmentation_models_pytorch, efficientnet-b4, seeded weights."""
    args = {"encoder_name": "efficientnet-b4", "in_channels": 6, "classes": CLASSES}
    pixels, _ = sample()
    seen = hashlib.sha256(pixels).hexdigest()[:8]  # batch norm has seen them
    path = scratch() / f"unet-b4-{SEED}-{seen}.safetensors"
    if not path.is_file():
        _seed_unet(path, args)
    return _card(
        "bench-unet-b4",
        path,
        architecture="segmentation_models_pytorch:Unet",
        architecture_args=args,
        input=_input(size=256, multiple_of=32, alignment=1),
    )


def _seed_unet(path: Path, args: dict[str, Any]) -> None:
    """Random weights; batch norm has seen real imagery, so that labels vary."""
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(SEED)
    net = smp.Unet(encoder_weights=None, **args)
    pixels, _ = sample()
    x = (pixels[:, :256, :256] / 1e4 - np.array(MEAN)[:, None, None]) / 0.15
    batch = torch.from_numpy(np.stack([x, x[:, ::-1], x[:, :, ::-1]]).astype("f4"))
    for part in net.modules():
        if isinstance(part, torch.nn.BatchNorm2d):
            part.momentum = None
    with torch.no_grad():
        net.train()(batch)
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)


def siamese_card(network: str, encoder: str) -> ModelCard:
    """A siamese network of torchgeo over six bands of two dates, seeded weights."""
    import torch
    import torchgeo.models
    from safetensors.torch import save_file

    args = {"encoder_name": encoder, "in_channels": 6, "classes": 1}
    path = scratch() / f"{network}-{encoder}-{SEED}.safetensors"
    if not path.is_file():
        torch.manual_seed(SEED)
        net = getattr(torchgeo.models, network)(encoder_weights=None, **args)
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, path)
    spec = _input(size=256, multiple_of=32, alignment=1)
    spec |= {"frames": 2, "pair": "time-axis"}
    twice = {"mean": MEAN * 2, "std": STD * 2}
    spec["normalization"] = {"type": "mean-std", **twice}
    return _card(
        f"bench-{network}-{encoder}",
        path,
        task="change",
        architecture=f"torchgeo.models:{network}",
        architecture_args=args,
        input=spec,
        output={"single": True, "activation": "sigmoid"},
    )


def tiny_card() -> ModelCard:
    """One 1 x 1 convolution: all that is left is reading, cutting and writing."""
    return curve_card(BANDS)


def curve_card(bands: tuple[str, ...]) -> ModelCard:
    """The same for some of the bands."""
    import torch
    from safetensors.torch import save_file
    from torchvision.ops.misc import Conv2dNormActivation

    args = {
        "in_channels": len(bands),
        "out_channels": CLASSES,
        "kernel_size": 1,
        "norm_layer": None,
        "activation_layer": None,
    }
    path = scratch() / f"conv-{len(bands)}-{SEED}.safetensors"
    if not path.is_file():
        torch.manual_seed(SEED)
        save_file(Conv2dNormActivation(**args).state_dict(), path)
    return _card(
        "bench-tiny",
        path,
        # bare torch.nn is not among the packages that a card may name unasked
        architecture="torchvision.ops.misc:Conv2dNormActivation",
        architecture_args=args,
        input=_input(bands, size=256, multiple_of=1, alignment=1, halo=0),
    )

"""Imagery of a globe whose every place has a known value, cut into files anywhere."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
from affine import Affine
from pyproj import Transformer

from geoscale.sources.items import Asset, Item

SUPPORT = Path(__file__).resolve().parent
CLASSES, RADIUS = 3, 5


def value_at(lon, lat):
    """float32 of a place in degrees: smooth, and the same on both sides of 180."""
    lon, lat = np.radians(lon), np.radians(lat)
    found = 1000 + 400 * np.sin(2 * lat) + np.cos(lat) * (
        400 * np.cos(3 * lon) + 100 * np.sin(2 * lon)
    )  # fmt: skip
    return found.astype("float32")


def class_at(lon, lat):
    """uint8 of a place: the class of a chequered globe, fields of 0.03 degrees.

    No field ends at a border of UTM zones or at the equator.
    """
    fields = np.floor((lon % 360) / 0.03 + 0.4) + np.floor((lat + 90) / 0.03 + 0.3)
    return (fields % CLASSES).astype("uint8")


def centres(crs, transform, shape):
    """Longitude and latitude of the middle of every pixel, two of (y, x)."""
    columns, rows = np.meshgrid(np.arange(shape[1]) + 0.5, np.arange(shape[0]) + 0.5)
    x, y = transform * (columns, rows)
    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)


def write_tile(path, crs, transform, shape):
    """Write `value_at` of a rectangle as one float32 band; give its item."""
    _write(path, crs, transform, value_at(*centres(crs, transform, shape))[None], -1)
    asset = Asset(
        href=str(path), crs=crs, transform=tuple(transform)[:6], shape=shape,
        dtype="float32", nodata=-1.0,
    )  # fmt: skip
    return Item(id=Path(path).stem, datetime=None, assets={"a": asset})


def write_scene(path, crs, transform, shape):
    """Write `class_at` of a rectangle as three uint16 bands, high where it is so."""
    found = class_at(*centres(crs, transform, shape))
    bands = np.where(found == np.arange(CLASSES)[:, None, None], 1000, 100)
    _write(path, crs, transform, bands.astype("uint16"), 0)


def _write(path, crs, transform, data, nodata):
    with rasterio.open(
        path, "w", driver="GTiff", height=data.shape[1], width=data.shape[2],
        count=len(data), dtype=data.dtype, crs=crs, transform=transform, nodata=nodata,
        tiled=True, blockxsize=64, blockysize=64,
    ) as file:  # fmt: skip
        file.write(data)
        if len(data) == CLASSES:
            file.descriptions = tuple(f"b{i}" for i in range(CLASSES))


def north_up(x, y, step):
    return Affine(step, 0, x, 0, -step, y)


def covered(items, crs, transform, shape):
    """Which pixels of a grid have their middle well inside some file, (y, x)."""
    lon, lat = centres(crs, transform, shape)
    found = np.zeros(shape, bool)
    for item in items:
        (asset,) = item.assets.values()
        degrees = asset.crs == "EPSG:4326"
        to_file = Transformer.from_crs("EPSG:4326", asset.crs, always_xy=True)
        for turn in (-360, 0, 360) if degrees else (0,):
            x, y = to_file.transform(lon + turn, lat)
            with np.errstate(invalid="ignore"):
                column, row = ~Affine(*asset.transform) * (x, y)
            height, width = asset.shape
            found |= (
                (column >= 0.5) & (column <= width - 0.5)
                & (row >= 0.5) & (row <= height - 0.5)
            )  # fmt: skip
    return found


def blur_card(folder):
    """Card, as plain fields, of a network that blurs by 5 px and has 3 classes."""
    from safetensors.torch import save_file

    from tests.support.blur import Blur

    weights = Path(folder) / "blur.safetensors"
    save_file(Blur(CLASSES).state_dict(), weights)
    return {
        "name": "blur",
        "architecture": f"{SUPPORT / 'blur.py'}:Blur",
        "architecture_args": {"radius": RADIUS},
        "weights": {"href": str(weights)},
        "input": {
            "bands": [f"b{i}" for i in range(CLASSES)],
            "units": "raw",
            "patch": {"size": 32, "halo": RADIUS},
        },
        "output": {"classes": [{"value": i, "name": f"c{i}"} for i in range(CLASSES)]},
    }

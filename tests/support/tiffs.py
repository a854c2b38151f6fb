"""TIFF files of every codec, and ways to damage them at places that are known."""

from __future__ import annotations

import random
import struct
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from affine import Affine

from geoscale.errors import ReadError
from geoscale.sources.gdal import close_handles
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.targets import Reading, Target
from geoscale.sources.tiles import TILES
from geoscale.windows import Window

SIDE, TILE = 192, 64
TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)
CODECS: Mapping[str, dict[str, Any]] = {
    "none": {},
    "lzw": {"predictor": 2},
    "deflate": {"predictor": 2},
    "zstd": {},
    "packbits": {},
    "lzma": {},
    "lerc": {},
    "lerc_deflate": {},
    "jpeg": {"dtype": "uint8"},
    "webp": {"dtype": "uint8", "count": 3, "interleave": "pixel"},
}
"""Codec → how its file differs from one band of uint16."""
OFFSETS, COUNTS = 324, 325
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 7: 1, 11: 4, 12: 8, 16: 8}


def write_scene(path: Path, codec: str, seed: int) -> bool:
    """Write tiles of noise on waves; False where GDAL has no such codec."""
    how = dict(CODECS[codec])
    dtype, count = how.pop("dtype", "uint16"), how.pop("count", 1)
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    top = 250 if dtype == "uint8" else 4000
    waves = (top / 3) * (1 + np.sin(x / 9) * np.cos(y / 13))
    noise = rng.integers(1, max(2, top // 40), (count, SIDE, SIDE))
    pixels = (1 + waves + noise).clip(1, top).astype(dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(
                path, "w", driver="GTiff", width=SIDE, height=SIDE, count=count,
                dtype=dtype, crs="EPSG:32632", transform=Affine(*TRANSFORM), nodata=0,
                tiled=True, blockxsize=TILE, blockysize=TILE, compress=codec, **how,
            ) as file:  # fmt: skip
                file.write(pixels)
    except rasterio.errors.RasterioError as err:
        if "missing codec" in str(err):
            return False
        raise
    return True


class Layout:
    """Where the parts of a classic TIFF lie: byte ranges by name."""

    def __init__(self, data: bytes) -> None:
        order = "<" if data[:2] == b"II" else ">"
        (first,) = struct.unpack_from(f"{order}I", data, 4)
        (count,) = struct.unpack_from(f"{order}H", data, first)
        self.parts: dict[str, list[tuple[int, int]]] = {
            "header": [(0, 8)],
            "directory": [(first, first + 2 + 12 * count + 4)],
            "tags": [],
            "index": [],
            "pixels": [],
        }
        index: dict[int, tuple[int, ...]] = {}
        self._tags: list[tuple[int, int, int]] = []
        for number in range(count):
            at = first + 2 + 12 * number
            tag, kind, length = struct.unpack_from(f"{order}HHI", data, at)
            size = length * _SIZES[kind]
            place = at + 8
            self._tags.append((at, at + 12, tag))
            if size > 4:
                (place,) = struct.unpack_from(f"{order}I", data, place)
                self._tags.append((place, place + size, tag))
            if tag in (OFFSETS, COUNTS):
                letter = {3: "H", 4: "I", 16: "Q"}[kind]
                index[tag] = struct.unpack_from(f"{order}{length}{letter}", data, place)
            if size > 4:
                part = "index" if tag in (OFFSETS, COUNTS) else "tags"
                self.parts[part].append((place, place + size))
        self.parts["pixels"] = [
            (start, start + size)
            for start, size in zip(index[OFFSETS], index[COUNTS], strict=True)
        ]

    def tag_at(self, at: int) -> int | None:
        """Tag that a byte belongs to, its entry or its value; None for others."""
        return next((tag for start, end, tag in self._tags if start <= at < end), None)

    def pick(self, part: str, rng: random.Random) -> int:
        """Choose a byte of a part."""
        ranges = self.parts[part]
        at = rng.randrange(sum(end - start for start, end in ranges))
        for start, end in ranges:
            if at < end - start:
                return start + at
            at -= end - start
        raise AssertionError("unreachable")


KINDS = ("cut", "header", "directory", "tags", "index", "pixels", "zeros")
SHARES = {
    "cut": 12, "header": 4, "directory": 8, "tags": 6, "index": 6, "pixels": 8,
    "zeros": 4,
}  # fmt: skip
"""How many of 48 files are damaged in which way."""
_HOW_TO_READ = {
    258, 259, 277, 317, 322, 323, 347, OFFSETS, COUNTS,  # what pixels are made of
    33550, 33922,  # where they lie: a thousandth of a pixel is no contradiction
    42113,  # which of them are missing
}  # fmt: skip
_NO_CHECKS = ("none", "packbits", "jpeg")
_CHECKSUMS = ("lzma", "lerc", "lerc_deflate")


def is_noticeable(codec: str, kind: str, tag: int | None) -> bool:
    """Whether anybody could tell this damage from the file alone.

    TIFF has no checksums. Tags say how the pixels are to be read, and other tags say
    something else; what LZMA and LERC tiles hold is checked, other tiles begin
    anywhere or hold anything.
    """
    if kind in ("pixels", "zeros"):
        return codec in _CHECKSUMS
    if kind == "index":
        return codec not in _NO_CHECKS
    return tag not in _HOW_TO_READ


def damage(data: bytes, kind: str, rng: random.Random) -> tuple[bytes, int | None]:
    """Cut the file, change one byte of a part, or blank 512 bytes; name the tag."""
    if kind == "cut":
        return data[: rng.randrange(len(data))], None
    found, layout = bytearray(data), Layout(data)
    if kind == "zeros":
        start, end = rng.choice(layout.parts["pixels"])
        at = rng.randrange(start, max(start + 1, end - 512))
        end = min(at + 512, end)
        found[at:end] = bytes(end - at)
        return bytes(found), None
    at = layout.pick(kind, rng)
    found[at] ^= rng.randrange(1, 256)
    return bytes(found), layout.tag_at(at)


_WINDOWS = (Window(0, 0, SIDE, SIDE), Window(70, 70, 120, 120), Window(130, 9, 190, 60))
_SHIFTED = (10.0, 0.0, 600005.0, 0.0, -10.0, 4999995.0)
_clean: dict[str, list[Any]] = {}


def compare(path: str, clean: str, codec: str) -> dict[str, int]:
    """Read windows of a damaged file, plain and warped, beside those of the clean one.

    Called by `tests.support.sandbox`; gives how many windows were the same, other
    than they should be, or refused.
    """
    if clean not in _clean:
        _clean[clean] = list(_read(clean, codec))
        assert not any(isinstance(one, ReadError) for one in _clean[clean])
    found = {"same": 0, "other": 0, "refused": 0, "pixels": 0}
    for got, wanted in zip(_read(path, codec), _clean[clean], strict=True):
        if isinstance(got, ReadError):
            assert len(str(got)) > 20, "an error says what happened"
            found["refused"] += 1
            continue
        same = (got.data == wanted.data).all() and (got.valid == wanted.valid).all()
        found["same" if same else "other"] += 1
        found["pixels"] += got.data.size
    return found


def _read(path: str, codec: str) -> Iterator[Any]:
    """Yield the pixels of each window, or the error in their place."""
    how = CODECS[codec]
    assets = {
        f"b{number}": Asset(
            href=path, name=f"b{number}", band_index=number, nodata=0.0,
            dtype=how.get("dtype", "uint16"), crs="EPSG:32632", transform=TRANSFORM,
            shape=(SIDE, SIDE),
        )
        for number in range(1, how.get("count", 1) + 1)
    }  # fmt: skip
    item = Item(id="x", datetime=None, assets=assets)
    for transform in (TRANSFORM, _SHIFTED):
        grid = Target("EPSG:32632", transform, (SIDE, SIDE)).to_geobox()
        source = RasterSource([item], list(assets), grid, reading=Reading())
        for window in _WINDOWS:
            close_handles()
            TILES.value.clear()
            try:
                yield source.read(window, [0])
            except ReadError as err:
                yield err

"""Pixels of one file on one grid: a plain window where aligned, else a warp.

Both are put together from whole tiles, of the file or of the warp, which the
process keeps for the next window.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoscale.errors import ReadError
from geoscale.sources.calibration import put_scaled
from geoscale.sources.fields import normalise_crs
from geoscale.sources.gdal import COUNTS, drop_handle, read_with_retries
from geoscale.sources.handles import Handle
from geoscale.sources.hrefs import Access
from geoscale.sources.targets import Into, Request, Target
from geoscale.sources.tiles import (
    LARGEST_TILE_BYTES,
    TILES,
    Key,
    Lattice,
    Number,
    rectangles,
)
from geoscale.sources.warping import counts_round, find_nodata, open_warp
from geoscale.types import Array, Bool
from geoscale.windows import Window
from geoscale.words import redact

ALIGNED_PX = 1e-4
"""Largest distance between two grids that count as one, in pixels."""

MASK = 0
"""Layer of a file that holds its mask; bands count from 1."""

WARPED = -1
"""Layer of what was warped: all bands of a request."""

Part = tuple[Window, Sequence[Array], Array | None]
"""Pixels of some rectangle: where, one array for each band, mask or None."""


@dataclass(frozen=True, slots=True)
class _Facts:
    """What a plain read needs to know of a file, asked of GDAL once."""

    lattice: Lattice
    dtypes: tuple[np.dtype[Any], ...]
    masked: frozenset[int]
    """Bands with a mask of their own beside nodata: one for all, or alpha."""

    @classmethod
    def of(cls, dataset: Any) -> _Facts:
        shape, block = tuple(dataset.shape), tuple(dataset.block_shapes[0])
        kinds = [{flag.name for flag in flags} for flags in dataset.mask_flag_enums]
        return cls(
            Lattice.of_file(shape, block),
            tuple(np.dtype(name) for name in dataset.dtypes),
            frozenset(
                i + 1 for i, kind in enumerate(kinds) if kind & {"alpha", "per_dataset"}
            ),
        )


def read_bands(
    request: Request, window: Window, access: Access, into: Into
) -> Bool | None:
    """Read a window of some bands of one file.

    Parameters
    ----------
    request : Request
        What to read.
    window : Window
        Inside the target grid.
    access : Access
        How the file may be reached.
    into : Into
        Gets the pixels, in its units; those that are not valid may be anything.

    Returns
    -------
    ndarray or None
        bool (y, x), True where every band is valid; not to be written to. None
        where the file does not reach into the window.

    Raises
    ------
    ReadError
        If the file cannot be read, contradicts its metadata, or its values do
        not fit the arrays.
    """
    href = request.assets[0].href

    def _read(handle: Handle, *, fresh: bool = False) -> Bool | None:
        dataset = handle.dataset
        key = ("checked", request.assets, request.trust_file)
        handle.derive(key, lambda: _check(dataset, request))
        _check_fit(dataset, request, into)
        shift = handle.derive(
            ("shift", request.target), lambda: _find_shift(dataset, request.target)
        )
        ident = f"{href}\n{access}\n{handle.stamp}"
        if shift is None:
            parts = _warped_parts(handle, request, window, ident, fresh=fresh)
            nodata, whole = next(parts)
            return _fill(parts, window, whole, into, nodata)
        wanted = window.shift(*shift)
        inside = wanted.clip(dataset.shape)
        if inside.is_empty:
            return None
        plain = _plain_parts(handle, request, inside, ident, fresh=fresh)
        nodata = [find_nodata(dataset, a, request.nodata) for a in request.assets]
        return _fill(plain, wanted, inside, into, nodata)

    valid = read_with_retries(href, access, _read)
    if valid is not None and "://" in href and _is_suspicious(into, valid):
        # A broken download can look like zeros: ask once more, past all caches.
        drop_handle((href, access))
        valid = read_with_retries(
            href, access, lambda handle: _read(handle, fresh=True), first=2
        )
    return valid


def _is_suspicious(into: Into, valid: Bool) -> bool:
    is_one = len(into.arrays) == 1 and valid.size == 1
    if is_one or not valid.any():
        return False
    return not any(
        _holds_other(array, np.float32(gain[1]), valid)
        for array, gain in zip(into.arrays, into.gains, strict=True)
    )


def _holds_other(array: Array, zero: Any, valid: Bool) -> bool:
    """Whether a valid pixel is none of what stored zeros have become."""
    rows = 64  # mostly the first strip tells
    return any(
        (array[y : y + rows] != zero).any(where=valid[y : y + rows])
        for y in range(0, len(array), rows)
    )


def _check_fit(dataset: Any, request: Request, into: Into) -> None:
    for asset, array, gain in zip(request.assets, into.arrays, into.gains, strict=True):
        dtype = np.dtype(dataset.dtypes[asset.band_index - 1])
        # exactness is what matters: uint16 fits float32, int32 does not
        if gain == (1.0, 0.0) and not np.can_cast(dtype, array.dtype, "safe"):
            raise ReadError(
                f"{redact(asset.href)} holds {dtype}, which does not fit "
                f"the stack's {array.dtype}; set imagery.dtype: {dtype}"
            )


def _check(dataset: Any, request: Request) -> None:
    asset = request.assets[0]
    where = redact(asset.href)
    if dataset.crs is None or dataset.transform.is_identity:
        raise ReadError(
            f"{where} has no georeferencing; warp it to a map grid first "
            "(gdalwarp), or drop its item"
        )
    for band in request.assets:
        if band.band_index > dataset.count:
            raise ReadError(
                f"{where} has {dataset.count} bands; its metadata name band "
                f"{band.band_index}"
            )
    if request.trust_file:
        return
    said = "correct the item, or set imagery.trust to `file`"
    crs = normalise_crs(dataset.crs.to_wkt())
    if asset.crs is not None and crs != asset.crs:
        raise ReadError(
            f"{where}: file says {_short(crs)}, STAC says {_short(asset.crs)}; {said}"
        )
    if asset.shape is not None and tuple(dataset.shape) != asset.shape:
        raise ReadError(
            f"{where}: file has {tuple(dataset.shape)} pixels, STAC says "
            f"{asset.shape}; {said}"
        )
    if asset.transform is not None:
        shift = _offset_px(tuple(dataset.transform)[:6], asset.transform)
        if shift > 0.01:
            raise ReadError(
                f"{where}: file and STAC are {shift:.3g} pixels apart "
                f"(proj:transform); {said}"
            )


def _short(crs: str | None) -> str:
    return (crs or "no CRS")[:40]


def _offset_px(a: Sequence[float], b: Sequence[float]) -> float:
    size = math.hypot(a[0], a[3])
    return max(math.hypot(a[2] - b[2], a[5] - b[5]), *(
        abs(p - q) for p, q in ((a[0], b[0]), (a[1], b[1]), (a[3], b[3]), (a[4], b[4]))
    )) / size  # fmt: skip


def _find_shift(dataset: Any, target: Target) -> tuple[int, int] | None:
    from affine import Affine

    if normalise_crs(dataset.crs.to_wkt()) != target.crs:
        return None
    both = ~dataset.transform * Affine(*target.transform)
    reach = max(*target.shape, *dataset.shape)
    drift = max(abs(both.a - 1), abs(both.e - 1), abs(both.b), abs(both.d)) * reach
    dx, dy = round(both.c), round(both.f)
    if max(drift, abs(both.c - dx), abs(both.f - dy)) > ALIGNED_PX:
        return None
    if not counts_round(dataset, target):
        return dy, dx
    # 190 degrees is -170: the file may lie on the grid a turn further, or twice
    turn = 360 / target.transform[0]
    width, reach = dataset.shape[1], target.shape[1]
    found = [k for k in (-1, 0, 1) if -reach < dx + k * turn < width]
    if len(found) > 1 or (any(found) and abs(turn - round(turn)) > ALIGNED_PX):
        return None
    return dy, dx + sum(found) * round(turn)


def _fill(
    parts: Iterator[Part],
    wanted: Window,
    inside: Window,
    into: Into,
    nodata: Sequence[float | None],
) -> Bool:
    """Put parts in place; tell where all bands are valid."""
    valid: Bool | None = None
    for where, bands, mask in parts:
        both = where & wanted
        here, there = both.within(wanted), both.within(where)
        pieces = [band[there] for band in bands]
        for array, piece, gain in zip(into.arrays, pieces, into.gains, strict=True):
            put_scaled(piece, gain, array[here])
        for good in _rules(pieces, nodata, None if mask is None else mask[there]):
            if valid is None:
                valid = _start(wanted, inside)
            valid[here] &= good
    if valid is not None:
        return valid
    if inside == wanted:
        # all valid, and no memory for that
        return np.broadcast_to(np.True_, wanted.shape)
    return _start(wanted, inside)


def _rules(
    pieces: Sequence[Array], nodata: Sequence[float | None], mask: Array | None
) -> Iterator[Any]:
    """Yield what must all be true of a valid pixel."""
    for piece, marker in zip(pieces, nodata, strict=True):
        found = _in_dtype(marker, piece.dtype)
        if found is not None:
            yield piece != found
        if piece.dtype.kind in "fc":
            yield np.isfinite(piece)
    if mask is not None:
        yield mask != 0


def _in_dtype(nodata: float | None, dtype: np.dtype[Any]) -> Any:
    """Nodata as the dtype has it; None where no value can be equal to it."""
    if nodata is None or math.isnan(nodata):
        return None
    if dtype.kind not in "iu":
        return nodata
    limits = np.iinfo(dtype)
    fits = nodata.is_integer() and limits.min <= nodata <= limits.max
    # of one dtype the comparison needs no float64 copy of the pixels
    return dtype.type(int(nodata)) if fits else None


def _start(wanted: Window, inside: Window) -> Bool:
    valid = np.zeros(wanted.shape, bool)
    valid[inside.within(wanted)] = True
    return valid


def _plain_parts(
    handle: Handle, request: Request, inside: Window, ident: str, *, fresh: bool
) -> Iterator[Part]:
    facts = handle.derive("facts", lambda: _Facts.of(handle.dataset))
    bands = [asset.band_index for asset in request.assets]
    masked = [band for band in bands if band in facts.masked]
    layers = [*bands, MASK] if masked else bands

    def read(some: Sequence[int], pixels: Window) -> list[Array]:
        return _read_layers(handle.dataset, some, pixels, masked)

    def decode(keys: list[Key]) -> dict[Key, Array]:
        return _decode_tiles(keys, facts.lattice, ident, read)

    rows, columns = facts.lattice.tile
    size = rows * columns * max(dtype.itemsize for dtype in facts.dtypes)
    if size > LARGEST_TILE_BYTES:
        found = read(layers, inside)
        yield inside, found[: len(bands)], found[-1] if masked else None
        return
    for batch in facts.lattice.batches(inside, size * len(layers)):
        keys = [(ident, layer, *number) for number in batch for layer in layers]
        tiles = TILES.value.get(keys, decode, fresh=fresh)
        for number in batch:
            found = [tiles[ident, layer, *number] for layer in layers]
            where = facts.lattice.window(*number)
            yield where, found[: len(bands)], found[-1] if masked else None


def _decode_tiles(
    keys: Sequence[Key], lattice: Lattice, ident: str, read: Any
) -> dict[Key, Array]:
    """Read tiles of a file, those that adjoin at once."""
    layers: dict[Number, list[int]] = {}
    for _, layer, row, column in keys:
        layers.setdefault((row, column), []).append(layer)
    groups: dict[tuple[int, ...], list[Number]] = {}
    for number, some in layers.items():
        groups.setdefault(tuple(some), []).append(number)
    made: dict[Key, Array] = {}
    for some_layers, numbers in groups.items():
        for block in rectangles(numbers):
            pixels = lattice.pixels(block)
            found = read(some_layers, pixels)
            for row in range(block.y0, block.y1):
                for column in range(block.x0, block.x1):
                    part = lattice.window(row, column).within(pixels)
                    for layer, array in zip(some_layers, found, strict=True):
                        made[ident, layer, row, column] = _own(array[part])
    COUNTS.add("tiles", len(made))
    COUNTS.add("bytes_decoded", sum(tile.nbytes for tile in made.values()))
    return made


def _own(part: Array) -> Array:
    # a view would keep the whole rectangle alive, uncounted
    return part if part.base is None or part.base.size == part.size else part.copy()


def _read_layers(
    dataset: Any, layers: Sequence[int], pixels: Window, masked: Sequence[int]
) -> list[Array]:
    part = _file_window(pixels)
    bands = [layer for layer in layers if layer != MASK]
    found = list(dataset.read(bands, window=part)) if bands else []
    if MASK in layers:
        # one for all bands, so any of them will do
        found.append(dataset.read_masks(masked[0], window=part))
    return found


def _file_window(window: Window) -> Any:
    from rasterio.windows import Window as FileWindow

    return FileWindow(window.x0, window.y0, window.width, window.height)


def _warped_parts(
    handle: Handle, request: Request, window: Window, ident: str, *, fresh: bool
) -> Iterator[Any]:
    """Yield nodata and reach of a warp, then its parts."""
    warp = handle.derive(("warp", request), lambda: open_warp(handle, request))
    bands = [asset.band_index for asset in request.assets]
    yield [None if warp.alpha else warp.vrt.nodata] * len(bands), window
    wanted = bands if warp.alpha is None else [*bands, warp.alpha]
    lattice = Lattice(request.target.shape, tuple(warp.vrt.block_shapes[0]))
    name = f"{ident}\n{request}"

    def decode(keys: list[Key]) -> dict[Key, Array]:
        made = {}
        # GDAL may warp just what is asked for, and its last bits then depend on
        # that: so ask for the same rectangles always.
        for key in keys:
            pixels = lattice.window(*key[2:])
            made[key] = warp.vrt.read(wanted, window=_file_window(pixels))
        COUNTS.add("warped_tiles", len(made))
        COUNTS.add("bytes_decoded", sum(tile.nbytes for tile in made.values()))
        return made

    rows, columns = lattice.tile
    size = rows * columns * np.dtype(warp.vrt.dtypes[bands[0] - 1]).itemsize
    for batch in lattice.batches(window, size * len(wanted)):
        tiles = TILES.value.get(
            [(name, WARPED, *n) for n in batch], decode, fresh=fresh
        )
        for number in batch:
            tile = tiles[name, WARPED, *number]
            mask = None if warp.alpha is None else tile[-1]
            yield lattice.window(*number), tile[: len(bands)], mask

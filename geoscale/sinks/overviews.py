"""Overviews: the finished map at 1/2, 1/4, 1/8…, each a small output of its own.

Each level is made from the one before, block by block, and written by the same
sink into ``overviews/<factor>``. Memory is one block and one strip of the finer
level, whatever the map's size. Open one with ``open_output(url, group=...)``:
`xarray.open_datatree` cannot hold a root and children of different sizes.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from geoscale.errors import OutputError
from geoscale.memory import allowed_cpus
from geoscale.sinks.layout import consolidate, load_template, read_part
from geoscale.sinks.zarr import ZarrSink
from geoscale.spread import spread
from geoscale.storage import Folder
from geoscale.template import OutputTemplate, convention, is_categorical
from geoscale.types import Array, Json, Layer
from geoscale.windows import Window
from geoscale.words import redact

FOLDER = "overviews"
"""Group below the root that holds the levels."""


Part = tuple[tuple[str, str, str], int, tuple[int, int, int, int]]
"""One block of a level: its place (URL of the finer level, its own, a name for this
making of it), time step and core."""
Spread = Callable[[Callable[[Part], dict[str, str | None]], Sequence[Part]], Any]
"""Calls a function for every part somewhere, and gives an iterable of results."""


def write_overviews(
    url: str, *, smallest_px: int = 512, hand_out: Spread | None = None
) -> dict[str, str | None]:
    """Write all overviews of a finished output and announce them on its root.

    Class layers take the *mode* of the valid pixels among each 2 x 2, ties go to
    the one that comes first in reading order, so no class wins by its number;
    other layers take the mean of the valid pixels, rounded where stored as
    integers; dates and counts of dates take the first valid pixel in reading order.
    Each level comes from the one before: at 1/4 and coarser the mode is a mode of
    modes. Start it once, after the last block; running it again gives the same bytes.

    Parameters
    ----------
    url : str
        A finished output.
    smallest_px : int
        Levels are added until the longer side is at most this, in px.
    hand_out : callable, optional
        Where the parts of a level are made, in any order; default: threads here.

    Returns
    -------
    dict
        Stored key, relative to `url` → digest; None where all is fill value.

    Raises
    ------
    OutputError
        If there is no output.
    StoppedError
        If there is no room or no right to write.
    """
    base = template = load_template(url)
    hand_out = hand_out or _spread_threads
    digests: dict[str, str | None] = {}
    levels: list[tuple[str, OutputTemplate]] = [(".", base)]
    factor, finer = 1, str(url).rstrip("/")
    while max(template.shape) > max(1, smallest_px):
        factor, template = 2 * factor, halve(template)
        name = f"{FOLDER}/{factor}"
        sink = ZarrSink(f"{url}/{name}", template)
        sink.create()
        for found in hand_out(write_part, list(_iter_parts(finer, sink))):
            digests.update({f"{name}/{key}": digest for key, digest in found.items()})
        levels.append((name, template))
        finer = sink.url
    if len(levels) > 1:
        # A group of its own, so that readers can walk from the root to a level.
        Folder(url).put(
            f"{FOLDER}/zarr.json",
            b'{"attributes": {}, "zarr_format": 3, "node_type": "group"}',
        )
    consolidate(Folder(url), multiscales_attrs(levels))
    return digests


def halve(template: OutputTemplate) -> OutputTemplate:
    """Template at half the resolution; the upper left corner stays.

    Parameters
    ----------
    template : OutputTemplate
        The finer level.

    Returns
    -------
    OutputTemplate
        The coarser level; an odd row or column is kept as a half-filled one.
    """
    from affine import Affine
    from odc.geo.geobox import GeoBox

    rows, columns = template.shape
    grid = GeoBox(
        (-(-rows // 2), -(-columns // 2)),
        template.geobox.transform @ Affine.scale(2),
        template.geobox.crs,
    )
    return replace(template, geobox=grid)


def multiscales_attrs(levels: list[tuple[str, OutputTemplate]]) -> Json:
    """Attributes that announce the levels on the root group.

    Parameters
    ----------
    levels : list of (str, OutputTemplate)
        Path and template of every level, finest first.

    Returns
    -------
    dict
        ``zarr_conventions`` and ``multiscales``.

    References
    ----------
    .. [1] https://github.com/zarr-conventions/multiscales, version 0.1
    """
    layout: list[Json] = []
    for path, template in levels:
        entry: Json = {"asset": path}
        if layout:
            # relative to `derived_from`, not to the root
            entry["derived_from"] = layout[-1]["asset"]
            entry["transform"] = {"scale": [2.0, 2.0], "translation": [0.0, 0.0]}
        entry["spatial:shape"] = list(template.shape)
        entry["spatial:transform"] = list(template.transform)
        layout.append(entry)
    names = ("multiscales", "proj", "spatial")
    kinds = {find_method(layer) for layer in levels[0][1].layers}
    return {
        "zarr_conventions": [convention(name) for name in names],
        "multiscales": {
            "layout": layout,
            "resampling_method": "mode" if "mode" in kinds else "average",
        },
    }


def reduce_mode(data: Array, fill: float) -> Array:
    """Take the most frequent valid value of every 2 x 2 px.

    Parameters
    ----------
    data : ndarray, (y, x)
        Class values; an odd edge counts as fill.
    fill : float
        Not valid; the result only where all four are.

    Returns
    -------
    ndarray, (ceil(y / 2), ceil(x / 2))
        In the dtype of `data`.

    Examples
    --------
    >>> reduce_mode(np.array([[7, 1, 255], [1, 7, 255]], np.uint8), 255)
    array([[  7, 255]], dtype=uint8)
    """
    a, b, c, d = _quads(data, fill)
    # Two of a kind cannot be outvoted by what comes later, only equalled.
    a_wins = (a == b) | (a == c) | (a == d)
    b_wins = (b == c) | (b == d)
    rest = c == d
    winners: Array = a
    if not _is_full(data, fill):
        a_wins &= a != fill
        b_wins &= b != fill
        rest &= c != fill
        first = np.where(b != fill, b, np.where(c != fill, c, d))
        winners = np.where(a != fill, a, first)
    others = np.where(b_wins, b, np.where(rest, c, winners))
    return np.where(a_wins, a, others)


def reduce_mean(data: Array, fill: float) -> Array:
    """Take the mean of the valid values of every 2 x 2 px.

    Parameters
    ----------
    data : ndarray, (y, x)
        Numbers; an odd edge counts as fill.
    fill : float
        Not valid, NaN for NaN; the result only where all four are.

    Returns
    -------
    ndarray, (ceil(y / 2), ceil(x / 2))
        In the dtype of `data`; integers rounded half to even.

    Examples
    --------
    >>> reduce_mean(np.array([[1, 255, 4], [5, 255, 6]], np.uint8), 255)
    array([[3, 5]], dtype=uint8)
    """
    if data.dtype == np.uint8 and _is_full(data, fill):
        return _mean_of_bytes(data)
    # float32 would round sums of large integers
    small = data.dtype.kind in "ui" and data.dtype.itemsize <= 2
    rows, columns = -(-data.shape[0] // 2), -(-data.shape[1] // 2)
    total = np.zeros((rows, columns), np.float32 if small else np.float64)
    count = np.zeros((rows, columns), np.uint8)
    for plane in _quads(data, fill):
        valid = ~np.isnan(plane) if np.isnan(fill) else plane != fill
        total += np.where(valid, plane, plane.dtype.type(0))
        count += valid
    mean = total / np.maximum(count, 1).astype(total.dtype)
    if np.issubdtype(data.dtype, np.integer):
        mean = np.rint(mean)
    return np.where(count > 0, mean, fill).astype(data.dtype)


def reduce_nearest(data: Array, fill: float) -> Array:
    """Take the first valid value of every 2 x 2 px, in reading order.

    Parameters
    ----------
    data : ndarray, (y, x)
        Numbers; an odd edge counts as fill.
    fill : float
        Not valid; the result only where all four are.

    Returns
    -------
    ndarray, (ceil(y / 2), ceil(x / 2))
        In the dtype of `data`.

    Examples
    --------
    >>> reduce_nearest(np.array([[7, 1, 9], [1, 7, 9]], np.uint16), 7)
    array([[1, 9]], dtype=uint16)
    """
    a, b, c, d = _quads(data, fill)
    found: Array = np.where(c != fill, c, d)
    found = np.where(b != fill, b, found)
    return np.where(a != fill, a, found)


_REDUCE = {"mode": reduce_mode, "average": reduce_mean, "nearest": reduce_nearest}


def _is_full(data: Array, fill: float) -> bool:
    """Whether all four pixels are valid everywhere, as nearly all are."""
    return not any(n % 2 for n in data.shape) and not (data == fill).any()


def _mean_of_bytes(data: Array) -> Array:
    """Mean of every 2 x 2 px where all are valid, half to even, without floats."""
    pairs = np.add(data[0::2], data[1::2], dtype=np.uint16)
    total = pairs[:, 0::2] + pairs[:, 1::2]
    odd = (total >> 2) & 1
    mean: Array = ((total + 1 + odd) >> 2).astype(np.uint8)
    return mean


def find_method(layer: Layer) -> str:
    """Tell how a layer is made coarser: ``mode``, ``average`` or ``nearest``."""
    said = dict(layer.attrs).get("resampling")
    return str(said or ("mode" if is_categorical(layer) else "average"))


def _quads(data: Array, fill: float) -> list[Array]:
    rows, columns = data.shape
    if rows % 2 or columns % 2:
        pad = ((0, rows % 2), (0, columns % 2))
        data = np.pad(data, pad, constant_values=np.asarray(fill, data.dtype))
    # whole copies: everything after is some twenty passes over them
    return [np.ascontiguousarray(data[i::2, k::2]) for i in (0, 1) for k in (0, 1)]


def _iter_parts(finer: str, sink: ZarrSink) -> Iterator[Part]:
    template, step = sink.template, sink.template.block_px
    # A process may keep a level open, but not for the next output at its place.
    place = (finer, sink.url, uuid.uuid4().hex)
    for time in range(len(template.times)):
        for y0 in range(0, template.shape[0], step):
            for x0 in range(0, template.shape[1], step):
                core = Window(y0, x0, y0 + step, x0 + step).clip(template.shape)
                yield place, time, core.as_tuple()


def _spread_threads(
    write: Callable[[Part], dict[str, str | None]], parts: Sequence[Part]
) -> Iterator[dict[str, str | None]]:
    with ThreadPoolExecutor(allowed_cpus(), thread_name_prefix="overviews") as pool:
        yield from pool.map(write, parts)


def write_part(part: Part) -> dict[str, str | None]:
    """Make one block of a level from the finer one, in whatever process.

    Parameters
    ----------
    part : tuple
        Place of the level, time step, core.

    Returns
    -------
    dict
        Stored key → digest; None where all is fill value.

    Raises
    ------
    OutputError
        If the finer level is not there.
    """
    place, time, core = part
    template, arrays, sink = _open_level(*place)
    at = (time, Window(*core))
    block = {
        layer.name: _reduce(arrays[layer.name], layer, at, template)
        for layer in template.layers
    }
    return sink.write(time, Window(*core), block)


@functools.lru_cache(maxsize=4)
def _open_level(
    finer: str, url: str, _making: str
) -> tuple[OutputTemplate, dict[str, Any], ZarrSink]:
    import zarr

    template = load_template(url)
    try:
        group = zarr.open_group(finer, mode="r", zarr_format=3)
        arrays: dict[str, Any] = {x.name: group[x.name] for x in template.layers}
    except (FileNotFoundError, KeyError) as err:
        raise OutputError(f"output {redact(finer)} lacks {err}; run the job") from err
    return template, arrays, ZarrSink(url, template)


def _reduce(
    array: Any, layer: Layer, at: tuple[int, Window], template: OutputTemplate
) -> Array:
    time, core = at
    reduce = _REDUCE[find_method(layer)]
    done = np.empty(layer.block_shape(core.shape), layer.dtype)
    planes = done if layer.classes else done[None]

    def reduce_strip(strip: tuple[int, int]) -> None:
        k, y0 = strip
        y1 = min(y0 + template.chunk_px, core.y1)
        region = (slice(2 * y0, 2 * y1), slice(2 * core.x0, 2 * core.x1))
        data = read_part(array, (time, *((k,) if layer.classes else ()), *region))
        planes[k, y0 - core.y0 : y1 - core.y0] = reduce(data, layer.fill_value)

    # Strips of whole chunks: each chunk of the finer level is decoded once.
    rows = range(core.y0, core.y1, template.chunk_px)
    spread(reduce_strip, [(k, y0) for k in range(len(planes)) for y0 in rows])
    return done

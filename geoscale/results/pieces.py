"""Objects of one block: connected pixels of a class, what they add up to, outlines.

All that is summed is a whole number, and outlines have whole corners.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import JobError, require
from geoscale.results.ground import Ground
from geoscale.results.layers import (
    CHANGED,
    FROM,
    TO,
    Flag,
    as_steps,
    choose_layer,
    find_flags,
    find_sure,
    list_flags,
    load_finished,
)
from geoscale.results.outlines import Objects, trace
from geoscale.results.settings import Asked
from geoscale.sinks.layout import open_output, read_part
from geoscale.template import OutputTemplate
from geoscale.types import Array, Ints, Layer
from geoscale.windows import Window

CODES = 1 << 16
"""Values of layers of classes are below this."""
PAIR = CODES * CODES
Counts64 = NDArray[np.int64]


@dataclass(frozen=True)
class Opened:
    """An output whose objects are wanted."""

    asked: Asked
    """What is wanted."""
    template: OutputTemplate
    """Of the output."""
    layer: Layer
    """The layer of classes."""
    flags: tuple[Flag, ...]
    """Its values."""
    values: tuple[int, ...]
    """Those of which there are objects."""
    has_pairs: bool
    """Whether there is what pixels were, and what they became."""
    pair_flags: tuple[Flag, ...]
    """Values of these layers."""
    sure: Layer | None
    """Layer that says how sure a class is."""
    ground: Ground
    """True areas."""
    data: Any = field(repr=False)
    """Lazy dataset, as stored."""

    def read(self, name: str, time: int, window: Window) -> Array:
        """Read a window of a layer as it is stored, (y, x)."""
        rows, columns = (slice(window.y0, window.y1), slice(window.x0, window.x1))
        return read_part(self.data[name], (time, rows, columns))


def open_asked(asked: Asked) -> Opened:
    """Open an output; no pixel is read.

    Parameters
    ----------
    asked : Asked
        What is wanted.

    Returns
    -------
    Opened
        For `cut`.

    Raises
    ------
    OutputError
        If it is not there or not finished.
    JobError
        If it has no such layer or class.
    """
    template = load_finished(asked.output)
    layer = choose_layer(template, asked.layer)
    flags = list_flags(template, layer)
    names = {one.name for one in template.layers}
    has_pairs = layer.name not in (FROM, TO) and {FROM, TO} <= names
    if asked.split and not has_pairs:
        raise JobError(f"split needs the layers {FROM} and {TO}; the output lacks them")
    if asked.classes is not None:
        values = find_flags(flags, asked.classes)
    elif layer.name == "change":
        values = [CHANGED]
    else:
        values = [one.value for one in flags]
    return Opened(
        asked=asked,
        template=template,
        layer=layer,
        flags=flags,
        values=tuple(values),
        has_pairs=has_pairs,
        pair_flags=list_flags(template, template.layer(TO)) if has_pairs else (),
        sure=find_sure(template),
        ground=Ground(template.geobox),
        data=open_output(asked.output, raw=True),
    )


@dataclass
class Pieces:
    """Objects, or parts of objects, by number; every table names the object first."""

    objects: Counts64
    """(n, 5): key, pixels, sum of the steps of how sure, pixels that have it, last
    pixel (row-major on the grid)."""
    ids: Counts64
    """(n,): their numbers, ascending."""
    ground: Counts64
    """(m, 3): number, part of the ground, pixels."""
    pairs: Counts64
    """(k, 3): number, from and to class as one, pixels."""
    outline_ids: Counts64
    """(p,): number of the object of each outline."""
    outlines: Objects
    """(p,): WKB."""
    dropped: int = 0
    """Objects that are too small, and left out."""


@dataclass
class Cut:
    """A block: its pieces, and which of them lie at its edges."""

    window: Window
    """The block."""
    pieces: Pieces
    """Numbers from 1."""
    edges: dict[str, Counts64]
    """Edge (``top``, ``bottom``, ``left``, ``right``) → (2, length): number, key; 0 is
    none."""


def cut(opened: Opened, where: tuple[int, Window]) -> Cut:
    """Find the objects of one block.

    Parameters
    ----------
    opened : Opened
        From `open_asked`.
    where : tuple of int and Window
        Time step, and a block inside the map.

    Returns
    -------
    Cut
        Objects in it; those at its edges may go on.
    """
    time, window = where
    measure = require("skimage.measure", extra="change")
    keys, pairs = _read_keys(opened, time, window)
    near = 1 if opened.asked.connectivity == 4 else 2
    labels = measure.label(keys, background=-1, connectivity=near).astype(np.int32)
    edges = {
        "top": _edge(labels[0], keys[0]),
        "bottom": _edge(labels[-1], keys[-1]),
        "left": _edge(labels[:, 0], keys[:, 0]),
        "right": _edge(labels[:, -1], keys[:, -1]),
    }
    pieces = _sum_up(opened, time, window, (labels, keys, pairs))
    small = _find_small(opened, pieces, edges)
    if small.any():
        labels[small[labels]] = 0
        pieces = select(pieces, ~small[pieces.ids])
        pieces.dropped = int(small.sum())
    numbers, pieces.outlines = trace(labels, window)
    pieces.outline_ids = numbers.astype(np.int64)
    return Cut(window, pieces, edges)


def _edge(labels: Array, keys: Array) -> Counts64:
    return np.stack([labels.astype(np.int64), keys])


def _read_keys(
    opened: Opened, time: int, window: Window
) -> tuple[Counts64, Counts64 | None]:
    """Give what makes pixels belong together, -1 where none is wanted; and pairs."""
    values = opened.read(opened.layer.name, time, window).astype(np.int64)
    wanted = np.isin(values, opened.values)
    pairs = None
    if opened.has_pairs:
        before, after = (opened.read(n, time, window) for n in (FROM, TO))
        pairs = before.astype(np.int64) * CODES + after
    if opened.asked.split and pairs is not None:
        values += 1  # so that no key of a pair is that of another
        values = values * PAIR + pairs
    return np.where(wanted, values, -1), pairs


def _sum_up(
    opened: Opened,
    time: int,
    window: Window,
    found: tuple[NDArray[np.int32], Counts64, Counts64 | None],
) -> Pieces:
    labels, keys, pairs = found
    count = int(labels.max(initial=0))
    flat, ids = labels.ravel(), np.arange(1, count + 1)
    objects = np.zeros((count, 5), np.int64)
    last = np.zeros(count + 1, np.int64)
    last[flat] = np.arange(flat.size)  # the last one of each stays
    objects[:, 0] = keys.ravel()[last[1:]]
    objects[:, 1] = np.bincount(flat, minlength=count + 1)[1:]
    if opened.sure is not None:
        stored = opened.read(opened.sure.name, time, window).ravel()
        steps, known = as_steps(opened.sure, stored)
        # sums of whole numbers below 2**53 are exact
        sums = np.bincount(flat[known], steps[known], minlength=count + 1)
        objects[:, 2] = sums[1:]
        objects[:, 3] = np.bincount(flat[known], minlength=count + 1)[1:]
    columns = int(opened.template.shape[1])
    y, x = divmod(last[1:], window.width)
    objects[:, 4] = (y + window.y0) * columns + x + window.x0
    some = flat > 0
    local, parts = opened.ground.parts(window)
    ground = count_kinds(flat[some], np.broadcast_to(local, window.shape).ravel()[some])
    ground[:, 1] = parts[ground[:, 1]].astype(np.int64)
    nothing = np.zeros((0, 3), np.int64)
    return Pieces(
        objects=objects,
        ids=ids.astype(np.int64),
        ground=ground,
        pairs=nothing
        if pairs is None
        else count_kinds(flat[some], pairs.ravel()[some]),
        outline_ids=np.zeros(0, np.int64),
        outlines=np.zeros(0, object),
    )


def count_kinds(labels: Array, kinds: Ints) -> Counts64:
    """Count pixels by label and kind, ascending."""
    found, places = np.unique(kinds, return_inverse=True)
    size = max(1, len(found))
    both, pixels = np.unique(
        labels.astype(np.int64) * size + places, return_counts=True
    )
    label, kind = divmod(both, size)
    return np.stack([label, found[kind] if len(found) else kind, pixels], axis=1)


def _find_small(
    opened: Opened, pieces: Pieces, edges: dict[str, Counts64]
) -> NDArray[np.bool_]:
    """Find objects that are too small and do not go on, by number."""
    small = np.zeros(len(pieces.ids) + 1, bool)
    small[1:] = ~is_large(opened, pieces.objects[:, 1], areas(opened, pieces))
    for edge in edges.values():
        small[edge[0]] = False
    return small


def areas(opened: Opened, pieces: Pieces) -> NDArray[np.float64]:
    """Give the true area of each object, in m².

    Parameters
    ----------
    opened : Opened
        The output.
    pieces : Pieces
        Whole objects; their ground is sorted by number and part.

    Returns
    -------
    ndarray of float64, (n,)
        In the order of ``ids``.
    """
    each = opened.ground.areas(pieces.ground[:, 1]) * pieces.ground[:, 2]
    where = np.searchsorted(pieces.ids, pieces.ground[:, 0])
    # adds one after the other, in the order of the parts
    made: NDArray[np.float64] = np.bincount(where, each, len(pieces.ids))  # type: ignore[assignment]
    return made


def is_large(
    opened: Opened, pixels: Counts64, m2: NDArray[np.float64]
) -> NDArray[np.bool_]:
    """Tell which objects are large enough.

    Parameters
    ----------
    opened : Opened
        Says how large that is.
    pixels : ndarray of int64, (n,)
        Of each object.
    m2 : ndarray of float64, (n,)
        Of each object.

    Returns
    -------
    ndarray of bool, (n,)
        True where it is kept.
    """
    least, is_px = opened.asked.min_area
    kept: NDArray[np.bool_] = (pixels if is_px else m2) >= least
    return kept


def select(pieces: Pieces, kept: NDArray[np.bool_]) -> Pieces:
    """Keep some objects with all that belongs to them.

    Parameters
    ----------
    pieces : Pieces
        Objects.
    kept : ndarray of bool, (n,)
        Which, in the order of ``ids``.

    Returns
    -------
    Pieces
        Without the others.
    """
    ids = pieces.ids[kept]
    outlines = np.isin(pieces.outline_ids, ids)
    return Pieces(
        objects=pieces.objects[kept],
        ids=ids,
        ground=pieces.ground[np.isin(pieces.ground[:, 0], ids)],
        pairs=pieces.pairs[np.isin(pieces.pairs[:, 0], ids)],
        outline_ids=pieces.outline_ids[outlines],
        outlines=pieces.outlines[outlines],
    )

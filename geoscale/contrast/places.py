"""Places: the windows of a first pass, the same whatever blocks a job has."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geoscale.types import Bool, Ints
from geoscale.windows import Window

PLACE_PX = 256
"""Height and width of a place, in px; less at the edge of the stack."""
SAMPLE_PX = 2**22
"""Most pixels that are looked at; a smaller stack is looked at as a whole."""
SAMPLE_BYTES = 2**28
"""Most bytes that the pixels of all places take."""
MOST_CELLS = 256
"""Cells of the coarser lattice along its longer side."""

Covers = Callable[[Ints, Ints], Bool]
"""Edges of cells along y and x → which of them may hold what is wanted, (y, x)."""


def pick_places(
    shape: tuple[int, int], covers: Covers, *, bands: int, most: int | None = None
) -> list[Window]:
    """Spread places over what a stack covers.

    Parameters
    ----------
    shape : tuple of int, (y, x)
        Size of the stack, in px.
    covers : callable
        Tells which cells hold imagery of both dates inside the area of interest.
    bands : int
        Bands of one date; many of them make fewer places.
    most : int, optional
        Most places; default as many as `SAMPLE_PX` and `SAMPLE_BYTES` allow.

    Returns
    -------
    list of Window
        In the order of (y, x); all of the stack where it is small.

    Notes
    -----
    Where there are too many, every n-th along a Morton curve is taken: neighbours on
    the curve are neighbours on the ground, so the sample is balanced over any shape
    of area, as in generalised random tessellation [1]_, but without chance.

    References
    ----------
    .. [1] Stevens & Olsen 2004, doi:10.1198/016214504000000250

    Examples
    --------
    >>> everywhere = lambda ys, xs: np.ones((len(ys) - 1, len(xs) - 1), bool)
    >>> len(pick_places((400, 400), everywhere, bands=6))
    4
    >>> len(pick_places((100_000, 50_000), everywhere, bands=6))
    64
    """
    if most is None:
        pixel = 2 * bands * np.dtype(np.float32).itemsize
        most = max(1, min(SAMPLE_PX, SAMPLE_BYTES // pixel) // PLACE_PX**2)
    # A bounded number of cells, however large the stack.
    step = PLACE_PX * max(1, -(-max(shape) // (MOST_CELLS * PLACE_PX)))
    cells = _covered(Window(0, 0, *shape), step, covers)
    if len(cells) > most:
        order = sorted(cells, key=lambda w: _morton(w.y0 // step, w.x0 // step))
        cells = [order[(2 * k + 1) * len(order) // (2 * most)] for k in range(most)]
    found = cells if step == PLACE_PX else [_inside(cell, covers) for cell in cells]
    return sorted(found)


def _covered(area: Window, step: int, covers: Covers) -> list[Window]:
    """Cells of a window that are covered, row by row."""
    ys, xs = _edges(area.y0, area.y1, step), _edges(area.x0, area.x1, step)
    return [
        Window(int(ys[y]), int(xs[x]), int(ys[y + 1]), int(xs[x + 1]))
        for y, x in np.argwhere(covers(ys, xs))
    ]


def _inside(cell: Window, covers: Covers) -> Window:
    """Find the covered place of a larger cell that is nearest to its middle."""

    def far(place: Window) -> tuple[int, Window]:
        y = place.y0 + place.y1 - cell.y0 - cell.y1
        x = place.x0 + place.x1 - cell.x0 - cell.x1
        return y * y + x * x, place

    places = _covered(cell, PLACE_PX, covers)
    # a cell that is covered has a place that is, but for the rounding of footprints
    return min(places or [Window(*cell.as_tuple()[:2], cell.y1, cell.x1)], key=far)


def _edges(first: int, end: int, step: int) -> Ints:
    return np.append(np.arange(first, end, step), end)


def _morton(y: int, x: int) -> int:
    """Interleave the bits of two numbers."""
    code = 0
    for bit in range(max(y, x).bit_length()):
        code |= (x >> bit & 1) << 2 * bit | (y >> bit & 1) << 2 * bit + 1
    return code

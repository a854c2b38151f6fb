"""Cells: results for squares of input pixels, on a grid that is coarser by whole px.

Imagery is read, and blocks and patches are laid, on the grid of the plan. Where one
result stands for a *cell* of several px along each side, patches, strides and blocks
are whole cells, so that a block's cells are its own whatever the cut. Cells at the
bottom and right of a stack that is no whole number of them hang over its edge: the
network sees the image mirrored there, and the stored grid reaches as far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geoscale.card import ModelCard
from geoscale.patches import Patch
from geoscale.types import Bool
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

LEAST_VALID = 0.5
"""Least share of a cell's px inside the stack that must be valid, and inside the area
of interest, for the cell to have a value."""


def find_cell(card: ModelCard, patch_px: int, *, pooled: bool = False) -> int:
    """Tell for how many input pixels, along each side, one result stands.

    Parameters
    ----------
    card : ModelCard
        The model.
    patch_px : int
        Height and width of a patch, in px.
    pooled : bool
        Whether the results of a patch become one.

    Returns
    -------
    int
        In px; 1 for a map of every pixel, `patch_px` for one result a patch.
    """
    step = card.output.reduction
    if pooled or step == "patch":
        return patch_px
    return step or 1


def shrink(window: Window, cell: int) -> Window:
    """Cells of a window that begins at one; a cell that hangs over counts.

    Examples
    --------
    >>> shrink(Window(32, 0, 64, 50), 16)
    Window(y0=2, x0=0, y1=4, x1=4)
    """
    if cell == 1:
        return window
    y0, x0, y1, x1 = window.as_tuple()
    return Window(y0 // cell, x0 // cell, -(-y1 // cell), -(-x1 // cell))


def shrink_patch(patch: Patch, cell: int) -> Patch:
    """Put a patch on the grid of cells."""
    if cell == 1:
        return patch
    return Patch(shrink(patch.window, cell), shrink(patch.gives, cell))


def judge_cells(keep: Bool, cell: int) -> Bool:
    """Tell which cells get a value.

    Parameters
    ----------
    keep : ndarray of bool, (y, x)
        Pixels of a block that are valid and inside the area of interest.
    cell : int
        In px.

    Returns
    -------
    ndarray of bool, (y / cell, x / cell), rounded up
        Where `LEAST_VALID` of a cell's pixels are; those that lie beyond the stack
        count neither way.

    Examples
    --------
    >>> judge_cells(np.array([[True, False, True]]), 2).tolist()
    [[True, True]]
    """
    if cell == 1:
        return keep
    counts = np.ones(keep.shape, np.int64)
    for axis in (0, 1):
        starts = np.arange(0, keep.shape[axis], cell)
        counts = np.add.reduceat(counts, starts, axis=axis)
    sums = keep.astype(np.int64)
    for axis in (0, 1):
        starts = np.arange(0, keep.shape[axis], cell)
        sums = np.add.reduceat(sums, starts, axis=axis)
    # whole numbers: no rounding decides about a cell
    found: Bool = sums >= np.ceil(LEAST_VALID * counts)
    return found


def coarse_geobox(geobox: GeoBox, cell: int) -> GeoBox:
    """Grid of the cells of a grid: the same corner, pixels `cell` times as large."""
    from affine import Affine
    from odc.geo.geobox import GeoBox as Grid

    if cell == 1:
        return geobox
    shape = tuple(-(-int(n) // cell) for n in geobox.shape)
    return Grid(shape, geobox.affine * Affine.scale(cell), geobox.crs)

"""Sums over the blocks of a plan, a million of them at once.

Blocks and patches lie on lattices, so that sizes and counts along y depend on the row
of a block only, and those along x on its column.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoscale.chunks import BlockGrid
from geoscale.patches import Lattice

Runs = NDArray[np.bool_]
"""Which blocks are to be run, (time, y, x)."""


def count_pixels(runs: Runs, grid: BlockGrid) -> int:
    """Count the core pixels of the blocks to be run."""
    sides = [np.diff(edges) for edges in grid.edges()]
    return int((runs.sum(axis=0) * np.outer(*sides)).sum())


def count_patches(runs: Runs, grid: BlockGrid, lattice: Lattice) -> int:
    """Count patches that the blocks to be run need, shared ones twice."""
    rows, columns = find_ranges(grid, lattice)
    counts = np.outer([len(r) for r in rows], [len(r) for r in columns])
    return int((runs.sum(axis=0) * counts).sum())


def count_distinct_patches(runs: Runs, grid: BlockGrid, lattice: Lattice) -> int:
    """Count patches that the blocks to be run need, shared ones once."""
    rows, columns = find_ranges(grid, lattice)
    (y0, y1), (x0, x1) = (
        (np.array([r.start for r in ranges]), np.array([r.stop for r in ranges]))
        for ranges in (rows, columns)
    )
    total = 0
    for some in runs:
        # +1 where a block's patches begin, -1 past where they end: sums count blocks
        seen = np.zeros((lattice.y.count + 1, lattice.x.count + 1), np.int64)
        iy, ix = np.nonzero(some)
        for y, x, sign in ((y0, x0, 1), (y1, x1, 1), (y0, x1, -1), (y1, x0, -1)):
            np.add.at(seen, (y[iy], x[ix]), sign)
        total += int((seen.cumsum(0).cumsum(1) > 0).sum())
    return total


def find_ranges(grid: BlockGrid, lattice: Lattice) -> tuple[list[range], list[range]]:
    """Patches of each row and of each column of blocks."""
    _, rows, columns = grid.counts
    ys = [lattice.ranges(grid.core(grid.number(0, y, 0)))[0] for y in range(rows)]
    xs = [lattice.ranges(grid.core(grid.number(0, 0, x)))[1] for x in range(columns)]
    return ys, xs

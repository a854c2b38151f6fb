"""A million blocks, hundreds of thousands of items: planned by arrays, not loops."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoscale.chunks import BlockGrid
from geoscale.errors import PlanError
from geoscale.passes import take_turns
from geoscale.patches import Lattice
from geoscale.planner import find_states
from geoscale.plans import NO_ITEM, OUTSIDE, RUN
from geoscale.sources.index import BoxIndex
from geoscale.sums import count_distinct_patches, count_patches, count_pixels
from geoscale.testing import FakeSource


@given(
    seed=st.integers(0, 999),
    shape=st.tuples(st.integers(40, 200), st.integers(40, 200)),
    block=st.integers(10, 90),
    merge=st.sampled_from(["crop", "blend"]),
    stride=st.integers(12, 32),
)
def test_sums_are_those_of_the_blocks(seed, shape, block, merge, stride):
    grid = BlockGrid(2, shape, block)
    lattice = Lattice.over(shape, patch=32, stride=stride, merge=merge)
    runs = np.random.default_rng(seed).random(grid.counts) < 0.6
    cores = [
        (n // (len(grid) // 2), grid.core(n)) for n in np.flatnonzero(runs.ravel())
    ]
    assert count_pixels(runs, grid) == sum(core.size for _, core in cores)
    listed = [(t, lattice.touching(core)) for t, core in cores]
    assert count_patches(runs, grid, lattice) == sum(len(p) for _, p in listed)
    distinct = {(t, p.window) for t, patches in listed for p in patches}
    axes = (lattice.y, lattice.x)
    # at the edge some are moved onto each other, and are of one window then
    if all(len({a.start(k) for k in range(a.count)}) == a.count for a in axes):
        assert count_distinct_patches(runs, grid, lattice) == len(distinct)


class Boxes(FakeSource):
    """Items at random places, and nothing to read."""

    def __init__(self, boxes, shape):
        self.index = BoxIndex(boxes, np.arange(len(boxes)), shape)

    def covers_cells(self, ys, xs, time):
        return self.index.cells(ys, xs)


def test_a_million_blocks_and_450_000_items_are_matched_in_seconds():
    side, block, count = 1_024_000, 1024, 450_000
    rng = np.random.default_rng(0)
    corner = rng.uniform(-9000, side, (count, 2))
    # the items of the lower right quarter are not there
    corner = corner[~(corner > side / 2).all(axis=1)]
    boxes = np.concatenate([corner, corner + 10_980], axis=1)
    grid = BlockGrid(1, (side, side), block)
    assert len(grid) == 1_000_000
    source = Boxes(boxes, (side, side))
    states = find_states(grid, source, take_turns(1, 1), None).reshape(1000, 1000)
    assert (states[:500] == RUN).all()
    assert (states[520:, 520:] == NO_ITEM).all()
    some = rng.integers(0, 1000, (200, 2))
    for y, x in some:
        touching = source.index.touching(grid.core(grid.number(0, int(y), int(x))))
        assert (states[y, x] == RUN) == bool(len(touching))


def test_outside_the_area_nothing_is_run():
    class Area:
        def touches(self, ys, xs):
            return np.add.outer(ys[:-1], xs[:-1]) < 100

    grid = BlockGrid(1, (100, 100), 25)
    boxes = np.array([[0.0, 0.0, 100.0, 60.0]])
    states = find_states(
        grid, Boxes(boxes, (100, 100)), take_turns(1, 1), Area()
    ).reshape(4, 4)
    assert states.tolist() == [
        [RUN, RUN, RUN, NO_ITEM],
        [RUN, RUN, RUN, OUTSIDE],
        [RUN, RUN, OUTSIDE, OUTSIDE],
        [RUN, OUTSIDE, OUTSIDE, OUTSIDE],
    ]


@pytest.mark.parametrize("shape", [(5, 7), (8, 8)])
def test_edges_are_those_of_the_blocks(shape):
    grid = BlockGrid(1, shape, 4)
    ys, xs = grid.edges()
    cores = [grid.core(n) for n in grid]
    assert sorted({(c.y0, c.y1) for c in cores}) == list(pairwise(ys))
    assert sorted({(c.x0, c.x1) for c in cores}) == list(pairwise(xs))


def test_a_grid_that_is_cut_into_too_many_blocks_is_refused_at_once():
    with pytest.raises(PlanError, match=r"more than 10,000,000 blocks of 16 px; check"):
        BlockGrid(1, (10**6, 10**6), 16)

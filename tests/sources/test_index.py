"""The index gives what looking at every item would give."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geoscale.sources import index as module
from geoscale.sources.index import BoxIndex
from geoscale.windows import Window

SHAPE = (60, 90)


def boxes_of(rng, count):
    corner = rng.integers(-20, 100, (count, 2)).astype(float)
    boxes = np.concatenate([corner, corner + rng.integers(0, 40, (count, 2))], axis=1)
    boxes[rng.random(count) < 0.1] = (-np.inf, -np.inf, np.inf, np.inf)
    boxes[rng.random(count) < 0.3] += 0.5
    return boxes


def one_by_one(boxes, members, window):
    y0, x0, y1, x1 = boxes[members].T
    w = window
    hit = (y0 < w.y1) & (w.y0 < y1) & (x0 < w.x1) & (w.x0 < x1)
    return np.asarray(members)[hit].tolist()


@given(
    seed=st.integers(0, 10_000), count=st.integers(0, 40), few=st.sampled_from([0, 99])
)
def test_it_gives_what_a_loop_gives(seed, count, few):
    rng = np.random.default_rng(seed)
    boxes = boxes_of(rng, count)
    members = np.flatnonzero(rng.random(count) < 0.7).tolist()
    index = BoxIndex(boxes, members, SHAPE)
    ys = np.unique(np.append(rng.integers(0, 61, 4), [0, 60]))
    xs = np.unique(np.append(rng.integers(0, 91, 4), [0, 90]))
    windows = [
        Window(int(a), int(c), int(b), int(d))
        for a, b in pairwise(ys)
        for c, d in pairwise(xs)
    ]
    wanted = [one_by_one(boxes, members, w) for w in windows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FEW", few)
        assert [index.touching(w).tolist() for w in windows] == wanted
    assert index.cells(ys, xs).ravel().tolist() == [bool(w) for w in wanted]
    numbers, items = index.match(np.array([w.as_tuple() for w in windows], float))
    found = [items[numbers == n].tolist() for n in range(len(windows))]
    assert found == wanted
    assert (np.diff(numbers) >= 0).all()

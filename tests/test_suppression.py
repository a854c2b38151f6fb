"""NMS, Soft-NMS, weighted boxes: against torchvision, and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from geoscale.detecting import Suppression
from geoscale.objects import corners_of, is_upright, turned_corners
from geoscale.suppression import group, link, overlap, suppress


def boxes(seed, count, spread=40.0):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, spread, (count, 2))
    found = np.concatenate([low, low + rng.uniform(2, 15, (count, 2))], 1)
    scores = rng.permutation(np.linspace(0.1, 0.9, count)).astype(np.float32)
    return np.round(found, 2), scores, rng.integers(0, 3, count).astype(np.int16)


def run(found, scores, values, **how):
    how, corners = Suppression(**how), corners_of(found)
    return suppress(corners, scores, values, link(corners, values, how), how, 0.05)


@given(st.integers(0, 999), st.integers(1, 60), st.sampled_from([0.1, 0.5, 0.7]))
def test_nms_is_torchvisions(seed, count, iou):
    torch = pytest.importorskip("torch")
    from torchvision.ops import batched_nms, nms

    found, scores, values = boxes(seed, count)
    tensors = [torch.from_numpy(a) for a in (found, scores.astype(np.float64))]
    want = batched_nms(*tensors, torch.from_numpy(values), iou)
    kept = run(found, scores, values, iou=iou)
    assert kept.numbers.tolist() == sorted(want.tolist())
    want = nms(*tensors, iou)
    kept = run(found, scores, values, iou=iou, by_class=False)
    assert kept.numbers.tolist() == sorted(want.tolist())


@given(st.integers(0, 999), st.integers(1, 30))
def test_soft_nms_is_the_loop_of_its_paper(seed, count):
    found, scores, values = boxes(seed, count)
    corners, left = corners_of(found), scores.astype(np.float64)
    rest, want = list(range(count)), {}
    while rest:
        best = max(rest, key=lambda i: left[i])
        rest.remove(best)
        want[best] = left[best]
        for i in rest:
            if values[i] == values[best]:
                iou = overlap(corners[[i]], corners[[best]])[0]
                left[i] *= 1 - iou if iou > 0.3 else 1
    kept = run(found, scores, values, method="soft-nms", iou=0.3)
    want = {i: s for i, s in want.items() if s >= 0.05}
    assert kept.numbers.tolist() == sorted(want)
    np.testing.assert_allclose(kept.scores, [want[i] for i in sorted(want)], rtol=1e-5)


def test_weighted_boxes_are_the_mean_by_score():
    found = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [50, 50, 60, 60.0]])
    scores = np.array([0.9, 0.3, 0.5], np.float32)
    kept = run(found, scores, np.zeros(3, np.int16), method="wbf")
    np.testing.assert_allclose(kept.corners[0, 0], [0.25, 0], atol=1e-6)
    np.testing.assert_allclose(kept.scores, [0.6, 0.5], rtol=1e-6)


def test_equal_detections_are_one_even_without_suppression():
    found = np.array([[0, 0, 10, 10], [0, 0, 10, 10], [1, 0, 11, 10.0]])
    scores, values = np.array([0.5, 0.5, 0.4], np.float32), np.zeros(3, np.int16)
    assert len(run(found, scores, values, method="none").numbers) == 2


@given(st.integers(0, 999), st.integers(1, 40), st.randoms())
def test_the_order_of_detections_changes_nothing(seed, count, random):
    found, scores, values = boxes(seed, count)
    scores[:] = np.round(scores, 1)  # ties
    order = list(range(count))
    random.shuffle(order)
    for method in ("nms", "soft-nms", "wbf", "none"):
        one = run(found, scores, values, method=method)
        other = run(found[order], scores[order], values[order], method=method)
        # floats of a mean hang on the order of its terms; that is `rank`'s
        sets = [
            sorted(map(tuple, np.round(k.corners.reshape(-1, 8), 9).tolist()))
            for k in (one, other)
        ]
        assert sets[0] == sets[1]


@given(st.integers(0, 999), st.integers(2, 60))
def test_groups_do_not_know_of_each_other(seed, count):
    found, scores, values = boxes(seed, count)
    corners, how = corners_of(found), Suppression(iou=0.2)
    links = link(corners, values, how)
    groups = group(links, count)
    assert all(groups[links.first] == groups[links.second])
    whole = set(run(found, scores, values, iou=0.2).numbers.tolist())
    apart = set()
    for number in np.unique(groups):
        some = np.flatnonzero(groups == number)
        kept = run(found[some], scores[some], values[some], iou=0.2).numbers
        apart |= set(some[kept].tolist())
    assert whole == apart


@given(st.integers(0, 999))
def test_overlaps_of_turned_boxes_are_shapelys(seed):
    rng = np.random.default_rng(seed)
    made = [
        turned_corners(np.column_stack([
            rng.uniform(0, 10, (20, 2)), rng.uniform(2, 12, (20, 2)),
            rng.uniform(-4, 4, 20),
        ]))
        for _ in range(2)
    ]  # fmt: skip
    one, other = (shapely.polygons(corners) for corners in made)
    shared = shapely.area(shapely.intersection(one, other))
    whole = shapely.area(shapely.union(one, other))
    np.testing.assert_allclose(overlap(*made), shared / whole, atol=1e-9)


def test_corners_run_clockwise_on_the_screen_from_the_box_as_it_lies():
    turned = turned_corners(np.array([[10, 20, 8, 4, 0.0], [10, 20, 8, 4, np.pi / 2]]))
    assert turned[0].tolist() == [[6, 18], [14, 18], [14, 22], [6, 22]]
    np.testing.assert_allclose(turned[1], [[12, 16], [12, 24], [8, 24], [8, 16]])
    assert is_upright(corners_of(np.array([[0, 0, 1, 2.0]]))).all()
    tilted = turned_corners(np.array([[10, 20, 8, 4, 0.3]]))
    assert not is_upright(tilted).any()

"""Figures from counts: the paper's own example, scikit-learn, and chance itself."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from geoscale.evaluation.statistics import adjust, kappa, overlaps, trace_curve

# Olofsson et al. 2014, table 8: deforestation, forest gain, stable forest, stable
# non-forest; rows are the map's classes
TABLE_8 = np.array([[66, 0, 5, 4], [0, 55, 8, 12], [1, 0, 153, 11], [2, 1, 9, 313]])
MAPPED_PX = np.array([200_000, 150_000, 3_200_000, 6_450_000])
HA = 30 * 30 / 10_000


def test_the_papers_example():
    found = adjust(TABLE_8, MAPPED_PX * HA)
    assert found.overall.value == pytest.approx(0.95, abs=0.005)
    assert found.overall.margin == pytest.approx(0.02, abs=0.005)
    users = [(u.value, u.margin) for u in found.users]
    said = [(0.88, 0.07), (0.73, 0.10), (0.93, 0.04), (0.96, 0.02)]
    assert users == [pytest.approx(one, abs=0.005) for one in said]
    assert [p.value for p in found.producers] == pytest.approx(
        [0.75, 0.85, 0.93, 0.96], abs=0.005
    )
    assert found.producers[0].margin == pytest.approx(0.21, abs=0.005)
    areas = [(a.value, a.margin) for a in found.areas]
    said = [(21_158, 6_158), (11_686, 3_756), (285_770, 15_510), (581_386, 16_282)]
    assert areas == [pytest.approx(one, abs=0.7) for one in said]


@pytest.mark.parametrize(
    ("table", "areas"),
    [(TABLE_8, MAPPED_PX), (np.array([[40, 35], [25, 60]]), [3.0, 2.0])],
    ids=["paper", "rough"],
)
def test_standard_errors_are_what_chance_does(table, areas):
    """Draw a sample anew, often: estimates scatter as they say they do."""
    rng = np.random.default_rng(20140507)
    rows = table.sum(axis=1)
    truth = table / rows[:, None]
    drawn = []
    for _ in range(2000):
        sample = np.array(
            [rng.multinomial(4 * n, p) for n, p in zip(rows, truth, strict=True)]
        )
        drawn.append(adjust(sample, areas))
    for pick in (
        lambda f: [f.overall],
        lambda f: f.users,
        lambda f: f.producers,
        lambda f: f.areas,
    ):
        values = np.array([[e.value for e in pick(f)] for f in drawn])
        errors = np.array([[e.standard_error for e in pick(f)] for f in drawn])
        assert errors.mean(axis=0) == pytest.approx(values.std(axis=0), rel=0.08)


def test_a_census_leaves_nothing_to_chance():
    found = adjust(TABLE_8, TABLE_8.sum(axis=1), census=True)
    assert found.overall.value == pytest.approx(np.trace(TABLE_8) / 640)
    assert [a.value for a in found.areas] == pytest.approx(TABLE_8.sum(axis=0))
    estimates = [found.overall, *found.users, *found.producers, *found.areas]
    assert {e.standard_error for e in estimates} == {0.0}


def test_too_few_units_are_refused():
    table = np.array([[5, 1], [0, 1]])
    with pytest.raises(ValueError, match=r"\[1\]"):
        adjust(table, [1, 1])
    assert adjust(table, [1, 1], census=True).overall.value == pytest.approx(11 / 12)


@pytest.mark.parametrize("seed", range(5))
def test_measures_equal_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 3000)
    found = np.where(rng.random(3000) < 0.6, truth, rng.integers(0, 4, 3000))
    found[found == 4] = 0
    table = metrics.confusion_matrix(truth, found, labels=range(5)).T
    assert kappa(table) == pytest.approx(metrics.cohen_kappa_score(truth, found))
    ours, how = overlaps(table), {"average": None, "labels": range(5)}
    assert ours["iou"] == pytest.approx(metrics.jaccard_score(truth, found, **how))
    assert ours["f1"] == pytest.approx(metrics.f1_score(truth, found, **how))
    recall = metrics.recall_score(truth, found, **how)
    assert ours["producers"] == pytest.approx(recall)
    precision = metrics.precision_score(truth, found, zero_division=0, **how)
    assert ours["users"][:4] == pytest.approx(precision[:4])
    assert ours["users"][4] is None  # never found


def test_what_cannot_be_divided_is_none():
    nothing = np.array([[9, 0], [0, 0]])
    assert kappa(nothing) is None
    assert overlaps(nothing)["iou"] == [1.0, None]


@pytest.mark.parametrize("seed", range(5))
def test_area_under_the_curve_equals_scikit_learns(seed):
    rng = np.random.default_rng(seed)
    truth = rng.random(5000) < 0.2
    scores = np.clip(rng.normal(100 + 60 * truth, 50), 0, 254).astype(np.uint8)
    sides = [np.bincount(scores[truth == side], minlength=255) for side in (1, 0)]
    curve = trace_curve(*sides)
    assert curve.area == pytest.approx(metrics.roc_auc_score(truth, scores), abs=1e-14)
    false, true, _ = metrics.roc_curve(truth, scores, drop_intermediate=False)
    assert curve.false == pytest.approx(false)
    assert curve.true == pytest.approx(true)


def test_no_curve_without_both_sides():
    assert trace_curve(np.array([1, 2]), np.array([0, 0])) is None

"""Entropy and margin: what scipy and plain sorting say, on any cut and device."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import entropy

from geoscale.card import ModelCard
from geoscale.tasks.segmentation import Segmentation
from geoscale.tasks.sureness import ONE, make_table


def make_card(count: int, activation: str = "softmax") -> ModelCard:
    return ModelCard.from_dict(
        {
            "name": "toy",
            "weights": {"href": "toy.onnx"},
            "input": {"bands": ["red"]},
            "output": {
                "classes": [{"value": i, "name": f"c{i}"} for i in range(count)],
                "activation": activation,
            },
        }
    )


def finish(scores: np.ndarray, activation: str = "softmax") -> dict[str, np.ndarray]:
    card = make_card(len(scores), activation)
    valid = np.ones(scores.shape[1:], bool)
    valid[0, 0] = False
    return Segmentation(card, ("entropy", "margin")).finish(scores, valid)


@pytest.mark.parametrize("count", [2, 3, 19, 60, 254])
def test_scipy_says_the_same(count: int) -> None:
    rng = np.random.default_rng(count)
    raw = rng.gamma(0.05, size=(count, 40, 50)) + 1e-12
    scores = (raw / raw.sum(0)).astype(np.float32)
    made = finish(scores)
    want = entropy(scores.astype(float), axis=0) / np.log(count) * 254
    assert np.abs(made["entropy"] - want)[1:].max() <= 0.75
    ordered = np.sort(scores, axis=0)
    margin = np.rint((ordered[-1] - ordered[-2]) * np.float32(254))
    np.testing.assert_array_equal(made["margin"][1:], margin[1:])
    assert made["entropy"][0, 0] == made["margin"][0, 0] == 255


def test_the_ends_are_exact() -> None:
    scores = np.zeros((4, 1, 4), np.float32)
    scores[1, 0, 1] = 1  # sure
    scores[:, 0, 2] = 0.25  # no idea
    scores[:2, 0, 3] = 0.5  # one of two
    made = finish(scores)
    assert made["entropy"][0].tolist() == [255, 0, 254, 127]
    assert made["margin"][0].tolist() == [255, 254, 0, 0]


def test_scores_that_do_not_add_up_are_shared_out_first() -> None:
    rng = np.random.default_rng(1)
    scores = rng.random((5, 30, 30)).astype(np.float32)
    scores[:, 3, 3] = 0  # nothing at all is known there
    made = finish(scores, "sigmoid")
    with np.errstate(invalid="ignore"):
        want = entropy(scores.astype(float), axis=0) / np.log(5) * 254
    want[3, 3] = 254
    assert np.abs(made["entropy"] - want)[1:].max() <= 0.75


def test_the_order_of_classes_does_not_count() -> None:
    rng = np.random.default_rng(2)
    raw = rng.random((7, 64, 64))
    scores = (raw / raw.sum(0)).astype(np.float32)
    for one, other in zip(
        finish(scores).items(), finish(scores[::-1].copy()).items(), strict=True
    ):
        if one[0] != "classes":
            np.testing.assert_array_equal(one[1], other[1])


def test_254_classes_fit_into_the_sum() -> None:
    table = make_table()
    assert 254 * int(table[round(65535 / 254)]) < 2**31
    assert table.max() == pytest.approx(ONE / np.e, rel=1e-6)

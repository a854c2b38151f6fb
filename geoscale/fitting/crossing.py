"""Held-out figures of a head: fitted without a part of the ground, judged there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoscale.fitting.calibrating import Calibration, CalibrationName, calibrate
from geoscale.fitting.heads import Fit, HeadName, fit_head
from geoscale.fitting.scoring import (
    brier_score,
    calibration_error,
    judge,
    reliability,
    softmax,
)
from geoscale.types import Float, Floats, Ints, Json


@dataclass(frozen=True, slots=True, kw_only=True)
class Crossed:
    """What cross-validation found of one kind of features."""

    figures: Json
    """``count`` of features, ``pooled`` and ``folds`` as `judge` gives them,
    ``calibration``, and ``epochs`` of a conv head."""
    calibration: Calibration
    """Found on all held-out pixels."""


def cross_validate(
    kind: HeadName,
    values: Float,
    codes: Ints,
    fold: Ints,
    names: Sequence[str],
    seed: int = 0,
    way: CalibrationName = "temperature",
) -> Crossed:
    """Fit a head without each fold, and judge it there.

    Parameters
    ----------
    kind : {"logistic", "ridge", "forest", "conv"}
        The head.
    values : ndarray of float32, (pixel, feature) or (pixel, feature, y, x)
        Features.
    codes, fold : ndarray of int, (pixel,)
        Label and fold of each.
    names : sequence of str
        Labels.
    seed : int
        Of a forest or a conv head.
    way : {"temperature", "sigmoid", "isotonic", "none"}
        How probabilities are calibrated.

    Returns
    -------
    Crossed
        Figures of held-out pixels. A calibration is judged in each fold by what the
        others say; where it does not lower the Brier score there, none is used.
    """
    logits = np.zeros((len(codes), len(names)))
    parts, epochs = [int(k) for k in np.unique(fold)], []
    for i, k in enumerate(parts):
        inside = fold != k
        stop = fold[inside] == parts[(i + 1) % len(parts)]
        data = (values[inside], codes[inside], len(names), seed)
        made = fit_head(kind, *data, stop=stop)
        if kind == "conv":  # as the map's own: what told when to stop teaches then
            made = fit_head(kind, *data, epochs=getattr(made, "epochs", 0))
        logits[~inside] = made.logits(values[~inside])
        epochs.append(getattr(made, "epochs", 0))
    raw = softmax(logits)
    figures: Json = {
        "count": int(values.shape[1]),
        "pooled": judge(raw, codes, tuple(names)),
        "folds": [judge(raw[fold == k], codes[fold == k], tuple(names)) for k in parts],
    }
    if kind == "conv":
        figures["epochs"] = epochs
    told, found = _calibrate(way, logits, codes, fold)
    return Crossed(figures={**figures, "calibration": told}, calibration=found)


def fit_whole(
    kind: HeadName, values: Float, codes: Ints, classes: int, seed: int, figures: Json
) -> Fit:
    """Fit the head of the map, to all labels.

    Parameters
    ----------
    kind : {"logistic", "ridge", "forest", "conv"}
        The head.
    values, codes : ndarray
        As for `cross_validate`.
    classes, seed : int
        As for `fit_head`.
    figures : dict
        Of `Crossed`: a conv head, which has no ground left that could tell it when to
        stop, learns for as many passes as was best in the middle fold.

    Returns
    -------
    Linear, Forest or Convolutions
        As `fit_head` gives.
    """
    held = figures.get("epochs")
    epochs = int(np.median(held)) if held else None
    return fit_head(kind, values, codes, classes, seed, epochs=epochs)


def _calibrate(
    way: CalibrationName, logits: Floats, codes: Ints, fold: Ints
) -> tuple[Json, Calibration]:
    raw = softmax(logits)
    mended = np.zeros_like(logits)
    for k in np.unique(fold):  # by the others: else its error would flatter
        found = calibrate(way, logits[fold != k], codes[fold != k])
        mended[fold == k] = found.scores(logits[fold == k])
    before, after = _errors(raw, codes), _errors(mended, codes)
    # what is likeliest may still mislead: it has to help where it was not found
    kept = after["brier"] < before["brier"]
    chosen = calibrate(way if kept else "none", logits, codes)
    told: Json = {
        "way": way,
        "kept": kept,
        "temperature": chosen.heat,
        "before": before,
        "after": after,
    }
    return told, chosen


def _errors(scores: Floats, codes: Ints) -> Json:
    return {
        "error": calibration_error(scores, codes),
        "brier": brier_score(scores, codes),
        "accuracy": float((scores.argmax(1) == codes).mean()),
        "reliability": reliability(scores, codes),
    }

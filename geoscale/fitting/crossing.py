"""One kind of features, judged by ground that its head was not fitted to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.fitting.heads import HeadName, fit_head
from geoscale.fitting.scoring import (
    calibration_error,
    find_temperature,
    judge,
    softmax,
)
from geoscale.types import Float, Floats, Ints, Json


def cross_validate(
    kind: HeadName,
    values: Float,
    codes: Ints,
    fold: Ints,
    names: Sequence[str],
    seed: int = 0,
) -> Json:
    """Fit a head without each fold, and judge it there.

    Parameters
    ----------
    kind : {"logistic", "ridge", "forest"}
        The head.
    values : ndarray of float32, (pixel, feature)
        Features.
    codes, fold : ndarray of int, (pixel,)
        Label and fold of each.
    names : sequence of str
        Labels.
    seed : int
        Of a forest.

    Returns
    -------
    dict
        ``count`` of features, ``pooled`` and ``folds`` as `judge` gives them, and
        ``calibration``: ``temperature``, and the expected calibration error before
        and after. The error after is of temperatures found in the other folds; where
        these do not lower it, the temperature is 1.
    """
    classes = len(names)
    logits = np.zeros((len(codes), classes))
    parts = list(np.unique(fold))
    for k in parts:
        made = fit_head(kind, values[fold != k], codes[fold != k], classes, seed)
        logits[fold == k] = made.logits(values[fold == k])
    raw = softmax(logits)
    before = calibration_error(raw, codes)
    after = calibration_error(_mended(logits, codes, fold), codes)
    # the likeliest temperature may still mislead: it has to help where it was not found
    heat = find_temperature(logits, codes) if after < before else 1.0
    return {
        "count": int(values.shape[1]),
        "pooled": judge(raw, codes, tuple(names)),
        "folds": [judge(raw[fold == k], codes[fold == k], tuple(names)) for k in parts],
        "calibration": {
            "temperature": heat,
            "error_before": before,
            "error_after": after,
        },
    }


def _mended(logits: Floats, codes: Ints, fold: Ints) -> Floats:
    """Calibrate each fold by the others: else its error would flatter."""
    made = np.zeros_like(logits)
    for k in np.unique(fold):
        heat = find_temperature(logits[fold != k], codes[fold != k])
        made[fold == k] = softmax(logits[fold == k] / heat)
    return made

"""How good held-out probabilities are: agreement, and whether they can be believed."""

from __future__ import annotations

import numpy as np

from geoscale.types import Floats, Ints, Json

BINS = 10
"""Bins of confidence, equally wide."""
TEMPERATURES = np.exp(np.linspace(np.log(0.05), np.log(20), 241))


def softmax(logits: Floats) -> Floats:
    """(pixel, class) logits → probabilities."""
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    made: Floats = shifted / shifted.sum(1, keepdims=True)
    return made


def find_temperature(logits: Floats, codes: Ints) -> float:
    """Find what held-out logits must be divided by to be likeliest.

    Parameters
    ----------
    logits : ndarray of float64, (pixel, class)
        Of pixels that the head was not fitted to.
    codes : ndarray of int, (pixel,)
        Their labels.

    Returns
    -------
    float
        Temperature, 0.05 to 20; the least log loss on a fixed grid.

    References
    ----------
    .. [1] Guo, Pleiss, Sun and Weinberger, 2017, "On calibration of modern neural
       networks", arXiv:1706.04599
    """
    rows = np.arange(len(codes))
    losses = []
    for t in TEMPERATURES:
        found = softmax(logits / t)[rows, codes]
        losses.append(-np.log(np.maximum(found, 1e-12)).mean())
    return float(TEMPERATURES[int(np.argmin(losses))])


def calibration_error(scores: Floats, codes: Ints) -> float:
    """Give the expected calibration error of the winning class.

    Parameters
    ----------
    scores : ndarray of float64, (pixel, class)
        Probabilities.
    codes : ndarray of int, (pixel,)
        Labels.

    Returns
    -------
    float
        Mean distance of confidence and share of hits over `BINS` bins, each
        weighted by its pixels; 0 to 1 [1]_.

    References
    ----------
    .. [1] Naeini, Cooper and Hauskrecht, 2015, "Obtaining well calibrated
       probabilities using Bayesian binning", AAAI

    Examples
    --------
    >>> import numpy as np
    >>> sure = np.array([[1.0, 0.0]] * 4)
    >>> calibration_error(sure, np.array([0, 0, 0, 1]))
    0.25
    """
    parts = [
        abs(one["confidence"] - one["right"]) * one["pixels"]
        for one in reliability(scores, codes)
    ]
    return float(sum(parts) / len(codes))


def reliability(scores: Floats, codes: Ints) -> list[Json]:
    """Hold the winning class's confidence against how often it is right.

    Parameters
    ----------
    scores : ndarray of float64, (pixel, class)
        Probabilities.
    codes : ndarray of int, (pixel,)
        Labels.

    Returns
    -------
    list of dict
        ``pixels``, mean ``confidence`` and share ``right`` of each of `BINS` bins
        that has pixels, least sure first.
    """
    sure, hit = scores.max(1), scores.argmax(1) == codes
    where = np.minimum((sure * BINS).astype(int), BINS - 1)
    return [
        {
            "pixels": int((where == b).sum()),
            "confidence": float(sure[where == b].mean()),
            "right": float(hit[where == b].mean()),
        }
        for b in np.unique(where)
    ]


def brier_score(scores: Floats, codes: Ints) -> float:
    """Give the mean squared distance of probabilities from what is so.

    Parameters
    ----------
    scores : ndarray of float64, (pixel, class)
        Probabilities.
    codes : ndarray of int, (pixel,)
        Labels.

    Returns
    -------
    float
        Summed over classes: 0, all is right and sure, to 2 [1]_.

    References
    ----------
    .. [1] Brier, 1950, "Verification of forecasts expressed in terms of probability",
       doi:10.1175/1520-0493(1950)078<0001:VOFEIT>2.0.CO;2

    Examples
    --------
    >>> import numpy as np
    >>> brier_score(np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([0, 0]))
    0.25
    """
    rows = np.arange(len(codes))
    # 1 - 2 p + p² of the label's class, p² of the others
    squares = (scores**2).sum(1) + 1 - 2 * scores[rows, codes]
    return float(squares.mean())


def judge(scores: Floats, codes: Ints, labels: tuple[str, ...]) -> Json:
    """Count held-out pixels against their labels.

    Parameters
    ----------
    scores : ndarray of float64, (pixel, class)
        Probabilities.
    codes : ndarray of int, (pixel,)
        Labels.
    labels : tuple of str
        Names of the classes.

    Returns
    -------
    dict
        ``pixels``, ``accuracy``, ``kappa`` (None where chance alone agrees wholly),
        ``f1`` by class and its mean ``f1_macro``, ``confusion`` (rows: labels).
    """
    n = len(labels)
    taken = scores.argmax(1)
    table = np.bincount(codes * n + taken, minlength=n * n).reshape(n, n)
    total = int(table.sum())
    rows, columns, right = table.sum(1), table.sum(0), np.diag(table)
    chance = float((rows * columns).sum()) / total**2
    share = float(right.sum()) / total
    f1 = {
        name: float(2 * right[i] / (rows[i] + columns[i]))
        for i, name in enumerate(labels)
        if rows[i] + columns[i]
    }
    return {
        "pixels": total,
        "accuracy": share,
        "kappa": (share - chance) / (1 - chance) if chance < 1 else None,
        "f1": f1,
        "f1_macro": sum(f1.values()) / len(f1),
        "confusion": table.tolist(),
    }

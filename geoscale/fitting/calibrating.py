"""Probabilities that hold: found from scores of ground that no head was fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from geoscale.errors import require
from geoscale.fitting.scoring import find_temperature, softmax
from geoscale.heads import LEAST, Calibrated
from geoscale.types import Array, Floats, Ints

CalibrationName = Literal["temperature", "sigmoid", "isotonic", "none"]
WAYS = ("temperature", "sigmoid", "isotonic", "none")
FAR = 2.0
"""A probability that is never reached: rows of knots are filled up with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What becomes of a head's logits."""

    kind: CalibrationName = "none"
    heat: float = 1.0
    """Temperature: logits are divided by it."""
    slope: Floats | None = None
    """(class,), of a sigmoid of log odds."""
    bias: Floats | None = None
    """(class,)."""
    x: Floats | None = None
    """(class, knot), ascending: probabilities before, isotonic."""
    y: Floats | None = None
    """(class, knot): probabilities after."""
    rise: Floats | None = None
    """(class, knot): slope from a knot to the next."""

    def scores(self, logits: Floats) -> Floats:
        """(pixel, class) logits → probabilities, as the map's own network gives them.

        Each class is calibrated against all others, then all are divided by their
        sum [1]_.

        References
        ----------
        .. [1] Zadrozny and Elkan, 2002, "Transforming classifier scores into accurate
           multiclass probability estimates", KDD
        """
        raw = softmax(logits / self.heat)
        if self.slope is not None and self.bias is not None:
            made = 1 / (1 + np.exp(-(log_odds(raw) * self.slope + self.bias)))
        elif self.x is not None and self.y is not None and self.rise is not None:
            made = np.empty_like(raw)
            for k, p in enumerate(raw.T):
                low = np.maximum(p, self.x[k, 0])
                at = np.searchsorted(self.x[k], low, side="right") - 1
                made[:, k] = self.y[k, at] + self.rise[k, at] * (low - self.x[k, at])
        else:
            return raw
        made = np.maximum(made, LEAST)
        found: Floats = made / made.sum(1, keepdims=True)
        return found

    def spec(self) -> Calibrated | None:
        """Give what the card says; None where the head's own numbers hold it."""
        if self.kind == "sigmoid":
            return Calibrated(kind="sigmoid")
        if self.x is not None:
            return Calibrated(kind="isotonic", knots=self.x.shape[1])
        return None

    def tensors(self) -> dict[str, Array]:
        """Give the arrays of `geoscale.models.calibration`, float32."""
        names = ("slope", "bias", "x", "y", "rise")
        made = {name: getattr(self, name) for name in names}
        return {k: v.astype(np.float32) for k, v in made.items() if v is not None}


def log_odds(scores: Floats) -> Floats:
    """Give the logarithm of p to 1 - p; what is next to 0 or 1 is moved away."""
    p = np.clip(scores, LEAST, 1 - LEAST)
    made: Floats = np.log(p) - np.log1p(-p)
    return made


def calibrate(kind: CalibrationName, logits: Floats, codes: Ints) -> Calibration:
    """Find what makes probabilities of held-out logits.

    Parameters
    ----------
    kind : {"temperature", "sigmoid", "isotonic", "none"}
        One number for all classes; Platt's sigmoid [1]_, or a rising line of
        straight parts [2]_, of each class against all others.
    logits : ndarray of float64, (pixel, class)
        Of pixels that the head was not fitted to.
    codes : ndarray of int, (pixel,)
        Their labels.

    Returns
    -------
    Calibration
        Numbers only.

    Raises
    ------
    MissingDependencyError
        If scikit-learn is not installed.

    References
    ----------
    .. [1] Platt, 1999, "Probabilistic outputs for support vector machines and
       comparisons to regularized likelihood methods"
    .. [2] Zadrozny and Elkan, 2002, doi:10.1145/775047.775151
    """
    if kind == "none":
        return Calibration()
    if kind == "temperature":
        return Calibration(kind=kind, heat=find_temperature(logits, codes))
    raw = softmax(logits)
    hits = np.eye(logits.shape[1], dtype=bool)[codes]
    if kind == "sigmoid":
        odds = log_odds(raw)
        lines = [_fit_sigmoid(odds[:, k], hits[:, k]) for k in range(hits.shape[1])]
        slope, bias = np.array(lines).T
        return Calibration(kind=kind, slope=slope, bias=bias)
    knots = [_fit_isotonic(raw[:, k], hits[:, k]) for k in range(hits.shape[1])]
    count = max(len(x) for x, _, _ in knots)
    rows = [
        np.stack(
            [_fill(one, count, last) for one, last in zip(part, ends, strict=True)]
        )
        for part, ends in (
            ([x for x, _, _ in knots], [FAR] * len(knots)),
            ([y for _, y, _ in knots], [y[-1] for _, y, _ in knots]),
            ([r for _, _, r in knots], [0.0] * len(knots)),
        )
    ]
    return Calibration(kind=kind, x=rows[0], y=rows[1], rise=rows[2])


def _fit_sigmoid(odds: Floats, hit: Array) -> tuple[float, float]:
    """Slope and bias of log odds that are likeliest for Platt's targets."""
    linear: Any = require("sklearn.linear_model", extra="fit")
    many, few = int(hit.sum()), int((~hit).sum())
    if not many or not few:  # the class was never met, or nothing else was
        return 0.0, float(np.log((many + 1) / (few + 1)))
    # a target between 0 and 1 is a pixel counted twice, by its share of either
    target = np.where(hit, (many + 1) / (many + 2), 1 / (few + 2))
    made = linear.LogisticRegression(C=np.inf, max_iter=1000, tol=1e-8)
    both = np.concatenate([odds, odds])[:, None]
    made.fit(
        both,
        np.repeat([1, 0], len(odds)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    return float(made.coef_[0, 0]), float(made.intercept_[0])


def _fit_isotonic(scores: Floats, hit: Array) -> tuple[Floats, Floats, Floats]:
    """Knots before and after, and the slope behind each."""
    isotonic: Any = require("sklearn.isotonic", extra="fit")
    made = isotonic.IsotonicRegression(y_min=0.0, y_max=1.0, out_of_bounds="clip")
    made.fit(scores, hit.astype(np.float64))
    # as they will be stored: two knots that are one float32 would be a step upright
    x = made.X_thresholds_.astype(np.float32).astype(np.float64)
    keep = np.append(np.diff(x) > 0, True)
    x, y = x[keep], made.y_thresholds_[keep]
    rise = np.append(np.diff(y) / np.diff(x), 0.0)
    return x, y, rise


def _fill(row: Floats, count: int, last: float) -> Floats:
    return np.append(row, np.full(count - len(row), last))

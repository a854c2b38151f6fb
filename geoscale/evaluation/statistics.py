"""Measures of accuracy from whole counts.

Rows of every matrix are classes of the map, columns those of the reference, as in
Olofsson et al. 2014.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Floats

Z95 = 1.96
"""Normal quantile of 95 % intervals, as the paper rounds it."""
Counts64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """An estimate and how far chance may have moved it."""

    value: float
    """Best estimate."""
    standard_error: float
    """Square root of its estimated variance, same unit."""

    @property
    def margin(self) -> float:
        """Half the width of the 95 % confidence interval."""
        return Z95 * self.standard_error


@dataclass(frozen=True, slots=True, kw_only=True)
class Adjusted:
    """Accuracy and areas of a whole map, estimated from a sample of it."""

    overall: Estimate
    """Share of the map's area whose class is right."""
    users: tuple[Estimate | None, ...]
    """By class: share of what is mapped as it that is it; None where it is not
    mapped."""
    producers: tuple[Estimate | None, ...]
    """By class: share of what is it that is mapped as it; None where none is."""
    areas: tuple[Estimate, ...]
    """By class: its true area, in the unit of the mapped areas."""


def kappa(matrix: Counts64) -> float | None:
    """Cohen's kappa: agreement beyond what chance would give.

    Parameters
    ----------
    matrix : ndarray of int64, (map class, reference class)
        Pixels.

    Returns
    -------
    float or None
        At most 1; None where only one class occurs on both sides.

    References
    ----------
    .. [1] J. Cohen, "A coefficient of agreement for nominal scales", Educational and
       Psychological Measurement 20 (1960), 37-46.

    Examples
    --------
    >>> round(kappa(np.array([[20, 5], [10, 15]])), 3)
    0.4
    """
    total = float(matrix.sum())
    by_chance = matrix.sum(axis=1).astype(float) @ matrix.sum(axis=0) / total**2
    if by_chance == 1:
        return None
    return float((np.trace(matrix) / total - by_chance) / (1 - by_chance))


def overlaps(matrix: Counts64) -> dict[str, list[float | None]]:
    """Measure each class by itself.

    Parameters
    ----------
    matrix : ndarray of int64, (map class, reference class)
        Pixels.

    Returns
    -------
    dict of list
        ``iou``, ``f1``, ``users`` (precision), ``producers`` (recall), by class; None
        where nothing would be divided by nothing.
    """
    hits = np.diag(matrix)
    mapped, there = matrix.sum(axis=1), matrix.sum(axis=0)
    return {
        "iou": _ratios(hits, mapped + there - hits),
        "f1": _ratios(2 * hits, mapped + there),
        "users": _ratios(hits, mapped),
        "producers": _ratios(hits, there),
    }


def adjust(
    matrix: Counts64, areas: Sequence[float], *, census: bool = False
) -> Adjusted:
    """Estimate accuracy and areas of a map from a sample within its classes.

    Parameters
    ----------
    matrix : ndarray of int64, (map class, reference class)
        Sampled units.
    areas : sequence of float
        Mapped area of each class; any unit.
    census : bool
        Whether every unit of the map was looked at: then nothing is left to chance.

    Returns
    -------
    Adjusted
        With standard errors of a stratified (or post-stratified) random sample.

    Raises
    ------
    ValueError
        If a mapped class has fewer than two units, or one in a census.

    References
    ----------
    .. [1] P. Olofsson, G. M. Foody, M. Herold, S. V. Stehman, C. E. Woodcock, M. A.
       Wulder, "Good practices for estimating area and assessing accuracy of land
       change", Remote Sensing of Environment 148 (2014), 42-57, equations 1-13.
    """
    n, size = matrix.astype(float), np.asarray(areas, float)
    rows = n.sum(axis=1)
    short = (size > 0) & (rows < (1 if census else 2))
    if short.any() or not size.sum():
        raise ValueError(f"classes {np.flatnonzero(short).tolist()} have too few units")
    weight = size / size.sum()
    there = rows > 0
    share = np.divide(n, rows[:, None], out=np.zeros_like(n), where=there[:, None])
    p = weight[:, None] * share  # eq. 4
    spread = np.zeros_like(n)
    if not census:
        many = rows > 1
        spread[many] = (share * (1 - share))[many] / (rows[many] - 1)[:, None]
    variance = weight[:, None] ** 2 * spread
    right = np.diag(p)
    total = p.sum(axis=0)  # eq. 9
    return Adjusted(
        overall=_estimate(right.sum(), np.diag(variance).sum()),  # eq. 1, 5
        users=tuple(
            _estimate(share[i, i], spread[i, i]) if weight[i] > 0 else None
            for i in range(len(n))
        ),  # eq. 2, 6
        producers=tuple(_producers(right, total, variance, j) for j in range(len(n))),
        areas=tuple(
            _estimate(size.sum() * total[j], size.sum() ** 2 * variance[:, j].sum())
            for j in range(len(n))
        ),  # eq. 10-13
    )


def _producers(
    right: Floats, total: Floats, variance: Floats, j: int
) -> Estimate | None:
    """Equations 3 and 7, with areas as shares of the whole."""
    if not total[j]:
        return None
    accuracy = right[j] / total[j]
    others = variance[:, j].sum() - variance[j, j]
    own = (1 - accuracy) ** 2 * variance[j, j]
    return _estimate(accuracy, (own + accuracy**2 * others) / total[j] ** 2)


def _estimate(value: float, variance: float) -> Estimate:
    return Estimate(float(value), float(np.sqrt(variance)))


@dataclass(frozen=True, slots=True)
class Curve:
    """Receiver operating characteristic of one class against all others."""

    area: float
    """Area under it: how often a pixel of the class scores higher than another."""
    false: tuple[float, ...]
    """Share of the others at or above a threshold that falls, 0 to 1."""
    true: tuple[float, ...]
    """Share of the class's pixels there."""


def trace_curve(inside: Counts64, outside: Counts64) -> Curve | None:
    """Trace the curve from exact histograms; ties count half.

    Parameters
    ----------
    inside, outside : ndarray of int64, (step,)
        Pixels of the class, and of all others, by score.

    Returns
    -------
    Curve or None
        None where one of them is empty.

    References
    ----------
    .. [1] T. Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters
       27 (2006), 861-874.

    Examples
    --------
    >>> trace_curve(np.array([0, 1, 3]), np.array([3, 1, 0])).area
    0.96875
    """
    positive, negative = int(inside.sum()), int(outside.sum())
    if not positive or not negative:
        return None
    some = np.flatnonzero(inside + outside)[::-1]
    hits = [0, *np.cumsum(inside[some]).tolist()]
    false = [0, *np.cumsum(outside[some]).tolist()]
    # whole numbers of any size, so that the sum has no order
    twice = sum(
        (false[k] - false[k - 1]) * (hits[k] + hits[k - 1]) for k in range(1, len(hits))
    )
    return Curve(
        twice / (2 * positive * negative),
        tuple(f / negative for f in false),
        tuple(h / positive for h in hits),
    )


def _ratios(above: Counts64, below: Counts64) -> list[float | None]:
    return [
        a / b if b else None
        for a, b in zip(above.tolist(), below.tolist(), strict=True)
    ]

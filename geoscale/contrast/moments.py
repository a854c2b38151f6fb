"""Moments: means and covariances of many places, summed in a fixed order."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import numpy as np

from geoscale.types import Floats


@dataclass(frozen=True, slots=True)
class Moments:
    """Weighted first and second moments of some variables, float64."""

    weight: float
    """Sum of the weights."""
    mean: Floats
    """(variable,)"""
    scatter: Floats
    """(variable, variable): weighted products of what is left without the mean."""

    @classmethod
    def of(cls, values: Floats, weights: Floats | None = None) -> Moments:
        """Moments of some pixels.

        Parameters
        ----------
        values : ndarray of float64, (variable, pixel)
            Of the pixels.
        weights : ndarray of float64, (pixel,), optional
            Default 1 each.

        Returns
        -------
        Moments
            All zero without a pixel, or where every weight is 0.
        """
        if weights is None:
            weights = np.ones(values.shape[1])
        total = float(weights.sum())
        if total == 0.0:
            size = len(values)
            return cls(0.0, np.zeros(size), np.zeros((size, size)))
        mean = (values * weights).sum(axis=1) / total
        rest = values - mean[:, None]
        # einsum, not a product of matrices: BLAS may sum in another order when it
        # has another number of threads
        return cls(total, mean, np.einsum("ip,jp->ij", rest * weights, rest))

    def __add__(self, other: Moments) -> Moments:
        """Moments of both: Chan, Golub & LeVeque 1983, doi:10.2307/2683386."""
        if not self.weight or not other.weight:
            return self if self.weight else other
        total = self.weight + other.weight
        step = other.mean - self.mean
        between = np.outer(step, step) * (self.weight * other.weight / total)
        return Moments(
            total,
            self.mean + step * (other.weight / total),
            self.scatter + other.scatter + between,
        )

    @property
    def covariance(self) -> Floats:
        """(variable, variable), of the population."""
        return self.scatter / self.weight

    @property
    def std(self) -> Floats:
        """(variable,), of the population."""
        return np.sqrt(np.diag(self.covariance))


def sum_moments(parts: Iterable[Moments]) -> Moments:
    """Moments of all parts, added in their order.

    Examples
    --------
    >>> parts = [Moments.of(np.array([[1.0, 2.0]])), Moments.of(np.array([[6.0]]))]
    >>> sum_moments(parts).mean.tolist()
    [3.0]
    """
    return reduce(Moments.__add__, parts)

"""IR-MAD: iteratively reweighted multivariate alteration detection.

Both dates are turned into canonical variates, pairs of mixtures of bands that agree
as well as they can; change is what is left between them. Pixels that look unchanged
weigh more in the next round, until the correlations stand still. The result does
not depend on linear differences between the dates, of whatever mixture of bands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from geoscale.contrast.moments import Moments, sum_moments
from geoscale.contrast.pairs import Pair, Sample
from geoscale.contrast.vectors import find_moments
from geoscale.errors import PlanError, require
from geoscale.types import Floats, Json

MOST_ROUNDS = 100
TOLERANCE = 1e-6
"""Change of every correlation from round to round at which it stands still."""
MOST_ALIKE = 1 - 1e-9
"""A correlation above this leaves nothing that could differ."""


@dataclass(frozen=True, slots=True)
class Canonical:
    """Numbers of one round."""

    mean: Floats
    """(2 bands,): of the first date, then of the second."""
    before: Floats
    """(variate, band): mixtures of the first date, of variance 1."""
    after: Floats
    """(variate, band): of the second."""
    correlations: Floats
    """(variate,), ascending."""
    rounds: int = 0
    """Rounds that it took."""

    def square(self, values: Floats) -> Floats:
        """Sum of squares of the standardised differences; chi-square, no change."""
        rest = values - self.mean[:, None]
        x, y = np.split(rest, 2)
        mad = np.einsum("vb,bp->vp", self.before, x)
        mad -= np.einsum("vb,bp->vp", self.after, y)
        variance = 2 * (1 - self.correlations)
        squares: Floats = (mad**2 / variance[:, None]).sum(axis=0)
        return squares

    def __call__(self, pair: Pair) -> Floats:
        """Root of `square` at every valid pixel, (pixel,)."""
        return np.sqrt(self.square(pair.values()))

    def numbers(self) -> Json:
        """Arguments of the network that gives the same, but for the threshold."""
        # the variance is part of the mixtures there: nothing is left to divide by
        scale = 1 / np.sqrt(2 * (1 - self.correlations))[:, None]
        return {
            "mean": [part.tolist() for part in np.split(self.mean, 2)],
            "before": (self.before * scale).tolist(),
            "after": (self.after * scale).tolist(),
        }


def fit_irmad(sample: Sample, bands: Sequence[str]) -> Canonical:
    """Iterate until the canonical correlations stand still.

    Parameters
    ----------
    sample : Sample
        Gone through once a round.
    bands : sequence of str
        Names, for messages.

    Returns
    -------
    Canonical
        Of the last round.

    Raises
    ------
    PlanError
        If no pixel is valid at both dates, a band has one value only or is a
        mixture of others, or the dates are the same.

    References
    ----------
    .. [1] Nielsen 2007, doi:10.1109/TIP.2006.888195
    """
    found = solve(find_moments(sample, bands), bands)
    for rounds in range(1, MOST_ROUNDS + 1):
        before = found.correlations
        parts = sample.map(partial(_weigh, found))
        found = solve(sum_moments(parts), bands, rounds)
        if np.abs(found.correlations - before).max() < TOLERANCE:
            break
    return found


def solve(moments: Moments, bands: Sequence[str], rounds: int = 0) -> Canonical:
    """Canonical correlation analysis of two dates.

    Parameters
    ----------
    moments : Moments
        Of both dates together.
    bands : sequence of str
        Names, for messages.
    rounds : int
        Rounds before this one.

    Returns
    -------
    Canonical
        Signs so that every mixture correlates with its bands more than against them.

    Raises
    ------
    PlanError
        If a band is a mixture of others, or the dates are the same.
    """
    linalg = require("scipy.linalg", extra="change")
    p = len(bands)
    # in units of standard deviations: bands of other ranges spoil the conditioning
    std = moments.std
    cor = moments.covariance / np.outer(std, std)
    s11, s12, s22 = cor[:p, :p], cor[:p, p:], cor[p:, p:]
    for part, when in ((s11, "first"), (s22, "second")):
        if np.linalg.cond(part) > 1e12:
            raise PlanError(
                f"of the bands {', '.join(bands)} of the {when} date some are exact "
                "mixtures of others, which IR-MAD cannot tell apart; leave them out of "
                "`imagery.bands`, or use `change.method: cva`"
            )
    back = linalg.solve(s22, s12.T, assume_a="pos")
    mixed = s12 @ back
    squares, vectors = linalg.eigh((mixed + mixed.T) / 2, s11)
    rho = np.sqrt(np.clip(squares, 0.0, 1.0))
    if rho.max() > MOST_ALIKE:
        raise PlanError(
            f"the two dates agree wholly in {int((rho > MOST_ALIKE).sum())} of {p} "
            "canonical variates; check that they are not the same scene"
        )
    a = vectors.T
    a *= np.where((a @ s11).sum(axis=1) < 0, -1.0, 1.0)[:, None]
    b = a @ back.T
    # unit variance, also where a variate has no partner at all
    size = np.sqrt(np.einsum("vi,ij,vj->v", b, s22, b))
    b /= np.where(size > 0, size, 1.0)[:, None]
    return Canonical(moments.mean, a / std[:p], b / std[p:], rho, rounds)


def _weigh(found: Canonical, pair: Pair) -> Moments:
    special = require("scipy.special", extra="change")
    values = pair.values()
    unchanged = special.chdtrc(len(values) // 2, found.square(values))
    return Moments.of(values, unchanged)

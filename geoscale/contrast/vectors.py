"""Change vector analysis: the length of the step between two dates, band by band.

Each date is first brought to mean 0 and standard deviation 1 in every band, which
takes away what sensor, sun and haze did to the whole scene.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoscale.contrast.moments import Moments, sum_moments
from geoscale.contrast.pairs import Pair, Sample
from geoscale.errors import PlanError
from geoscale.types import Floats, Json

LEAST_PX = 100
"""Fewer valid pixels than this say nothing about a scene."""


@dataclass(frozen=True, slots=True)
class ChangeVectors:
    """Numbers of a change vector analysis."""

    mean: Floats
    """(2 bands,): of the first date, then of the second."""
    std: Floats
    """As `mean`."""

    def __call__(self, pair: Pair) -> Floats:
        """Length of the change vector at every valid pixel, (pixel,)."""
        z = (pair.values() - self.mean[:, None]) / self.std[:, None]
        before, after = np.split(z, 2)
        length: Floats = np.sqrt(((after - before) ** 2).sum(axis=0))
        return length

    def numbers(self) -> Json:
        """Arguments of the network that gives the same, but for the threshold."""
        (m1, m2), (s1, s2) = np.split(self.mean, 2), np.split(self.std, 2)
        return {
            "mean": [m1.tolist(), m2.tolist()],
            "std": [s1.tolist(), s2.tolist()],
        }


def fit_vectors(sample: Sample, bands: Sequence[str]) -> ChangeVectors:
    """Find mean and standard deviation of every band and date.

    Parameters
    ----------
    sample : Sample
        Gone through once.
    bands : sequence of str
        Names, for messages.

    Returns
    -------
    ChangeVectors
        Gives magnitudes.

    Raises
    ------
    PlanError
        If no pixel is valid at both dates, or a band has one value only.

    References
    ----------
    .. [1] Malila 1980, "Change vector analysis", Proc. Machine Processing of
       Remotely Sensed Data, 326-335
    """
    found = find_moments(sample, bands)
    return ChangeVectors(found.mean, found.std)


def find_moments(sample: Sample, bands: Sequence[str]) -> Moments:
    """Moments of both dates together, checked; as `fit_vectors` describes."""
    found = sum_moments(sample.map(_moments))
    if found.weight < LEAST_PX:
        raise PlanError(
            f"only {found.weight:.0f} pixels that were looked at are valid at both "
            f"dates, and {LEAST_PX} are needed to compare them; choose dates that "
            "show the same ground (clouds, footprints, area of interest)"
        )
    for number, std in enumerate(found.std):
        if not std > 1e-12 * abs(found.mean[number]):
            when = ("first", "second")[number // len(bands)]
            raise PlanError(
                f"band `{bands[number % len(bands)]}` of the {when} date has the value "
                f"{found.mean[number]:g} at every pixel that was looked at; leave it "
                "out of `imagery.bands`, or choose another date"
            )
    return found


def _moments(pair: Pair) -> Moments:
    return Moments.of(pair.values())

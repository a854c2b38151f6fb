"""Shifts: how far the second date lies beside the first, in parts of a pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from geoscale.contrast.pairs import Pair, Sample
from geoscale.errors import require
from geoscale.types import Bool, Float, Floats, Json

LEAST_SIDE_PX = 64
"""A place that is smaller is not asked."""
LEAST_VALID = 0.9
"""Share of valid pixels below which a place is not asked."""
FINE = 100
"""Steps per pixel."""
MOST_PX = 0.5
"""A shift beyond this shows as change along every edge."""


@dataclass(frozen=True, slots=True)
class Shift:
    """What all places say about one shift of the whole second date."""

    y: float
    """Rows by which the second date lies below the first, in px."""
    x: float
    """Columns by which it lies to the right, in px."""
    spread: float
    """Robust standard deviation between places, of the worse axis, in px."""
    places: int
    """Places that had enough texture and valid pixels."""

    @property
    def size(self) -> float:
        """Length, in px."""
        return math.hypot(self.y, self.x)

    @property
    def is_large(self) -> bool:
        """Whether it is more than half a pixel."""
        return self.size > MOST_PX

    def to_dict(self) -> Json:
        """As JSON, to 0.001 px."""
        return {
            "y": round(self.y, 3),
            "x": round(self.x, 3),
            "spread": round(self.spread, 3),
            "places": self.places,
        }


def find_shift(sample: Sample) -> Shift | None:
    """Estimate how far the second date lies beside the first.

    Parameters
    ----------
    sample : Sample
        Gone through once.

    Returns
    -------
    Shift or None
        Median over the places; None where no place can tell.

    Notes
    -----
    The median of many places is told from few that changed much, and the spread
    between them says how far to believe it.
    """
    return combine([one for one in sample.map(measure_shift) if one is not None])


def combine(found: Sequence[tuple[float, float]]) -> Shift | None:
    """Median and spread of what places said; None without any.

    Examples
    --------
    >>> combine([(0.2, 0.0), (0.3, 0.1), (9.0, -7.0)])
    Shift(y=0.3, x=0.0, spread=0.14826, places=3)
    """
    if not found:
        return None
    each = np.array(found)
    middle = np.median(each, axis=0)
    # 1.4826: of a normal distribution, the median deviation in standard deviations
    spread = 1.4826 * np.median(np.abs(each - middle), axis=0).max()
    y, x = (float(v) for v in middle)
    return Shift(y, x, float(spread), len(each))


def measure_shift(pair: Pair) -> tuple[float, float] | None:
    """Shift of one place along y and x, in px; None where it cannot tell.

    References
    ----------
    .. [1] Guizar-Sicairos, Thurman & Fienup 2008, doi:10.1364/OL.33.000156
    """
    height, width = pair.valid.shape
    if min(height, width) < LEAST_SIDE_PX or pair.valid.mean() < LEAST_VALID:
        return None
    before, after = (_flatten(x, pair.valid) for x in (pair.before, pair.after))
    if not before.any() or not after.any():
        return None
    registration = require("skimage.registration", extra="change")
    found, _, _ = registration.phase_cross_correlation(
        after, before, upsample_factor=FINE, normalization=None
    )
    y, x = (float(v) for v in found)
    # what is shifted by more is not the same ground in this window
    return (y, x) if abs(y) < height / 4 and abs(x) < width / 4 else None


def _flatten(image: Float, valid: Bool) -> Floats:
    """One picture of all bands, 0 at the rim and where not valid."""
    total = np.zeros(valid.shape)
    for band in image.astype(np.float64):
        inside = band[valid]
        std = inside.std()
        if std > 0:
            total += (band - inside.mean()) / std
    total[~valid] = 0.0
    taper = np.outer(np.hanning(valid.shape[0]), np.hanning(valid.shape[1]))
    tapered: Floats = total * taper
    return tapered

"""Thresholds: where change begins, by Otsu's method on a histogram of magnitudes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from geoscale.contrast.pairs import Pair, Sample
from geoscale.errors import PlanError, require
from geoscale.types import Floats

BINS = 256
"""Of the histogram; what scikit-image takes where nothing is said."""

Magnitudes = Callable[[Pair], Floats]
"""Magnitudes of the valid pixels of one place, (pixel,)."""


def find_threshold(sample: Sample, magnitudes: Magnitudes) -> float:
    """Split the magnitudes of a sample into no change and change.

    Parameters
    ----------
    sample : Sample
        Gone through twice: for the range, and for the counts.
    magnitudes : callable
        Of one place; has to travel where the sample lies elsewhere.

    Returns
    -------
    float
        As `skimage.filters.threshold_otsu` gives for all pixels at once.

    Raises
    ------
    PlanError
        If all magnitudes are equal.

    References
    ----------
    .. [1] Otsu 1979, doi:10.1109/TSMC.1979.4310076
    """
    ends = [end for end in sample.map(partial(_find_range, magnitudes)) if end]
    low, high = min(a for a, _ in ends), max(b for _, b in ends)
    if not low < high:
        raise PlanError(
            f"the two dates differ by {low:.3g} at every pixel that was looked at, so "
            "no threshold can be found; check that they are not the same scene, or "
            "give `change.threshold`"
        )
    parts = sample.map(partial(_count, magnitudes, low, high))
    return otsu(np.sum(parts, axis=0), low, high)


def otsu(counts: Floats, low: float, high: float) -> float:
    """Otsu's threshold of a histogram over equal bins from `low` to `high`."""
    filters = require("skimage.filters", extra="change")
    edges = np.linspace(low, high, len(counts) + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    return float(filters.threshold_otsu(hist=(counts, centres)))


def _find_range(magnitudes: Magnitudes, pair: Pair) -> tuple[float, float] | None:
    found = magnitudes(pair)
    return (float(found.min()), float(found.max())) if found.size else None


def _count(magnitudes: Magnitudes, low: float, high: float, pair: Pair) -> Floats:
    return np.histogram(magnitudes(pair), BINS, (low, high))[0].astype(np.float64)

"""How much ground each class covers, true to the ellipsoid in any CRS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from geoscale.report.levels import Level
from geoscale.results.ground import cell_areas
from geoscale.types import Array, Float
from geoscale.windows import Window

EXACT_PX = 120_000_000
"""Maps up to this size are counted pixel by pixel, larger ones on an overview."""
_STEP = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Areas:
    """Ground covered, by class value."""

    m2: dict[int, float]
    """Class value → area, in m²; classes that do not occur are left out."""
    factor: int
    """Overview it was counted on; 1: every pixel."""

    @property
    def total(self) -> float:
        """Area of all classes, in m²."""
        return sum(self.m2.values())

    def percent(self, value: int) -> float:
        """Share of a class, in percent of all that is mapped."""
        return 100 * self.m2.get(value, 0.0) / self.total if self.total else 0.0


def measure_areas(level: Level, layer: str, time: int, fill: int) -> Areas:
    """Measure each class on one level of a map.

    Parameters
    ----------
    level : Level
        The map, or an overview of it.
    layer : str
        Name of the class layer.
    time : int
        Number of the time step.
    fill : int
        Value of nodata.

    Returns
    -------
    Areas
        By class value.
    """
    sums = np.zeros(256)
    weigh = cell_areas(level.geobox)
    for window in _windows(level.shape):
        data = level.read(layer, time, window)
        # one weight per row: summed by (row, value)
        rows = np.arange(window.height)[:, None] * 256 + data
        counts = np.bincount(rows.ravel(), minlength=window.height * 256)
        sums += weigh(window) @ counts.reshape(window.height, 256)
    found = {int(v): float(sums[v]) for v in np.flatnonzero(sums) if v != fill}
    return Areas(m2=found, factor=level.factor)


def _windows(shape: tuple[int, int]) -> Iterator[Window]:
    for y0 in range(0, shape[0], _STEP):
        for x0 in range(0, shape[1], _STEP):
            yield Window(y0, x0, y0 + _STEP, x0 + _STEP).clip(shape)


def mean_confidence(level: Level, time: int, max_px: int = 4_000_000) -> float | None:
    """Mean of the layer ``confidence``, 0..1; None where all is nodata.

    Parameters
    ----------
    level : Level
        The map, or an overview of it.
    time : int
        Number of the time step.
    max_px : int
        Every n-th row and column is read so that it stays below this.

    Returns
    -------
    float or None
        The mean.
    """
    data: Array | Float = level.sample("confidence", time, max_px)
    found = data[np.isfinite(data)]
    return float(found.mean()) if found.size else None

"""How much ground each class covers, true to the ellipsoid in any CRS."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.report.levels import Level
from geoscale.types import Array, Float
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

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


def cell_areas(geobox: GeoBox) -> Any:
    """Give a function that tells the true area of pixels, by row.

    Parameters
    ----------
    geobox : GeoBox
        Grid of the map.

    Returns
    -------
    callable
        Window → area of one pixel in each of its rows, in m².
    """
    crs = geobox.crs
    if crs is None:
        return lambda window: np.ones(window.height)
    if crs.geographic:
        return lambda window: _zone_areas(geobox, window)
    return lambda window: _projected_area(geobox, window)


def _zone_areas(geobox: GeoBox, window: Window) -> NDArray[np.float64]:
    """Exact area of cells between two parallels and two meridians."""
    from pyproj import Geod

    affine = geobox.affine
    lats = affine.f + affine.e * np.arange(window.y0, window.y1 + 1)
    ellipsoid = Geod(ellps="WGS84")
    e = np.sqrt(ellipsoid.es)
    s = np.sin(np.radians(np.clip(lats, -90, 90)))
    q = s / (1 - ellipsoid.es * s**2) + np.log((1 + e * s) / (1 - e * s)) / (2 * e)
    width = np.radians(abs(affine.a))
    areas: NDArray[np.float64] = np.abs(np.diff(q)) * ellipsoid.b**2 / 2 * width
    return areas


def _projected_area(geobox: GeoBox, window: Window) -> NDArray[np.float64]:
    """Area on the map, divided by how much the projection enlarges areas here."""
    import pyproj

    crs = pyproj.CRS.from_user_input(str(geobox.crs))
    affine = geobox.affine
    metre = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
    flat = abs(affine.a * affine.e) * metre**2
    middle = affine @ (
        (window.x0 + window.x1) / 2,
        (window.y0 + window.y1) / 2,
    )
    try:
        lonlat = pyproj.Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        scale = pyproj.Proj(crs).get_factors(*lonlat.transform(*middle)).areal_scale
    except pyproj.exceptions.ProjError:
        scale = 1.0  # some projections know no factors; most of these keep areas
    return np.full(window.height, flat / (scale if np.isfinite(scale) else 1.0))


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

"""True areas from whole numbers: pixels are counted where pixels have one area."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Ints
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

TILE_PX = 1024
"""Projections are taken to be of one scale within so many pixels."""


class Ground:
    """Parts of a grid within which all pixels have the same area.

    They are rows in degrees, else tiles, and do not depend on how a caller cuts: counts
    of whole pixels are added first and weighed at the end.

    Parameters
    ----------
    geobox : GeoBox
        Grid of the map.
    """

    def __init__(self, geobox: GeoBox) -> None:
        self.geobox = geobox
        self._shape = (int(geobox.shape[0]), int(geobox.shape[1]))
        crs = geobox.crs
        self._by_row = crs is not None and crs.geographic
        rows, columns = (-(-n // TILE_PX) for n in self._shape)
        self._columns = columns
        self._by_part: NDArray[np.float64] | None = None
        self._tiles: dict[int, float] = {}
        self.size = self._shape[0] if self._by_row else rows * columns
        """How many parts there are."""

    def parts(self, window: Window) -> tuple[Ints, Ints]:
        """Tell which parts a window holds.

        Parameters
        ----------
        window : Window
            Inside the grid.

        Returns
        -------
        tuple of ndarray of int
            Position in the second for every pixel, to be broadcast to (y, x); and the
            numbers of the parts.
        """
        if self._by_row:
            rows = np.arange(window.y0, window.y1)
            return (rows - window.y0)[:, None], rows
        rows = np.arange(window.y0, window.y1) // TILE_PX
        columns = np.arange(window.x0, window.x1) // TILE_PX
        wide = int(columns[-1] - columns[0]) + 1
        local = (rows - rows[0])[:, None] * wide + (columns - columns[0])[None, :]
        ys, xs = (
            np.arange(rows[0], rows[-1] + 1),
            np.arange(columns[0], columns[-1] + 1),
        )
        return local, (ys[:, None] * self._columns + xs[None, :]).ravel()

    def areas(self, parts: Ints) -> NDArray[np.float64]:
        """Give the area of one pixel in each of some parts.

        Parameters
        ----------
        parts : ndarray of int, (n,)
            Numbers of parts.

        Returns
        -------
        ndarray of float64, (n,)
            True area on the ellipsoid, in m².
        """
        if self._by_row:
            return self._rows()[parts]
        found, where = np.unique(parts, return_inverse=True)
        known = np.array([self._tile(int(number)) for number in found], np.float64)
        return known[where]

    def weigh(self, counts: NDArray[np.int64]) -> float:
        """Give the area of pixels that were counted by part.

        Parameters
        ----------
        counts : ndarray of int64, (part,)
            Pixels.

        Returns
        -------
        float
            True area on the ellipsoid, in m².
        """
        if self._by_row:
            return float(self._rows() @ counts)
        some = np.flatnonzero(counts)
        total = 0.0
        for number in some.tolist():
            total += self._tile(number) * int(counts[number])
        return total

    def _rows(self) -> NDArray[np.float64]:
        if self._by_part is None:
            self._by_part = cell_areas(self.geobox)(Window(0, 0, *self._shape))
        return self._by_part

    def _tile(self, number: int) -> float:
        if number not in self._tiles:
            row, column = divmod(number, self._columns)
            y, x = row * TILE_PX, column * TILE_PX
            tile = Window(y, x, y + TILE_PX, x + TILE_PX).clip(self._shape)
            self._tiles[number] = float(cell_areas(self.geobox)(tile)[0])
        return self._tiles[number]


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


def format_area(m2: float) -> str:
    """Say an area in the unit that suits its size.

    Parameters
    ----------
    m2 : float
        Area, in m².

    Returns
    -------
    str
        In m² below 0.1 ha, in ha below 100 km², else in km².

    Examples
    --------
    >>> format_area(123_000), format_area(3.2e9)
    ('12.3 ha', '3,200 km²')
    """
    if 0 < m2 < 1e3:
        return f"{m2:,.0f} m²"
    if m2 < 1e8:
        return f"{m2 / 1e4:,.1f} ha" if m2 < 1e7 else f"{m2 / 1e4:,.0f} ha"
    return f"{m2 / 1e6:,.1f} km²" if m2 < 1e9 else f"{m2 / 1e6:,.0f} km²"

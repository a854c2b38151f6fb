"""True areas from whole numbers: pixels are counted where pixels have one area."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoscale.report.areas import cell_areas
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
        measure = cell_areas(self.geobox)
        if self._by_row:
            return float(measure(Window(0, 0, *self._shape)) @ counts)
        total = 0.0
        for number in np.flatnonzero(counts).tolist():
            row, column = divmod(number, self._columns)
            y, x = row * TILE_PX, column * TILE_PX
            tile = Window(y, x, y + TILE_PX, x + TILE_PX).clip(self._shape)
            total += float(measure(tile)[0]) * int(counts[number])
        return total

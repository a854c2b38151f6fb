"""Shifted: later dates are read a little beside, onto the earlier one.

The grid stays; only where the files of later dates are read from moves, by the same
part of a pixel everywhere. So no read depends on how windows are cut, and pixels are
resampled once, as those of any file that lies beside the grid.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, Self

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.calibration import Units
from geoscale.types import Bool, Floats, Ints, Json, Pixels, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


_SHARED = ("grid", "reading", "remote", "periods")
"""What is looked for in the spec of any source."""


class Movable(Source, Protocol):
    """A source that can be read on another grid; its files lie where they lie."""

    def coarser(self, geobox: GeoBox) -> Self:
        """Give this source on another grid of the same CRS, parallel to its own."""
        ...

    def calibrated(self, units: Units, multiply: float = 1.0) -> Self:
        """Give this source in other units."""
        ...


class ShiftedSource:
    """A source whose later time steps are shifted; implements `Source`.

    Parameters
    ----------
    base : Movable
        Scenes; every date where its files say that it lies.
    y, x : float
        Rows and columns by which the later dates lie below and to the right of
        where they should, in px.
    first : int
        Time step from which on dates are shifted.

    Raises
    ------
    SourceError
        If the source is an array, whose pixels are where they are.
    """

    def __init__(self, base: Movable, y: float, x: float, first: int = 1) -> None:
        if not hasattr(base, "coarser"):
            raise SourceError(
                "change.coregister shift is for scenes (items, api, files); of an "
                "array shift the second date with xarray, and give that"
            )
        self.base = base
        self.y, self.x, self.first = float(y), float(x), first
        self.moved = base.coarser(_move(base.geobox, self.y, self.x))

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self.base.geobox

    @property
    def times(self) -> tuple[str, ...]:
        """Label of each time step."""
        return self.base.times

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands."""
        return self.base.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the data."""
        return self.base.dtype

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items, in the order of their numbers."""
        return self.base.item_ids

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window for some time steps, in the order asked for."""
        parts = [self._at(time).read(window, [time]) for time in times]
        missing = {(m.item, *m.bands): m for part in parts for m in part.missing}
        return Pixels(
            np.concatenate([part.data for part in parts]),
            np.concatenate([part.valid for part in parts]),
            tuple(one for _, one in sorted(missing.items())),
        )

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell which cells of a lattice any item may touch."""
        return self._at(time).covers_cells(ys, xs, time)

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair many windows with the items that may touch them."""
        return self._at(time).match(boxes, time)

    def calibrated(self, units: Units, multiply: float = 1.0) -> ShiftedSource:
        """Give this source in other units."""
        base = self.base.calibrated(units, multiply)
        return ShiftedSource(base, self.y, self.x, self.first)

    def coarser(self, geobox: GeoBox) -> ShiftedSource:
        """Give this source on a coarser grid; see `RasterSource.coarser`."""
        other = ShiftedSource(self.base, self.y, self.x, self.first)
        steps = (geobox.affine.e / self.geobox.affine.e,
                 geobox.affine.a / self.geobox.affine.a)  # fmt: skip
        other.base = self.base.coarser(geobox)
        beside = _move(geobox, self.y / steps[0], self.x / steps[1])
        other.moved = self.base.coarser(beside)
        return other

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere, beside its `tables`."""
        base = self.base.spec()
        return {
            "kind": "shifted",
            "base": base,
            **{name: base[name] for name in _SHARED if name in base},
            "shift": [self.y, self.x],
            "first": self.first,
        }

    def tables(self) -> Mapping[str, bytes]:
        """Give the list of items, which the spec only names."""
        return self.base.tables()

    def _at(self, time: int) -> Movable:
        return self.base if time < self.first else self.moved


def _move(geobox: GeoBox, y: float, x: float) -> GeoBox:
    """Grid whose pixel (0, 0) lies at row `y` and column `x` of another."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    return GeoBox(geobox.shape, geobox.affine @ Affine.translation(x, y), geobox.crs)

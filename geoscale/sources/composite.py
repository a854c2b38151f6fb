"""Composite: several dates to one image, over the pixels that show the ground.

Dates are read one after the other and let go. A median needs all of them; it is made
strip by strip, so that memory is bounded whatever the number of dates.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoscale.bands import common_name
from geoscale.errors import SourceError
from geoscale.memory import COMPOSITE_BYTES
from geoscale.sources.calibration import Units
from geoscale.sources.clear import Mask, grow, mask_from
from geoscale.sources.fields import parse_datetime
from geoscale.sources.listing import Tables
from geoscale.sources.periods import Period, find_periods
from geoscale.sources.raster import RasterSource
from geoscale.sources.steps import Method
from geoscale.types import Array, Bool, Floats, Ints, Json, Missing, Pixels
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

LEAST_ROWS = 16


class Observation(Protocol):
    """Reads one date of a window: bands (band, y, x), and where it is clear (y, x)."""

    def __call__(self, step: int, window: Window) -> tuple[Array, Bool]:
        """Read."""
        ...


class CompositeSource:
    """One image for each period; implements `geoscale.types.Source`.

    Parameters
    ----------
    base : RasterSource
        Every date; with the mask's band last, if there is a mask.
    periods : sequence of Period
        Which dates make one image.
    method : str
        How.
    mask : Mask, optional
        Which pixels are not to be used.

    Raises
    ------
    SourceError
        If the method needs a band that is not there.
    """

    def __init__(
        self,
        base: RasterSource,
        periods: Sequence[Period],
        method: Method,
        mask: Mask | None = None,
    ) -> None:
        self.base, self.periods = base, tuple(periods)
        self.method, self.mask = method, mask
        self._ndvi = _find_ndvi(self.bands) if method == "max-ndvi" else None

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self.base.geobox

    @property
    def times(self) -> tuple[str, ...]:
        """Where each period begins."""
        return tuple(period.label for period in self.periods)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, without the mask's."""
        return self.base.bands if self.mask is None else self.base.bands[:-1]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the dates, float32 where values are averaged."""
        averages = self.method in ("mean", "median")
        return np.dtype(np.float32) if averages else self.base.dtype

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items, in the order of their numbers."""
        return self.base.item_ids

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window for some periods.

        Returns
        -------
        Pixels
            Data 0 where no date is clear.

        Raises
        ------
        ReadError
            If a file cannot be read.
        """
        data = np.zeros((len(times), len(self.bands), *window.shape), self.dtype)
        valid = np.zeros((len(times), *window.shape), bool)
        missing: dict[tuple[str, ...], Missing] = {}

        def observe(step: int, window: Window) -> tuple[Array, Bool]:
            """Read one date."""
            values, clear, lacking = self._observe(step, window)
            missing.update({(m.item, *m.bands): m for m in lacking})
            return values, clear

        for k, time in enumerate(times):
            self._make(self.periods[time], window, observe, data[k], valid[k])
        return Pixels(data, valid, tuple(v for _, v in sorted(missing.items())))

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell which cells of a lattice any item of a period may touch."""
        found = np.zeros((len(ys) - 1, len(xs) - 1), bool)
        for step in self.periods[time].steps:
            found |= self.base.covers_cells(ys, xs, step)
        return found

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair many windows with the items of a period that may touch them."""
        pairs = [self.base.match(boxes, step) for step in self.periods[time].steps]
        both = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
        windows, items = np.unique(both, axis=1)
        return windows, items

    def calibrated(self, units: Units, multiply: float = 1.0) -> CompositeSource:
        """Give this source in other units; the mask's band stays as stored."""
        base = self.base.calibrated(units, multiply)
        return CompositeSource(base, self.periods, self.method, self.mask)

    def coarser(self, geobox: GeoBox) -> CompositeSource:
        """Give this source on a coarser grid; see `RasterSource.coarser`."""
        base = self.base.coarser(geobox)
        return CompositeSource(base, self.periods, self.method, self.mask)

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere, beside its `tables`."""
        return {
            "kind": "composite",
            "base": self.base.spec(),
            "grid": self.base.spec()["grid"],
            "reading": self.base.spec()["reading"],
            "remote": self.base.items.is_remote,
            "periods": [
                [p.name, p.label, p.middle, list(p.steps)] for p in self.periods
            ],
            "method": self.method,
            "mask": None if self.mask is None else self.mask.model_dump(mode="json"),
        }

    def tables(self) -> dict[str, bytes]:
        """Give the list of items, which the spec only names."""
        return self.base.tables()

    @classmethod
    def from_spec(cls, spec: Json, tables: Tables | None) -> CompositeSource:
        """Rebuild a source from its spec and the list of items beside it."""
        periods = [Period(n, a, b, tuple(steps)) for n, a, b, steps in spec["periods"]]
        base = RasterSource.from_spec(spec["base"], tables)
        return cls(base, periods, spec["method"], mask_from(spec["mask"]))

    def _observe(
        self, step: int, window: Window
    ) -> tuple[Array, Bool, tuple[Missing, ...]]:
        """Bands of one date, where they are clear, and what is missing."""
        if self.mask is None:
            found = self.base.read(window, [step])
            return found.data[0], found.valid[0], found.missing
        by = self.mask.dilate
        height, width = map(int, self.geobox.shape)
        wide = window.grow(by).clip((height, width))
        found = self.base.read(wide, [step])
        # what is not valid is not grown: the edge of a scene is no cloud
        unclear = ~self.mask.find_clear(found.data[0, -1]) & found.valid[0]
        clear = found.valid[0] & ~grow(unclear, by)
        inner = window.within(wide)
        return found.data[0][(slice(-1), *inner)], clear[inner], found.missing

    def _make(
        self,
        period: Period,
        window: Window,
        observe: Observation,
        data: Array,
        valid: Bool,
    ) -> None:
        steps = self._order(period)
        if self.method == "median":
            for strip, rows in _strips(window, len(steps), data):
                _median([observe(s, strip) for s in steps], data[:, rows], valid[rows])
            return
        dates = (observe(step, window) for step in steps)
        if self.method == "mean":
            _mean(dates, data, valid)
        elif self._ndvi is not None:
            _greenest(dates, self._ndvi, data, valid)
        else:
            _first(dates, data, valid)

    def _order(self, period: Period) -> tuple[int, ...]:
        """Time steps of a period, the best first."""
        if self.method == "last":
            return period.steps[::-1]
        if self.method != "nearest":
            return period.steps
        middle = parse_datetime(period.middle, "period")
        whens = [parse_datetime(t, "time step") for t in self.base.times]
        return tuple(sorted(period.steps, key=lambda s: abs(whens[s] - middle)))


def composite(
    base: RasterSource,
    periods: Any,
    method: Method | None,
    mask: Mask | None,
) -> CompositeSource:
    """Make one image of each period of a source.

    Parameters
    ----------
    base : RasterSource
        Every date; with the mask's band last.
    periods : mapping, sequence or None
        As `find_periods` takes them.
    method : str, optional
        Default ``median``.
    mask : Mask, optional
        Which pixels are not to be used.

    Returns
    -------
    CompositeSource
        Nothing is read.
    """
    found = find_periods(periods, base.times)
    return CompositeSource(base, found, method or "median", mask)


def _strips(window: Window, count: int, data: Array) -> Iterator[tuple[Window, slice]]:
    """Cut a window into strips of which all dates fit into memory."""
    row = count * data.shape[0] * window.shape[1] * 8
    rows = max(LEAST_ROWS, COMPOSITE_BYTES // max(1, row))
    for y in range(window.y0, window.y1, rows):
        strip = Window(y, window.x0, min(y + rows, window.y1), window.x1)
        yield strip, slice(strip.y0 - window.y0, strip.y1 - window.y0)


def _median(dates: Sequence[tuple[Array, Bool]], data: Array, valid: Bool) -> None:
    """Median of the clear values; of an even number the mean of the middle two."""
    values = np.stack([v for v, _ in dates]).astype(np.float32)
    clear = np.stack([c for _, c in dates])
    # what is not clear sorts to the end: the middle of the others is found by number
    np.copyto(values, np.inf, where=~clear[:, None])
    values.sort(axis=0)
    count = clear.sum(axis=0)
    seen = count > 0
    for side in (np.maximum(count - 1, 0) // 2, count // 2):
        at = np.minimum(side, len(dates) - 1)[None, None]
        picked = np.take_along_axis(values, np.broadcast_to(at, (1, *data.shape)), 0)[0]
        data += np.where(seen, picked, 0) * np.float32(0.5)
    valid[:] = seen


def _mean(dates: Iterator[tuple[Array, Bool]], data: Array, valid: Bool) -> None:
    total = np.zeros(data.shape, np.float64)
    count = np.zeros(valid.shape, np.int32)
    for values, clear in dates:
        total += np.where(clear, values, 0)
        count += clear
    valid[:] = count > 0
    data[:] = total / np.maximum(count, 1)


def _first(dates: Iterator[tuple[Array, Bool]], data: Array, valid: Bool) -> None:
    for values, clear in dates:
        new = clear & ~valid
        np.copyto(data, values, where=new)
        valid |= new
        if valid.all():
            return


def _greenest(
    dates: Iterator[tuple[Array, Bool]],
    ndvi: tuple[int, int],
    data: Array,
    valid: Bool,
) -> None:
    red, nir = ndvi
    best = np.full(valid.shape, -np.inf, np.float32)
    for values, clear in dates:
        a, b = values[nir].astype(np.float32), values[red].astype(np.float32)
        total = a + b
        with np.errstate(divide="ignore", invalid="ignore"):
            green = np.where(total != 0, (a - b) / total, np.float32(-2))
        new = clear & (green > best)
        np.copyto(data, values, where=new)
        np.copyto(best, green, where=new)
        valid |= new


def _find_ndvi(bands: Sequence[str]) -> tuple[int, int]:
    names = [common_name(band, "sentinel-2") or band for band in bands]
    for place, name in enumerate(bands):
        if name in ("red", "nir"):
            names[place] = name
    if not {"red", "nir"} <= set(names):
        raise SourceError(
            f"composite max-ndvi needs the bands red and nir, the model reads "
            f"{', '.join(bands)}; choose median or first"
        )
    return names.index("red"), names.index("nir")

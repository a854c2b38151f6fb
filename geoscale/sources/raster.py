"""RasterSource: items of raster files on one grid, mosaicked per time step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import SourceError
from geoscale.plans import ITEMS
from geoscale.sources.calibration import (
    Calibration,
    Units,
    find_gains,
)
from geoscale.sources.footprints import MARGIN_PX
from geoscale.sources.hrefs import Access
from geoscale.sources.index import BoxIndex
from geoscale.sources.items import Asset, Item
from geoscale.sources.listing import Listing, Tables
from geoscale.sources.missing import Task, tolerate
from geoscale.sources.mosaic import Layer
from geoscale.sources.parallel import started
from geoscale.sources.steps import Step
from geoscale.sources.strips import cut_rows, join, make_tasks
from geoscale.sources.survey import Survey
from geoscale.sources.targets import RESAMPLINGS, Into, Reading, Request, Target
from geoscale.types import Bool, Ints, Json, Missing, Pixels
from geoscale.windows import Window
from geoscale.words import suggest

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from odc.geo.geobox import GeoBox


class RasterSource:
    """Items on one geobox; implements `geoscale.types.Source`.

    Within a time step the first item, by (time, id), whose bands are all valid
    at a pixel gives that pixel. Nothing is opened before the first read.

    Parameters
    ----------
    items : iterable of Item, Survey or Listing
        Any order; duplicates by id are dropped.
    bands : sequence of str
        Bands to read, by key, sensor name or common name.
    geobox : GeoBox
        Grid of the stack.
    reading : Reading, optional
        How to read.
    sensor : str, optional
        Sensor whose band names `bands` uses.

    Raises
    ------
    SourceError
        If there is no item, or an item lacks a band or its calibration.
    """

    def __init__(
        self,
        items: Iterable[Item] | Survey | Listing,
        bands: Sequence[str],
        geobox: GeoBox,
        *,
        reading: Reading | None = None,
        sensor: str | None = None,
    ) -> None:
        self.reading = reading or Reading()
        self._bands = tuple(bands)
        self._geobox = geobox
        self.target = Target.from_geobox(geobox)
        self.items = self._list(items, sensor)
        """In the order of (time, id); assets by name of the band."""
        self.offered: Sequence[Item] | None = None
        """Items with all their assets, where those who opened them kept them."""
        self._moved: NDArray[np.float64] | None = None
        self.resamplings = _resamplings(self.reading, self._bands)
        self._settle()

    def _list(
        self, items: Iterable[Item] | Survey | Listing, sensor: str | None
    ) -> Listing:
        if isinstance(items, Listing):
            return items
        if not isinstance(items, Survey):
            items = Survey(items, self._bands, sensor)
        reading = self.reading
        return items.finish(self.target, reading.groupby, anywhere=reading.trust_file)

    def _settle(self) -> None:
        """Find calibration and dtype of every kind of items."""
        examples = self.items.kind_examples()
        layout = [self._assets(item) for item in examples]
        self._gains = find_gains(
            examples, layout, self._bands, self.reading.calibration,
            self.items.kind_counts(),
        )  # fmt: skip
        if not self.is_identity:
            self._dtype = np.dtype("float32")
            return
        found = {self.reading.dtype or asset.dtype for row in layout for asset in row}
        only = next(iter(found)) if len(found) == 1 else None
        self._dtype = np.dtype(only or "float32")

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self._geobox

    @property
    def times(self) -> tuple[str, ...]:
        """Label of each time step: time of its first item."""
        return tuple(step.label for step in self.items.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Which items are one image."""
        return self.items.steps

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, as they were asked for."""
        return self._bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype where values pass unchanged, else float32."""
        return self._dtype

    @property
    def is_identity(self) -> bool:
        """Whether values pass as they are stored."""
        return all(gain == (1.0, 0.0) for row in self._gains for gain in row)

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window for some time steps.

        Returns
        -------
        Pixels
            Data 0 where not valid.

        Raises
        ------
        ReadError
            If a file cannot be read.
        """
        shape = (len(times), len(self._bands), *window.shape)
        # the first item leaves 0 wherever it gives nothing: no need to do so before
        data = np.empty(shape, self._dtype)
        valid = np.zeros((len(times), *window.shape), bool)
        waiting = {
            k: iter(self._touching(window, time).tolist())
            for k, time in enumerate(times)
        }
        missing: list[Missing] = []
        bare = set(waiting)
        while waiting:
            layers = []
            for k, items in list(waiting.items()):
                item = None if valid[k].all() else next(items, None)
                if item is None:
                    del waiting[k]
                else:
                    bare.discard(k)
                    layers.append(Layer(item, data[k], valid[k]))
            if layers:
                self._add_items(layers, window, missing)
        for k in bare:
            data[k] = 0
        return Pixels(data, valid, tuple(sorted(missing, key=lambda m: m.item)))

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell which cells of a lattice any item may touch."""
        return self._indexes[time].cells(ys, xs)

    def match(self, boxes: Any, time: int) -> tuple[Any, Any]:
        """Pair many windows with the items that may touch them."""
        return self._indexes[time].match(boxes)

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items, in the order of their numbers."""
        return self.items.ids

    def calibrated(self, units: Units, multiply: float = 1.0) -> RasterSource:
        """Give this source in other units.

        Parameters
        ----------
        units : {"raw", "reflectance"}
            As stored, or stored * scale + offset.
        multiply : float
            Applied last; 10000 gives reflectance as most models want it.

        Returns
        -------
        RasterSource
            float32, or the stored dtype where nothing changes.

        Raises
        ------
        SourceError
            If a scale or offset is needed and not known.
        """
        calibration = dataclasses.replace(
            self.reading.calibration, units=units, multiply=float(multiply)
        )
        return self._copy(dataclasses.replace(self.reading, calibration=calibration))

    def coarser(self, geobox: GeoBox) -> RasterSource:
        """Give this source on another grid of the same CRS, parallel to its own.

        Parameters
        ----------
        geobox : GeoBox
            The other grid.

        Returns
        -------
        RasterSource
            Reads overviews of the files, where they have any.
        """
        ours, theirs = self._geobox.affine, geobox.affine
        edges = self.items.boxes
        y = (edges[:, ::2] * ours.e + ours.f - theirs.f) / theirs.e
        x = (edges[:, 1::2] * ours.a + ours.c - theirs.c) / theirs.a
        other = self._copy(self.reading)
        other._geobox, other.target = geobox, Target.from_geobox(geobox)
        grow = np.array([-MARGIN_PX, -MARGIN_PX, MARGIN_PX, MARGIN_PX])
        other._moved = np.stack([y[:, 0], x[:, 0], y[:, 1], x[:, 1]], axis=1) + grow
        other.__dict__.pop("_indexes", None)
        return other

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere, beside its `tables`."""
        reading = dataclasses.asdict(self.reading)
        nodata = self.reading.source_nodata
        reading["source_nodata"] = None if nodata is None else str(nodata)
        return {
            "kind": "raster",
            "grid": dataclasses.asdict(self.target),
            "bands": list(self._bands),
            # what was asked for is the band's key from here on
            "items": {"count": len(self.items), "digest": self.items.digest},
            "remote": self.items.is_remote,
            "reading": reading,
        }

    def tables(self) -> dict[str, bytes]:
        """Give the list of items, which the spec only names."""
        return {ITEMS: self.items.to_bytes()}

    @classmethod
    def from_spec(cls, spec: Json, tables: Tables | None) -> RasterSource:
        """Rebuild a source from its spec and the list of items beside it."""
        plain = dict(spec["reading"])
        nodata = plain.pop("source_nodata")
        known = dict(plain["calibration"])
        known["plain"] = tuple(known["plain"])
        plain["calibration"] = Calibration(**known)
        plain["access"] = Access(**plain["access"])
        plain["source_nodata"] = None if nodata is None else float(nodata)
        grid = spec["grid"]
        target = Target(grid["crs"], tuple(grid["transform"]), tuple(grid["shape"]))
        items = Listing.open(tables, spec["items"])
        return cls(items, spec["bands"], target.to_geobox(), reading=Reading(**plain))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached trees out; they are cheap to find again."""
        cached = ("_indexes",)
        return {k: v for k, v in self.__dict__.items() if k not in cached}

    def _copy(self, reading: Reading) -> RasterSource:
        other = RasterSource.__new__(RasterSource)
        other.__dict__.update(self.__getstate__())
        other.reading = reading
        other._settle()
        return other

    def _assets(self, item: Item) -> list[Asset]:
        """Assets of one item, in the order of the bands."""
        return [item.assets[band] for band in self._bands]

    def _touching(self, window: Window, time: int) -> Any:
        return self._indexes[time].touching(window)

    @functools.cached_property
    def _indexes(self) -> list[BoxIndex]:
        shape = self.target.shape
        boxes = self.items.boxes if self._moved is None else self._moved
        return [BoxIndex(boxes, step.members, shape) for step in self.steps]

    def _add_items(
        self, layers: Sequence[Layer], window: Window, missing: list[Missing]
    ) -> None:
        """Put the pixels of one item a time step where no earlier item gave any."""
        access, tolerant = self.reading.access, self.reading.on_missing == "nodata"
        reads: list[tuple[Request, Into, tuple[str, tuple[str, ...]]]] = []
        ends = []
        remote = False
        for layer in layers:
            item = self.items[layer.item]
            assets = self._assets(item)
            remote |= "://" in assets[0].href
            found = self._gains[self.items.kinds[layer.item]]
            for places, request in self._requests(assets):
                gains = [found[place] for place in places]
                into = Into([layer.got[place] for place in places], gains)
                names = tuple(self._bands[place] for place in places)
                reads.append((request, into, (item.id, names)))
            ends.append(len(reads))
        # what is missing is noted once for each file, not for each strip
        strips = cut_rows(window.height, len(reads), remote=remote or tolerant)
        tasks: list[Task] = []
        for request, into, names_of in reads:
            made = make_tasks(request, window, access, into, strips)
            tasks += (
                [tolerate(t, *names_of, missing) for t in made] if tolerant else made
            )
        with started(tasks, remote=remote) as results:
            step = len(strips)
            whole = [
                join(results[i : i + step], strips, window.shape)
                for i in range(0, len(results), step)
            ]
            usable = [
                layer.find_usable(whole[first:end])
                for layer, first, end in zip(layers, [0, *ends], ends, strict=False)
            ]
        for layer, good in zip(layers, usable, strict=True):
            layer.merge(good)

    def _requests(
        self, assets: Sequence[Asset]
    ) -> list[tuple[tuple[int, ...], Request]]:
        """Bands of one item, those of one file together."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, asset in enumerate(assets):
            groups.setdefault((asset.href, self.resamplings[place]), []).append(place)
        return [
            (
                tuple(places),
                Request(
                    tuple(assets[place] for place in places),
                    self.target,
                    resampling,
                    self.reading.source_nodata,
                    self.reading.trust_file,
                ),
            )
            for (_, resampling), places in groups.items()
        ]


def _resamplings(reading: Reading, bands: Sequence[str]) -> tuple[str, ...]:
    wanted, found = reading.resampling, []
    for band in bands:
        name = wanted if isinstance(wanted, str) else (wanted or {}).get(band)
        if band in reading.calibration.plain:
            name = "nearest"  # between two classes there is none
        holds = reading.calibration.is_plain(band)
        name = name or ("nearest" if holds else "bilinear")
        if name not in RESAMPLINGS:
            raise SourceError(
                f"resampling `{name}` is not known{suggest(name, RESAMPLINGS)}; "
                f"known are {', '.join(RESAMPLINGS)}"
            )
        found.append(name)
    return tuple(found)

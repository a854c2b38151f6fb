"""RasterSource: items of raster files on one grid, mosaicked per time step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.bands import common_name, match_bands
from geoscale.errors import CardError, SourceError
from geoscale.sources.calibration import (
    Calibration,
    Gain,
    Units,
    find_gains,
    holds_classes,
)
from geoscale.sources.footprints import pixel_boxes
from geoscale.sources.hrefs import Access
from geoscale.sources.index import BoxIndex
from geoscale.sources.items import Asset, Item, sort_items
from geoscale.sources.missing import Task, tolerate
from geoscale.sources.mosaic import Layer
from geoscale.sources.parallel import started
from geoscale.sources.reading import read_bands
from geoscale.sources.steps import group_items
from geoscale.sources.targets import RESAMPLINGS, Into, Reading, Request, Target
from geoscale.types import Bool, Ints, Json, Missing, Pixels
from geoscale.windows import Window
from geoscale.words import suggest

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


class RasterSource:
    """Items on one geobox; implements `geoscale.types.Source`.

    Within a time step the first item, by (time, id), whose bands are all valid
    at a pixel gives that pixel. Nothing is opened before the first read.

    Parameters
    ----------
    items : sequence of Item
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
        items: Sequence[Item],
        bands: Sequence[str],
        geobox: GeoBox,
        *,
        reading: Reading | None = None,
        sensor: str | None = None,
    ) -> None:
        if not items:
            raise SourceError("0 items; check the search or the file")
        self.items: tuple[Item, ...] = tuple(sort_items(items))
        self.reading = reading or Reading()
        self._bands = tuple(bands)
        self._geobox = geobox
        self.target = Target.from_geobox(geobox)
        self.keys = choose_assets(self.items, self._bands, sensor)
        self.layout: list[list[Asset]] = [
            [item.assets[key] for key in row]
            for item, row in zip(self.items, self.keys, strict=True)
        ]
        self.steps = group_items(self.items, self.reading.groupby)
        self.gains: list[list[Gain]] = find_gains(
            self.items, self.layout, self._bands, self.reading.calibration
        )
        self.resamplings = _resamplings(self.reading.resampling, self._bands)
        self._dtype = self._find_dtype()

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self._geobox

    @property
    def times(self) -> tuple[str, ...]:
        """Label of each time step: time of its first item."""
        return tuple(step.label for step in self.steps)

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
        return all(gain == (1.0, 0.0) for row in self.gains for gain in row)

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
        data = np.zeros(shape, self._dtype)
        valid = np.zeros((len(times), *window.shape), bool)
        waiting = {
            k: iter(self._touching(window, time).tolist())
            for k, time in enumerate(times)
        }
        missing: list[Missing] = []
        while waiting:
            layers = []
            for k, items in list(waiting.items()):
                item = None if valid[k].all() else next(items, None)
                if item is None:
                    del waiting[k]
                else:
                    layers.append(Layer(item, data[k], valid[k]))
            if layers:
                self._add_items(layers, window, missing)
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
        return [item.id for item in self.items]

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

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere."""
        reading = dataclasses.asdict(self.reading)
        nodata = self.reading.source_nodata
        reading["source_nodata"] = None if nodata is None else str(nodata)
        return {
            "kind": "raster",
            "grid": dataclasses.asdict(self.target),
            "bands": list(self._bands),
            # what was asked for is the band's key from here on
            "items": [
                dataclasses.replace(
                    item, assets=dict(zip(self._bands, row, strict=True))
                ).to_json()
                for item, row in zip(self.items, self.layout, strict=True)
            ],
            "reading": reading,
        }

    @classmethod
    def from_spec(cls, spec: Json) -> RasterSource:
        """Rebuild a source from its spec."""
        plain = dict(spec["reading"])
        nodata = plain.pop("source_nodata")
        plain["calibration"] = Calibration(**plain["calibration"])
        plain["access"] = Access(**plain["access"])
        plain["source_nodata"] = None if nodata is None else float(nodata)
        grid = spec["grid"]
        target = Target(grid["crs"], tuple(grid["transform"]), tuple(grid["shape"]))
        items = [Item.from_json(value) for value in spec["items"]]
        return cls(items, spec["bands"], target.to_geobox(), reading=Reading(**plain))

    def __getstate__(self) -> dict[str, Any]:
        """Leave the cached boxes out; they are cheap to find again."""
        cached = ("_boxes", "_indexes")
        return {k: v for k, v in self.__dict__.items() if k not in cached}

    def _copy(self, reading: Reading) -> RasterSource:
        other = RasterSource.__new__(RasterSource)
        other.__dict__.update(self.__getstate__())
        other.reading = reading
        other.gains = find_gains(
            self.items, self.layout, self._bands, reading.calibration
        )
        other._dtype = other._find_dtype()
        return other

    @functools.cached_property
    def _boxes(self) -> Any:
        if self.reading.trust_file:
            return np.tile([-np.inf, -np.inf, np.inf, np.inf], (len(self.items), 1))
        return pixel_boxes(self.items, self.layout, self.target)

    def _touching(self, window: Window, time: int) -> Any:
        return self._indexes[time].touching(window)

    @functools.cached_property
    def _indexes(self) -> list[BoxIndex]:
        shape = self.target.shape
        return [BoxIndex(self._boxes, step.members, shape) for step in self.steps]

    def _find_dtype(self) -> np.dtype[Any]:
        if not self.is_identity:
            return np.dtype("float32")
        found = {
            self.reading.dtype or asset.dtype for row in self.layout for asset in row
        }
        only = next(iter(found)) if len(found) == 1 else None
        return np.dtype(only or "float32")

    def _add_items(
        self, layers: Sequence[Layer], window: Window, missing: list[Missing]
    ) -> None:
        """Put the pixels of one item a time step where no earlier item gave any."""
        access = self.reading.access
        tasks: list[Task] = []
        ends = []
        for layer in layers:
            for places, request in self._requests(layer.item):
                gains = [self.gains[layer.item][place] for place in places]
                into = Into([layer.got[place] for place in places], gains)
                task: Task = functools.partial(
                    read_bands, request, window, access, into
                )
                if self.reading.on_missing == "nodata":
                    names = tuple(self._bands[place] for place in places)
                    ident = self.items[layer.item].id
                    task = tolerate(task, ident, names, missing)
                tasks.append(task)
            ends.append(len(tasks))
        remote = any("://" in asset.href for asset in self.layout[layers[0].item])
        with started(tasks, remote=remote) as results:
            usable = [
                layer.find_usable(results[first:end])
                for layer, first, end in zip(layers, [0, *ends], ends, strict=False)
            ]
        for layer, good in zip(layers, usable, strict=True):
            layer.merge(good)

    def _requests(self, number: int) -> list[tuple[tuple[int, ...], Request]]:
        """Bands of one item, those of one file together."""
        groups: dict[tuple[str, str], list[int]] = {}
        for place, asset in enumerate(self.layout[number]):
            groups.setdefault((asset.href, self.resamplings[place]), []).append(place)
        return [
            (
                tuple(places),
                Request(
                    tuple(self.layout[number][place] for place in places),
                    self.target,
                    resampling,
                    self.reading.source_nodata,
                    self.reading.trust_file,
                ),
            )
            for (_, resampling), places in groups.items()
        ]


def choose_assets(
    items: Sequence[Item], bands: Sequence[str], sensor: str | None = None
) -> list[tuple[str, ...]]:
    """Find the asset of every item and band.

    Parameters
    ----------
    items : sequence of Item
        The items.
    bands : sequence of str
        Wanted bands.
    sensor : str, optional
        Sensor whose band names `bands` uses.

    Returns
    -------
    list of tuple of str
        Asset keys, per item.

    Raises
    ------
    SourceError
        If items lack a band; the message is a table of them.
    """
    if not bands:
        raise SourceError("no band is asked for; set imagery.bands")
    rows: list[tuple[str, ...]] = []
    lacking: list[tuple[Item, str]] = []
    hint = ""
    for item in items:
        row = []
        for band in bands:
            try:
                row.append(_find_key(item, band, sensor))
            except CardError as err:
                lacking.append((item, band))
                hint = hint or str(err)
        rows.append(tuple(row))
    if lacking:
        raise SourceError(_table(lacking, len(items), hint))
    return rows


def _find_key(item: Item, band: str, sensor: str | None) -> str:
    if band in item.assets:
        return band
    offered = item.offered()
    wanted = band
    if sensor is not None and item.sensor not in (None, sensor):
        # B5 of one sensor is not B5 of another; their common name is shared
        wanted = common_name(band, sensor) or band
    return offered[match_bands([wanted], offered, sensor=sensor or item.sensor)[0]].name


def _table(lacking: Sequence[tuple[Item, str]], count: int, hint: str) -> str:
    bands: dict[str, list[str]] = {}
    for item, band in lacking:
        bands.setdefault(band, []).append(item.id)
    lines = [
        f"  {len(ids)} of {count} items lack `{band}`: {', '.join(ids[:3])}"
        + (", …" if len(ids) > 3 else "")
        for band, ids in bands.items()
    ]
    return "\n".join(
        ["items lack bands:", *lines, f"  ({hint})",
         "drop these items, or ask for other bands (imagery.bands)"]
    )  # fmt: skip


def _resamplings(
    wanted: str | Mapping[str, str] | None, bands: Sequence[str]
) -> tuple[str, ...]:
    found = []
    for band in bands:
        name = wanted if isinstance(wanted, str) else (wanted or {}).get(band)
        name = name or ("nearest" if holds_classes(band) else "bilinear")
        if name not in RESAMPLINGS:
            raise SourceError(
                f"resampling `{name}` is not known{suggest(name, RESAMPLINGS)}; "
                f"known are {', '.join(RESAMPLINGS)}"
            )
        found.append(name)
    return tuple(found)

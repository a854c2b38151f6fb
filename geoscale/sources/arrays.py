"""Arrays as sources: a Zarr store, or any xarray object in memory."""

from __future__ import annotations

import dataclasses
import functools
import math
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import ReadError, SourceError
from geoscale.sources.axes import Planes, read_planes
from geoscale.sources.calibration import (
    SAY_SCALE,
    Calibration,
    Gain,
    Units,
    apply_gain,
    holds_classes,
    in_units,
)
from geoscale.sources.hrefs import strip_signature
from geoscale.sources.index import BoxIndex
from geoscale.sources.targets import Target
from geoscale.types import Array, Bool, Floats, Ints, Json, Pixels
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_ATTEMPTS = 4
_ALIGNED_PX = 1e-3


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """What is known of an array without reading it; JSON-able."""

    target: Target
    """Grid of the stack."""
    corner: tuple[int, int]
    """Row and column of the stack's corner in the array; may be negative."""
    size: tuple[int, int]
    """Rows and columns of the array."""
    times: tuple[str, ...]
    """Labels of all time steps."""
    bands: tuple[str, ...]
    """Names as they were asked for."""
    picks: tuple[int, ...]
    """Which of the array's bands they are."""
    dtype: str
    """Stored dtype."""
    nodata: tuple[str | None, ...]
    """Per band, as text since JSON has no NaN."""
    scales: tuple[float | None, ...]
    """Per band, None if not said."""
    offsets: tuple[float | None, ...]
    """Per band, None if not said."""
    calibration: Calibration = dataclasses.field(default_factory=Calibration)
    """Units of the result."""


class ArraySource:
    """An xarray object in memory; implements `geoscale.types.Source`.

    It cannot be rebuilt in another process: its spec is only a token.

    Parameters
    ----------
    planes : Planes
        The object in one form.
    layout : Layout
        What is read of it.
    """

    def __init__(self, planes: Planes | None, layout: Layout) -> None:
        self._given = planes
        self.layout = layout
        self.gains = _gains(layout)

    @functools.cached_property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self.layout.target.to_geobox()

    @property
    def times(self) -> tuple[str, ...]:
        """Label of each time step."""
        return self.layout.times

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, as they were asked for."""
        return self.layout.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Stored dtype where values pass unchanged, else float32."""
        plain = all(gain == (1.0, 0.0) for gain in self.gains)
        return np.dtype(self.layout.dtype if plain else "float32")

    @property
    def name(self) -> str:
        """What provenance calls this source."""
        return "array"

    def planes(self) -> Planes:
        """Give the arrays that are read."""
        if self._given is None:
            raise AssertionError("an array source holds its array")
        return self._given

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window for some time steps.

        Returns
        -------
        Pixels
            Data 0 where not valid.

        Raises
        ------
        ReadError
            If the array cannot be read.
        """
        shape = (len(times), len(self.bands), *window.shape)
        data = np.zeros(shape, self.dtype)
        valid = np.zeros((len(times), *window.shape), bool)
        wanted = window.shift(*self.layout.corner)
        inside = wanted.clip(self.layout.size)
        if inside.is_empty or not times:
            return Pixels(data, valid)
        place = inside.within(wanted)
        good = np.ones((len(times), *inside.shape), bool)
        for k in range(len(self.bands)):
            values = self._read_band(k, inside, times)
            good &= self._is_valid(values, k)
            data[:, k, *place] = apply_gain(values, self.gains[k])
        valid[:, *place] = good
        np.copyto(data, 0, where=~valid[:, None])
        return Pixels(data, valid)

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell which cells of a lattice touch the array."""
        return self._index.cells(ys, xs)

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair the windows that touch the array with it."""
        return self._index.match(boxes)

    @property
    def item_ids(self) -> list[str]:
        """Name of the array."""
        return [self.name]

    @property
    def _index(self) -> BoxIndex:
        (y, x), (height, width) = self.layout.corner, self.layout.size
        box = np.array([[-y, -x, height - y, width - x]], float)
        rows, columns = self.geobox.shape
        return BoxIndex(box, [0], (int(rows), int(columns)))

    def calibrated(self, units: Units, multiply: float = 1.0) -> ArraySource:
        """Give this source in other units.

        Parameters
        ----------
        units : {"raw", "reflectance"}
            As stored, or stored * scale + offset.
        multiply : float
            Applied last.

        Returns
        -------
        ArraySource
            Of the same kind.

        Raises
        ------
        SourceError
            If a scale is needed and not known.
        """
        calibration = dataclasses.replace(
            self.layout.calibration, units=units, multiply=float(multiply)
        )
        other = type(self).__new__(type(self))
        other.__dict__.update(self.__dict__)
        other.layout = dataclasses.replace(self.layout, calibration=calibration)
        other.gains = _gains(other.layout)
        return other

    def tables(self) -> dict[str, bytes]:
        """Give nothing: the spec says all."""
        return {}

    def spec(self) -> Json:
        """Give a token of the array; it cannot be rebuilt from that."""
        from dask.base import tokenize

        token = tokenize(self.planes().arrays, dataclasses.astuple(self.layout))
        return {"kind": "array", "token": token}

    @classmethod
    def from_spec(cls, spec: Json) -> ArraySource:
        """Refuse: an array in memory lives in one process only.

        Raises
        ------
        SourceError
            Always.
        """
        raise SourceError(
            f"this plan reads an array in memory (token {spec.get('token')}), which no "
            "other process has; save it (`array.to_zarr(path)`) and use "
            "imagery.zarr: path, or pass the array again"
        )

    def _read_band(self, k: int, inside: Window, times: Sequence[int]) -> Array:
        array, index = locate(self.planes(), self.layout.picks[k])
        part = array.isel(
            band=index, y=slice(inside.y0, inside.y1), x=slice(inside.x0, inside.x1)
        )
        found = np.stack([self._compute(part.isel(time=t)) for t in times])
        return found.view(unsigned_dtype(array))

    def _compute(self, part: Any) -> Array:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                # a scheduler inside a task of another one would fight it for cores
                return np.asarray(part.compute(scheduler="synchronous").values)
            except (OSError, ValueError, RuntimeError, KeyError) as err:
                # a broken codec or key stays broken, a network may come back
                passes = isinstance(err, OSError) and not isinstance(
                    err, FileNotFoundError
                )
                if attempt == _ATTEMPTS or not passes:
                    why = redact(f"{type(err).__name__}: {err}")[:300]
                    raise ReadError(f"cannot read {self.name}: {why}") from None
            time.sleep(random.uniform(0, 0.5 * 2**attempt))  # noqa: S311
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _is_valid(self, values: Array, k: int) -> Any:
        text = self.layout.nodata[k]
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.True_
        if text is None or math.isnan(float(text)):
            return valid
        return valid & (values != float(text))


class ZarrSource(ArraySource):
    """A Zarr store; implements `geoscale.types.Source`.

    Parameters
    ----------
    path : str
        Path or URL of the store, v2 or v3.
    options : mapping
        ``crs``, ``variable``, ``band_names`` for `read_planes`.
    layout : Layout
        What is read of it.
    """

    def __init__(self, path: str, options: Mapping[str, Any], layout: Layout) -> None:
        super().__init__(None, layout)
        self.path = strip_signature(path)
        self.options = dict(options)

    @property
    def name(self) -> str:
        """Path of the store, without user info."""
        return redact(self.path)

    def planes(self) -> Planes:
        """Give the store's arrays, opened on first use in each process."""
        return self._opened

    @functools.cached_property
    def _opened(self) -> Planes:
        from geoscale.sources.stores import open_store

        return read_planes(open_store(self.path), **self.options)

    def __getstate__(self) -> dict[str, Any]:
        """Leave open stores behind; the other process opens its own."""
        return {k: v for k, v in self.__dict__.items() if k != "_opened"}

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere."""
        return {
            "kind": "zarr",
            "path": self.path,
            "options": self.options,
            "layout": dataclasses.asdict(self.layout),
        }

    @classmethod
    def from_spec(cls, spec: Json) -> ZarrSource:
        """Rebuild a source from its spec; the store is not opened yet."""
        plain: dict[str, Any] = {
            k: tuple(v) if isinstance(v, list) else v for k, v in spec["layout"].items()
        }
        grid = spec["layout"]["target"]
        plain["target"] = Target(
            grid["crs"], tuple(grid["transform"]), tuple(grid["shape"])
        )
        known = dict(spec["layout"]["calibration"])
        known["plain"] = tuple(known["plain"])
        plain["calibration"] = Calibration(**known)
        return cls(spec["path"], spec["options"], Layout(**plain))


def unsigned_dtype(array: Any) -> np.dtype[Any]:
    """Dtype that an array's numbers mean; netCDF-3 has no unsigned integers."""
    marked = str(array.attrs.get("_Unsigned", "")).lower() == "true"
    dtype: np.dtype[Any] = np.dtype(array.dtype)
    return np.dtype(f"u{dtype.itemsize}") if marked and dtype.kind == "i" else dtype


def locate(planes: Planes, pick: int) -> tuple[Any, int]:
    """Give the array that holds a band, and the band's number in it."""
    for array in planes.arrays:
        if pick < array.sizes["band"]:
            return array, pick
        pick -= array.sizes["band"]
    raise AssertionError("a picked band is in one of the arrays")


def _gains(layout: Layout) -> list[Gain]:
    wanted = layout.calibration
    if wanted.units == "raw":
        return [in_units(1.0, 0.0, wanted)] * len(layout.bands)
    gains, missing = [], []
    for band, own, shift in zip(
        layout.bands, layout.scales, layout.offsets, strict=True
    ):
        if holds_classes(band):
            gains.append((1.0, 0.0))
            continue
        scale = own if wanted.scale is None else wanted.scale
        offset = (shift or 0.0) if wanted.offset is None else wanted.offset
        if scale is None:
            missing.append(band)
        gains.append(in_units(scale or 1.0, offset, wanted))
    if missing:
        raise SourceError(
            f"no scale is known for `{'`, `'.join(missing)}`; {SAY_SCALE}"
        )
    return gains

"""Opening Zarr stores and xarray objects: from settings to an array source."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.bands import SENSORS, Band, common_name, guess_sensor, match_bands
from geoscale.errors import CardError, SourceError, StackError
from geoscale.sources.arrays import (
    ArraySource,
    Layout,
    ZarrSource,
    locate,
    unsigned_dtype,
)
from geoscale.sources.axes import Planes, read_planes
from geoscale.sources.fields import Affine6, normalise_crs
from geoscale.sources.grid import choose_grid
from geoscale.sources.items import Asset, Item
from geoscale.sources.naming import list_in_order
from geoscale.sources.settings import Grid, Imagery
from geoscale.sources.targets import Target
from geoscale.words import redact, shorten

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_ALIGNED_PX = 1e-3


def open_store(path: str) -> Any:
    """Open a Zarr store without dask and without changing its numbers.

    Parameters
    ----------
    path : str
        Path or URL.

    Returns
    -------
    Dataset
        Lazily indexed.

    Raises
    ------
    SourceError
        If there is no such store.
    """
    import xarray as xr

    try:
        with warnings.catch_warnings():
            # version 3 has no consolidated metadata by its specification
            warnings.filterwarnings("ignore", message=".*consolidated metadata")
            return xr.open_dataset(
                path, engine="zarr", chunks=None, mask_and_scale=False
            )
    except Exception as err:  # xarray, zarr and fsspec each have their own
        raise SourceError(
            f"cannot open Zarr store {redact(path)}: {type(err).__name__}: "
            f"{redact(str(err))[:200]}"
        ) from None


def open_array(
    imagery: Imagery,
    grid: Grid,
    *,
    geobox: GeoBox | None = None,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
) -> ArraySource:
    """Open `imagery.zarr` or `imagery.array` as a source.

    Parameters
    ----------
    imagery : Imagery
        What to open.
    grid : Grid
        What part; CRS and resolution must be the array's own.
    geobox : GeoBox, optional
        What part, instead of `grid`.
    bands : sequence of str, optional
        Bands where `imagery.bands` names none; default all.
    sensor : str, optional
        Sensor whose band names `bands` uses.

    Returns
    -------
    ArraySource or ZarrSource
        The source.

    Raises
    ------
    SourceError
        If it cannot be opened, or lacks bands.
    StackError
        If its dims, CRS or grid do not serve.
    """
    options: dict[str, Any] = {
        "crs": imagery.crs,
        "variable": imagery.variable,
        "band_names": imagery.band_names,
    }
    held = imagery.array if imagery.zarr is None else open_store(imagery.zarr)
    planes = read_planes(held, **options)
    if planes.is_numbered and imagery.sensor in SENSORS:
        told = list_in_order(len(planes.bands), imagery.sensor, "the array")
        planes = dataclasses.replace(planes, bands=told, is_numbered=False)
    target, corner = _place(planes, grid, geobox)
    names = tuple(imagery.bands or bands or planes.bands)
    said = imagery.sensor or guess_sensor(imagery.zarr, str(getattr(held, "name", "")))
    picks = _pick(names, planes, said, None if imagery.bands else sensor)
    reading = imagery.reading()
    found = [_describe(planes, pick, reading.source_nodata) for pick in picks]
    layout = Layout(
        target=target,
        corner=corner,
        size=planes.shape,
        times=planes.times,
        bands=names,
        picks=picks,
        dtype=np.result_type(*(one[0] for one in found)).name,
        nodata=tuple(one[1] for one in found),
        scales=tuple(one[2] for one in found),
        offsets=tuple(one[3] for one in found),
        calibration=reading.calibration,
    )
    if imagery.zarr is not None:
        return ZarrSource(imagery.zarr, options, layout)
    return ArraySource(planes, layout)


def _pick(
    names: Sequence[str], planes: Planes, own: str | None, asked: str | None
) -> tuple[int, ...]:
    if planes.is_numbered and asked is not None:
        raise SourceError(
            f"the array counts its {len(planes.bands)} bands and does not name them, "
            f"and {', '.join(map(shorten, names[:4]))} of {asked} are asked for; give "
            "names: `array.assign_coords(band=[…])`, or `imagery.band_names`"
        )
    if planes.is_numbered:
        own = None  # the second of four is seldom the sensor's B2
    offered = [Band(name, common_name(name, own), name) for name in planes.bands]
    try:
        return tuple(match_bands(names, offered, sensor=asked or own))
    except CardError as err:
        raise SourceError(str(err)) from None


def _describe(
    planes: Planes, pick: int, override: float | None
) -> tuple[Any, str | None, float | None, float | None]:
    """Dtype, nodata, scale and offset of one band."""
    array, _ = locate(planes, pick)
    said = {**array.encoding, **array.attrs}
    nodata = override
    for key in ("_FillValue", "missing_value", "nodata", "_nodata", "nodatavals"):
        if nodata is None and said.get(key) is not None:
            nodata = float(np.ravel(said[key])[0])
    dtype = unsigned_dtype(array)
    if dtype.kind == "u" and nodata is not None and nodata < 0:
        nodata += 2.0 ** (8 * dtype.itemsize)
    # xarray has applied what it moved to the encoding; attrs are still to do
    scale = array.attrs.get("scale_factor", array.attrs.get("scale"))
    offset = array.attrs.get("add_offset", array.attrs.get("offset"))
    return (
        dtype,
        None if nodata is None else str(nodata),
        None if scale is None else float(np.ravel(scale)[0]),
        None if offset is None else float(np.ravel(offset)[0]),
    )


def _place(
    planes: Planes, grid: Grid, geobox: GeoBox | None
) -> tuple[Target, tuple[int, int]]:
    """Grid of the stack, and where its corner lies in the array."""
    if geobox is None:
        if grid.crs != "native" and normalise_crs(grid.crs) != planes.crs:
            raise StackError(
                f"the array is in {planes.crs[:40]}, grid.crs is {grid.crs}; arrays "
                "are not warped: use grid.crs: native, or reproject it first (odc.geo)"
            )
        asset = Asset(
            href="", crs=planes.crs, transform=planes.transform, shape=planes.shape
        )
        item = Item(id="array", datetime=None, assets={"a": asset})
        geobox = choose_grid([item], [[asset]], grid)
    target = Target.from_geobox(geobox)
    return target, _corner(planes.transform, planes.crs, target)


def _corner(transform: Affine6, crs: str, target: Target) -> tuple[int, int]:
    from affine import Affine

    both = ~Affine(*transform) * Affine(*target.transform)
    reach = max(target.shape)
    drift = max(abs(both.a - 1), abs(both.e - 1), abs(both.b), abs(both.d)) * reach
    column, row = round(both.c), round(both.f)
    off = max(drift, abs(both.c - column), abs(both.f - row))
    if crs != target.crs or off > _ALIGNED_PX:
        raise StackError(
            f"the grid ({target.crs[:40]}, {target.transform[0]:g}) is not the array's "
            f"({crs[:40]}, {transform[0]:g}); arrays are not warped: choose "
            "grid.crs: native without a resolution, or reproject it first (odc.geo)"
        )
    return row, column

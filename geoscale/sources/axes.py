"""Dims, coordinates and CRS of any xarray object, brought into one form."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.bands import BAND_NAME
from geoscale.errors import StackError
from geoscale.sources.fields import (
    Affine6,
    format_label,
    normalise_crs,
    parse_datetime,
    read_transform,
)
from geoscale.sources.items import NO_DATE

if TYPE_CHECKING:
    import xarray as xr

_ALIASES = {
    "time": ("time", "t", "date", "datetime"),
    "band": ("band", "bands", "channel", "channels", "variable"),
    "y": ("y", "lat", "latitude", "northing", "row"),
    "x": ("x", "lon", "longitude", "easting", "column"),
}
_CRS_VARIABLES = ("spatial_ref", "crs", "transverse_mercator", "epsg", "proj:code")
_CRS_KEYS = ("crs_wkt", "spatial_ref", "proj:wkt2", "proj:code", "crs", "epsg_code")


@dataclass(frozen=True)
class Planes:
    """An xarray object as (time, band, y, x) arrays on one grid."""

    arrays: tuple[Any, ...]
    """DataArrays (time, band, y, x), north-up, each with its own bands."""
    bands: tuple[str, ...]
    """Names of the bands of all arrays, in turn."""
    times: tuple[str, ...]
    """Labels, ascending."""
    crs: str
    """``EPSG:n`` or WKT."""
    transform: Affine6
    """Pixel to CRS."""
    shape: tuple[int, int]
    """Rows and columns."""
    is_numbered: bool = False
    """Whether bands are only counted: ``B4`` is the fourth, whatever it shows."""


def read_planes(
    source: Any,
    *,
    crs: str | None = None,
    variable: str | Sequence[str] | None = None,
    band_names: Sequence[str] | None = None,
) -> Planes:
    """Bring a DataArray or Dataset into one form; no pixel is computed.

    Parameters
    ----------
    source : DataArray or Dataset
        Any order of dims; time and band may be missing.
    crs : str, optional
        CRS, where the object does not say.
    variable : str or sequence of str, optional
        Variables of a Dataset that are the bands, or the one that holds them.
    band_names : sequence of str, optional
        Names of the bands.

    Returns
    -------
    Planes
        Views of the object.

    Raises
    ------
    StackError
        If dims are not understood, axes are irregular or no CRS is found.
    """
    import xarray as xr

    if isinstance(source, xr.DataArray):
        chosen: list[Any] = [source]
    elif isinstance(source, xr.Dataset):
        chosen = _choose(source, variable)
    else:
        raise StackError(
            f"a {type(source).__name__} is no xarray DataArray or Dataset; wrap it "
            "with dims (time, band, y, x) and coordinates"
        )
    arrays = [_with_dims(array) for array in chosen]
    first = arrays[0]
    for array in arrays[1:]:
        if any(array.sizes[dim] != first.sizes[dim] for dim in ("time", "y", "x")):
            raise StackError(
                f"variables `{first.name}` and `{array.name}` differ in shape; "
                "list those of one grid in imagery.variable"
            )
    found = _find_crs(chosen[0], source, crs)
    order, times = _order_times(first)
    transform, flips = _find_transform(first, chosen[0])
    arrays = [array.isel({"time": order, **flips}) for array in arrays]
    own = _own_names(arrays) if band_names is None else None
    names = own or _name_bands(arrays, isinstance(source, xr.Dataset), band_names)
    shape = (int(first.sizes["y"]), int(first.sizes["x"]))
    counted = band_names is None and own is None and _is_counted(arrays)
    return Planes(tuple(arrays), names, times, found, transform, shape, counted)


def _choose(source: xr.Dataset, variable: str | Sequence[str] | None) -> list[Any]:
    if variable is None:
        spatial = [
            name for name, array in source.data_vars.items()
            if {"y", "x"} <= {_role(dim) for dim in array.dims}
        ]  # fmt: skip
        if not spatial:
            raise StackError(
                "no variable has both a y and an x dim; variables are "
                f"{', '.join(map(str, source.data_vars)) or 'none'}"
            )
        return [source[name] for name in spatial]
    names = [variable] if isinstance(variable, str) else list(variable)
    missing = [name for name in names if name not in source]
    if missing:
        raise StackError(
            f"no variable `{missing[0]}`; there are "
            f"{', '.join(map(str, source.data_vars))}"
        )
    return [source[name] for name in names]


def _role(dim: Any) -> str | None:
    lowered = str(dim).lower()
    for role, names in _ALIASES.items():
        if lowered in names:
            return role
    return None


def _with_dims(array: xr.DataArray) -> xr.DataArray:
    roles = {dim: _role(dim) for dim in array.dims}
    unknown = [str(dim) for dim, role in roles.items() if role is None]
    twice = len(set(roles.values())) < len(roles)
    if unknown or twice or not {"y", "x"} <= set(roles.values()):
        raise StackError(
            f"dims {tuple(map(str, array.dims))} are not understood; rename them to "
            "(time, band, y, x), and select one value along any other"
        )
    renames = {dim: role for dim, role in roles.items() if dim != role}
    # a coordinate in the way of a new name would make rename fail
    array = array.drop_vars(
        [r for r in renames.values() if r in array.coords and r not in array.dims],
        errors="ignore",
    ).rename(renames)
    for dim in ("time", "band"):
        if dim not in array.dims:
            scalar = array.coords[dim].item() if dim in array.coords else None
            array = array.drop_vars(dim, errors="ignore").expand_dims(dim)
            if dim == "time" and scalar is not None:
                # .item() of a datetime64[ns] is a bare number of nanoseconds
                stamp = (
                    np.datetime64(scalar, "ns") if isinstance(scalar, int) else scalar
                )
                array = array.assign_coords(time=[stamp])
    return array.transpose("time", "band", "y", "x")


def _order_times(array: xr.DataArray) -> tuple[Any, tuple[str, ...]]:
    count = array.sizes["time"]
    if "time" not in array.coords:
        return slice(None), (NO_DATE,) * count
    labels = [_label(value) for value in array.coords["time"].values]
    order = sorted(range(count), key=lambda i: (labels[i], i))
    ordered = tuple(labels[i] for i in order)
    return slice(None) if order == list(range(count)) else order, ordered


def _label(value: Any) -> str:
    import pandas as pd

    if isinstance(value, np.datetime64):
        return str(pd.Timestamp(value).to_pydatetime(warn=False).isoformat())
    if hasattr(value, "isoformat"):
        value = value.isoformat()
    if isinstance(value, int | np.integer | float | np.floating):
        return (
            NO_DATE if not 1900 <= value <= 2200 else f"{int(value):04d}-01-01T00:00:00"
        )
    return format_label(parse_datetime(str(value), "time coordinate"))


def _find_crs(array: xr.DataArray, context: Any, override: str | None) -> str:
    if override is not None:
        crs = normalise_crs(override)
        if crs is None:
            raise StackError(f"imagery.crs `{override}` is not known; use EPSG:…")
        return crs
    mapping = array.attrs.get("grid_mapping") or array.encoding.get("grid_mapping")
    for name in (mapping, *_CRS_VARIABLES):
        for holder in (array.coords, getattr(context, "variables", {})):
            if name is not None and name in holder:
                crs = _crs_of_variable(holder[name])
                if crs is not None:
                    return crs
    for attrs in (array.attrs, context.attrs):
        crs = _crs_of_attrs(attrs)
        if crs is not None:
            return crs
    raise StackError(
        "no CRS in the array: no grid_mapping, spatial_ref, crs or proj:code; "
        "set imagery.crs, for example EPSG:32632"
    )


def _crs_of_variable(variable: Any) -> str | None:
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    found = _crs_of_attrs(variable.attrs)
    if found is None and variable.attrs.get("grid_mapping_name"):
        try:
            found = normalise_crs(CRS.from_cf(dict(variable.attrs)).to_wkt())
        except (CRSError, KeyError):
            return None
    if found is None and variable.ndim == 0 and variable.dtype.kind in "iuUO":
        value = variable.values.item()
        text = (
            f"EPSG:{value}" if isinstance(value, int) and value > 1000 else str(value)
        )
        found = normalise_crs(text) if text not in ("0", "") else None
    return found


def _crs_of_attrs(attrs: Mapping[Any, Any]) -> str | None:
    for key in _CRS_KEYS:
        value = attrs.get(key)
        if isinstance(value, str) and value:
            found = normalise_crs(value.removeprefix("+init="))
            if found is not None:
                return found
    for key in ("proj:epsg", "epsg", "crs"):
        if isinstance(attrs.get(key), int | np.integer):
            return normalise_crs(f"EPSG:{attrs[key]}")
    return None


def _find_transform(
    array: xr.DataArray, original: xr.DataArray
) -> tuple[Affine6, dict[str, slice]]:
    """Affine of the north-up array, and how to flip it so."""
    hint = _transform_hint(original)
    starts, steps, flips = {}, {}, {}
    for dim, k in (("x", 0), ("y", 1)):
        values = _axis(array, dim)
        told = None if hint is None else (hint[0], hint[4])[k]
        step = _step(values, dim, told)
        first = float(values[0])
        corner = _corner(
            first, step, None if hint is None else (hint[2], hint[5])[k], told
        )
        if (step < 0) == (dim == "x"):
            flips[dim] = slice(None, None, -1)
            corner, step = corner + step * len(values), -step
        starts[dim], steps[dim] = corner, step
    return (steps["x"], 0.0, starts["x"], 0.0, steps["y"], starts["y"]), flips


def _axis(array: xr.DataArray, dim: str) -> Any:
    if dim not in array.coords:
        raise StackError(
            f"dim `{dim}` has no coordinate; add pixel centres, or open the file with "
            "rioxarray"
        )
    values = array.coords[dim].values
    if values.ndim != 1 or values.dtype.kind not in "fiu":
        raise StackError(
            f"coordinate `{dim}` is not one row of numbers: rotated and curvilinear "
            "grids must be warped to a map grid first (gdalwarp, odc.geo)"
        )
    return values.astype(np.float64)


def _step(values: Any, dim: str, told: float | None) -> float:
    if len(values) == 1:
        if told is None:
            raise StackError(f"dim `{dim}` has one pixel, so its size is not known")
        return told
    step = float(values[-1] - values[0]) / (len(values) - 1)
    # float32 coordinates of fine grids wobble by a few per cent of a pixel
    loose = max(
        1e-3, 4 * np.finfo(np.float32).eps * np.abs(values).max() / abs(step or 1)
    )
    even = values[0] + step * np.arange(len(values))
    if step == 0 or np.abs(values - even).max() > loose * abs(step):
        raise StackError(
            f"coordinate `{dim}` is not evenly spaced; resample to a regular grid "
            "first, or concatenate tiles in order"
        )
    if told is not None and math.isclose(step, told, rel_tol=1e-6):
        return told
    return step


def _corner(
    first: float, step: float, origin: float | None, told: float | None
) -> float:
    """Outer edge of the first pixel: coordinates are centres, unless shown not."""
    if origin is None or told is None or not math.isclose(step, told, rel_tol=1e-6):
        return first - step / 2
    away = (first - origin) / step
    whole = round(away)
    if abs(away - whole) < 1e-3:
        # stackstac's default: coordinates are the top left corners
        return origin + whole * step
    half = math.floor(away)
    if abs(away - half - 0.5) < 1e-3:
        return origin + half * step
    return first - step / 2


def _transform_hint(array: xr.DataArray) -> Affine6 | None:
    for holder in (
        array,
        *(array.coords[n] for n in _CRS_VARIABLES if n in array.coords),
    ):
        text = holder.attrs.get("GeoTransform")
        if isinstance(text, str) and len(text.split()) == 6:
            c, a, b, f, d, e = (float(v) for v in text.split())
            return (a, b, c, d, e, f) if b == d == 0 else None
    value = array.attrs.get("transform")
    try:
        found = read_transform(list(value)[:6], "attrs") if value is not None else None
    except (ValueError, TypeError):
        return None
    return found if found is not None and found[1] == found[3] == 0 else None


def _is_counted(arrays: Sequence[xr.DataArray]) -> bool:
    """Whether there is one array whose bands are 1, 2, 3 …, or have no label."""
    if len(arrays) != 1 or arrays[0].sizes["band"] == 1:
        return False
    labels = arrays[0].coords.get("band")
    count = range(1, arrays[0].sizes["band"] + 1)
    return labels is None or list(labels.values) == list(count)


def _own_names(arrays: Sequence[xr.DataArray]) -> tuple[str, ...] | None:
    """Descriptions of a file's bands, which rioxarray keeps as ``long_name``."""
    told = arrays[0].attrs.get("long_name")
    if not _is_counted(arrays) or isinstance(told, str) or told is None:
        return None
    names = tuple(str(one).strip() for one in told)
    fits = len(names) == arrays[0].sizes["band"] == len(set(names))
    return names if fits and all(map(BAND_NAME.match, names)) else None


def _name_bands(
    arrays: Sequence[xr.DataArray], is_dataset: bool, given: Sequence[str] | None
) -> tuple[str, ...]:
    names: list[str] = []
    for array in arrays:
        count = array.sizes["band"]
        labels = (
            array.coords["band"].values
            if "band" in array.coords
            else range(1, count + 1)
        )
        if is_dataset and len(arrays) > 1 and count == 1:
            names.append(str(array.name))
        else:
            plain = all(isinstance(v, int | np.integer) for v in labels)
            names += [f"B{v}" if plain else str(v) for v in labels]
    if given is not None:
        if len(given) != len(names):
            raise StackError(
                f"imagery.band_names has {len(given)} names for {len(names)} bands"
            )
        return tuple(given)
    if len(set(names)) < len(names):
        names = [f"B{i}" for i in range(1, len(names) + 1)]
    return tuple(names)

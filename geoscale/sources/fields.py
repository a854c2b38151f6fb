"""STAC fields as providers really write them: projection, bands, raster.

Pure readers of plain dicts; `items` puts their answers together. Older and
newer spellings of a field are one thing here, and where two spellings of one
item contradict each other the item is refused.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geoscale.errors import SourceError
from geoscale.words import shorten

_DTYPE = re.compile(r"(u?int|float|complex)\d+")
Affine6 = tuple[float, float, float, float, float, float]


@functools.lru_cache(maxsize=256)
def normalise_crs(text: str) -> str | None:
    """Write a CRS as ``EPSG:n`` where it has a code, else as WKT.

    Parameters
    ----------
    text : str
        Authority code, WKT or PROJJSON.

    Returns
    -------
    str or None
        None where PROJ does not know it.
    """
    from pyproj import CRS
    from pyproj.exceptions import CRSError

    try:
        crs = CRS.from_user_input(text)
    except (CRSError, ValueError):  # ValueError: no Unicode that PROJ can be given
        return None
    epsg = crs.to_epsg()
    return f"EPSG:{epsg}" if epsg is not None else str(crs.to_wkt())


def read_crs(fields: Mapping[str, Any], where: str) -> str | None:
    """Read the CRS of an item's properties or of an asset.

    Parameters
    ----------
    fields : mapping
        Holds ``proj:code``, ``proj:epsg``, ``proj:wkt2`` or ``proj:projjson``.
    where : str
        Item and asset, for messages.

    Returns
    -------
    str or None
        ``EPSG:n`` or WKT; None where nothing is said.

    Raises
    ------
    SourceError
        If two fields name different CRSs, or PROJ knows none of them.
    """
    code, epsg = fields.get("proj:code"), fields.get("proj:epsg")
    named = {
        "proj:code": str(code) if code else None,
        "proj:epsg": f"EPSG:{epsg}" if epsg else None,
    }
    found = {key: value for key, value in named.items() if value}
    if len(set(found.values())) > 1:
        both = " and ".join(f"{key}={value}" for key, value in found.items())
        raise SourceError(
            f"{where}: {both} contradict each other; correct or drop the item"
        )
    if not found:
        import json

        wkt, projjson = fields.get("proj:wkt2"), fields.get("proj:projjson")
        if wkt:
            found["proj:wkt2"] = str(wkt)
        elif projjson:
            found["proj:projjson"] = json.dumps(projjson)
    for key, value in found.items():
        crs = normalise_crs(value)
        if crs is None:
            raise SourceError(
                f"{where}: {key}={value[:60]} is not a CRS that PROJ knows; "
                "correct or drop the item"
            )
        return crs
    return None


def read_transform(value: object, where: str) -> Affine6 | None:
    """Read a ``proj:transform`` as six affine numbers (a, b, c, d, e, f).

    Parameters
    ----------
    value : object
        6 or 9 numbers; GDAL's order (c, a, b, f, d, e) is told by its zeros.
    where : str
        Item and asset, for messages.

    Returns
    -------
    tuple of float or None
        None where nothing is said.

    Raises
    ------
    SourceError
        If it is neither, or has no area.

    Examples
    --------
    >>> read_transform([399960.0, 10.0, 0.0, 4200000.0, 0.0, -10.0], "x")
    (10.0, 0.0, 399960.0, 0.0, -10.0, 4200000.0)
    """
    if value is None:
        return None
    try:
        numbers = [float(v) for v in value]  # type: ignore[attr-defined]
    except (OverflowError, TypeError, ValueError):
        numbers = []
    shown = shorten(repr(value))
    if len(numbers) not in (6, 9) or not all(map(math.isfinite, numbers)):
        raise SourceError(f"{where}: proj:transform {shown} is not 6 or 9 numbers")
    a, b, c, d, e, f = numbers[:6]
    if c == 0 and e == 0 and b != 0 and f != 0:
        # early landsat items of the AWS collection carry GDAL's geotransform
        a, b, c, d, e, f = b, c, a, e, f, d
    if a * e - b * d == 0:
        raise SourceError(f"{where}: proj:transform {shown} has no area")
    return a, b, c, d, e, f


def read_shape(value: object, where: str) -> tuple[int, int] | None:
    """Read a ``proj:shape`` (y, x), or None where nothing is said.

    Raises
    ------
    SourceError
        If it is not two positive whole numbers.
    """
    if value is None:
        return None
    if (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(v, int | float) and 0 < v < 2**31 for v in value)
        and all(v == int(v) for v in value)
    ):
        return int(value[0]), int(value[1])
    shown = shorten(repr(value))
    raise SourceError(f"{where}: proj:shape {shown} is not (rows, columns)")


def read_bands(
    asset: Mapping[str, Any], properties: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Merge ``bands``, ``eo:bands`` and ``raster:bands`` into one list.

    Parameters
    ----------
    asset : mapping
        The asset.
    properties : mapping
        Properties of its item; early items list bands there and give numbers.

    Returns
    -------
    list of dict
        One per raster band, with any of name, common_name, nodata, scale,
        offset, data_type, spatial_resolution; one empty dict if nothing is said.
    """
    modern = _dicts(asset.get("bands"), [])
    eo = _dicts(asset.get("eo:bands"), properties.get("eo:bands") or [])
    raster = _dicts(asset.get("raster:bands"), [])
    shared = {
        "data_type": asset.get("data_type"),
        "nodata": asset.get("nodata"),
        "scale": asset.get("raster:scale"),
        "offset": asset.get("raster:offset"),
        "spatial_resolution": asset.get("raster:spatial_resolution"),
        "common_name": asset.get("eo:common_name"),
    }
    found = []
    for i in range(max(len(modern), len(eo), len(raster), 1)):
        merged = {key: value for key, value in shared.items() if value is not None}
        for source in (modern, eo, raster):
            if i < len(source):
                merged.update(_plain_names(source[i]))
        found.append(merged)
    return found


def _dicts(value: object, table: Sequence[Any]) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    bands = [table[v] if _indexes(v, table) else v for v in value]
    return [band if isinstance(band, dict) else {} for band in bands]


def _indexes(value: object, table: Sequence[Any]) -> bool:
    return isinstance(value, int) and 0 <= value < len(table)


def _plain_names(band: Mapping[str, Any]) -> dict[str, Any]:
    # STAC 1.1 keeps the extension's prefix inside `bands`
    return {
        key.removeprefix("eo:").removeprefix("raster:"): value
        for key, value in band.items()
        if value is not None
    }


def read_datetime(properties: Mapping[str, Any], where: str) -> datetime | None:
    """Read when an item was taken, in UTC; the start of a period counts.

    Raises
    ------
    SourceError
        If it is not a date.
    """
    for key in ("datetime", "start_datetime"):
        text = properties.get(key)
        if text:
            return parse_datetime(str(text), f"{where}: {key}")
    return None


def parse_datetime(text: str, where: str) -> datetime:
    """Parse RFC 3339; a date without zone counts as UTC.

    Raises
    ------
    SourceError
        If it is not a date.
    """
    try:
        when = datetime.fromisoformat(text.strip().replace("Z", "+00:00"))
        return when.replace(tzinfo=UTC) if when.tzinfo is None else when.astimezone(UTC)
    except (OverflowError, ValueError) as err:
        raise SourceError(f"{where} `{text[:40]}` is not an ISO 8601 date") from err


def format_label(when: datetime) -> str:
    """Write a time as the stack labels it: UTC, ISO 8601, no zone."""
    return when.astimezone(UTC).replace(tzinfo=None).isoformat()


def read_nodata(value: object, where: str) -> float | None:
    """Read a nodata value; STAC allows the words nan, inf and -inf.

    Raises
    ------
    SourceError
        If it is no number.
    """
    if value is None:
        return None
    try:
        number = float(value)  # type: ignore[arg-type]
    except (OverflowError, TypeError, ValueError) as err:
        shown = shorten(repr(value))
        raise SourceError(f"{where}: nodata {shown} is not a number") from err
    # one NaN object, so that equal items compare equal
    return math.nan if math.isnan(number) else number


def read_dtype(value: object) -> str | None:
    """Name of a NumPy dtype of numbers, or None where STAC's word is no such dtype."""
    return _find_dtype(str(value)) if value else None


@functools.lru_cache(256)
def _find_dtype(name: str) -> str | None:
    import numpy as np

    # numpy takes much more than names: `i4,f8`, `O`, `S10`
    if not _DTYPE.fullmatch(name):
        return None
    try:
        return np.dtype(name).name
    except TypeError:
        return None

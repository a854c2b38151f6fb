"""Raster files without metadata of their own: their headers become items."""

from __future__ import annotations

import dataclasses
import glob
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from geoscale.bands import BAND_NAME, common_name, guess_sensor, normalise_sensor_name
from geoscale.errors import ReadError, SourceError, StackError
from geoscale.sources.fields import normalise_crs, parse_datetime
from geoscale.sources.gdal import read_with_retries
from geoscale.sources.handles import Handle
from geoscale.sources.hrefs import Access, strip_signature
from geoscale.sources.items import Asset, Item
from geoscale.words import redact, shorten

_DATE = re.compile(
    r"(?<!\d)((?:19|20)\d\d)[-_]?([01]\d)[-_]?([0-3]\d)(?:T?(\d{6}))?(?!\d)"
)
_COLORS = ("red", "green", "blue")

LARGE_STRIP_PX = 2_000_000
"""Pixels of a strip beyond which reading a block costs noticeably more."""


def items_from_files(
    files: str | Sequence[str] | Mapping[str, str],
    *,
    band_names: Sequence[str] | None = None,
    access: Access | None = None,
) -> list[Item]:
    """Read the headers of raster files and describe them as items.

    Parameters
    ----------
    files : str, sequence of str, or mapping
        A path, URL or glob; several of them, each an item of its own; or
        band → path, which makes one item of single-band files.
    band_names : sequence of str, optional
        Names of the bands in file order; default the file's own band
        descriptions, else B1, B2, …
    access : Access, optional
        How files may be reached.

    Returns
    -------
    list of Item
        One for each file, dated by its TIFF tag or name, else not dated.

    Raises
    ------
    SourceError
        If nothing matches or a file cannot be opened.
    StackError
        If a file has no georeferencing.
    """
    access = access or Access()
    if isinstance(files, Mapping):
        return [_item_of_bands(files, access)]
    names = [files] if isinstance(files, str) else list(files)
    paths = [path for name in names for path in _expand(name)]
    if not paths:
        raise SourceError(
            f"no file matches `{shorten(redact(', '.join(names)), 300)}` in "
            f"{os.getcwd()}; "
            "check the path, quote globs in YAML"
        )
    return [_item_of_file(path, band_names, access) for path in paths]


def _expand(name: str) -> list[str]:
    if "://" in name:
        return [name]
    found = sorted(glob.glob(os.path.expanduser(name), recursive=True))
    return [os.path.abspath(_envi_data(path)) for path in found if os.path.isfile(path)]


def _envi_data(path: str) -> str:
    """Of an ENVI pair take the data; people name the header."""
    stem, end = os.path.splitext(path)
    if end.lower() != ".hdr":
        return path
    for name in (stem, *(stem + e for e in (".img", ".dat", ".bsq", ".bil", ".bip"))):
        if os.path.isfile(name):
            return name
    return path


def _item_of_file(path: str, band_names: Sequence[str] | None, access: Access) -> Item:
    header = _read_header(path, access)
    where = redact(path)
    count = header["count"]
    if band_names is not None and len(band_names) != count:
        raise SourceError(
            f"{where} has {count} bands, imagery.band_names has {len(band_names)}; "
            "give one name for each"
        )
    own = None if band_names else _own_names(header["descriptions"])
    named = band_names or own or [f"B{i + 1}" for i in range(count)]
    # numbers are no names: the second of four bands of Sentinel-2 is seldom its B2
    is_numbered = not band_names and own is None
    sensor = None if is_numbered else _sensor(path, named)
    assets = {
        name: _asset(path, header, i, name, sensor) for i, name in enumerate(named)
    }
    if is_numbered:
        assets = _add_colors(assets, header["colors"])
    when = _date(header, path)
    return Item(
        id=os.path.splitext(os.path.basename(strip_signature(path).partition("?")[0]))[
            0
        ],
        datetime=when.isoformat() if when else None,
        assets=assets,
        platform=_sensor(path, list(assets)),
        footprint=_lonlat_ring(header),
        is_numbered=is_numbered,
    )


def _add_colors(assets: dict[str, Asset], colors: Sequence[str]) -> dict[str, Asset]:
    """Say which bands are red, green and blue, if the file does (photometric RGB)."""
    if any(colors.count(color) != 1 for color in _COLORS):
        return assets
    return {
        name: dataclasses.replace(asset, common_name=color)
        if color in _COLORS
        else asset
        for (name, asset), color in zip(assets.items(), colors, strict=True)
    }


def _item_of_bands(files: Mapping[str, str], access: Access) -> Item:
    assets = {}
    first = None
    for name, path in files.items():
        found = _expand(path)
        if len(found) != 1:
            raise SourceError(
                f"imagery.files: band `{name}` matches {len(found)} files with "
                f"`{redact(path)}`; name exactly one"
            )
        header = _read_header(found[0], access)
        first = first or (found[0], header)
        if header["count"] != 1:
            raise SourceError(
                f"imagery.files: {redact(found[0])} of band `{name}` has "
                f"{header['count']} bands; give multi-band files as a list"
            )
        sensor = _sensor(found[0], list(files))
        assets[name] = _asset(found[0], header, 0, name, sensor)
    if first is None:
        raise SourceError("imagery.files names no file")
    path, header = first
    when = _date(header, path)
    return Item(
        id=os.path.splitext(os.path.basename(path))[0],
        datetime=when.isoformat() if when else None,
        assets=assets,
        platform=_sensor(path, list(assets)),
        footprint=_lonlat_ring(header),
    )


def _sensor(path: str, names: Sequence[str]) -> str | None:
    # no other sensor has a band 8A
    if "B8A" in {normalise_sensor_name(name) for name in names}:
        return "sentinel-2"
    return guess_sensor(os.path.basename(path))


def _asset(
    path: str, header: Mapping[str, Any], i: int, name: str, sensor: str | None
) -> Asset:
    scale, offset = header["scales"][i], header["offsets"][i]
    tagged = (scale, offset) != (1.0, 0.0)
    return Asset(
        href=path if "://" not in path else strip_signature(path),
        band_index=i + 1,
        nodata=header["nodata"][i],
        # GDAL's 1 and 0 are what it says of a file that says nothing
        scale=scale if tagged else None,
        offset=offset if tagged else None,
        dtype=header["dtypes"][i],
        crs=header["crs"],
        transform=header["transform"],
        shape=header["shape"],
        name=name,
        common_name=common_name(name, sensor),
    )


def _read_header(path: str, access: Access) -> dict[str, Any]:
    from rasterio.errors import NotGeoreferencedWarning

    try:
        with warnings.catch_warnings():
            # said below as an error, with what to do
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            header = read_with_retries(path, access, _header)
    except ReadError as err:
        raise SourceError(
            f"{err}; geoscale reads GeoTIFF, COG, JPEG 2000 and ENVI files"
        ) from None
    where = redact(path)
    if header["crs"] is None or header["is_identity"]:
        raise StackError(
            f"{where} has no georeferencing (CRS: {header['crs']}); give it some with "
            "gdal_edit.py -a_srs EPSG:… -a_ullr …, or warp it with gdalwarp"
        )
    rows, columns = header["block"]
    if rows * columns > LARGE_STRIP_PX and rows < header["shape"][0]:
        factor = columns / min(512, columns)
        warnings.warn(
            f"{where} is stored in strips of {rows} x {columns} pixels: a block of 512 "
            f"pixels reads {factor:.0f} times what it needs; convert it with "
            "gdal_translate -of COG, or use wide blocks",
            stacklevel=4,
        )
    elif rows * columns > LARGE_STRIP_PX:
        warnings.warn(
            f"{where} is stored as one block of {rows} x {columns} pixels, read whole "
            "for every block; convert it with gdal_translate -of COG",
            stacklevel=4,
        )
    return header


def _header(handle: Handle) -> dict[str, Any]:
    dataset = handle.dataset
    return {
        "count": dataset.count,
        "descriptions": dataset.descriptions,
        "colors": [color.name for color in dataset.colorinterp],
        "crs": normalise_crs(dataset.crs.to_wkt()) if dataset.crs else None,
        "is_identity": dataset.transform.is_identity,
        "transform": tuple(float(v) + 0.0 for v in tuple(dataset.transform)[:6]),
        "shape": tuple(int(v) for v in dataset.shape),
        "dtypes": dataset.dtypes,
        "nodata": [None if v is None else float(v) for v in dataset.nodatavals],
        "scales": [float(v) for v in dataset.scales],
        "offsets": [float(v) for v in dataset.offsets],
        "block": dataset.block_shapes[0],
        "tags": dataset.tags(),
    }


def _own_names(descriptions: Sequence[str | None]) -> list[str] | None:
    plain = [(text or "").strip() for text in descriptions]
    usable = all(BAND_NAME.match(text) for text in plain)
    if usable and len(set(plain)) == len(plain):
        return plain
    return None


def _date(header: Mapping[str, Any], path: str) -> datetime | None:
    match = _DATE.search(os.path.basename(path))
    if match:
        year, month, day, clock = match.groups()
        text = f"{year}-{month}-{day}"
        if clock:
            text += f"T{clock[:2]}:{clock[2:4]}:{clock[4:]}"
        try:
            return parse_datetime(text, path)
        except SourceError:
            pass
    tag = str(header["tags"].get("TIFFTAG_DATETIME") or "")
    try:
        return parse_datetime(tag[:10].replace(":", "-") + tag[10:], path)
    except SourceError:
        return None


def _lonlat_ring(header: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    from affine import Affine
    from pyproj import Transformer

    rows, columns = header["shape"]
    corners = [
        Affine(*header["transform"]) * point
        for point in ((0, 0), (columns, 0), (columns, rows), (0, rows))
    ]
    lonlat = Transformer.from_crs(header["crs"], "EPSG:4326", always_xy=True)
    return tuple(
        (round(x, 9), round(y, 9)) for x, y in (lonlat.transform(*c) for c in corners)
    )

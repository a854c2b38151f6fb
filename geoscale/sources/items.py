"""Items and assets: the one door through which foreign metadata come in.

Everything behind this door is frozen, sorted and free of signatures; nothing
else in geoscale reads a STAC field. Item ids are data, never paths.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC
from datetime import datetime as DateTime
from typing import Any

from geoscale.bands import Band, common_name, guess_sensor
from geoscale.errors import SourceError
from geoscale.sources import fields
from geoscale.sources.antimeridian import find_box_of
from geoscale.sources.fields import Affine6
from geoscale.sources.hrefs import expiry, resolve_href
from geoscale.sources.shape import check_asset, check_item
from geoscale.words import redact, shorten

_RASTER_TYPE = re.compile(
    r"image/(tiff|jp2|vnd\.stac\.geotiff)|geotiff|cloud-opt", re.I
)
_RASTER_NAME = re.compile(r"\.(tiff?|jp2|j2k|img|bsq|dat)$", re.I)
_PICTURES = {"thumbnail", "overview", "visual", "metadata"}
_PREFIX = re.compile(r"^(oli|tirs|sr|st|toa|etm|tm|msi)_(?=b\d)", re.I)

NO_DATE = "1970-01-01T00:00:00"
"""Label of a time step whose imagery carries no date."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """One raster band of one file."""

    href: str
    """Absolute path or URL, unsigned."""
    band_index: int = 1
    """Number of the band in the file, from 1."""
    nodata: float | None = None
    """Value that marks missing pixels, or None if the metadata name none."""
    scale: float | None = None
    """Physical value = stored value * scale + offset; None if not said."""
    offset: float | None = None
    """See `scale`."""
    dtype: str | None = None
    """NumPy name of the stored dtype, or None."""
    crs: str | None = None
    """``EPSG:n`` or WKT, or None."""
    transform: Affine6 | None = None
    """Pixel to CRS: a, b, c, d, e, f; or None."""
    shape: tuple[int, int] | None = None
    """Rows and columns of the file, or None."""
    gsd_m: float | None = None
    """Ground sampling distance, in metres, or None."""
    name: str = ""
    """Band name that the sensor's makers gave, ``B04``; empty if unknown."""
    common_name: str | None = None
    """STAC common name, or None."""
    spectral: bool = True
    """False for pictures made to be looked at (thumbnail, visual)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One scene: bands that were taken together."""

    id: str
    """Name that the provider gave; data, never a path."""
    datetime: str | None
    """When it was taken, ISO 8601 with zone, UTC; None if unknown."""
    assets: Mapping[str, Asset]
    """Band key → raster band."""
    collection: str | None = None
    """Collection id, or None."""
    platform: str | None = None
    """Satellite, or None."""
    footprint: tuple[tuple[float, float], ...] = ()
    """Outer ring as (lon, lat) in degrees; empty if unknown."""
    baseline: str | None = None
    """Processing baseline, ``05.11``, or None."""
    offset_applied: bool | None = None
    """Whether the provider says that the offset is already in the pixels."""
    cloud_cover: float | None = None
    """Percent of it that is cloud, or None; not kept with a source."""
    is_numbered: bool = False
    """Whether its file names no band, so that ``B4`` is the fourth, whatever it shows;
    not kept with a source."""

    @property
    def sensor(self) -> str | None:
        """Key of `geoscale.bands.SENSORS`, or None where it cannot be told."""
        return guess_sensor(self.platform, self.collection, self.id)

    @property
    def when(self) -> DateTime:
        """Time in UTC; 1970-01-01 where it is unknown."""
        text = self.datetime or NO_DATE
        return fields.parse_datetime(text, f"item {self.id}")

    def offered(self) -> list[Band]:
        """Bands that can be asked for; pictures come last, by key alone."""
        real = [(k, a) for k, a in self.assets.items() if a.spectral]
        pictures = [(k, a) for k, a in self.assets.items() if not a.spectral]
        return [Band(k, a.common_name, a.name or None) for k, a in real] + [
            Band(k) for k, _ in pictures
        ]

    def to_json(self, keys: Iterable[str] | None = None) -> dict[str, Any]:
        """Write as JSON, all assets or only some; fields at default are left out."""
        chosen = self.assets if keys is None else {k: self.assets[k] for k in keys}
        plain = _without_defaults(self)
        plain["assets"] = {k: _without_defaults(a) for k, a in chosen.items()}
        return plain

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Item:
        """Read what `to_json` wrote."""
        plain = dict(value)
        plain["assets"] = {k: _asset(a) for k, a in plain["assets"].items()}
        plain["footprint"] = tuple((x, y) for x, y in plain.get("footprint", ()))
        return cls(**plain)


def _without_defaults(value: Item | Asset) -> dict[str, Any]:
    found = {}
    for name, default in _FIELDS[type(value)]:
        got = getattr(value, name)
        if got != default:
            # nodata may be NaN, which JSON has no number for
            found[name] = str(got) if got != got else got  # noqa: PLR0124
    return found


_NOT_KEPT = ("assets", "cloud_cover", "is_numbered")
# asked for a million times
_FIELDS: dict[type[Any], list[tuple[str, Any]]] = {
    kind: [
        (f.name, f.default) for f in dataclasses.fields(kind) if f.name not in _NOT_KEPT
    ]
    for kind in (Item, Asset)
}


def _asset(plain: Mapping[str, Any]) -> Asset:
    fixed = dict(plain)
    for name in ("transform", "shape"):
        if fixed.get(name) is not None:
            fixed[name] = tuple(fixed[name])
    fixed["nodata"] = fields.read_nodata(fixed.get("nodata"), "asset")
    return Asset(**fixed)


def normalise_item(raw: Mapping[str, Any], base_href: str = "") -> Item:
    """Turn one STAC item of any version into an `Item`.

    Parameters
    ----------
    raw : mapping
        The item as parsed JSON.
    base_href : str
        Path or URL of the file that held it; relative hrefs start there.

    Returns
    -------
    Item
        With one `Asset` for each raster band.

    Raises
    ------
    SourceError
        If it is no item, contradicts itself, or holds a signed URL that expired.
    """
    if not isinstance(raw, Mapping) or not isinstance(raw.get("assets"), Mapping):
        raise SourceError(
            f"{redact(base_href) or 'input'} is not a STAC item: it has no `assets`"
        )
    ident = str(raw.get("id") or "")
    if not ident:
        raise SourceError(f"an item of {redact(base_href) or 'the input'} has no `id`")
    where = f"item {shorten(ident)}"
    check_item(raw, where)
    properties = raw.get("properties") or {}
    when = fields.read_datetime(properties, where)
    sensor = guess_sensor(
        properties.get("platform"), properties.get("constellation"),
        raw.get("collection"), ident,
    )  # fmt: skip
    assets: dict[str, Asset] = {}
    rasters = [
        (str(key), asset)
        for key, asset in raw["assets"].items()
        if isinstance(asset, Mapping) and _is_raster(asset)
    ]
    crs = fields.read_crs(properties, where) if rasters else None
    for key, asset in rasters:
        found = _read_asset(key, asset, raw, base_href, crs)
        _add_named(assets, key, found, sensor)
    return Item(
        id=ident,
        datetime=when.isoformat() if when else None,
        assets=assets,
        collection=raw.get("collection"),
        platform=properties.get("platform") or properties.get("constellation"),
        footprint=_footprint(raw),
        baseline=_baseline(properties),
        offset_applied=properties.get("earthsearch:boa_offset_applied"),
        cloud_cover=_number(properties.get("eo:cloud_cover")),
    )


def _is_raster(asset: Mapping[str, Any]) -> bool:
    kind = str(asset.get("type") or "")
    if kind:
        return bool(_RASTER_TYPE.search(kind))
    path = str(asset.get("href") or "").partition("?")[0]
    return bool(_RASTER_NAME.search(path)) or bool(asset.get("eo:bands"))


def _read_asset(
    key: str,
    asset: Mapping[str, Any],
    raw: Mapping[str, Any],
    base: str,
    of_item: str | None,
) -> list[Asset]:
    properties = raw.get("properties") or {}
    where = f"item {raw['id']}, asset `{shorten(key)}`"
    check_asset(asset, where)
    href = str(asset.get("href") or "")
    until = expiry(href)
    if until is not None and until < DateTime.now(UTC):
        raise SourceError(
            f"item {raw['id']} carries a signed URL that expired "
            f"{until:%Y-%m-%dT%H:%MZ}; save items with unsigned hrefs, or set "
            "imagery.signer (`planetary-computer`) and search again"
        )
    # The CRS of an asset stands for itself: where it says one, so must its grid.
    of_asset = fields.read_crs(asset, where)
    at_asset = of_asset is not None and of_asset != of_item
    grid = {
        name: asset.get(name, None if at_asset else properties.get(name))
        for name in ("proj:transform", "proj:shape")
    }
    if asset.get("proj:shape") is not None and asset.get("proj:transform") is None:
        grid["proj:transform"] = None
    if asset.get("proj:transform") is not None and asset.get("proj:shape") is None:
        grid["proj:shape"] = None
    roles = set(asset.get("roles") or ())
    found = []
    for number, band in enumerate(fields.read_bands(asset, properties), start=1):
        found.append(
            Asset(
                href=resolve_href(href, base),
                band_index=number,
                nodata=fields.read_nodata(band.get("nodata"), where),
                scale=_number(band.get("scale")),
                offset=_number(band.get("offset")),
                dtype=fields.read_dtype(band.get("data_type")),
                crs=of_asset or of_item,
                transform=fields.read_transform(grid["proj:transform"], where),
                shape=fields.read_shape(grid["proj:shape"], where),
                gsd_m=_number(asset.get("gsd") or band.get("spatial_resolution")),
                name=str(band.get("name") or ""),
                common_name=band.get("common_name"),
                spectral=not roles & _PICTURES and key not in _PICTURES,
            )
        )
    return found


def _add_named(
    assets: dict[str, Asset], key: str, found: list[Asset], sensor: str | None
) -> None:
    """Key a file of one band by its asset, bands of a larger file by name."""
    names = [a.name for a in found]
    for asset in found:
        plain, named = _PREFIX.sub("", asset.name), asset
        # `rededge` alone says too little: Sentinel-2 has three of them
        common = (
            common_name(asset.common_name or "")
            or common_name(plain or key, sensor)
            or asset.common_name
        )
        if (plain, common) != (asset.name, asset.common_name):
            named = dataclasses.replace(asset, name=plain, common_name=common)
        if len(found) == 1:
            assets[key] = named
        elif asset.spectral and asset.name and names.count(asset.name) == 1 and (
            asset.name not in assets
        ):  # fmt: skip
            assets[asset.name] = named
        else:
            assets[f"{key}.{asset.band_index}"] = named


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


def _baseline(properties: Mapping[str, Any]) -> str | None:
    for name in ("s2:processing_baseline", "processing:version", "processing:baseline"):
        text = str(properties.get(name) or "")
        if re.fullmatch(r"\d\d\.\d\d", text):
            return text
    return None


def _footprint(raw: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    geometry = raw.get("geometry") or {}
    rings = geometry.get("coordinates") or []
    if geometry.get("type") == "Polygon" and rings:
        return tuple((float(p[0]), float(p[1])) for p in rings[0])
    box = raw.get("bbox") or []
    half = len(box) // 2
    corners = [box[i] for i in (0, 1, half, half + 1)] if len(box) in (4, 6) else []
    if geometry.get("type") == "MultiPolygon" and rings:
        # Of several parts only the box is kept: it may be too large, never too small.
        # Theirs may go round the globe where the parts lie beside the antimeridian.
        corners = list(find_box_of([part[0] for part in rings]))
    if not corners:
        return ()
    west, south, east, north = (float(v) for v in corners)
    east += 360 * (west > east)
    return ((west, south), (east, south), (east, north), (west, north))


def sort_items(items: Iterable[Item]) -> list[Item]:
    """Sort by (time, id) and keep one item per id, whatever a search's order.

    Raises
    ------
    SourceError
        If two items share an id and differ.
    """
    found: dict[tuple[str | None, str], Item] = {}
    for item in items:
        key = (item.collection, item.id)
        if key in found and found[key] != item:
            raise SourceError(
                f"item {item.id} appears twice with different metadata; "
                "keep one of the two"
            )
        found[key] = item
    return sorted(found.values(), key=lambda item: (item.when, item.id))

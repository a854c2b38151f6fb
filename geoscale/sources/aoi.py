"""The area of interest: read, checked, and asked about by window."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.antimeridian import (
    is_geographic,
    keep_polygons,
    repeat,
    to_lonlat,
    wrap,
)
from geoscale.sources.fields import normalise_crs
from geoscale.sources.inside import find_inside
from geoscale.sources.settings import Grid
from geoscale.sources.utm import Zone
from geoscale.types import Bool, Ints, Json
from geoscale.windows import Window
from geoscale.words import redact, shorten

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

LARGEST_BYTES = 2**28
"""Size of an area beyond which it is something else."""

_EPSG = re.compile(r"EPSG:{1,2}(\d+)$")
_ZONE = "geoscale:zone"
_STEP_DEG = 0.05
"""Of a parallel this long, the middle leaves the chord by less than a metre."""
_ENVELOPE = {0: 0, 1: 32, 2: 48, 3: 48, 4: 64}


class Area:
    """A polygon on a grid, asked about by window.

    Parameters
    ----------
    polygon : shapely geometry
        Polygon or multipolygon in the grid's CRS.
    geobox : GeoBox
        The grid.
    zone : Zone, optional
        UTM zone outside of which nothing belongs to the area.
    """

    def __init__(self, polygon: Any, geobox: GeoBox, zone: Zone | None = None) -> None:
        import shapely
        from shapely import affinity

        self.polygon = polygon
        self.zone = zone
        self._geobox = geobox
        a, b, c, d, e, f = tuple(~geobox.affine)[:6]
        self._pixels = affinity.affine_transform(polygon, [a, b, d, e, c, f])
        shapely.prepare(self._pixels)

    @classmethod
    def from_json(cls, value: Json, geobox: GeoBox) -> Area:
        """Rebuild an area on the same grid from what `to_json` gave."""
        import shapely.geometry

        zone = Zone.parse(value.get(_ZONE, ""))
        return cls(shapely.geometry.shape(value), geobox, zone)

    def to_json(self) -> Json:
        """Give a GeoJSON geometry in the grid's CRS; a zone is a member of its own."""
        import shapely.geometry

        # lists instead of tuples, as JSON will give them
        found: Json = json.loads(json.dumps(shapely.geometry.mapping(self.polygon)))
        return found if self.zone is None else {**found, _ZONE: self.zone.name}

    def touches(self, ys: Ints, xs: Ints) -> Bool:
        """Tell which cells of a lattice hold any part of the area.

        Parameters
        ----------
        ys, xs : ndarray of int
            Edges of the cells, ascending, in px.

        Returns
        -------
        ndarray of bool
            (len(ys) - 1, len(xs) - 1).
        """
        import shapely

        found = np.zeros((len(ys) - 1, len(xs) - 1), bool)
        # row by row: boxes of a million cells at once would take hundreds of MB
        for row, (y0, y1) in enumerate(pairwise(ys.tolist())):
            boxes = shapely.box(xs[:-1], y0, xs[1:], y1)
            found[row] = shapely.intersects(self._pixels, boxes)
        return found

    def mask(self, window: Window) -> Bool:
        """Give bool (y, x): True where a pixel's centre lies in the area."""
        inside = find_inside(self._pixels, window)
        if self.zone is not None:
            inside &= self.zone.mask(self._geobox, window)
        return inside

    def beyond(self, window: Window, reach: int) -> Bool:
        """Tell which pixels lie a little beyond the border of the zone.

        Parameters
        ----------
        window : Window
            Part of the grid.
        reach : int
            How far from a pixel of the area, along rows and columns, in px.

        Returns
        -------
        ndarray of bool
            (y, x); none where there is no zone.
        """
        if self.zone is None:
            return np.zeros(window.shape, bool)
        near: Any = self.mask(window.grow(reach))
        for axis in (0, 1):
            wide = 2 * reach + 1
            near = np.lib.stride_tricks.sliding_window_view(near, wide, axis).any(-1)
        found: Bool = near & ~self.zone.mask(self._geobox, window)
        return found


def zone_of(aoi: Json | None) -> Zone | None:
    """Give the UTM zone of what `Area.to_json` gave; None where it has none."""
    return Zone.parse((aoi or {}).get(_ZONE, ""))


def find_aoi(grid: Grid, geobox: GeoBox) -> Area | None:
    """Give the area of interest on a grid; None where none is asked for.

    Parameters
    ----------
    grid : Grid
        Settings; `aoi` is read again.
    geobox : GeoBox
        The grid.

    Raises
    ------
    SourceError
        If the area cannot be read or is no polygon.
    """
    if grid.aoi is None:
        return None
    polygon, crs = load_aoi(grid)
    target = normalise_crs(str(geobox.crs)) or str(geobox.crs)
    found = project(polygon, crs, target)
    box = geobox.boundingbox
    if is_geographic(target) and (box.left < -180 or box.right > 180):
        found = repeat(found)  # the grid goes on where the area is cut
    return Area(found, geobox)


def load_aoi(grid: Grid) -> tuple[Any, str]:
    """Read the area of interest.

    Returns
    -------
    tuple
        Polygon or multipolygon (shapely), and its CRS.

    Raises
    ------
    SourceError
        If it cannot be read, is no polygon, crosses itself, or lies off the globe.
    """
    import shapely

    where = redact(grid.aoi) if isinstance(grid.aoi, str) else "grid.aoi"
    shapes, crs = _read_shapes(grid.aoi, where)
    crs = normalise_crs(grid.aoi_crs) if grid.aoi_crs else crs
    if crs is None:
        said = shorten(grid.aoi_crs or "")
        raise SourceError(f"{where}: CRS `{said}` is not known; use EPSG:…")
    areas = [s for s in shapes if s.geom_type in ("Polygon", "MultiPolygon")]
    if not areas:
        kinds = sorted({s.geom_type for s in shapes}) or ["nothing"]
        raise SourceError(f"{where} holds {', '.join(kinds)}; it must hold polygons")
    for number, area in enumerate(areas):
        if not area.is_valid and not grid.fix_geometry:
            raise SourceError(
                f"{where}: polygon {number} is not valid: "
                f"{shapely.is_valid_reason(area)}; correct it, or set "
                "grid.fix_geometry: true"
            )
    whole = shapely.union_all([shapely.make_valid(area) for area in areas])
    return (_on_globe(whole, areas, where) if crs == "EPSG:4326" else whole), crs


def _on_globe(whole: Any, areas: list[Any], where: str) -> Any:
    """Bring an area in degrees into ±180, cut at the antimeridian."""
    import shapely

    west, south, east, north = whole.bounds
    if max(abs(west), abs(east)) > 360 or max(abs(south), abs(north)) > 90:
        raise SourceError(
            f"{where}: coordinates such as ({west:g}, {south:g}) exceed ±180/±90; "
            "GeoJSON must be in degrees (EPSG:4326); pass aoi_crs: EPSG:…"
        )
    points, ring = shapely.get_coordinates(shapely.get_rings(areas), return_index=True)
    steps = np.abs(np.diff(points[:, 0]))[np.diff(ring) == 0]
    if ((steps > 180) & (steps < 360)).any() or east - west > 360:
        raise SourceError(
            f"{where}: an edge between {west:g} and {east:g} degrees of longitude goes "
            "more than half round the globe, so it may be meant to cross the "
            "antimeridian: cut the polygon there (RFC 7946), write longitudes beyond "
            "180, or set a point halfway"
        )
    return wrap(whole)


def project(polygon: Any, crs: str, target: str) -> Any:
    """Project a shapely geometry, with points added along straight edges.

    Raises
    ------
    SourceError
        If part of it cannot be shown in the target CRS.
    """
    import numpy as np
    import shapely
    from pyproj import Transformer

    if normalise_crs(crs) == normalise_crs(target):
        return polygon
    fine = _densify(polygon, geographic=is_geographic(crs))
    to_target = Transformer.from_crs(crs, target, always_xy=True)

    def _move(points: Any) -> Any:
        x, y = to_target.transform(points[:, 0], points[:, 1])
        return np.stack([x, y], axis=1)

    moved = shapely.transform(fine, _move)
    if not np.isfinite(moved.bounds).all():
        raise SourceError(f"the area lies outside what {target[:40]} can show")
    # round a pole the two sides of the antimeridian become one line
    return moved if moved.is_valid else keep_polygons(shapely.make_valid(moved))


def to_degrees(polygon: Any, crs: str) -> Any:
    """Give an area in degrees, cut at the antimeridian, filled up to a pole inside.

    Raises
    ------
    SourceError
        If part of it lies off the globe.
    """
    import shapely

    if crs == "EPSG:4326":
        return polygon
    parts = []
    for part in shapely.get_parts(_densify(polygon, geographic=False)):
        rings = [
            to_lonlat(ring.coords, crs) for ring in (part.exterior, *part.interiors)
        ]
        if any(ring.is_empty for ring in rings):
            raise SourceError(f"the area lies outside what {crs[:40]} can show")
        parts.append(keep_polygons(rings[0].difference(shapely.union_all(rings[1:]))))
    return keep_polygons(shapely.union_all(parts))


def _densify(polygon: Any, *, geographic: bool) -> Any:
    """Add points along edges: 100 along each part, and one for every 0.05 degrees."""
    import shapely

    parts = []
    for part in shapely.get_parts(polygon):
        west, south, east, north = part.bounds
        step = max(east - west, north - south) / 100
        step = min(step, _STEP_DEG) if geographic else step
        parts.append(shapely.segmentize(part, step) if step > 0 else part)
    return parts[0] if len(parts) == 1 else shapely.MultiPolygon(parts)


def _read_shapes(source: Any, where: str) -> tuple[list[Any], str | None]:
    if isinstance(source, Mapping):
        return _from_geojson(source, where)
    path = os.path.expanduser(str(source))
    try:
        with open(path, "rb") as file:
            head = file.read(LARGEST_BYTES + 1)
    except (OSError, ValueError) as err:
        raise SourceError(f"cannot read {where}: {err}") from None
    if head.startswith(b"SQLite format 3"):
        return _from_geopackage(path, where)
    if len(head) > LARGEST_BYTES:
        raise SourceError(
            f"{where} is larger than {LARGEST_BYTES >> 20} MB; simplify its polygons"
        )
    try:
        found = json.loads(head)
    except (RecursionError, ValueError):
        raise SourceError(f"{where} is neither GeoJSON nor GeoPackage") from None
    return _from_geojson(found, where)


def _from_geojson(value: Any, where: str) -> tuple[list[Any], str | None]:
    import shapely

    if not isinstance(value, Mapping) or "type" not in value:
        raise SourceError(f"{where} is no GeoJSON object")
    try:
        geometries = [
            feature.get("geometry") or {} for feature in value.get("features") or ()
        ] or [value.get("geometry") or value]
        named = ((value.get("crs") or {}).get("properties") or {}).get("name") or ""
    except (AttributeError, TypeError):
        raise SourceError(
            f"{where} is no valid GeoJSON: a feature, its geometry or its crs is not "
            "an object"
        ) from None
    try:
        shapes = [shapely.from_geojson(json.dumps(g)) for g in geometries if g]
    except (RecursionError, ValueError, shapely.errors.GEOSException) as err:
        said = shorten(str(err), 200)
        raise SourceError(f"{where} is no valid GeoJSON: {said}") from None
    parts = [part for s in shapes for part in getattr(s, "geoms", [s])]
    match = _EPSG.search(str(named))  # written by older GIS programs
    return parts, f"EPSG:{match[1]}" if match else "EPSG:4326"


def _from_geopackage(path: str, where: str) -> tuple[list[Any], str | None]:
    import contextlib

    import shapely

    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as base:
        rows = base.execute(
            "SELECT table_name, column_name, srs_id FROM gpkg_geometry_columns"
        ).fetchall()
        if len(rows) != 1:
            names = ", ".join(row[0] for row in rows) or "none"
            raise SourceError(
                f"{where} has {len(rows)} layers ({names}); save the one as GeoJSON"
            )
        table, column, srs = rows[0]
        quoted = [name.replace('"', '""') for name in (column, table)]
        # names cannot be bound; quoted, they cannot end the statement
        query = 'SELECT "{}" FROM "{}"'.format(*quoted)  # noqa: S608
        blobs = [row[0] for row in base.execute(query) if row[0]]
        organisation = base.execute(
            "SELECT organization, organization_coordsys_id, definition "
            "FROM gpkg_spatial_ref_sys WHERE srs_id = ?",
            (srs,),
        ).fetchone()
    # a GeoPackage geometry is WKB behind 8 bytes and an optional envelope
    shapes = [
        shapely.from_wkb(blob[8 + _ENVELOPE.get((blob[3] >> 1) & 7, 0) :])
        for blob in blobs
    ]
    name, code, definition = organisation or ("EPSG", srs, "")
    crs = normalise_crs(f"{name}:{code}") or normalise_crs(definition or "")
    return [part for s in shapes for part in getattr(s, "geoms", [s])], crs

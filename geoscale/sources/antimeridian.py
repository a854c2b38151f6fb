"""Longitudes go round: boxes, rings and areas that cross the antimeridian.

A place has one longitude in -180 to 180 here. What crosses the line is cut there, and
what goes round a pole is closed at the pole, before anything is projected.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
_JUMP = 180.0
"""Longitudes of neighbouring points that differ by more have crossed the line."""
_WORLD = (-180.0, -90.0, 180.0, 90.0)


def split_box(box: Box) -> list[Box]:
    """Cut a box in degrees at the antimeridian.

    Parameters
    ----------
    box : tuple of float
        West, south, east, north; west > east where it crosses the line.

    Returns
    -------
    list of tuple
        One box, or two.

    Examples
    --------
    >>> split_box((179, 50, -179, 52))
    [(179, 50, 180.0, 52), (-180.0, 50, -179, 52)]
    """
    west, south, east, north = box
    if west <= east:
        return [box]
    return [(west, south, 180.0, north), (-180.0, south, east, north)]


def find_box(area: Any) -> Box:
    """Give the smallest box that holds an area, across the line if that is shorter.

    Parameters
    ----------
    area : shapely geometry
        In degrees, -180 to 180.

    Returns
    -------
    tuple of float
        West, south, east, north; west > east where it crosses the line.
    """
    import shapely

    return _join(shapely.bounds(shapely.get_parts(area)))


def find_box_of(rings: Sequence[Sequence[Sequence[float]]]) -> Box:
    """Give the smallest box that holds several rings, as `find_box` does."""
    points = [np.array([point[:2] for point in ring], float) for ring in rings]
    return _join(np.array([(*p.min(axis=0), *p.max(axis=0)) for p in points]))


def _join(bounds: NDArray[np.float64]) -> Box:
    south, north = float(bounds[:, 1].min()), float(bounds[:, 3].max())
    order = np.argsort(bounds[:, 0])
    wests, easts = bounds[order, 0], np.maximum.accumulate(bounds[order, 2])
    # the widest stretch of longitudes without any part of it is left out
    gaps = np.append(wests[1:] - easts[:-1], wests[0] + 360 - easts[-1])
    last = len(gaps) - 1
    widest = int(np.argmax(gaps))
    if gaps[widest] <= gaps[last] or gaps[widest] <= 0:
        widest = last
    west, east = wests[(widest + 1) % len(wests)], easts[widest]
    return float(west), south, float(east), north


def crosses(box: Box) -> bool:
    """Whether a box in degrees crosses the antimeridian."""
    return box[0] > box[2]


def jumps(ring: NDArray[np.float64]) -> bool:
    """Whether neighbouring points of a ring, (lon, lat), lie half a turn apart."""
    return bool((np.abs(np.diff(ring[:, 0])) > _JUMP).any())


def wrap(area: Any) -> Any:
    """Bring an area into -180 to 180, cut at the antimeridian.

    Parameters
    ----------
    area : shapely geometry
        In degrees, of longitudes -540 to 540, without jumps.

    Returns
    -------
    shapely geometry
        Polygon or multipolygon.
    """
    import shapely
    from shapely import affinity

    west, _, east, _ = area.bounds
    if west >= -180 and east <= 180:
        return area
    parts = []
    for turn in (-360.0, 0.0, 360.0):
        world = shapely.box(_WORLD[0] + turn, -90, _WORLD[2] + turn, 90)
        part = keep_polygons(shapely.intersection(area, world))
        parts.append(affinity.translate(part, xoff=-turn))
    return keep_polygons(shapely.union_all(parts))


def repeat(area: Any) -> Any:
    """Give an area in degrees also with a turn more and a turn less, joined."""
    import shapely
    from shapely import affinity

    turns = [affinity.translate(area, xoff=turn) for turn in (-360.0, 0.0, 360.0)]
    return keep_polygons(shapely.union_all(turns))


def keep_polygons(area: Any) -> Any:
    """Leave out points and lines, which cutting and mending may leave behind."""
    import shapely

    if area.geom_type in ("Polygon", "MultiPolygon"):
        return area
    parts = shapely.get_parts(shapely.get_parts(area))
    return shapely.MultiPolygon([p for p in parts if p.geom_type == "Polygon"])


def to_lonlat(ring: Sequence[Sequence[float]] | NDArray[np.float64], crs: str) -> Any:
    """Give what a ring surrounds as an area in degrees.

    Parameters
    ----------
    ring : array of float, (point, 2)
        x and y, close enough together to be joined by straight lines in degrees.
    crs : str
        Of the ring.

    Returns
    -------
    shapely geometry
        In -180 to 180, cut at the antimeridian; a ring round a pole is filled up to
        the pole. Empty where part of it is nowhere on the globe.
    """
    import shapely

    points = np.asarray(ring, float)
    if crs != "EPSG:4326":
        points = np.stack(_to_degrees(crs)(*points.T), axis=1)
    if not np.isfinite(points).all():
        return shapely.Polygon()
    points = np.concatenate([points, points[:1]])
    if crs == "EPSG:4326" and not jumps(points):
        return wrap(_valid(shapely.Polygon(points)))
    lon = np.unwrap(points[:, 0], period=360)
    lat = points[:, 1]
    if abs(lon[-1] - lon[0]) > _JUMP:
        pole = 90.0 if lat.mean() > 0 else -90.0
        lon = np.concatenate([lon, [lon[-1], lon[0]]])
        lat = np.concatenate([lat, [pole, pole]])
    lon -= 360 * np.floor((lon.min() + 180) / 360)
    return wrap(_valid(shapely.Polygon(np.stack([lon, lat], axis=1))))


@functools.lru_cache(maxsize=128)
def _to_degrees(crs: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform


def _valid(area: Any) -> Any:
    import shapely

    return area if area.is_valid else keep_polygons(shapely.make_valid(area))


@functools.lru_cache(maxsize=64)
def is_cut(crs: str) -> bool:
    """Whether a CRS has its left and right edge at the antimeridian.

    Parameters
    ----------
    crs : str
        ``EPSG:n`` or WKT.

    Examples
    --------
    >>> is_cut("EPSG:4326"), is_cut("EPSG:3857")
    (True, True)
    >>> is_cut("EPSG:32601"), is_cut("EPSG:3413"), is_cut("EPSG:3832")
    (False, False, False)
    """
    from pyproj import Transformer

    project = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    lat = np.array([-60.0, 0.0, 60.0])
    west, east, near = (
        np.stack(project(np.full(3, lon), lat))
        for lon in (-180 + 1e-6, 180 - 1e-6, 179.0)
    )
    with np.errstate(invalid="ignore"):
        apart = np.hypot(*(west - east)) > np.hypot(*(near - east))
    return bool(apart[np.isfinite(west + east + near).all(axis=0)].any())


@functools.lru_cache(maxsize=64)
def find_limits(crs: str) -> Box:
    """Give the edges of the globe in a CRS that is cut at the antimeridian.

    Parameters
    ----------
    crs : str
        ``EPSG:n`` or WKT.

    Returns
    -------
    tuple of float
        Left, bottom, right, top; infinite where there are none.

    Examples
    --------
    >>> find_limits("EPSG:4326")
    (-180.0, -90.0, 180.0, 90.0)
    >>> [round(v) for v in find_limits("EPSG:6933")]
    [-17367530, -7342230, 17367530, 7342230]
    """
    from pyproj import Transformer

    if not is_cut(crs):
        return (-np.inf, -np.inf, np.inf, np.inf)
    project = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform
    left, right = (float(project(lon, 0.0)[0]) for lon in (-180.0, 180.0))
    bottom, top = (float(project(0.0, lat)[1]) for lat in (-90.0, 90.0))
    return left, bottom, right, top


@functools.lru_cache(maxsize=64)
def is_geographic(crs: str) -> bool:
    """Whether coordinates are longitudes and latitudes."""
    from pyproj import CRS

    return bool(CRS.from_user_input(crs).is_geographic)

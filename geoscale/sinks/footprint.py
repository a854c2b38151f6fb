"""Where a grid lies on the globe: its outline in longitude and latitude."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Json

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_POINTS = 32


def footprint(geobox: GeoBox) -> tuple[Json, list[float]]:
    """Project the outline of a grid to WGS 84.

    Parameters
    ----------
    geobox : GeoBox
        The grid.

    Returns
    -------
    tuple of dict, list of float
        GeoJSON geometry, and bbox (west, south, east, north) in degrees. Across
        the antimeridian the geometry is cut in two and west > east, as RFC 7946
        wants; round a pole it is the whole cap.

    Raises
    ------
    ValueError
        If the outline has no place on the globe.
    """
    from shapely.geometry import Polygon, box, mapping

    lon, lat = _outline(geobox)
    if abs(lon[-1] - lon[0]) > 180:
        # The ring goes once round the globe: a pole lies inside.
        south, north = (lat.min(), 90.0) if lat.mean() > 0 else (-90.0, lat.max())
        bbox = [-180.0, float(south), 180.0, float(north)]
        return dict(mapping(box(*bbox))), bbox
    lon = lon - 360 * np.floor((lon.min() + 180) / 360)
    south, north = float(lat.min()), float(lat.max())
    if np.ptp(lon) >= 360 - 1e-9:
        bbox = [-180.0, south, 180.0, north]
        return dict(mapping(box(*bbox))), bbox
    shape = Polygon(np.column_stack([lon, lat]))
    bbox = [float(lon.min()), south, float(lon.max()), north]
    if bbox[2] > 180 + 1e-9:
        shape = _split(shape)
        bbox[2] -= 360
    return _plain(dict(mapping(shape))), bbox


def _outline(geobox: GeoBox) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    import pyproj

    rows, columns = geobox.shape
    steps = np.linspace(0, 1, _POINTS, endpoint=False)
    # Counterclockwise on a north-up map, as GeoJSON wants: down the left side.
    column = np.concatenate([0 * steps, steps, 0 * steps + 1, 1 - steps, [0]]) * columns
    row = np.concatenate([steps, 0 * steps + 1, 1 - steps, 0 * steps, [0]]) * rows
    a, b, c, d, e, f = tuple(geobox.transform)[:6]
    project = pyproj.Transformer.from_crs(geobox.crs.proj, 4326, always_xy=True)
    lon, lat = project.transform(
        a * column + b * row + c, d * column + e * row + f, errcheck=False
    )
    if not (np.isfinite(lon).all() and np.isfinite(lat).all()):
        raise ValueError(
            f"grid {geobox.boundingbox} in {geobox.crs} leaves the globe; "
            "check `grid.crs` and its bounds"
        )
    return np.unwrap(np.asarray(lon, float), period=360), np.asarray(lat, float)


def _split(shape: object) -> object:
    from shapely.affinity import translate
    from shapely.geometry import MultiPolygon, box

    west = box(-180, -90, 180, 90).intersection(shape)
    east = translate(box(180, -90, 540, 90).intersection(shape), xoff=-360)
    parts = [p for half in (west, east) for p in getattr(half, "geoms", [half])]
    return MultiPolygon([p for p in parts if p.area > 0])


def _plain(value: object) -> Json:
    import json

    # tuples of NumPy floats become lists of plain ones
    found: Json = json.loads(json.dumps(value, default=float))
    return found

"""Outlines of pixels: traced block by block, joined over borders, exactly.

Corners of pixels are whole numbers, so nothing is rounded before the end: what was
cut and joined is what was never cut.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Ints
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Objects = NDArray[np.object_]

_one_at_a_time = threading.Lock()


def trace(labels: NDArray[np.int32], window: Window) -> tuple[Ints, Objects]:
    """Trace the outlines of labelled pixels.

    Parameters
    ----------
    labels : ndarray of int32, (y, x)
        Numbers of objects; 0 is none.
    window : Window
        Where they lie on the grid.

    Returns
    -------
    tuple of ndarray
        Number of the object, int64 (n,), and a part of it, WKB (n,), in columns (x) and
        rows (y) of the grid. Parts share no edge.
    """
    import rasterio.features
    import shapely
    from affine import Affine

    if not labels.any():
        return np.zeros(0, np.int64), np.zeros(0, object)
    # 4: parts that touch at corners only stay apart, so that each is valid
    found = rasterio.features.shapes(
        labels,
        mask=labels > 0,
        connectivity=4,
        transform=Affine.translation(window.x0, window.y0),
    )
    # rasterio changes and restores the filters of warnings, which threads share; it
    # holds the interpreter meanwhile, so that nothing is lost
    with _one_at_a_time:
        found = list(found)
    shapes = np.array([shapely.geometry.shape(shape) for shape, _ in found], object)
    numbers = np.array([number for _, number in found], np.int64)
    return numbers, shapely.to_wkb(shapes)


def join(numbers: Ints, parts: Objects, count: int) -> Objects:
    """Join the parts of each object.

    Parameters
    ----------
    numbers : ndarray of int, (n,)
        Which object a part belongs to, 0 to `count` - 1; each has a part.
    parts : ndarray of object, (n,)
        As `trace` gives.
    count : int
        How many objects there are.

    Returns
    -------
    ndarray of object, (count,)
        Geometries that do not depend on how objects were cut.
    """
    import shapely

    order = np.argsort(numbers, kind="stable")
    shapes = shapely.from_wkb(parts[order])
    edges = np.searchsorted(numbers[order], np.arange(count + 1))
    joined = np.empty(count, object)
    single = np.diff(edges) == 1
    joined[single] = shapes[edges[:-1][single]]
    for i in np.flatnonzero(~single).tolist():
        joined[i] = shapely.union_all(shapes[edges[i] : edges[i + 1]])
    # rings that touch themselves at a corner
    bad = ~shapely.is_valid(joined)
    joined[bad] = shapely.union_all(joined[bad][:, None], axis=1)
    # from a corner on, so that no ring begins in the middle of an edge
    straight = shapely.simplify(shapely.normalize(joined), 0, preserve_topology=False)
    # once more: the order of rings looked at corners that are gone
    found: Objects = np.asarray(shapely.normalize(straight), object)
    return found


def place(shapes: Objects, geobox: GeoBox, simplify: float) -> Objects:
    """Bring outlines from rows and columns to the map's CRS.

    Parameters
    ----------
    shapes : ndarray of object, (n,)
        As `join` gives.
    geobox : GeoBox
        Grid of the map, not rotated.
    simplify : float
        How far an outline may move, in px (Douglas-Peucker, each outline for itself).

    Returns
    -------
    ndarray of object, (n,)
        Outer rings run counterclockwise.
    """
    import shapely

    if simplify:
        shapes = shapely.simplify(shapes, simplify, preserve_topology=True)
    a, _, c, _, e, f = (float(v) for v in tuple(geobox.affine)[:6])

    placed = shapely.transform(shapes, lambda points: points * (a, e) + (c, f))
    # outer rings of normal geometries run clockwise
    placed = shapely.reverse(shapely.normalize(placed))
    found: Objects = np.asarray(placed, object)
    return found

"""Where on the grid each item lies: one pixel box an outline, compared at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.sources.items import Item

if TYPE_CHECKING:
    from geoscale.sources.targets import Target

_EDGE_POINTS = 21
AT_ONCE = 10_000
"""Outlines that are projected at once: the points of more would need much memory."""
Outline = tuple[Any, ...]
"""Where the files of an item lie; see `find_outline`."""
MARGIN_PX = 3.0
"""Grown on every side, in output pixels: kernels and rounding."""


def find_outline(item: Item) -> Outline:
    """Tell where the files of an item lie.

    Parameters
    ----------
    item : Item
        With the bands that are read.

    Returns
    -------
    tuple
        Equal for items whose files have the same grids: CRS, transform and shape of
        each; else the ring of the footprint, in degrees; empty if nothing is known.
    """
    found: dict[Any, None] = {}
    for asset in item.assets.values():
        if asset.crs is None or asset.transform is None or asset.shape is None:
            return ("EPSG:4326", item.footprint) if len(item.footprint) > 2 else ()
        found[asset.crs, asset.transform, asset.shape] = None
    return tuple(found)


def project_outlines(
    outlines: Sequence[Outline], target: Target
) -> NDArray[np.float64]:
    """Project outlines to the output grid.

    Parameters
    ----------
    outlines : sequence of tuple
        From `find_outline`.
    target : Target
        Output grid.

    Returns
    -------
    ndarray
        float64 (outline, 4) as y0, x0, y1, x1 in output pixels; infinite where a
        place is not known, so that it counts as anywhere.
    """
    parts = [
        _project_some(outlines[start : start + AT_ONCE], target)
        for start in range(0, len(outlines), AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, 4))


def _project_some(outlines: Sequence[Outline], target: Target) -> NDArray[np.float64]:
    by_crs: dict[str, list[tuple[int, NDArray[np.float64], float]]] = {}
    boxes = np.tile(np.array([np.inf, np.inf, -np.inf, -np.inf]), (len(outlines), 1))
    for i, outline in enumerate(outlines):
        for crs, ring, pixel in _rings(outline):
            by_crs.setdefault(crs, []).append((i, ring, pixel))
    for crs, rings in by_crs.items():
        _project(boxes, crs, rings, target)
    unknown = ~np.isfinite(boxes).all(axis=1)
    boxes[unknown] = (-np.inf, -np.inf, np.inf, np.inf)
    return boxes


def _rings(outline: Outline) -> list[tuple[str, NDArray[np.float64], float]]:
    if outline and isinstance(outline[0], str):
        return _lonlat(np.array(outline[1], float))
    return [(crs, _ring(transform, shape), 0.0) for crs, transform, shape in outline]


def _ring(transform: Sequence[float], shape: tuple[int, int]) -> NDArray[np.float64]:
    a, b, c, d, e, f = transform
    rows, columns = shape
    corners = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], float)
    # one file pixel more on each side: kernels reach that far
    corners += np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)])
    pixels = _densify(corners)
    x, y = pixels.T
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _densify(corners: NDArray[np.float64]) -> NDArray[np.float64]:
    steps = np.linspace(0, 1, _EDGE_POINTS)[:, None]
    ends = np.roll(corners, -1, axis=0)
    return np.concatenate(
        [p + steps * (q - p) for p, q in zip(corners, ends, strict=True)]
    )


def _lonlat(
    ring: NDArray[np.float64],
) -> list[tuple[str, NDArray[np.float64], float]]:
    if np.ptp(ring[:, 0]) > 180:
        return []  # over the antimeridian a box in degrees says nothing
    return [("EPSG:4326", _densify(ring), 1.0)]


def _project(
    boxes: NDArray[np.float64],
    crs: str,
    outlines: list[tuple[int, NDArray[np.float64], float]],
    target: Target,
) -> None:
    from affine import Affine
    from pyproj import Transformer

    points = np.concatenate([ring for _, ring, _ in outlines])
    x, y = points.T
    if crs != target.crs:
        to_target = Transformer.from_crs(crs, target.crs, always_xy=True)
        x, y = to_target.transform(x, y)
    inverse: Any = ~Affine(*target.transform)
    columns, rows = inverse * (np.asarray(x), np.asarray(y))
    start = 0
    for i, ring, loose in outlines:
        part = slice(start, start + len(ring))
        start += len(ring)
        row, column = rows[part], columns[part]
        box = np.array([row.min(), column.min(), row.max(), column.max()])
        # a drawn footprint may be coarse; give it a hundredth of its size
        grow = MARGIN_PX + loose * 0.01 * max(box[2] - box[0], box[3] - box[1])
        box += np.array([-grow, -grow, grow, grow])
        if np.isfinite(box).all():
            boxes[i, :2] = np.minimum(boxes[i, :2], box[:2])
            boxes[i, 2:] = np.maximum(boxes[i, 2:], box[2:])
        else:
            boxes[i] = np.nan

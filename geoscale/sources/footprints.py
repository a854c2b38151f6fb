"""Where on the grid each item lies: one pixel box an outline, compared at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.sources.antimeridian import is_cut, is_geographic, jumps
from geoscale.sources.items import Item

if TYPE_CHECKING:
    from geoscale.sources.targets import Target

_EDGE_POINTS = 21
_TORN = 8.0
"""A step that is longer than the mean of its edge by this leads across a cut."""
AT_ONCE = 10_000
"""Outlines that are projected at once: the points of more would need much memory."""
Outline = tuple[Any, ...]
"""Where the files of an item lie; see `find_outline`."""
_SAME_PX = 1e-3
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
        for crs, ring, reach in _rings(outline):
            by_crs.setdefault(crs, []).append((i, ring, reach))
    for crs, rings in by_crs.items():
        _project(boxes, crs, rings, target)
    # infinite columns alone say that an outline lies along a whole row of the grid
    unknown = np.isnan(boxes).any(axis=1) | ~np.isfinite(boxes[:, ::2]).all(axis=1)
    boxes[unknown] = (-np.inf, -np.inf, np.inf, np.inf)
    return boxes


def _rings(outline: Outline) -> list[tuple[str, NDArray[np.float64], float]]:
    if outline and isinstance(outline[0], str):
        return _lonlat(np.array(outline[1], float))
    return [
        (crs, _ring(transform, shape), 1.5 / min(shape))
        for crs, transform, shape in outline
    ]


def _ring(transform: Sequence[float], shape: tuple[int, int]) -> NDArray[np.float64]:
    a, b, c, d, e, f = transform
    rows, columns = shape
    corners = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], float)
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
    if jumps(ring):
        return []  # over the antimeridian a box in degrees says nothing
    # it may be drawn coarsely: the item reaches a hundredth of its size further
    middle = (ring.min(axis=0) + ring.max(axis=0)) / 2
    ring = middle + 1.02 * (ring - middle)
    ring[:, 1] = np.clip(ring[:, 1], -90, 90)
    return [("EPSG:4326", _densify(ring), 0.0)]


def _project(
    boxes: NDArray[np.float64],
    crs: str,
    outlines: list[tuple[int, NDArray[np.float64], float]],
    target: Target,
) -> None:
    from affine import Affine
    from pyproj import Transformer

    points = np.concatenate([ring for _, ring, _ in outlines])
    numbers = np.array([i for i, _, _ in outlines])
    reach = np.array([reach for _, _, reach in outlines])
    starts = np.cumsum([0, *(len(ring) for _, ring, _ in outlines[:-1])])
    inverse: Any = ~Affine(*target.transform)

    def to_pixels(x: Any, y: Any) -> NDArray[np.float64]:
        if crs != target.crs:
            x, y = to_target.transform(x, y)
        with np.errstate(invalid="ignore"):  # what the target cannot show is infinite
            columns, rows = inverse * (np.asarray(x), np.asarray(y))
        return np.stack([rows, columns], axis=-1)

    to_target = Transformer.from_crs(crs, target.crs, always_xy=True)
    pixels = to_pixels(*points.T)
    low = np.minimum.reduceat(pixels, starts)
    high = np.maximum.reduceat(pixels, starts)
    bent, torn = _look_at_edges(pixels, starts // _EDGE_POINTS)
    if is_geographic(target.crs):
        torn |= _comes_round(low, high, 360 / abs(target.transform[0]), target.shape)
    size = np.where(torn, high[:, 0] - low[:, 0], (high - low).max(axis=1))
    grow = (MARGIN_PX + bent + reach * size)[:, None]
    low, high = low - grow, high + grow
    for inside, pole in _find_poles(points, starts, crs, to_pixels):
        low[inside] = np.minimum(low[inside], pole - MARGIN_PX)
        high[inside] = np.maximum(high[inside], pole + MARGIN_PX)
        torn |= inside & is_cut(target.crs)
    # Where the grid's CRS is cut, an outline that crosses the cut has parts at both
    # edges of the grid, and how near to the edges no point of it tells.
    low[torn, 1], high[torn, 1] = -np.inf, np.inf
    found = np.concatenate([low, high], axis=1)
    known = np.isfinite(np.where(torn[:, None], found[:, ::2].repeat(2, 1), found))
    found[~known.all(axis=1)] = np.nan
    np.minimum.at(boxes[:, :2], numbers, found[:, :2])
    np.maximum.at(boxes[:, 2:], numbers, found[:, 2:])


def _look_at_edges(
    pixels: NDArray[np.float64], firsts: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Tell of each outline how far it bends between its points, and if it is torn.

    `firsts` are the first edges of the outlines.
    """
    edges = pixels.reshape(-1, _EDGE_POINTS, 2)
    with np.errstate(invalid="ignore"):
        steps = np.diff(edges, axis=1)
        lengths = np.hypot(steps[..., 0], steps[..., 1])
        torn = lengths.max(axis=1) > _TORN * lengths.mean(axis=1)
        # an arc leaves its chord by an eighth of the difference of two steps
        bent = np.abs(np.diff(steps, axis=1)).max(axis=(1, 2)) / 4
    bent[torn] = 0.0
    return np.maximum.reduceat(bent, firsts), np.logical_or.reduceat(torn, firsts)


def _find_poles(
    points: NDArray[np.float64],
    starts: NDArray[np.intp],
    crs: str,
    to_pixels: Callable[[Any, Any], NDArray[np.float64]],
) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float64]]]:
    """Yield which outlines may surround a pole, and where that is on the grid."""
    from pyproj import Transformer

    if is_geographic(crs):
        return  # there the pole is an edge, not inside
    low = np.minimum.reduceat(points, starts)
    high = np.maximum.reduceat(points, starts)
    from_degrees = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
    for lat in (-90.0, 90.0):
        pole = np.array(from_degrees.transform(0.0, lat))
        if np.isfinite(pole).all():
            inside = np.all((low <= pole) & (pole <= high), axis=1)
            if inside.any():
                yield inside, to_pixels(*pole)


def _comes_round(
    low: NDArray[np.float64],
    high: NDArray[np.float64],
    turn: float,
    shape: tuple[int, int],
) -> NDArray[np.bool_]:
    """Tell which boxes lie on the grid also with 360 degrees more or less."""
    found = np.zeros(len(low), bool)
    for shift in (-turn, turn):
        left, right = low[:, 1] + shift, high[:, 1] + shift
        found |= (left < shape[1] - _SAME_PX) & (right > _SAME_PX)
    return found

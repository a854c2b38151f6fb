"""The output grid: what is asked for, else what the items share."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geoscale.errors import SourceError
from geoscale.sources.antimeridian import (
    crosses,
    find_box,
    find_limits,
    is_cut,
    is_geographic,
    split_box,
)
from geoscale.sources.aoi import load_aoi, project, to_degrees
from geoscale.sources.fields import Affine6, normalise_crs
from geoscale.sources.items import Asset, Item
from geoscale.sources.search import check_bbox
from geoscale.sources.settings import UTM, Grid, parse_grid

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Box = tuple[float, float, float, float]
MAX_PIXELS = 2**31 - 1
_SAME_PX = 1e-4


def choose_grid(
    items: Sequence[Item],
    layout: Sequence[Sequence[Asset]],
    grid: Grid | Mapping[str, Any] | None = None,
    numbers: Sequence[int] | None = None,
) -> GeoBox:
    """Choose the grid of a stack.

    With nothing set it is the grid of the finest band, over all items. A grid
    that is not the items' own has its edges on whole multiples of the
    resolution.

    Parameters
    ----------
    items : sequence of Item
        The items.
    layout : sequence of sequence of Asset
        The assets that are read, per item.
    grid : Grid or mapping, optional
        What is asked for.
    numbers : sequence of int, optional
        How many items each one stands for; default one.

    Returns
    -------
    GeoBox
        North-up.

    Raises
    ------
    SourceError
        If the items do not agree on a CRS and none is set, or do not say enough.
    """
    wanted = parse_grid(grid)
    crs = _target_crs(items, layout, wanted, numbers or [1] * len(items))
    finest = _finest(layout, crs)
    extent = _asked_extent(wanted, crs)
    lattice = _shared_lattice(finest, wanted.resolution)
    if lattice is not None:
        return _on_lattice(lattice, finest, crs, extent)
    if extent is not None:
        _check_on_globe(extent, crs)
    resolution = wanted.resolution or _resolution(finest, crs)
    if extent is None:
        extent = _items_extent(items, layout, crs)
    return _snapped(extent, resolution, crs)


def _target_crs(
    items: Sequence[Item],
    layout: Sequence[Sequence[Asset]],
    grid: Grid,
    numbers: Sequence[int],
) -> str:
    if grid.crs != "native":
        crs = normalise_crs(grid.crs)
        if grid.crs == UTM:
            raise SourceError(
                "grid.crs: utm makes several grids, one for each zone, and a stack has "
                "one: run it as a job (geoscale.run_job), or name a zone, EPSG:326…"
            )
        if crs is None:
            raise SourceError(f"grid.crs `{_short(grid.crs)}` is not known; use EPSG:…")
        return crs
    counts: Counter[str] = Counter()
    for item, row, number in zip(items, layout, numbers, strict=True):
        found = {asset.crs for asset in row}
        if None in found:
            raise SourceError(
                f"item {item.id} does not say its CRS; set grid.crs, grid.resolution "
                "and grid.bounds"
            )
        counts.update({str(crs): number for crs in found})
    if len(counts) > 1:
        most = counts.most_common()
        listed = ", ".join(f"{_short(crs)} ({n} items)" for crs, n in most)
        finest = _finest(layout, most[0][0])
        step = _size(finest[0].transform)[0] if finest and finest[0].transform else 10
        raise SourceError(
            f"items have {len(counts)} CRSs: {listed}; choose one, for example\n"
            f"grid: {{crs: {_short(most[0][0])}, resolution: {step:g}}}"
        )
    return next(iter(counts))


def _short(crs: str) -> str:
    return crs if len(crs) < 40 else crs[:37] + "…"


def _size(transform: Affine6 | None) -> tuple[float, float]:
    if transform is None:
        return math.inf, math.inf
    a, b, _, d, e, _ = transform
    return math.hypot(a, d), math.hypot(b, e)


def _finest(layout: Sequence[Sequence[Asset]], crs: str) -> list[Asset]:
    """Assets of the finest resolution that are in a CRS."""
    found = [
        asset
        for row in layout
        for asset in row
        if asset.crs == crs and asset.transform is not None and asset.shape is not None
    ]
    if not found:
        return []
    least = min(_size(asset.transform)[0] for asset in found)
    return [a for a in found if _size(a.transform)[0] <= least * (1 + 1e-9)]


def _asked_extent(grid: Grid, crs: str) -> Box | None:
    import shapely

    if grid.bounds is not None:
        left, bottom, right, top = grid.bounds
        if left >= right or bottom >= top:
            raise SourceError(
                f"grid.bounds {grid.bounds} is empty; write left,bottom,right,top in "
                f"units of {_short(crs)}"
            )
        return grid.bounds
    if grid.bbox is not None:
        boxes = split_box(check_bbox(grid.bbox))
        if len(boxes) > 1 and is_geographic(crs):
            return _on_one_side(boxes)
        if len(boxes) > 1 and is_cut(crs):
            west, south, east, north = grid.bbox
            raise SourceError(
                f"grid.bbox ({west:g}, {south:g}, {east:g}, {north:g}) crosses the "
                f"antimeridian, where {_short(crs)} is cut; use grid.crs: utm or a CRS "
                "that is whole there (EPSG:3832, near a pole EPSG:3413 or EPSG:3031), "
                f"or run it as two jobs: ({west:g}, {south:g}, 180, {north:g}) and "
                f"(-180, {south:g}, {east:g}, {north:g})"
            )
        area = shapely.MultiPolygon([shapely.box(*box) for box in boxes])
        source = "EPSG:4326"
    elif grid.aoi is not None:
        area, source = load_aoi(grid)
        box = find_box(to_degrees(area, source)) if is_geographic(crs) else None
        if box is not None and crosses(box):
            return _on_one_side(split_box(box))
    else:
        return None
    bounds: Box = project(area, source, crs).bounds
    return bounds


def _on_one_side(boxes: Sequence[Box]) -> Box:
    """Join what the antimeridian cuts, with longitudes beyond 180."""
    west, south, east, north = boxes[0]
    return west, south, east + sum(b[2] - b[0] for b in boxes[1:]), north


def _check_on_globe(extent: Box, crs: str) -> None:
    left, bottom, right, top = extent
    west, south, east, north = find_limits(crs)
    near = 1e-6 * (east - west)
    if is_geographic(crs) and right - left <= 360 and max(-left, right - 180) <= 360:
        west, east = left, right  # longitudes may go on beyond 180, but not round
    if (
        left < west - near
        or right > east + near
        or bottom < south - near
        or top > north + near
    ):
        raise SourceError(
            f"the grid from ({left:g}, {bottom:g}) to ({right:g}, {top:g}) reaches "
            f"beyond the edge of {_short(crs)}, which lies from ({west:g}, {south:g}) "
            f"to ({east:g}, {north:g}); end it there"
        )


def _shared_lattice(
    finest: Sequence[Asset], resolution: float | None
) -> Affine6 | None:
    """Transform that all finest assets are whole pixels away from, or None."""
    if not finest or finest[0].transform is None:
        return None
    a, b, c, d, e, f = finest[0].transform
    if b != 0 or d != 0 or a <= 0 or e >= 0:
        return None
    if resolution is not None and not (
        math.isclose(resolution, a, rel_tol=1e-9)
        and math.isclose(resolution, -e, rel_tol=1e-9)
    ):
        return None
    for transform in {asset.transform for asset in finest if asset.transform}:
        dx, dy = (transform[2] - c) / a, (transform[5] - f) / e
        same = all(math.isclose(p, q, rel_tol=1e-9, abs_tol=1e-12) for p, q in zip(
            (transform[0], transform[1], transform[3], transform[4]), (a, b, d, e),
            strict=True,
        ))  # fmt: skip
        if not same or abs(dx - round(dx)) > _SAME_PX or abs(dy - round(dy)) > _SAME_PX:
            return None
    return finest[0].transform


def _on_lattice(
    lattice: Affine6, finest: Sequence[Asset], crs: str, extent: Box | None
) -> GeoBox:
    """Whole pixels of the items' own grid, so that reads are plain windows."""
    a, _, c, _, e, f = lattice
    columns, rows = [], []
    if extent is None:
        for asset in finest:
            transform, shape = asset.transform, asset.shape
            if transform is None or shape is None:
                continue
            x, y = _round((transform[2] - c) / a), _round((transform[5] - f) / e)
            columns += [x, x + shape[1]]
            rows += [y, y + shape[0]]
    else:
        left, bottom, right, top = extent
        columns = [_floor((left - c) / a), _ceil((right - c) / a)]
        rows = [_floor((top - f) / e), _ceil((bottom - f) / e)]
    x0, y0 = min(columns), min(rows)
    return _make(
        (max(rows) - y0, max(columns) - x0),
        (a, 0.0, c + x0 * a, 0.0, e, f + y0 * e),
        crs,
    )


def _resolution(finest: Sequence[Asset], crs: str) -> float:
    if not finest:
        raise SourceError(
            f"grid.resolution is needed: no item is in {_short(crs)} and says its "
            "pixel size; set it in units of grid.crs"
        )
    return float(f"{min(_size(asset.transform)[0] for asset in finest):.12g}")


def _items_extent(
    items: Sequence[Item], layout: Sequence[Sequence[Asset]], crs: str
) -> Box:
    boxes = []
    for item, row in zip(items, layout, strict=True):
        asset = row[0]
        if asset.crs is not None and asset.transform is not None and asset.shape:
            a, b, c, d, e, f = asset.transform
            rows, columns = asset.shape
            corners = ((0, 0), (columns, 0), (columns, rows), (0, rows))
            ring = [(a * x + b * y + c, d * x + e * y + f) for x, y in corners]
            boxes.append(_find_bounds(ring, asset.crs, crs))
        elif item.footprint:
            boxes.append(_find_bounds(item.footprint, "EPSG:4326", crs))
        else:
            raise SourceError(
                f"item {item.id} does not say where it is; set grid.bounds"
            )
    lefts, bottoms, rights, tops = zip(*boxes, strict=True)
    return min(lefts), min(bottoms), max(rights), max(tops)


def _find_bounds(ring: Sequence[Sequence[float]], own: str, crs: str) -> Box:
    """Bounds of an outline in another CRS, up to its edges where it is cut."""
    import shapely

    outline = shapely.Polygon(ring)
    if own != crs and is_cut(crs):
        outline, own = to_degrees(outline, own), "EPSG:4326"
    bounds: Box = project(outline, own, crs).bounds
    return bounds


def _snapped(extent: Box, resolution: float, crs: str) -> GeoBox:
    left, bottom, right, top = extent
    x0, x1 = _floor(left / resolution), _ceil(right / resolution)
    y0, y1 = _floor(bottom / resolution), _ceil(top / resolution)
    # A pixel whose centre lies off the globe could never be filled.
    west, south, east, north = find_limits(crs)
    if left >= west and right <= east:
        x0, x1 = _clip(x0, x1, west / resolution, east / resolution)
    y0, y1 = _clip(y0, y1, south / resolution, north / resolution)
    transform = (resolution, 0.0, x0 * resolution, 0.0, -resolution, y1 * resolution)
    return _make((y1 - y0, x1 - x0), transform, crs)


def _clip(first: int, end: int, low: float, high: float) -> tuple[int, int]:
    """Keep the pixels whose middles lie between two limits, all in px."""
    if math.isfinite(low):
        first = max(first, _ceil(low - 0.5))
    if math.isfinite(high):
        end = min(end, _floor(high + 0.5))
    return first, end


def _floor(value: float) -> int:
    # 0.1 + 0.2 must not cost a row of pixels
    near = _round(value)
    return near if abs(value - near) < 1e-6 else math.floor(value)


def _ceil(value: float) -> int:
    near = _round(value)
    return near if abs(value - near) < 1e-6 else math.ceil(value)


def _round(value: float) -> int:
    if not math.isfinite(value):
        raise SourceError(
            "the grid would have no end; check grid.bounds, grid.resolution and the "
            "items' transforms"
        )
    return round(value)


def _make(shape: tuple[int, int], transform: Affine6, crs: str) -> GeoBox:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    if min(shape) < 1 or max(shape) > MAX_PIXELS:
        raise SourceError(
            f"the grid would have {shape[0]} x {shape[1]} pixels; check that "
            f"grid.bounds and grid.resolution are in units of {_short(crs)}"
        )
    return GeoBox(shape, Affine(*transform), crs)

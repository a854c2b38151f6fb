"""Imagery dealt out to UTM zones: a grid, an area and a source for each."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import JobError, SourceError
from geoscale.sources.antimeridian import split_box, to_lonlat, wrap
from geoscale.sources.aoi import Area, load_aoi, project, to_degrees
from geoscale.sources.fields import Affine6
from geoscale.sources.footprints import Outline, project_outlines
from geoscale.sources.grid import choose_grid
from geoscale.sources.items import Asset, Item
from geoscale.sources.opening import iter_items, lay_out, survey_items
from geoscale.sources.search import check_bbox
from geoscale.sources.settings import Grid, Imagery
from geoscale.sources.targets import Target
from geoscale.sources.utm import Zone, cut_sides, split_area

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from geoscale.sources.clear import Judging
    from geoscale.sources.composite import CompositeSource
    from geoscale.sources.raster import RasterSource

_LOOSE_DEG = 0.05
"""How much further than its outline an item may reach: coarse footprints, kernels."""
_EDGE_POINTS = 21


@dataclass(frozen=True, slots=True, kw_only=True)
class ZoneStack:
    """What one zone reads and maps."""

    zone: Zone
    """The zone."""
    area: Area
    """What it maps, on the grid of its stack."""
    source: RasterSource | CompositeSource | None
    """Items that touch the grid; None where there are none."""


def open_zones(
    imagery: Imagery,
    grid: Grid,
    *,
    bands: Sequence[str],
    sensor: str | None,
    margin_px: int,
    judging: Judging | None = None,
) -> Iterator[ZoneStack]:
    """Open imagery once for every UTM zone that the area touches.

    Parameters
    ----------
    imagery : Imagery
        From items, files or a search; metadata are read, pixels are not.
    grid : Grid
        With ``crs: utm``.
    bands : sequence of str
        Bands to read where `imagery.bands` names none.
    sensor : str or None
        Sensor whose band names `bands` uses.
    margin_px : int
        How far a grid goes on across the borders of its zone, so that the network has
        there the context that it has elsewhere.
    judging : Judging, optional
        The model of the mask, where a model is.

    Yields
    ------
    ZoneStack
        From west to east.

    Raises
    ------
    JobError
        If the imagery or the grid's extent is of a kind that has no zones.
    SourceError
        If there is no imagery, it lacks bands, or the area goes beyond UTM.
    """
    import shapely

    _check(imagery, grid)
    items = iter_items(imagery, grid)
    survey = survey_items(imagery, items, imagery.bands or bands, sensor, judging)
    trust_file = imagery.trust == "file"  # then items may lie about their places
    places = [None if trust_file else _find_place(one) for one in survey.outlines]
    tree = shapely.STRtree(places)
    area, what = _find_area(grid, places, survey.examples)
    step = grid.resolution or _finest(survey.layout)
    for zone, part in split_area(area, what).items():
        polygon = project(part, "EPSG:4326", zone.crs)
        bounds = _grow(polygon.bounds, zone, part, margin_px * step)
        near = _find_near(tree, bounds, zone)
        wanted = Grid(crs=zone.crs, resolution=step, bounds=bounds)
        geobox = choose_grid(
            [survey.examples[i] for i in near], [survey.layout[i] for i in near], wanted
        )
        if grid.bbox is None and grid.aoi is None:
            polygon = shapely.box(*geobox.boundingbox)
        if not trust_file:
            near = _touching(near, survey.outlines, geobox)
        source = None
        if near:
            source = lay_out(imagery, survey.within(near), geobox, judging=judging)
        yield ZoneStack(zone=zone, area=Area(polygon, geobox, zone), source=source)


def _check(imagery: Imagery, grid: Grid) -> None:
    if imagery.zarr is not None or imagery.array is not None:
        raise JobError(
            "grid.crs: utm is for imagery from items, files or a search; a Zarr store "
            "has a grid of its own, which is not warped: use grid.crs: native"
        )
    if grid.bounds is not None:
        raise JobError(
            "grid.bounds are in units of grid.crs, and utm has one for each zone; use "
            "grid.bbox: [west, south, east, north] in degrees, or grid.aoi"
        )


def _find_place(outline: Outline) -> Any:
    """Give where files lie in degrees; None where that is not known."""
    if not outline:
        return None
    if isinstance(outline[0], str):
        found = to_lonlat(outline[1], outline[0])
    else:
        crs, transform, shape = outline[0]
        found = to_lonlat(_ring(transform, shape), crs)
    return None if found.is_empty else found


def _ring(transform: Affine6, shape: tuple[int, int]) -> NDArray[np.float64]:
    a, b, c, d, e, f = transform
    rows, columns = shape
    corners = np.array([(0, 0), (columns, 0), (columns, rows), (0, rows)], float)
    steps = np.linspace(0, 1, _EDGE_POINTS, endpoint=False)[:, None]
    ends = np.roll(corners, -1, axis=0)
    x, y = np.concatenate(
        [p + steps * (q - p) for p, q in zip(corners, ends, strict=True)]
    ).T
    return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)


def _find_area(
    grid: Grid, places: Sequence[Any], items: Sequence[Item]
) -> tuple[Any, str]:
    """Give what is to be mapped, in degrees, and its name."""
    import shapely

    if grid.bbox is not None:
        boxes = split_box(check_bbox(grid.bbox))
        return shapely.MultiPolygon([shapely.box(*box) for box in boxes]), "grid.bbox"
    if grid.aoi is not None:
        return to_degrees(*load_aoi(grid)), "grid.aoi"
    for item, place in zip(items, places, strict=True):
        if place is None:
            raise SourceError(
                f"item {item.id} does not say where it is; set grid.bbox or grid.aoi"
            )
    return shapely.union_all(list(places)), "the imagery"


def _finest(layout: Sequence[Sequence[Asset]]) -> float:
    """Finest resolution of what is in UTM, in m: the same for all zones."""
    sizes = {
        math.hypot(asset.transform[0], asset.transform[3])
        for row in layout
        for asset in row
        if asset.transform is not None
        and str(asset.crs).startswith(("EPSG:326", "EPSG:327"))
    }
    if not sizes:
        raise SourceError(
            "grid.resolution is needed: no item is in UTM and says its pixel size; set "
            "it in metres"
        )
    return float(f"{min(sizes):.12g}")


def _grow(
    bounds: Sequence[float], zone: Zone, part: Any, margin_m: float
) -> tuple[float, float, float, float]:
    """Let a grid go on across the borders that cut its area."""
    left, bottom, right, top = (float(v) for v in bounds)
    west, east, equator = cut_sides(part, zone)
    return (
        left - margin_m * west,
        bottom - margin_m * (equator and zone.is_north),
        right + margin_m * east,
        top + margin_m * (equator and not zone.is_north),
    )


def _find_near(tree: Any, bounds: Sequence[float], zone: Zone) -> list[int]:
    """Numbers of the items that may touch a grid, those of unknown place included."""
    import shapely

    left, bottom, right, top = bounds
    shape = (1, 1)
    ring = _ring((right - left, 0.0, left, 0.0, bottom - top, top), shape)
    place = wrap(to_lonlat(ring, zone.crs).buffer(_LOOSE_DEG))
    unknown = np.flatnonzero(shapely.is_missing(tree.geometries))
    found = np.union1d(tree.query(place, predicate="intersects"), unknown)
    return [int(i) for i in found]


def _touching(
    near: Sequence[int], outlines: Sequence[Outline], geobox: GeoBox
) -> list[int]:
    """Keep the outlines that touch a grid."""
    boxes = project_outlines([outlines[i] for i in near], Target.from_geobox(geobox))
    height, width = geobox.shape
    touch = (boxes[:, 0] < height) & (boxes[:, 1] < width)
    touch &= (boxes[:, 2] > 0) & (boxes[:, 3] > 0)
    return [i for i, good in zip(near, touch, strict=True) if good]

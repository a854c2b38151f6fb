"""From settings to a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geoscale.errors import SourceError
from geoscale.sources.antimeridian import find_box
from geoscale.sources.aoi import load_aoi, to_degrees
from geoscale.sources.fields import normalise_crs, parse_datetime
from geoscale.sources.grid import choose_grid
from geoscale.sources.items import Item, sort_items
from geoscale.sources.listing import Tables
from geoscale.sources.naming import with_sensor
from geoscale.sources.raster import RasterSource
from geoscale.sources.settings import Grid, Imagery, parse_grid, parse_imagery
from geoscale.sources.survey import Survey
from geoscale.storage import Folder

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from geoscale.plans import InferencePlan
    from geoscale.sources.arrays import ArraySource
    from geoscale.sources.clear import Judging
    from geoscale.sources.composite import CompositeSource
    from geoscale.sources.shifted import ShiftedSource
    from geoscale.types import Json, Source

    AnySource = RasterSource | ArraySource | CompositeSource | ShiftedSource


def open_source(
    imagery: Imagery | Mapping[str, Any],
    *,
    grid: Grid | Mapping[str, Any] | None = None,
    geobox: GeoBox | None = None,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
    keep: bool = False,
    judging: Judging | None = None,
) -> AnySource:
    """Open imagery as a source; metadata are read, pixels are not.

    Parameters
    ----------
    imagery : Imagery or mapping
        Where it comes from and how it is read.
    grid : Grid or mapping, optional
        Output grid; default the imagery's own.
    geobox : GeoBox, optional
        Output grid, instead of `grid`.
    bands : sequence of str, optional
        Bands to read where `imagery.bands` names none; default all.
    sensor : str, optional
        Sensor whose band names `bands` uses, as the model card says.
    keep : bool
        Whether the items' other bands may be asked for later: then all are kept in
        memory as they came.
    judging : Judging, optional
        The model of the mask, where a model is.

    Returns
    -------
    RasterSource, ArraySource or ZarrSource
        A `geoscale.types.Source`.

    Raises
    ------
    JobError
        If a setting is wrong.
    SourceError
        If there is no imagery, or it lacks bands.
    StackError
        If dims, CRS or dtype of an array do not serve.
    """
    asked, where = parse_imagery(imagery), parse_grid(grid)
    if asked.zarr is not None or asked.array is not None:
        _refuse_composite(asked)
        from geoscale.sources.stores import open_array

        return open_array(asked, where, geobox=geobox, bands=bands, sensor=sensor)
    items, names = iter_items(asked, where), asked.bands or bands
    kept = sort_items(items) if keep or not names else None
    names = names or _all_bands(kept or [])
    survey = survey_items(asked, kept or items, names, sensor, judging)
    if geobox is None:
        geobox = choose_grid(survey.examples, survey.layout, where, survey.counts)
    return lay_out(asked, survey, geobox, kept, judging)


def survey_items(
    asked: Imagery,
    items: Iterable[Item],
    bands: Sequence[str],
    sensor: str | None,
    judging: Judging | None = None,
) -> Survey:
    """Meet all items once.

    Parameters
    ----------
    asked : Imagery
        How they are read.
    items : iterable of Item
        The items.
    bands : sequence of str
        Bands to read; that of the mask comes last.
    sensor : str or None
        Sensor whose band names the model uses.
    judging : Judging, optional
        The model of the mask; its bands come last.

    Returns
    -------
    Survey
        For any grid.
    """
    own = len(bands)
    if asked.mask is not None and asked.mask.asset is not None:
        bands = [*(n for n in bands if n != asked.mask.asset), asked.mask.asset]
        own = len(bands)
    elif judging is not None:
        bands = [*bands, *(n for n in judging.bands if n not in bands)]
    survey = Survey(items, bands, asked.sensor if asked.bands else sensor)
    survey.own = own
    return survey


def lay_out(
    asked: Imagery,
    survey: Survey,
    geobox: GeoBox,
    kept: Sequence[Item] | None = None,
    judging: Judging | None = None,
) -> RasterSource | CompositeSource:
    """Make a source of surveyed items on a grid.

    Parameters
    ----------
    asked : Imagery
        How they are read.
    survey : Survey
        The items.
    geobox : GeoBox
        The grid.
    kept : sequence of Item, optional
        The items with all their assets.
    judging : Judging, optional
        The model of the mask.

    Returns
    -------
    RasterSource or CompositeSource
        As `open_source` gives.

    Raises
    ------
    SourceError
        If the mask is a model's, and that was not found.
    """
    reading = asked.reading()
    source = RasterSource(survey, survey.bands[: survey.own], geobox, reading=reading)
    source.offered = kept
    if not asked.is_composite:
        return source
    from geoscale.sources.composite import CompositeSource
    from geoscale.sources.recipes import make_recipe

    sky = None
    if judging is not None:
        sky = RasterSource(source.items, judging.bands, geobox, reading=reading)
        sky = sky.calibrated(judging.units, judging.multiply)
    elif asked.mask is not None and asked.mask.model is not None:
        raise SourceError(
            "imagery.mask: a model judges pixels where a map is made; it serves jobs "
            "(geoscale.run_job, geoscale run), not stacks: give asset instead"
        )
    clouds = survey.list_clouds() if asked.composite == "best" else ()
    recipe = make_recipe(source, asked, judging=judging, cloud=clouds)
    return CompositeSource(source, recipe, sky)


def find_items(
    imagery: Imagery | Mapping[str, Any], grid: Grid | Mapping[str, Any] | None = None
) -> list[Item]:
    """Find the items of imagery that is made of files.

    Parameters
    ----------
    imagery : Imagery or mapping
        With `items`, `api` or `files`.
    grid : Grid or mapping, optional
        Says where to search, if `imagery` does not.

    Returns
    -------
    list of Item
        Sorted by (time, id).

    Raises
    ------
    SourceError
        If there are none.
    """
    return sort_items(iter_items(parse_imagery(imagery), parse_grid(grid)))


def iter_items(asked: Imagery, where: Grid) -> Iterator[Item]:
    """Yield the items of imagery that is made of files, in any order.

    Parameters
    ----------
    asked : Imagery
        With `items`, `api` or `files`.
    where : Grid
        Says where to search, if `asked` does not.

    Yields
    ------
    Item
        Maybe several times.
    """
    found: Iterable[Item]
    if asked.files is not None:
        from geoscale.sources.files import items_from_files

        listed = items_from_files(
            asked.files, band_names=asked.band_names, access=asked.access()
        )
        found = _dated(listed, asked.times)
    elif asked.api is not None:
        from geoscale.sources.search import search_items

        found = search_items(asked, _lonlat_box(where))
    else:
        from geoscale.sources.search import load_items

        found = load_items(asked.items)
    for item in found:
        yield item if asked.sensor is None else with_sensor(item, asked.sensor)


def source_of(plan: InferencePlan) -> Source:
    """Give the source of a plan: that of this process, or rebuilt.

    Parameters
    ----------
    plan : InferencePlan
        Made here, or loaded from an output.

    Returns
    -------
    Source
        As `open_source` gave it to the planner.
    """
    if plan.live is not None:
        return plan.live
    home = None if plan.home is None else Folder(plan.home)
    found: Source = source_from_spec(plan.source, home)
    return found


def unjudged(source: Source) -> Source:
    """Give a source without a model's mask, which only a kernel has at hand.

    Parameters
    ----------
    source : Source
        Any.

    Returns
    -------
    Source
        For pictures and trials: it may show clouds.
    """
    from geoscale.sources.composite import CompositeSource

    return source.unjudged() if isinstance(source, CompositeSource) else source


def list_sources(plan: InferencePlan) -> list[str]:
    """Ids of a plan's items, unsigned, in the order of (time, id); none for arrays."""
    holds = plan.source.get("kind") in ("raster", "composite", "shifted")
    return source_of(plan).item_ids if holds else []


def source_from_spec(spec: Json, tables: Tables | None = None) -> AnySource:
    """Rebuild a source from its spec, in whatever process.

    Parameters
    ----------
    spec : dict
        From `Source.spec`.
    tables : mapping or Folder, optional
        What `Source.tables` gave, or the folder in which it was stored.

    Raises
    ------
    SourceError
        If the source lived in the memory of another process.
    """
    kind = spec.get("kind")
    if kind == "raster":
        return RasterSource.from_spec(spec, tables)
    if kind == "composite":
        from geoscale.sources.composite import CompositeSource

        return CompositeSource.from_spec(spec, tables)
    if kind == "shifted":
        from geoscale.sources.shifted import ShiftedSource

        base: Any = source_from_spec(spec["base"], tables)
        y, x = spec["shift"]
        return ShiftedSource(base, y, x, spec["first"])
    from geoscale.sources.arrays import ArraySource, ZarrSource

    if kind == "zarr":
        return ZarrSource.from_spec(spec)
    if kind == "array":
        return ArraySource.from_spec(spec)
    raise SourceError(f"a source of kind `{kind}` is not known to this version")


def _refuse_composite(asked: Imagery) -> None:
    if asked.is_composite:
        raise SourceError(
            "periods, composite, mask, near and layers are for scenes (items, api, "
            "files); of an array make the composite with xarray, and give that"
        )


def _dated(items: Sequence[Item], times: Sequence[str] | None) -> list[Item]:
    if times is None:
        return list(items)
    if len(times) != len(items):
        raise SourceError(
            f"imagery.times has {len(times)} dates for {len(items)} files; give one "
            "for each, in the order of the files' names"
        )
    return [
        dataclasses.replace(
            item, datetime=parse_datetime(text, "imagery.times").isoformat()
        )
        for item, text in zip(items, times, strict=True)
    ]


def _all_bands(items: Sequence[Item]) -> list[str]:
    """Bands that every item has under the same key, pictures left out."""
    shared = [band.name for band in items[0].offered()] if items else []
    names = [
        name
        for name in shared
        if items[0].assets[name].spectral and all(name in item.assets for item in items)
    ]
    if not names:
        raise SourceError(
            "the items have no band in common by name; list imagery.bands"
        )
    return names


def _lonlat_box(grid: Grid) -> tuple[float, float, float, float] | None:
    import shapely

    if grid.bbox is not None:
        return grid.bbox
    if grid.aoi is not None:
        area, crs = load_aoi(grid)
    elif grid.bounds is not None and grid.crs != "native":
        area, crs = shapely.box(*grid.bounds), grid.crs
    else:
        return None
    return find_box(to_degrees(area, normalise_crs(crs) or crs))

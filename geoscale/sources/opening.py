"""From settings to a source."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geoscale.errors import SourceError
from geoscale.sources.aoi import load_aoi, project
from geoscale.sources.fields import parse_datetime
from geoscale.sources.grid import choose_grid
from geoscale.sources.items import Item
from geoscale.sources.raster import RasterSource, choose_assets
from geoscale.sources.settings import Grid, Imagery, parse_grid, parse_imagery

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

    from geoscale.sources.arrays import ArraySource
    from geoscale.types import Json

    AnySource = RasterSource | ArraySource


def open_source(
    imagery: Imagery | Mapping[str, Any],
    *,
    grid: Grid | Mapping[str, Any] | None = None,
    geobox: GeoBox | None = None,
    bands: Sequence[str] | None = None,
    sensor: str | None = None,
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
        from geoscale.sources.stores import open_array

        return open_array(asked, where, geobox=geobox, bands=bands, sensor=sensor)
    items = find_items(asked, where)
    names = asked.bands or bands or _all_bands(items)
    said = asked.sensor if asked.bands else sensor
    if geobox is None:
        keys = choose_assets(items, names, said)
        layout = [
            [item.assets[key] for key in row]
            for item, row in zip(items, keys, strict=True)
        ]
        geobox = choose_grid(items, layout, where)
    return RasterSource(items, names, geobox, reading=asked.reading(), sensor=said)


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
    asked, where = parse_imagery(imagery), parse_grid(grid)
    if asked.files is not None:
        from geoscale.sources.files import items_from_files

        found = items_from_files(
            asked.files, band_names=asked.band_names, access=asked.access()
        )
        found = _dated(found, asked.times)
    elif asked.api is not None:
        from geoscale.sources.search import search_items

        found = search_items(asked, _lonlat_box(where))
    else:
        from geoscale.sources.search import load_items

        found = load_items(asked.items)
    if asked.sensor is not None:
        found = [_with_sensor(item, asked.sensor) for item in found]
    return found


def source_from_spec(spec: Json) -> AnySource:
    """Rebuild a source from its spec, in whatever process.

    Raises
    ------
    SourceError
        If the source lived in the memory of another process.
    """
    kind = spec.get("kind")
    if kind == "raster":
        return RasterSource.from_spec(spec)
    from geoscale.sources.arrays import ArraySource, ZarrSource

    if kind == "zarr":
        return ZarrSource.from_spec(spec)
    if kind == "array":
        return ArraySource.from_spec(spec)
    raise SourceError(f"a source of kind `{kind}` is not known to this version")


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


def _with_sensor(item: Item, sensor: str) -> Item:
    from geoscale.bands import SENSORS, common_name
    from geoscale.words import suggest

    if sensor not in SENSORS:
        raise SourceError(
            f"imagery.sensor `{sensor}` is not known{suggest(sensor, SENSORS)}; "
            f"known are {', '.join(SENSORS)}"
        )
    assets = {
        key: dataclasses.replace(
            asset,
            common_name=asset.common_name or common_name(asset.name or key, sensor),
        )
        for key, asset in item.assets.items()
    }
    return dataclasses.replace(item, assets=assets, platform=item.platform or sensor)


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

    box: tuple[float, float, float, float]
    if grid.bbox is not None:
        return grid.bbox
    if grid.aoi is not None:
        area, crs = load_aoi(grid)
    elif grid.bounds is not None and grid.crs != "native":
        area, crs = shapely.box(*grid.bounds), grid.crs
    else:
        return None
    box = project(area, crs, "EPSG:4326").bounds
    return box

"""Stacks: imagery as lazy xarray objects, and what they were opened from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoscale.card import ModelCard
from geoscale.errors import JobError, StackError
from geoscale.sources.opening import open_source
from geoscale.sources.raster import RasterSource
from geoscale.sources.settings import Grid, Imagery, parse_imagery
from geoscale.storage import Folder
from geoscale.types import Source
from geoscale.words import redact

if TYPE_CHECKING:
    import xarray as xr


def open_stack(
    imagery: Any,
    *,
    bands: Sequence[str] | None = None,
    grid: Grid | Mapping[str, Any] | None = None,
    engine: Literal["odc", "stackstac", "native"] = "odc",
    chunks: int = 2048,
    **settings: Any,
) -> xr.DataArray:
    """Open imagery as a lazy stack on one grid; no pixel is read.

    Parameters
    ----------
    imagery : path, URL, list of items, xarray object or mapping
        STAC JSON, GeoParquet, a Zarr store, GeoTIFFs (a path or a glob), items
        in memory, or the fields of a job's ``imagery``.
    bands : sequence of str, optional
        Common or sensor names; default all.
    grid : mapping, optional
        ``crs``, ``resolution``, ``bounds``, ``bbox`` or ``aoi``; default the
        imagery's own.
    engine : {"odc", "stackstac", "native"}
        Library that makes the lazy array; jobs always read natively.
    chunks : int
        Height and width of a chunk, in px.
    **settings
        Further fields of a job's ``imagery``: ``groupby``, ``resampling``,
        ``scale``, ``offset``, ``source_nodata``…

    Returns
    -------
    xarray.DataArray
        (time, band, y, x), dask-backed, with CRS; values as stored.

    Raises
    ------
    SourceError
        If there is no imagery, or it lacks bands.

    Examples
    --------
    >>> import geoscale as gs
    >>> stack = gs.open_stack("items.json", bands=["red", "nir"])  # doctest: +SKIP
    """
    from geoscale.sources.lazy import lazy_stack

    asked = as_imagery(imagery, settings)
    source = open_source(asked, grid=grid, bands=bands, keep=True)
    stack = lazy_stack(source, engine=engine, chunks=chunks)
    # Encoding is dropped by every computation; the name of the dask array tells
    # whether the stack was cut or changed since.
    stack.encoding["geoscale"] = (stack.data.name, asked, source)
    return stack


def as_imagery(imagery: Any, settings: Mapping[str, Any] | None = None) -> Imagery:
    """Tell what kind of imagery is given by what it looks like.

    Raises
    ------
    JobError
        If a path has a suffix that says nothing.
    """
    given = dict(settings or {})
    if isinstance(imagery, Imagery):
        return imagery
    if isinstance(imagery, Mapping) and imagery.get("type") not in (
        "Feature",
        "FeatureCollection",
    ):
        return parse_imagery({**imagery, **given})
    if isinstance(imagery, str | Path):
        return parse_imagery({_origin(str(imagery)): str(imagery), **given})
    if hasattr(imagery, "dims"):
        return parse_imagery({"array": imagery, **given})
    return parse_imagery({"items": imagery, **given})


def as_source(stack: Any, card: ModelCard) -> Source:
    """Give a stack as a source of the card's bands in the card's units.

    Parameters
    ----------
    stack : xarray.DataArray, xarray.Dataset or Source
        From `open_stack`, or any array with dims y and x and a CRS. A source is
        taken as it is.
    card : ModelCard
        The model.

    Returns
    -------
    Source
        What `open_stack` read from, as long as the stack was not changed since;
        else the array itself.

    Raises
    ------
    StackError
        If it is neither.
    """
    wanted, sensor = card.input.bands, card.input.sensor
    asked, source = recall(stack)
    if isinstance(source, RasterSource) and source.offered is not None:
        source = RasterSource(
            source.offered, wanted, source.geobox, reading=source.reading, sensor=sensor
        )
    elif asked is not None:
        geobox = source.geobox
        source = open_source(asked, geobox=geobox, bands=wanted, sensor=sensor)
    elif hasattr(stack, "dims"):
        given = parse_imagery({"array": stack})
        source = open_source(given, bands=wanted, sensor=sensor)
    elif isinstance(stack, Source):
        return stack
    else:
        raise StackError(
            f"a stack is an xarray object with dims y and x, not "
            f"{type(stack).__name__}; open it with geoscale.open_stack"
        )
    found: Source = source.calibrated(card.input.units, card.input.multiply)
    return found


def list_bands(stack: Any) -> tuple[str, ...]:
    """Names of the bands of a stack, in their order; see `as_source`."""
    _, source = recall(stack)
    if source is None:
        is_array = hasattr(stack, "dims")
        source = open_source(parse_imagery({"array": stack})) if is_array else stack
    bands: tuple[str, ...] = source.bands
    return bands


def recall(stack: Any) -> tuple[Imagery | None, Any]:
    """Give what an unchanged stack from `open_stack` was opened from.

    Parameters
    ----------
    stack : object
        Anything.

    Returns
    -------
    tuple
        Settings and source; None twice for any other object.
    """
    found = getattr(stack, "encoding", {}).get("geoscale", (None, None, None))
    name, asked, source = found
    same = name is not None and getattr(stack.data, "name", None) == name
    return (asked, source) if same else (None, None)


def _origin(text: str) -> str:
    bare = text.split("?")[0].rstrip("/").lower()
    if bare.endswith((".json", ".geojson", ".parquet", ".geoparquet")):
        return "items"
    if bare.endswith((".zarr", ".zarr.zip")) or Folder(text).exists("zarr.json"):
        return "zarr"
    if bare.endswith((".tif", ".tiff", ".jp2", ".hdr", ".img")) or "*" in bare:
        return "files"
    raise JobError(
        f"cannot tell what {redact(text)} is; say which: imagery={{'items': …}}, "
        "{'files': …}, {'zarr': …} or {'api': …}"
    )

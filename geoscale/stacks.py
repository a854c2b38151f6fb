"""Stacks: imagery as lazy xarray objects, and what they were opened from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoscale.card import ModelCard
from geoscale.errors import JobError, StackError
from geoscale.sources.opening import open_source
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

    source = open_source(as_imagery(imagery, settings), grid=grid, bands=bands)
    stack = lazy_stack(source, engine=engine, chunks=chunks)
    remember(stack, source)
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
    """Give a stack as a source of the card's bands in the card's units."""
    source = recall(stack)
    if source is None and isinstance(stack, Source):
        source = stack
    if source is None:
        if not hasattr(stack, "dims"):
            raise StackError(
                f"a stack is an xarray object with dims y and x, not "
                f"{type(stack).__name__}; open it with geoscale.open_stack"
            )
        source = open_source(parse_imagery({"array": stack}))
    if hasattr(source, "select"):
        source = source.select(card.input.bands, card.input.sensor)
        source = source.calibrated(card.input.units, card.input.multiply)
    return source


def remember(stack: xr.DataArray, source: Source) -> None:
    """Note on a lazy stack what it was opened from.

    Encoding is dropped by every computation; the name of the dask array tells
    whether the stack was cut or changed since.
    """
    stack.encoding["geoscale_source"] = (stack.data.name, source)


def recall(stack: Any) -> Any:
    """Source of an unchanged stack from `open_stack`, else None."""
    name, source = getattr(stack, "encoding", {}).get("geoscale_source", (None, None))
    return source if name is not None and stack.data.name == name else None


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

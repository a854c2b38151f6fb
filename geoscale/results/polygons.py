"""The verb: polygons of a layer of classes, whole across blocks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from geoscale.api import as_url
from geoscale.chunks import BlockGrid
from geoscale.errors import JobError
from geoscale.results.files import write_file
from geoscale.results.joining import join_rows
from geoscale.results.layers import choose_time, list_dates, trace_px
from geoscale.results.pieces import Cut, Opened, cut, open_asked
from geoscale.results.settings import PolygonOptions, choose_driver, make_asked
from geoscale.results.table import make_batch, make_schema
from geoscale.results.waves import each_block
from geoscale.storage import Folder
from geoscale.types import Json

if TYPE_CHECKING:
    from distributed import Client


@dataclass(slots=True)
class Polygons:
    """Polygons that were written.

    Made by `geoscale.polygons`; `load` gives them as a table.
    """

    path: str
    """The file."""
    layer: str
    """Layer of classes."""
    count: int = 0
    """How many there are."""
    dropped: int = 0
    """Objects that are smaller than asked, and left out."""
    area_m2: float = 0.0
    """Area of all, on the ellipsoid, in m²."""
    classes: dict[str, Json] = field(default_factory=dict)
    """Class → count and area_m2."""

    def load(self) -> Any:
        """Read the file.

        Returns
        -------
        geopandas.GeoDataFrame
            A row for each polygon.
        """
        import geopandas

        is_parquet = self.path.endswith(".parquet")
        read = geopandas.read_parquet if is_parquet else geopandas.read_file
        return read(self.path)

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        return {name: getattr(self, name) for name in self.__slots__}

    def _add(self, batch: Any) -> None:
        self.count += batch.num_rows
        names, m2 = batch.column("class").to_pylist(), batch.column("area_m2")
        # one after the other: a sum by batches would depend on the blocks
        for name, area in zip(names, m2.to_pylist(), strict=True):
            one = self.classes.setdefault(name, {"count": 0, "area_m2": 0.0})
            one["count"] += 1
            one["area_m2"] += area
        self.area_m2 = sum(one["area_m2"] for one in self.classes.values())


def polygons(
    output: str | Path,
    to: str | Path | None = None,
    *,
    client: Client | None = None,
    block_px: int | None = None,
    **options: Unpack[PolygonOptions],
) -> Polygons:
    """Write the polygons of a layer of classes, whole across the borders of blocks.

    Blocks are traced side by side and joined along their borders, in whole numbers:
    outlines, sums and order are those of tracing the whole map at once, in the memory
    of one row of blocks and of what is not yet finished.

    Parameters
    ----------
    output : str or path
        A finished output.
    to : str or path, optional
        The file: ``.parquet`` (GeoParquet 1.1, in the map's CRS), ``.geojson`` (RFC
        7946, degrees), ``.fgb`` or ``.gpkg``; default ``<output>-<layer>.parquet``
        beside a local output, else in the working folder.
    client : distributed.Client, optional
        Cluster to trace on; its workers must see the output.
    block_px : int, optional
        Height and width of what is traced at once; decides nothing.
    **options
        ``layer``, ``classes`` (names or values; default 1 of ``change``, else all),
        ``time`` (default all steps), ``min_area`` (``0.5ha``, ``10px``), ``simplify``
        (px), ``right_angles`` (for buildings), ``connectivity`` (4 or 8), ``split``
        (polygons by from and to class).

    Returns
    -------
    Polygons
        What was written. Ids ascend by time, then by each polygon's last pixel.

    Raises
    ------
    JobError
        If an option is wrong.
    OutputError
        If the output is not there or not finished, or the file cannot be written.
    """
    url = as_url(output)
    asked = make_asked(url, options)
    if block_px is not None and block_px < 1:
        raise JobError(f"block_px {block_px}: must be 1 or more")
    opened = open_asked(asked)
    place = _choose_place(url, to, opened.layer.name)
    driver = choose_driver(place)
    made, schema = Polygons(place, opened.layer.name), make_schema(opened)
    rows = _make_rows(opened, made, block_px, client)
    crs = str(opened.template.geobox.crs)
    write_file(place, driver, schema, rows, crs)
    return made


def _make_rows(
    opened: Opened, made: Polygons, block_px: int | None, client: Client | None
) -> Iterator[Any]:
    template = opened.template
    times = range(len(template.times))
    if opened.asked.time is not None:
        times = range(choose_time(template.times, opened.asked.time)[0], len(times))[:1]
    grid = BlockGrid(1, template.shape, block_px or trace_px(template))
    dates = list_dates(template)
    for time in times:
        blocks = ((time, grid.core(number)) for number in grid)
        cuts: Iterator[Cut] = each_block(
            cut, open_asked, opened.asked, blocks, client=client, opened=opened
        )
        for pieces in join_rows(opened, cuts):
            made.dropped += pieces.dropped
            batch = make_batch(opened, pieces, dates[time], made.count + 1)
            made._add(batch)
            yield batch


def _choose_place(url: str, to: str | Path | None, layer: str) -> str:
    if to is not None:
        return as_url(to)
    name = f"{url.rpartition('/')[2].removesuffix('.zarr')}-{layer}.parquet"
    folder = Folder(url)
    parent = Path(folder.path).parent if folder.is_local else Path.cwd()
    return str(parent / name)

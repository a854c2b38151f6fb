"""Objects that a detector found, as a file for other programs, or with STAC beside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from geoscale.api import as_url
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, OutputError
from geoscale.results.files import ROWS, write_file
from geoscale.results.settings import ENDS, choose_driver
from geoscale.results.zone_objects import DEGREES, iter_zones, make_schema
from geoscale.sinks.stac_objects import describe_objects
from geoscale.sinks.vector import TABLE, has_objects, read_about
from geoscale.sources.opening import list_sources
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact
from geoscale.zone_list import read_zones

if TYPE_CHECKING:
    import pyarrow as pa


def export_objects(
    output: str | Path, to: str | Path, *, min_score: float = 0.0
) -> list[Path]:
    """Write what a detector found as GeoPackage, GeoJSON, FlatGeobuf or GeoParquet.

    Parameters
    ----------
    output : str or path
        A finished output of task detection, or the folder of several UTM zones'.
    to : str or path
        File, whose end says the format, or a folder for GeoParquet and a STAC Item.
        Several zones are in one file, in degrees, with a column ``zone``, or each in a
        folder of its name.
    min_score : float
        Leave out what scores less.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    OutputError
        If the output has no objects, or is not finished.
    JobError
        If the score is none, or the end of the file is not known.
    """
    if not 0 <= min_score <= 1:
        raise JobError(f"min_score {min_score:g}: choose one in [0, 1]")
    url = as_url(output)
    told = read_zones(url)
    file = Path(to).expanduser().resolve()
    is_folder = not file.name.lower().endswith(tuple(ENDS))
    if is_folder and file.suffix:
        choose_driver(file.name)  # says which ends there are
    if told is not None:
        places = {name: f"{url}/{name}" for name in told["zones"]}
        return _export_zones(places, file, is_folder, min_score)
    final, about = load_objects(url)
    target = file / TABLE if is_folder else file
    crs = about["layout"]["crs"]
    with Folder(url).open(TABLE) as stream:
        import pyarrow.parquet as pq

        table = pq.ParquetFile(stream)
        write_file(
            str(target),
            choose_driver(target.name),
            table.schema_arrow,
            _choose(table.iter_batches(batch_size=ROWS), min_score),
            crs,
        )
    if not is_folder:
        return [target]
    plan = Journal(url).load_plan()
    assert plan is not None
    facts = {**final, "sources": list_sources(plan)}
    item = describe_objects(target, url, about["layout"], facts, plan.card)
    return [target, item]


def load_objects(url: str) -> tuple[Json, Json]:
    """Read what a finished output of objects says of itself.

    Parameters
    ----------
    url : str
        The output.

    Returns
    -------
    dict, dict
        ``final.json``, and what `geoscale.sinks.vector.read_about` gives.

    Raises
    ------
    OutputError
        If it has none, or is not finished.
    """
    if read_zones(url) is not None:
        raise OutputError(
            f"{redact(url)} has several UTM zones, with a table in the folder of each: "
            "name one of them"
        )
    if not has_objects(url):
        raise OutputError(f"{redact(url)} holds no objects that a detector found")
    final = Journal(url).final()
    if final is None:
        raise OutputError(
            f"{redact(url)} is not complete: run its job to the end first"
        )
    return final, read_about(url)


def holds_objects(output: str | Path) -> bool:
    """Whether an output is a detector's, on one grid or in several UTM zones."""
    url = as_url(output)
    told = read_zones(url)
    if told is None:
        return has_objects(url)
    return any(has_objects(f"{url}/{name}") for name in told["zones"])


def _export_zones(
    places: Mapping[str, str], file: Path, is_folder: bool, min_score: float
) -> list[Path]:
    """Write the objects of several zones: one file, or a folder for each."""
    import pyarrow.parquet as pq

    for place in places.values():
        load_objects(place)  # all or nothing: before the first file is written
    if is_folder:
        each = [
            export_objects(place, file / name, min_score=min_score)
            for name, place in places.items()
        ]
        return [path for paths in each for path in paths]
    with Folder(next(iter(places.values()))).open(TABLE) as stream:
        schema = make_schema(pq.ParquetFile(stream).schema_arrow)
    rows = _choose(iter_zones(places, schema), min_score)
    write_file(str(file), choose_driver(file.name), schema, rows, DEGREES)
    return [file]


def _choose(
    batches: Iterable[pa.RecordBatch], min_score: float
) -> Iterator[pa.RecordBatch]:
    import pyarrow.compute as pc

    for batch in batches:
        enough = pc.greater_equal(batch["score"], min_score)
        yield batch if not min_score else batch.filter(enough)

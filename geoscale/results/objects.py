"""Objects that a detector found, as a file for other programs, or with STAC beside."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.api import as_url
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, OutputError
from geoscale.results.files import ROWS, write_file
from geoscale.results.settings import ENDS, choose_driver
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
        A finished output of task detection.
    to : str or path
        File, whose end says the format, or a folder for GeoParquet and a STAC Item.
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
    final, about = load_objects(url)
    file = Path(to).expanduser().resolve()
    is_folder = not file.name.lower().endswith(tuple(ENDS))
    if is_folder and file.suffix:
        choose_driver(file.name)  # says which ends there are
    target = file / TABLE if is_folder else file
    crs = about["layout"]["crs"]
    with Folder(url).open(TABLE) as stream:
        import pyarrow.parquet as pq

        table = pq.ParquetFile(stream)
        write_file(
            str(target),
            choose_driver(target.name),
            table.schema_arrow,
            _batches(table, min_score),
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


def _batches(table: Any, min_score: float) -> Iterator[pa.RecordBatch]:
    import pyarrow.compute as pc

    for batch in table.iter_batches(batch_size=ROWS):
        enough = pc.greater_equal(batch["score"], min_score)
        yield batch if not min_score else batch.filter(enough)

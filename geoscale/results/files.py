"""Files of polygons: whole or absent, in four formats, written batch by batch."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.errors import OutputError
from geoscale.storage import Folder
from geoscale.words import redact

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 65_536
"""Most rows of a batch, and of a row group of Parquet."""
GROUP_BYTES = 1 << 26
"""Bytes of rows from which on a row group is written, however few they are."""


def write_file(
    to: str, driver: str, schema: pa.Schema, batches: Iterable[pa.RecordBatch], crs: str
) -> None:
    """Write polygons into a file that is there only when it is whole.

    Parameters
    ----------
    to : str
        Local path or any fsspec URL.
    driver : str
        As `geoscale.results.settings.choose_driver` gives.
    schema : pyarrow.Schema
        With GeoParquet's metadata.
    batches : iterable of pyarrow.RecordBatch
        The rows.
    crs : str
        Of the map; GeoJSON is written in degrees of WGS 84 (RFC 7946).

    Raises
    ------
    OutputError
        If it cannot be written there.
    """
    parent, _, name = to.rpartition("/")
    folder = Folder(parent or "/")
    with tempfile.TemporaryDirectory(prefix="geoscale-") as scratch:
        # Parquet first, whatever the format: an error while blocks are read then is
        # that error, not one of the writer that asked for rows
        parquet = Path(scratch) / "rows.parquet"
        _write_parquet(parquet, schema, batches)
        made = parquet
        if driver != "Parquet":
            made = Path(scratch) / name
            _convert(parquet, made, driver, crs)
        try:
            _deliver(made, folder, name)
        except OSError as err:
            raise OutputError(f"{redact(to)} cannot be written: {err}") from err


def _write_parquet(
    path: Path, schema: pa.Schema, batches: Iterable[pa.RecordBatch]
) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(path, schema, compression="zstd") as file:
        for some in _gather(batches):
            table = pa.Table.from_batches(some, schema)
            file.write_table(table, row_group_size=ROWS)


def _gather(batches: Iterable[Any]) -> Iterator[list[Any]]:
    """Put small batches together: a row group for each would make a file of headers."""
    held: list[Any] = []
    for one in batches:
        if one.num_rows:
            held.append(one)
        rows, size = (sum(getattr(p, n) for p in held) for n in ("num_rows", "nbytes"))
        if rows >= ROWS or size >= GROUP_BYTES:
            yield held
            held = []
    if held:
        yield held


def _convert(parquet: Path, to: Path, driver: str, crs: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq
    import pyogrio

    file = pq.ParquetFile(parquet)
    columns = [name for name in file.schema_arrow.names if name != "bbox"]
    schema = pa.schema([file.schema_arrow.field(name) for name in columns])
    batches = (
        pa.RecordBatch.from_arrays(one.columns, schema=schema)
        for one in file.iter_batches(columns=columns)
    )
    # outer rings counterclockwise, degrees, cut at the antimeridian
    how = {"RFC7946": "YES"} if driver == "GeoJSON" else {}
    pyogrio.write_arrow(
        pa.RecordBatchReader.from_batches(schema, batches),
        to,
        driver=driver,
        layer=to.stem,
        geometry_name="geometry",
        geometry_type="Unknown",
        crs=crs,
        **how,
    )


def _deliver(made: Path, folder: Folder, name: str) -> None:
    """Bring a file to its place in one step."""
    if not folder.is_local:
        folder.put_file(name, made)
        return
    target = Path(folder.path) / name
    if target.is_dir():
        raise OutputError(f"{target} is a folder; name a file")
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{name}.{uuid.uuid4().hex}.partial")
    try:
        shutil.copyfile(made, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)

"""Detections of blocks into GeoParquet: one part a block, one digest, one table after.

Parts hold what each block found, doubled objects and all; they are what the journal
knows, what is verified and repaired. ``detections.parquet`` is made of them once all
are there.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import OutputError, SinkError
from geoscale.sinks.layout import OBJECTS as ABOUT
from geoscale.sinks.rows import Rows
from geoscale.storage import Folder, digest_bytes
from geoscale.types import Array, Json
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    import pyarrow as pa
    from odc.geo.geobox import GeoBox

TABLE = "detections.parquet"
"""All objects, once every block is there."""
PARTS = "parts"
"""Folder of what each block found."""
ROWS = 65_536
"""Rows of a group of the table."""
_OURS = (ABOUT, TABLE, PARTS, ".geoscale", "_geoscale")


class VectorSink:
    """Stores what blocks of a detector found.

    Parameters
    ----------
    url : str
        Local folder or any fsspec URL.
    geobox : GeoBox
        Grid of the job, not rotated.
    layout : mapping
        JSON-able: all that decides what is stored.
    """

    def __init__(self, url: str, geobox: GeoBox, layout: Mapping[str, Any]) -> None:
        self.url = str(url).rstrip("/")
        self.geobox, self.layout = geobox, json.loads(json.dumps(dict(layout)))
        self._folder: Folder | None = None

    def __reduce__(self) -> tuple[object, ...]:
        """Send what it is made of; a worker opens its own store."""
        return VectorSink, (self.url, self.geobox, self.layout)

    @property
    def folder(self) -> Folder:
        """Place of the output, opened on first use in this process."""
        if self._folder is None:
            self._folder = Folder(self.url)
        return self._folder

    def create(self) -> None:
        """Say what the output is of; keep what is already there.

        Raises
        ------
        OutputError
            If the folder holds something else, or another job's detections.
        """
        found = self.folder.get(ABOUT)
        if found is None:
            foreign = [
                name
                for name in self.folder.names()
                if not name.startswith(_OURS) and not name.endswith(".partial")
            ]
            if foreign:
                raise OutputError(
                    f"output {redact(self.url)} exists and is something else: it "
                    f"holds `{foreign[0]}`; choose a new path, or empty it yourself"
                )
        elif read_about(self.url)["layout"] != self.layout:
            raise OutputError(
                f"output {redact(self.url)} holds another job's detections; choose a "
                "new path"
            )
        if found != self._about():
            self.folder.put(ABOUT, self._about())

    def _about(self) -> bytes:
        return json.dumps({"layout": self.layout}, indent=1).encode()

    def damaged_metadata(self) -> list[str]:
        """Keys that are not as `create` wrote them."""
        return [] if self.folder.get(ABOUT) == self._about() else [ABOUT]

    def write(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> dict[str, str | None]:
        """Write what one block found, in one put.

        Parameters
        ----------
        time : int
            Number of the time step.
        core : Window
            Pixels of the block.
        layers : mapping
            Columns as `geoscale.engine.objects.ObjectPass.finish` gives.

        Returns
        -------
        dict
            Stored key → digest; None where nothing was found and nothing is stored.

        Raises
        ------
        SinkError
            If the core is no block of the output; nothing is written then.
        """
        size = self.layout["block_px"]
        if core.is_empty or core.y0 % size or core.x0 % size:
            raise SinkError(
                f"block core {core.as_tuple()} does not begin at multiples of {size} px"
            )
        key = self.key(time, core.y0 // size, core.x0 // size)
        if not len(layers["score"]):
            self.folder.delete(key)
            return {key: None}
        data = _encode(Rows(self.geobox, self.layout).part(layers))
        self.folder.put(key, data)
        return {key: digest_bytes(data)}

    def key(self, time: int, row: int, column: int) -> str:
        """Name of the part of one block."""
        return f"{PARTS}/{time}-{row}-{column}.parquet"

    def place(self, key: str) -> tuple[int, int, int]:
        """Time step, row and column of the block whose part a key names."""
        name = key.rpartition("/")[2].removesuffix(".parquet")
        time, row, column = (int(n) for n in name.split("-"))
        return time, row, column

    def keys(self) -> Iterator[str]:
        """Yield the keys of all stored parts."""
        for name in self.folder.find(PARTS):
            if name.endswith(".parquet"):
                yield f"{PARTS}/{name}"

    def read(self, time: int, row: int, column: int) -> dict[str, Array] | None:
        """Read what one block found; None where that is nothing.

        Returns
        -------
        dict of ndarray or None
            ``row``, ``value``, ``score``, ``corners`` (n, 4, 2) and ``outline`` (n,)
            in WKB, in px of the grid; None where there is no part.

        Raises
        ------
        OutputError
            If the part cannot be read.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        key = self.key(time, row, column)
        data = self.folder.get(key)
        if data is None:
            return None
        try:
            # as `geoscale.plan_store.load_plan`: no thread that outlives a command
            table = pq.ParquetFile(pa.BufferReader(data)).read(use_threads=False)
            corners = table["corners"].combine_chunks().flatten().to_numpy()
            outlines = np.empty(len(table), object)
            outlines[:] = table["outline"].to_pylist()
            return {
                "row": table["row"].to_numpy(),
                "value": table["value"].to_numpy(),
                "score": table["score"].to_numpy(),
                "corners": corners.reshape(-1, 4, 2),
                "outline": outlines,
            }
        except (pa.ArrowException, OSError, KeyError) as err:
            raise OutputError(
                f"part {key} of {redact(self.url)} is damaged: {err}; run `geoscale "
                "verify`, then `geoscale repair`"
            ) from err

    def write_table(self, batches: Iterable[Mapping[str, Array]]) -> str:
        """Write the table of all objects, whole or not at all.

        Parameters
        ----------
        batches : iterable of mapping
            ``time`` (n,), ``value``, ``score``, ``corners`` and ``outline``, as in
            parts.

        Returns
        -------
        str
            Digest of the file.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = Rows(self.geobox, self.layout)
        schema = rows.schema()
        with tempfile.TemporaryDirectory(prefix="geoscale-") as scratch:
            path = Path(scratch) / TABLE
            with pq.ParquetWriter(path, schema, compression="zstd") as file:
                held: list[Any] = []
                for batch in batches:
                    held.append(rows.table(batch))
                    if sum(one.num_rows for one in held) >= ROWS:
                        file.write_table(pa.concat_tables(held), row_group_size=ROWS)
                        held = []
                left = pa.concat_tables([*held, schema.empty_table()])
                file.write_table(left, row_group_size=ROWS)
            self._deliver(path)
        found = self.folder.digest(TABLE)
        assert found is not None
        return found

    def _deliver(self, made: Path) -> None:
        """Bring the table to its place in one step."""
        if not self.folder.is_local:
            self.folder.put_file(TABLE, made)
            return
        target = Path(self.folder.path) / TABLE
        part = target.with_name(f".{TABLE}.{uuid.uuid4().hex}.partial")
        try:
            shutil.copyfile(made, part)
            part.replace(target)
        finally:
            part.unlink(missing_ok=True)

    def fetch_digest(self, key: str) -> str | None:
        """Digest of the bytes stored under a key now; None where nothing is."""
        return self.folder.digest(key)

    def drop(self, key: str) -> None:
        """Delete a stored part, or the table."""
        self.folder.delete(key)

    def sweep(self, *, older_s: float = 86_400.0) -> list[str]:
        """Delete what killed writers left behind on a local disk."""
        return self.folder.sweep_partials(older_s) if self.folder.is_local else []

    def finalize(self, attrs: Mapping[str, Any] | None = None) -> None:
        """Do nothing: ``final.json`` says that an output is complete."""


def has_objects(url: str) -> bool:
    """Whether an output is one of a detector."""
    return Folder(url).exists(ABOUT)


def read_about(url: str) -> Json:
    """Read what an output of detections is of.

    Raises
    ------
    OutputError
        If there is none, or it is damaged.
    """
    data = Folder(url).get(ABOUT)
    try:
        found = json.loads(data or b"")
    except ValueError:
        found = None
    if not isinstance(found, dict) or "layout" not in found:
        raise OutputError(f"output {redact(url)} holds no detections; check the path")
    return found


def _encode(table: pa.Table) -> bytes:
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd")
    return buffer.getvalue()

"""Listing: the items of a source in one Parquet table, opened where they are needed.

A run over a continent has hundreds of thousands of items, a block needs a few dozen.
Where and when each item lies is read at once, in columns; what its files are is kept
as JSON in small row groups, neighbours on the ground together, and read when a block
asks for it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import json
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import SourceError
from geoscale.plans import ITEMS
from geoscale.sources.items import Item
from geoscale.sources.steps import Step
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

_DAMAGE = (OSError, ValueError, LookupError, TypeError, NotImplementedError)
"""What pyarrow raises over bytes that are no table, or one of another kind."""

GROUP = 256
"""Items of a row group: what is read to get one."""
GROUPS, PARSED = 32, 1024
"""Row groups and parsed items that are kept."""
META = b"geoscale"
NUMBERS = {
    "number": "i4", "step": "i4", "kind": "i4", "sum": "i8",
    "y0": "f8", "x0": "f8", "y1": "f8", "x1": "f8",
}  # fmt: skip
"""Columns that are read at once: place in time, step, kind, CRC-32 of the item's text,
and box; with their dtypes."""

Tables = Mapping[str, bytes] | Folder
"""Where tables are: in memory by name, or in a folder."""


class Listing(Sequence[Item]):
    """Items in the order of (time, id), each with the bands that are read.

    Parameters
    ----------
    data : bytes or tuple of str
        The table itself, or URL of a folder and its name there.

    Raises
    ------
    SourceError
        If it is no such table.
    """

    def __init__(self, data: bytes | tuple[str, str]) -> None:
        self._data = data
        self._lock = threading.Lock()
        file = self._file
        meta = unseal((file.schema_arrow.metadata or {}).get(META))
        if meta is None:
            raise SourceError(
                f"{self._where()} is no whole table of items of geoscale; restore it"
            )
        self.digest: str = meta["digest"]
        """Of the items themselves, wherever and in whatever order they lie."""
        self.is_remote: bool = meta["remote"]
        """Whether any file is behind a URL."""
        table = self._read(list(NUMBERS))
        if meta.get("columns") != sum_columns(table.values()):
            raise SourceError(f"{self._where()} is damaged; restore it")
        self._sums: NDArray[np.int64] = table["sum"]
        self._rows = np.argsort(table["number"])
        self.kinds: NDArray[np.intp] = table["kind"][self._rows]
        """Which of the items that differ in calibration each one is like."""
        self.boxes: NDArray[np.float64] = np.stack(
            [table[name] for name in ("y0", "x0", "y1", "x1")], axis=1
        )[self._rows]
        """(item, 4): y0, x0, y1, x1 in pixels of the grid; infinite where unknown."""
        self.steps = _steps(table["step"][self._rows], meta["steps"])
        """Time steps, ascending."""
        self._open_caches()

    @classmethod
    def open(cls, tables: Tables | None, told: Json) -> Listing:
        """Open what a spec names.

        Parameters
        ----------
        tables : mapping or Folder or None
            Where it is.
        told : dict
            ``count`` and ``digest`` of the items.

        Raises
        ------
        SourceError
            If the table is not there or holds other items.
        """
        found: bytes | tuple[str, str] | None = None
        if isinstance(tables, Folder):
            found = (tables.url, ITEMS) if tables.exists(ITEMS) else None
        elif tables is not None:
            found = tables.get(ITEMS)
        if found is None:
            raise SourceError(
                f"the list of {told['count']} items is not beside its plan ({ITEMS}); "
                "restore it, or write to a new output"
            )
        listing = cls(found)
        if (len(listing), listing.digest) != (told["count"], told["digest"]):
            raise SourceError(
                f"{listing._where()} holds other items than the plan names; restore "
                "it, or write to a new output"
            )
        return listing

    def __len__(self) -> int:
        return len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> list[Item]: ...
    def __getitem__(self, index: int | slice) -> Item | list[Item]:
        """Give one item, or several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        found: Item = self._item(range(len(self))[index])
        return found

    def __iter__(self) -> Iterator[Item]:
        return (self[i] for i in range(len(self)))

    @property
    def ids(self) -> list[str]:
        """Ids of all items."""
        import pyarrow as pa

        with self._reading():
            column = self._file.read(["id"], use_threads=False)["id"]
            return list(column.take(pa.array(self._rows)).to_pylist())

    def kind_examples(self) -> list[Item]:
        """One item of each kind, in the order of the kinds."""
        _, first = np.unique(self.kinds, return_index=True)
        return [self[int(i)] for i in first]

    def kind_counts(self) -> list[int]:
        """How many items there are of each kind."""
        return [int(n) for n in np.bincount(self.kinds)]

    def to_bytes(self) -> bytes:
        """Give the table as it is stored."""
        if isinstance(self._data, bytes):
            return self._data
        url, name = self._data
        data = Folder(url).get(name)
        if data is None:
            raise SourceError(f"{self._where()} is not there any more")
        return data

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is open or cached."""
        return {"_data": self._data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_data"])  # type: ignore[misc]

    def _open_caches(self) -> None:
        self._group = functools.lru_cache(GROUPS)(self._read_group)
        self._item = functools.lru_cache(PARSED)(self._parse)

    @functools.cached_property
    def _file(self) -> Any:
        import pyarrow.parquet as pq

        if isinstance(self._data, bytes):
            source: Any = io.BytesIO(self._data)
        else:
            url, name = self._data
            source = Folder(url).open(name)
        try:
            return pq.ParquetFile(source, page_checksum_verification=True)
        except _DAMAGE as err:
            raise SourceError(
                f"{self._where()} cannot be read: {redact(str(err))[:200]}; restore it"
            ) from None

    def _read(self, columns: list[str]) -> dict[str, NDArray[Any]]:
        with self._reading():
            # one thread: pyarrow's pool may abort a process that exits at once
            table = self._file.read(columns, use_threads=False)
            return {name: table[name].to_numpy() for name in columns}

    def _read_group(self, number: int) -> list[str]:
        with self._reading():
            table = self._file.read_row_group(number, ["item"], use_threads=False)
            found = list(table["item"].to_pylist())
            if len(found) != min(GROUP, len(self) - number * GROUP):
                raise ValueError(f"{len(found)} items are in row group {number}")
            return found

    @contextlib.contextmanager
    def _reading(self) -> Iterator[None]:
        """One reader at a time; what the library says of damage in our words."""
        try:
            with self._lock:
                yield
        except _DAMAGE as err:
            raise SourceError(
                f"{self._where()} is damaged: {redact(str(err))[:200]}; restore it, or "
                "write to a new output"
            ) from None

    def _parse(self, index: int) -> Item:
        row = int(self._rows[index])
        text = self._group(row // GROUP)[row % GROUP]
        if zlib.crc32(str(text).encode()) != self._sums[row]:
            raise SourceError(f"{self._where()} is damaged in row {row}; restore it")
        return Item.from_json(json.loads(text))

    def _where(self) -> str:
        if isinstance(self._data, bytes):
            return "the list of items"
        return redact("/".join(self._data))


def seal(meta: Json) -> bytes:
    """Write what a table says of itself, so that no changed byte is believed."""
    text = json.dumps(meta)
    return json.dumps({"sum": _sum(text), "meta": text}).encode()


def sum_columns(columns: Iterable[NDArray[Any]]) -> str:
    """Sum up the columns `NUMBERS`, in their order, as rows are stored."""
    total = hashlib.blake2b(digest_size=16)
    for name, column in zip(NUMBERS, columns, strict=True):
        total.update(np.ascontiguousarray(column, NUMBERS[name]).tobytes())
    return total.hexdigest()


def unseal(data: bytes | None) -> Json | None:
    """Read what `seal` wrote; None where it is not whole."""
    try:
        found = json.loads(data or b"")
        whole = _sum(found["meta"]) == found["sum"]
        return dict(json.loads(found["meta"])) if whole else None
    except (ValueError, KeyError, TypeError):
        return None


def _sum(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _steps(numbers: NDArray[Any], labels: Sequence[str]) -> tuple[Step, ...]:
    order = np.argsort(numbers, kind="stable")
    ends = np.searchsorted(numbers[order], np.arange(len(labels)), side="right")
    parts = np.split(order, ends[:-1])
    return tuple(
        Step(label, tuple(part.tolist()))
        for label, part in zip(labels, parts, strict=True)
    )

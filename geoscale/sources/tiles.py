"""Decoded tiles of source files: each is decoded by one thread, and kept a while.

Tiles are named by file, layer, row and column, so that whatever windows are
asked for, the same rectangles are read. What is cached is read-only.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from geoscale.memory import TILE_CACHE_BYTES
from geoscale.sources.gdal import COUNTS
from geoscale.sources.parallel import PerProcess
from geoscale.types import Array
from geoscale.windows import Window

LARGEST_TILE_BYTES = 64 * 2**20
"""A larger tile is not cached: the file is one strip, or nearly so."""

BATCH_BYTES = 16 * 2**20
"""Bytes of tiles that one thread reads at a time, held twice until they are cut."""

_LEAST_STRIP_ROWS = 64

Key = tuple[str, int, int, int]
"""Name of the raster, layer, row and column."""

Number = tuple[int, int]
"""Row and column of a tile."""

Decode = Callable[[list[Key]], Mapping[Key, Array]]


class _Flight:
    """A tile that some thread is decoding."""

    def __init__(self) -> None:
        self.landed = threading.Event()
        self.tile: Array | None = None


class TileCache:
    """Tiles by key, bounded in bytes; least recently used go first.

    Parameters
    ----------
    limit : int
        Most bytes; `TILES.value.limit` changes that of this process.
    """

    def __init__(self, limit: int = TILE_CACHE_BYTES) -> None:
        self.limit = limit
        self._lock = threading.Lock()
        self._tiles: OrderedDict[Key, Array] = OrderedDict()
        self._flights: dict[Key, _Flight] = {}
        self._nbytes = 0

    @property
    def nbytes(self) -> int:
        """Bytes of all tiles."""
        return self._nbytes

    def get(
        self, keys: Sequence[Key], decode: Decode, *, fresh: bool = False
    ) -> dict[Key, Array]:
        """Give tiles, those that are missing decoded at once.

        Parameters
        ----------
        keys : sequence of tuple
            Tiles wanted.
        decode : callable
            Takes the missing keys, gives an array for each.
        fresh : bool
            Whether to decode all of them, and replace what is cached.

        Returns
        -------
        dict
            An array for each key; not to be written to.
        """
        if fresh:
            made = dict(decode(list(keys)))
            with self._lock:
                self._put(made)
            return made
        found: dict[Key, Array] = {}
        wanted = list(keys)
        while wanted:
            mine, others = self._claim(wanted, found)
            if mine:
                found |= self._decode(mine, decode)
            # own tiles first: no two threads wait for each other
            wanted = []
            for key, flight in others.items():
                flight.landed.wait()
                if flight.tile is None:
                    wanted.append(key)  # its thread failed: try it here
                else:
                    found[key] = flight.tile
                    COUNTS.add("tile_hits")
        return found

    def clear(self) -> None:
        """Forget all tiles."""
        with self._lock:
            self._tiles.clear()
            self._nbytes = 0

    def _claim(
        self, keys: Iterable[Key], found: dict[Key, Array]
    ) -> tuple[list[Key], dict[Key, _Flight]]:
        mine: list[Key] = []
        others: dict[Key, _Flight] = {}
        before = len(found)
        with self._lock:
            for key in keys:
                tile = self._tiles.get(key)
                if tile is not None:
                    self._tiles.move_to_end(key)
                    found[key] = tile
                elif key in self._flights:
                    others[key] = self._flights[key]
                else:
                    self._flights[key] = _Flight()
                    mine.append(key)
        COUNTS.add("tile_hits", len(found) - before)
        return mine, others

    def _decode(self, keys: list[Key], decode: Decode) -> dict[Key, Array]:
        made: dict[Key, Array] = {}
        try:
            made = dict(decode(keys))
        finally:
            with self._lock:
                self._put(made)
                for key in keys:
                    flight = self._flights.pop(key)
                    flight.tile = made.get(key)
                    flight.landed.set()
        return made

    def _put(self, tiles: Mapping[Key, Array]) -> None:
        for key, tile in tiles.items():
            tile.flags.writeable = False
            old = self._tiles.pop(key, None)
            self._nbytes += tile.nbytes - (0 if old is None else old.nbytes)
            self._tiles[key] = tile
        while self._nbytes > self.limit:
            self._nbytes -= self._tiles.popitem(last=False)[1].nbytes


TILES = PerProcess(TileCache)
"""The cache of this process, as ``TILES.value``."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """How a raster is cut into tiles."""

    shape: tuple[int, int]
    """Rows and columns of the raster."""
    tile: tuple[int, int]
    """Rows and columns of a tile."""

    @classmethod
    def of_file(cls, shape: tuple[int, int], block: tuple[int, int]) -> Lattice:
        """Take the file's own tiles; thin strips several at a time."""
        rows, columns = block
        if columns >= shape[1] and rows < _LEAST_STRIP_ROWS:
            rows *= -(-_LEAST_STRIP_ROWS // rows)
        return cls(shape, (rows, columns))

    def window(self, row: int, column: int) -> Window:
        """Pixels of one tile, by its number."""
        rows, columns = self.tile
        y, x = row * rows, column * columns
        return Window(y, x, y + rows, x + columns).clip(self.shape)

    def pixels(self, numbers: Window) -> Window:
        """Pixels of a rectangle of tiles, given in tile numbers."""
        rows, columns = self.tile
        return Window(
            numbers.y0 * rows, numbers.x0 * columns,
            numbers.y1 * rows, numbers.x1 * columns,
        ).clip(self.shape)  # fmt: skip

    def batches(self, window: Window, tile_bytes: int) -> Iterator[list[Number]]:
        """Yield (row, column) of the tiles that a window touches, by rows of tiles.

        Parameters
        ----------
        window : Window
            Inside the raster, not empty.
        tile_bytes : int
            What one tile takes in memory; a batch takes `BATCH_BYTES` at most,
            or is one row.

        Yields
        ------
        list of tuple
            Numbers of tiles.
        """
        rows, columns = self.tile
        across = range(window.x0 // columns, -(-window.x1 // columns))
        down = range(window.y0 // rows, -(-window.y1 // rows))
        step = max(1, BATCH_BYTES // max(1, tile_bytes * len(across)))
        for first in range(down.start, down.stop, step):
            some = range(first, min(first + step, down.stop))
            yield [(row, column) for row in some for column in across]


def rectangles(numbers: Iterable[Number]) -> list[Window]:
    """Cover tiles with rectangles, each tile once.

    Parameters
    ----------
    numbers : iterable of (int, int)
        Row and column of each tile.

    Returns
    -------
    list of Window
        In tile numbers, top to bottom.

    Examples
    --------
    >>> rectangles([(0, 1), (0, 2), (1, 1), (1, 2), (2, 1)])
    [Window(y0=0, x0=1, y1=2, x1=3), Window(y0=2, x0=1, y1=3, x1=2)]
    """
    by_row: dict[int, list[int]] = defaultdict(list)
    for row, column in numbers:
        by_row[row].append(column)
    done: list[Window] = []
    growing: dict[tuple[int, int], Window] = {}
    for row in sorted(by_row):
        now: dict[tuple[int, int], Window] = {}
        for x0, x1 in _runs(sorted(by_row[row])):
            above = growing.get((x0, x1))
            y0 = above.y0 if above is not None and above.y1 == row else row
            now[x0, x1] = Window(y0, x0, row + 1, x1)
        done += [w for run, w in growing.items() if run not in now or w.y1 < row]
        growing = now
    return sorted([*done, *growing.values()])


def _runs(columns: Sequence[int]) -> Iterator[tuple[int, int]]:
    start = columns[0]
    for left, right in zip(columns, [*columns[1:], None], strict=True):
        if right != left + 1:
            yield start, left + 1
            start = left if right is None else right

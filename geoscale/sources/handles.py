"""Open files of one process, each lent to one thread at a time.

Datasets are not thread-safe, but any thread may use one that no other uses.
"""

from __future__ import annotations

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

T = TypeVar("T")

IDLE_HANDLES = 128
"""Files that a process keeps open while nobody reads them."""

_MOST_DERIVED = 64


class Handle:
    """An open file, with what is derived from it.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        The file.
    stamp : hashable
        Tells this content of the file from another under the same name.
    reopen : callable, optional
        Opens one of the file's overviews by number from 0, the finest; gives None
        where there is none.
    """

    def __init__(
        self,
        dataset: Any,
        stamp: Hashable = None,
        reopen: Callable[[int], Any | None] | None = None,
    ) -> None:
        self.dataset = dataset
        self.stamp = stamp
        self.reopen = reopen
        self.is_spoilt = False
        self._derived: dict[Hashable, Any] = {}

    def derive(self, key: Hashable, make: Callable[[], T]) -> T:
        """Give what was made before under this key, or make it.

        What was derived earlier may be closed by this: hold one view at a time.
        """
        if key not in self._derived:
            if len(self._derived) >= _MOST_DERIVED:
                self._close_views()
            self._derived[key] = make()
        found: T = self._derived[key]
        return found

    def close(self) -> None:
        """Close views before the file that they look at."""
        with contextlib.suppress(Exception):
            self._close_views()
        with contextlib.suppress(Exception):
            self.dataset.close()

    def _close_views(self) -> None:
        for view in self._derived.values():
            if hasattr(view, "close"):
                view.close()
        self._derived.clear()


class HandlePool:
    """Handles that wait to be lent again; bounded, the longest idle goes first.

    Parameters
    ----------
    limit : int
        Most idle handles.
    """

    def __init__(self, limit: int = IDLE_HANDLES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._idle: OrderedDict[Hashable, list[Handle]] = OrderedDict()
        self._lent: dict[int, tuple[Hashable, Handle]] = {}

    @contextlib.contextmanager
    def lend(
        self, key: Hashable, stamp: Hashable, make: Callable[[], Handle], *, new: bool
    ) -> Iterator[Handle]:
        """Lend a handle to this thread; after a failure it is closed.

        Parameters
        ----------
        key : hashable
            Names the file.
        stamp : hashable
            Content wanted; idle handles of another are closed.
        make : callable
            Opens the file.
        new : bool
            Whether to open it in any case.

        Yields
        ------
        Handle
            Nobody else has it.
        """
        handle = None if new else self._take(key, stamp)
        if handle is None:
            handle = make()
        with self._lock:
            self._lent[id(handle)] = (key, handle)
        try:
            yield handle
        except BaseException:
            handle.is_spoilt = True
            raise
        finally:
            self._give(key, handle)

    def drop(self, key: Hashable) -> None:
        """Close the handles of a file; those that are lent, when they come back."""
        with self._lock:
            closing = self._idle.pop(key, [])
            for name, handle in self._lent.values():
                handle.is_spoilt |= name == key
        _close_all(closing)

    def clear(self) -> None:
        """Do the same for every file."""
        with self._lock:
            keys = {*self._idle, *(name for name, _ in self._lent.values())}
        for key in keys:
            self.drop(key)

    def __len__(self) -> int:
        """Idle handles."""
        with self._lock:
            return sum(map(len, self._idle.values()))

    def _take(self, key: Hashable, stamp: Hashable) -> Handle | None:
        with self._lock:
            idle = self._idle.pop(key, [])
            old = [handle for handle in idle if handle.stamp != stamp]
            good = [handle for handle in idle if handle.stamp == stamp]
            found = good.pop() if good else None
            if good:
                self._idle[key] = good
        _close_all(old)
        return found

    def _give(self, key: Hashable, handle: Handle) -> None:
        closing = []
        with self._lock:
            del self._lent[id(handle)]
            if handle.is_spoilt:
                closing.append(handle)
            else:
                self._idle.setdefault(key, []).append(handle)
                self._idle.move_to_end(key)
            while sum(map(len, self._idle.values())) > self._limit:
                oldest = next(iter(self._idle))
                closing.append(self._idle[oldest].pop(0))
                if not self._idle[oldest]:
                    del self._idle[oldest]
        _close_all(closing)


def _close_all(handles: list[Handle]) -> None:
    for handle in handles:
        handle.close()

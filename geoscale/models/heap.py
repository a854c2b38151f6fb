"""The C heap that torch and numpy take their arrays from: kept, and tidied.

glibc maps a large array anew each time and gives it back when it is freed, so that
every layer of a network pays for fresh pages: `python -m benchmarks heap` shows how
much. Here all threads take from one heap that does not shrink by itself. Such a heap
frays where long-lived objects lie between layers, so what is free goes back to the
system every now and then. ``GEOSCALE_MALLOC=system`` leaves everything as it was.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

KEPT_BYTES = 2**29
"""Arrays up to this size are kept, in bytes."""
TIDY_S = 120.0
"""Seconds between two times that free memory is given back: the pages of one batch
are then paid for once in this time, which is little."""

# numbers of mallopt(3)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8


class Heap:
    """The kept heap of this process.

    Parameters
    ----------
    give_back : callable
        Returns all free pages to the system.
    clock : callable
        Seconds that pass.
    """

    def __init__(
        self,
        give_back: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._give_back, self._clock = give_back, clock
        self._lock = threading.Lock()
        self._due = clock() + TIDY_S

    def tidy(self) -> bool:
        """Give free memory back if that is due; call it between two batches.

        Returns
        -------
        bool
            Whether it was done.
        """
        if self._clock() < self._due or not self._lock.acquire(blocking=False):
            return False
        try:
            self._give_back()
            self._due = self._clock() + TIDY_S
        finally:
            self._lock.release()
        return True


@functools.cache
def keep_freed_memory() -> Heap | None:
    """Keep what torch and numpy free in this process, for the next to take.

    Returns
    -------
    Heap or None
        To be tidied; None where the C library is another, or was told not to.

    References
    ----------
    .. [1] mallopt(3), malloc_trim(3).
    """
    if os.environ.get("GEOSCALE_MALLOC") == "system" or sys.platform != "linux":
        return None
    try:
        libc: Any = ctypes.CDLL("libc.so.6")
        settings = (
            (_M_MMAP_THRESHOLD, KEPT_BYTES),
            (_M_TRIM_THRESHOLD, 2**31 - 1),
            (_M_ARENA_MAX, 1),
        )
        done = all(libc.mallopt(name, value) for name, value in settings)
    except (OSError, AttributeError):
        return None
    return Heap(lambda: libc.malloc_trim(0)) if done else None

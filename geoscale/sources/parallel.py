"""What the threads of one process share, and the pool in which they read.

A task of the pool never waits for another task: whatever starts tasks from
inside the pool runs them itself.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from geoscale.errors import SourceError
from geoscale.memory import allowed_cpus

T = TypeVar("T")

REMOTE_THREADS = 16
"""Threads of a process that read remote files; they mostly wait."""

_local = threading.local()


class PerProcess(Generic[T]):
    """One object for each process; a fork gets a new one.

    Parameters
    ----------
    make : callable
        Makes it; must be cheap.
    """

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._left: list[T] = []
        self.value = make()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._after_fork)

    def _after_fork(self) -> None:
        # kept, not closed: its locks may be held, its sockets are the parent's
        self._left.append(self.value)
        self.value = self._make()


class _Pools:
    """Thread pools by size, made when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: dict[int, ThreadPoolExecutor] = {}

    def get(self, size: int) -> ThreadPoolExecutor:
        with self._lock:
            if size not in self._pools:
                self._pools[size] = ThreadPoolExecutor(
                    size, f"geoscale-read-{size}", initializer=_mark_thread
                )
            return self._pools[size]


_POOLS = PerProcess(_Pools)


def _mark_thread() -> None:
    _local.is_reader = True


def count_threads(*, remote: bool) -> int:
    """Count the threads with which this process reads.

    Parameters
    ----------
    remote : bool
        Whether files are read over a network.

    Returns
    -------
    int
        What ``GEOSCALE_READ_THREADS`` says, else the allowed CPUs, or for
        remote files `REMOTE_THREADS`.

    Raises
    ------
    SourceError
        If the variable is no whole number from 1.
    """
    said = os.environ.get("GEOSCALE_READ_THREADS", "").strip()
    if not said:
        return REMOTE_THREADS if remote else allowed_cpus()
    if not said.isdecimal() or int(said) < 1:
        raise SourceError(
            f"GEOSCALE_READ_THREADS is `{said}`; set a whole number from 1, or unset it"
        )
    return int(said)


@contextlib.contextmanager
def started(
    tasks: Sequence[Callable[[], T]], *, remote: bool
) -> Iterator[list[Callable[[], T]]]:
    """Start tasks in the reading pool.

    Where there is no second thread to be had, each runs when it is asked for.

    Parameters
    ----------
    tasks : sequence of callable
        Independent of each other.
    remote : bool
        Whether they read over a network.

    Yields
    ------
    list of callable
        One for each task: waits for it, gives its result or raises its error.
        None of the tasks is running any more when the context is left.
    """
    size = 1
    if len(tasks) > 1 and not getattr(_local, "is_reader", False):
        size = count_threads(remote=remote)
    if size == 1:
        yield list(tasks)
        return
    pool, futures = _POOLS.value.get(size), list[Future[T]]()
    try:
        try:
            futures += [pool.submit(task) for task in tasks]
        except RuntimeError:  # the interpreter is shutting down
            yield list(tasks)
            return
        yield [future.result for future in futures]
    finally:
        # what still runs writes into the caller's arrays
        wait([future for future in futures if not future.cancel()])

"""Parts of arrays, worked on side by side by the cores that this process may use.

For codecs and whatever else lets go of the interpreter while it computes; what only
copies is bound by memory, not by cores.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

from geoscale.memory import allowed_cpus

A = TypeVar("A")
B = TypeVar("B")

WORTH_BYTES = 2**19
"""Bytes that a part should have: handing it to a thread takes as long as copying
some ten thousand."""

_local = threading.local()
_limit: list[int] = []


def limit_threads(count: int) -> None:
    """Use so many threads in this process from now on.

    Parameters
    ----------
    count : int
        At least 1; what the model gets, so that workers of one host share its cores.
    """
    _limit[:] = [max(1, count)]


def count_threads() -> int:
    """Count the threads that `spread` uses: as limited, else the allowed CPUs."""
    return _limit[0] if _limit else allowed_cpus()


def share_rows(rows: int, row_bytes: int) -> list[slice]:
    """Cut rows into a part for each thread; fewer where they would be too small.

    Parameters
    ----------
    rows : int
        Of an array.
    row_bytes : int
        Size of one, in bytes.

    Returns
    -------
    list of slice
        Without gaps, ascending.

    Examples
    --------
    >>> share_rows(10, 1)
    [slice(0, 10, None)]
    """
    parts = min(count_threads(), max(1, rows * row_bytes // WORTH_BYTES), max(1, rows))
    edges = [rows * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def spread(function: Callable[[A], B], parts: Sequence[A]) -> list[B]:
    """Call a function for every part, on several threads where there are any.

    Parameters
    ----------
    function : callable
        Writes only what belongs to its part.
    parts : sequence
        What it is called with.

    Returns
    -------
    list
        Results, in the order of the parts.

    Examples
    --------
    >>> spread(abs, [-1, 2, -3])
    [1, 2, 3]
    """
    count = min(count_threads(), len(parts))
    # a part of a part runs where it is: waiting for its own pool it would wait for ever
    if count < 2 or getattr(_local, "is_part", False):
        return [function(part) for part in parts]
    return list(_pool(os.getpid(), count_threads()).map(function, parts))


@functools.cache
def _pool(_process: int, count: int) -> ThreadPoolExecutor:
    # by process: the threads of a parent are not there after a fork
    return ThreadPoolExecutor(
        count, thread_name_prefix="geoscale-spread", initializer=_mark_thread
    )


def _mark_thread() -> None:
    _local.is_part = True

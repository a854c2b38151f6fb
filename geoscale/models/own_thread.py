"""One thread of this process for all that torch computes on a CPU.

Each thread that runs a parallel region gets a team of OpenMP threads of its own, and
keeps it. Once there are more of them than cores, GNU OpenMP no longer waits actively
between regions, and a network of many short layers becomes much slower. Blocks are
run by threads of executors and of Dask, so the calls are handed to one thread.
"""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from geoscale.models.heap import keep_freed_memory

T = TypeVar("T")

_local = threading.local()


def call(function: Callable[..., T], *args: Any, **more: Any) -> T:
    """Call a function in the thread of this process that computes.

    Parameters
    ----------
    function : callable
        Anything that runs torch.
    *args, **more
        Its arguments.

    Returns
    -------
    object
        What it returned.

    Raises
    ------
    Exception
        What it raised.
    """
    if getattr(_local, "is_own", False):
        return function(*args, **more)
    return _pool(os.getpid()).submit(function, *args, **more).result()


@functools.cache
def _pool(_process: int) -> ThreadPoolExecutor:
    # before the thread begins: it would get a heap of its own, which gives memory back
    keep_freed_memory()
    # by process: the thread of a parent is not there after a fork
    return ThreadPoolExecutor(
        1, thread_name_prefix="geoscale-torch", initializer=_mark_thread
    )


def _mark_thread() -> None:
    _local.is_own = True

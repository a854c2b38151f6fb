"""One thread of this process for all that torch computes on a device.

On a CPU each thread that runs a parallel region gets a team of OpenMP threads of its
own, and keeps it. Once there are more of them than cores, GNU OpenMP no longer waits
actively between regions, and a network of many short layers becomes much slower. On
CUDA torch keeps what cuDNN planned for each shape by thread, and planning a U-Net takes
seconds. Blocks are run by threads of executors and of Dask, which come and go, so the
calls are handed to one thread for each device.
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
    """Call a function in the thread of this process that computes on CPUs.

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
    return call_on("cpu", function, *args, **more)


def call_on(device: str, function: Callable[..., T], *args: Any, **more: Any) -> T:
    """Call a function in the thread of this process that computes on a device.

    Parameters
    ----------
    device : str
        ``cpu``, ``cuda:N`` or ``mps``.
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
    if device == "cuda":
        device = "cuda:0"
    if getattr(_local, "device", "") == device:
        return function(*args, **more)
    return _pool(os.getpid(), device).submit(function, *args, **more).result()


@functools.cache
def _pool(_process: int, device: str) -> ThreadPoolExecutor:
    # before the thread begins: it would get a heap of its own, which gives memory back
    keep_freed_memory()
    # by process: the thread of a parent is not there after a fork
    return ThreadPoolExecutor(
        1, f"geoscale-{device}", initializer=_mark_thread, initargs=(device,)
    )


def _mark_thread(device: str) -> None:
    _local.device = device

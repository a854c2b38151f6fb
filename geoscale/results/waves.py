"""Blocks worked on side by side, here or on a cluster, and handed out in order."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from geoscale.launch import wait_for_workers
from geoscale.spread import count_threads, spread

if TYPE_CHECKING:
    from distributed import Client

A = TypeVar("A")
B = TypeVar("B")
Asked = TypeVar("Asked")
Opened = TypeVar("Opened")
WAVE = 16
"""Blocks that are handed out at a time, for each worker or thread."""

_held: dict[str, Any] = {}
_lock = threading.Lock()


def each_block(
    do: Callable[[Opened, A], B],
    open_it: Callable[[Asked], Opened],
    asked: Asked,
    blocks: Iterable[A],
    *,
    client: Client | None = None,
    opened: Opened | None = None,
) -> Iterator[B]:
    """Do something with every block, some at a time: results of a million do not fit.

    Parameters
    ----------
    do : callable
        Called with what is open and a block; a function of a module.
    open_it : callable
        Opens what is asked for, once in each process; a function of a module.
    asked : object
        Plain data that go to workers.
    blocks : iterable
        What `do` is called with.
    client : distributed.Client, optional
        Cluster to work on.
    opened : object, optional
        What `open_it` gave here already.

    Yields
    ------
    object
        Results, in the order of the blocks.
    """
    if client is None:
        here = partial(do, open_it(asked) if opened is None else opened)
        for some in _batches(blocks, WAVE * count_threads()):
            yield from spread(here, some)
        return
    there = partial(_do_there, uuid.uuid4().hex, do, open_it, asked)
    for some in _batches(blocks, WAVE * max(1, len(wait_for_workers(client)))):
        yield from client.gather(client.map(there, some, pure=False, retries=3))


def _do_there(
    token: str,
    do: Callable[[Opened, A], B],
    open_it: Callable[[Asked], Opened],
    asked: Asked,
    block: A,
) -> B:
    """Work in another process, which opens what it needs once."""
    with _lock:
        # by token: another call may find other files under the same names
        if token not in _held:
            _held.clear()
            _held[token] = open_it(asked)
        opened = _held[token]
    return do(opened, block)


def _batches(values: Iterable[A], size: int) -> Iterator[Sequence[A]]:
    batch: list[A] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch

"""The same blocks on a Dask cluster: a bounded window of block numbers.

Dask is used through `submit` and a done-callback; scheduling state stays out
of our objects. Tasks carry a path, a hash and a number. No graph, no
``resources=``, no actors, no results of more than a kilobyte on workers.
"""

from __future__ import annotations

import queue
import statistics
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from geoscale.engine.block import Kernel, run_block
from geoscale.engine.failures import LOST, PROCESS, RUN, classify, describe
from geoscale.errors import StoppedError
from geoscale.types import Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

Build = Callable[..., Kernel]

STALL_S = 600.0
"""Least time without any block after which a run is held to hang, in s."""


class DaskExecutor:
    """Run blocks on the workers of a client.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    build : callable
        Importable on the workers; ``build(url, plan_hash, *extra)`` gives the
        kernel of a plan that is stored at ``url``.
    url : str
        The output; every worker must reach it.
    plan_hash : str
        Of the stored plan.
    in_flight : int
        Blocks each worker process works on at a time.
    extra : tuple
        Further small arguments of `build`.
    stall_s : float
        Least time without any outcome before the run is stopped, in s.
    """

    def __init__(
        self,
        client: Client,
        build: Build,
        url: str,
        plan_hash: str,
        *,
        in_flight: int = 2,
        extra: tuple[Any, ...] = (),
        stall_s: float = STALL_S,
    ) -> None:
        self._client = client
        self._call = (build, url, plan_hash, in_flight, extra)
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._seconds: list[float] = []

    def execute(
        self, blocks: Sequence[int], attempts: Sequence[int] | None = None
    ) -> Iterator[Outcome]:
        """Run the blocks; yield each outcome as it comes.

        Parameters
        ----------
        blocks : sequence of int
            Numbers in the plan.
        attempts : sequence of int, optional
            Which try each is; default 1.

        Yields
        ------
        Outcome
            As they end.

        Raises
        ------
        StoppedError
            If the scheduler or all workers are gone, or nothing moves.
        """
        todo = iter(zip(blocks, attempts or [1] * len(blocks), strict=True))
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        running: dict[Any, tuple[int, int, float]] = {}
        try:
            while True:
                while len(running) < self._window():
                    block = next(todo, None)
                    if block is None:
                        break
                    future = self._submit(*block)
                    running[future] = (*block, time.monotonic())
                    future.add_done_callback(ended.put)
                if not running:
                    return
                future = self._next(ended)
                number, attempt, since = running.pop(future)
                self._seconds.append(time.monotonic() - since)
                yield self._outcome(future, number, attempt)
                future.release()
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running))

    def _window(self) -> int:
        """Futures to keep submitted: all that can run, and one more each."""
        workers = len(self._client.scheduler_info(n_workers=-1)["workers"])
        return max(1, workers) * (self._in_flight + 1)

    def _submit(self, number: int, attempt: int) -> Future:
        # A new key each time: a key that Dask has blamed for a dead worker
        # stays blamed.
        return self._client.submit(
            run_remote,
            *self._call,
            number,
            attempt,
            key=f"geoscale-{number}-{attempt}-{uuid.uuid4().hex[:8]}",
            pure=False,
            retries=0,
        )

    def _next(self, ended: queue.SimpleQueue[Future]) -> Future:
        usual = statistics.median(self._seconds[-101:]) if self._seconds else 0.0
        patience = max(self._stall_s, 10 * usual)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            try:
                return ended.get(timeout=2.0)
            except queue.Empty:
                self._check_scheduler()
        raise StoppedError(
            f"no block ended for {patience:.0f} s; {self._describe_workers()}; look at "
            "the workers' logs, then run the same command again"
        )

    def _check_scheduler(self) -> None:
        if self._client.status in ("closed", "closing"):
            raise StoppedError(
                "the Dask scheduler went away; finished blocks are kept: start a "
                "cluster and run the same command again"
            )

    def _describe_workers(self) -> str:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        states = ", ".join(
            f"{address} {info.get('status', '?')}" for address, info in workers.items()
        )
        return f"{len(workers)} workers: {states or 'none'}"

    def _outcome(self, future: Future, number: int, attempt: int) -> Outcome:
        if future.status == "finished":
            result: Outcome = future.result()
            return result
        if future.status == "error":
            error = future.exception()
            name = type(error).__name__
            kind = LOST if name == "KilledWorker" else classify(error)
            return _failed(number, attempt, describe(error), kind)
        self._check_scheduler()
        return _failed(number, attempt, "its worker went away", LOST)


def _failed(number: int, attempt: int, error: str, kind: str) -> Outcome:
    return Outcome(
        block=number,
        ok=False,
        digests={},
        stats={},
        error=error,
        kind=kind,
        attempt=attempt,
    )


class _Held:
    """What a worker process keeps of one plan."""

    def __init__(self, kernel: Kernel, in_flight: int) -> None:
        self.kernel = kernel
        # A worker may have more threads than blocks fit into its memory.
        self.gate = threading.BoundedSemaphore(in_flight)


_held: dict[tuple[str, str], _Held] = {}
_lock = threading.Lock()


def run_remote(
    build: Build,
    url: str,
    plan_hash: str,
    in_flight: int,
    extra: tuple[Any, ...],
    number: int,
    attempt: int,
) -> Outcome:
    """Run one block in this worker process; the kernel is made once and kept.

    Parameters
    ----------
    build : callable
        ``build(url, plan_hash, *extra)`` gives the kernel.
    url, plan_hash : str
        Output and plan.
    in_flight : int
        Blocks at a time.
    extra : tuple
        For `build`.
    number, attempt : int
        Which block, which try.

    Returns
    -------
    Outcome
        Never raises for a failure of the block or of the kernel's making.
    """
    try:
        with _lock:
            held = _held.get((url, plan_hash))
            if held is None:
                # One plan at a time: a second model would double the memory.
                _held.clear()
                held = _Held(build(url, plan_hash, *extra), in_flight)
                _held[url, plan_hash] = held
    except Exception as error:
        kind = classify(error)
        kind = kind if kind == PROCESS else RUN
        return _failed(
            number, attempt, f"a worker could not get ready: {describe(error)}", kind
        )
    with held.gate:
        return run_block(held.kernel, number, attempt)

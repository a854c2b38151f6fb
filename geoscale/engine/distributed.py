"""The same blocks on a Dask cluster: a bounded window of runs of blocks.

Dask is used through `map` and a done-callback; scheduling state stays out of
our objects. Tasks carry a path, a hash and a few numbers. No graph, no
``resources=``, no actors, no results of more than a kilobyte a block.

First attempts share worker processes, and tasks where blocks are short. A
retry has a worker for itself: only then does a worker's death say anything
about the block.
"""

from __future__ import annotations

import queue
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any, NamedTuple

from geoscale.engine.block import Kernel, run_block
from geoscale.engine.failures import LOST, PROCESS, RUN, classify, describe
from geoscale.engine.runs import LATEST_S, FirstTries, Pace, Retries, Run
from geoscale.engine.stall import STALL_S, find_patience
from geoscale.errors import StoppedError
from geoscale.types import MayStop, Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

Build = Callable[..., Kernel]
Call = tuple[Build, str, str, int, tuple[Any, ...]]

FETCH_S = 20.0
"""Longest wait for the results of tasks that have ended, in s; they are small."""
ASK_S = 10.0
"""Longest wait for the stacks of workers that may hang, in s."""
LOOK_S = 1.0
"""Age at which the list of workers is asked for again, in s."""
_CUT_OFF = (OSError, RuntimeError, CancelledError)
"""What a client raises that has lost its scheduler, or is closing for it."""


class Ended(NamedTuple):
    """How a block ended, and how long its worker took for it."""

    outcome: Outcome
    """Sent back to the driver."""
    seconds: float
    """On the worker, without waiting for its turn, in s."""


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

    Attributes
    ----------
    pace : Pace
        How long blocks take; chooses how many share a task.
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
        self.pace = Pace()
        self._client = client
        self._call: Call = (build, url, plan_hash, in_flight, extra)
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._seconds: deque[float] = deque(maxlen=101)
        self._workers: dict[str, int] = {}
        self._looked = float("-inf")

    def execute(
        self,
        blocks: Sequence[int],
        attempts: Sequence[int] | None = None,
        stop: MayStop | None = None,
    ) -> Iterator[Outcome]:
        """Run the blocks; yield each outcome as it comes.

        Parameters
        ----------
        blocks : sequence of int
            Numbers in the plan.
        attempts : sequence of int, optional
            Which try each is; default 1. Later ones come last, each alone on
            a worker.
        stop : MayStop, optional
            Asked before blocks are sent; what was sent is finished.

        Yields
        ------
        Outcome
            As they end.

        Raises
        ------
        StoppedError
            If the scheduler or all workers are gone, or nothing moves.
        """
        tries = attempts or [1] * len(blocks)
        pairs = zip(blocks, tries, strict=True)
        first = (number for number, attempt in pairs if attempt == 1)
        if stop is not None:
            # each worker has one task waiting beside those it works on
            stop.queue(self._in_flight + 1)
        todo = FirstTries(first, self.pace, self._in_flight)
        later = (p for p in zip(blocks, tries, strict=True) if p[1] > 1)
        try:
            yield from self._work_off(todo, stop)
            yield from self._work_off(Retries(later), stop)
        except Exception:
            # a client that has just lost its scheduler may raise anything
            self._check_scheduler()
            raise

    def _work_off(
        self, todo: FirstTries | Retries, stop: MayStop | None
    ) -> Iterator[Outcome]:
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        running: dict[Future, tuple[Run, float]] = {}
        moved = time.monotonic()
        try:
            while True:
                busy = [run for run, _ in running.values()]
                runs = []
                if stop is None or stop.go_on():
                    runs = todo.take(self._look(), busy)
                for run, future in self._submit(runs):
                    running[future] = run, time.monotonic()
                    future.add_done_callback(ended.put)
                if not running:
                    return
                futures = _drain(ended)
                if not futures:
                    # New workers are to get their share, whatever moves or not.
                    self._check_progress(moved)
                    continue
                moved = time.monotonic()
                for future, found in self._fetch(futures, running):
                    run, since = running.pop(future)
                    self._seconds.append(moved - since)
                    todo.put_back(run, len(found))
                    future.release()
                    for outcome, seconds in found:
                        if outcome.ok:
                            self.pace.note(seconds)
                        yield outcome
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running))

    def _look(self) -> dict[str, int]:
        """Threads of each worker; asked for again when a second has passed."""
        if time.monotonic() - self._looked > LOOK_S:
            self._check_scheduler()
            try:
                self._workers = dict(self._client.nthreads())
            except _CUT_OFF:
                self._check_scheduler()  # else it may come back: keep what was known
            self._looked = time.monotonic()
        return self._workers

    def _submit(self, runs: list[Run]) -> Iterator[tuple[Run, Future]]:
        """Send runs to the scheduler, in one message where it may choose."""
        free = [run for run in runs if run.where is None]
        batches = [free] if free else []
        batches += [[run] for run in runs if run.where is not None]
        for batch in batches:
            self._check_scheduler()
            where = batch[0].where
            futures = self._client.map(
                run_remote,
                [run.blocks for run in batch],
                [run.attempt for run in batch],
                call=self._call,
                # A new key each time: a key that Dask has blamed for a dead
                # worker stays blamed.
                key=[
                    f"geoscale-{run.blocks[0]}-{run.attempt}-{uuid.uuid4().hex[:8]}"
                    for run in batch
                ],
                workers=None if where is None else [where],
                allow_other_workers=where is not None,
                pure=False,
                retries=0,
            )
            yield from zip(batch, futures, strict=True)

    def _fetch(
        self, futures: list[Future], running: dict[Future, tuple[Run, float]]
    ) -> list[tuple[Future, list[Ended]]]:
        """Results of ended tasks, asked for at once: a round trip costs as a task."""
        good = {f.key: f for f in futures if f.status == "finished"}

        async def gather() -> dict[str, list[Ended]]:
            data = await self._client.gather(good, errors="skip", asynchronous=True)
            return dict(data)

        try:
            # A result may be lost with its worker just now, and is then made again.
            data = self._client.sync(gather, callback_timeout=FETCH_S)
        except TimeoutError:
            # Where the worker that makes it again dies too, that may never end: its
            # blocks count as lost, and are run again alone.
            data = {}
        except _CUT_OFF:
            self._check_scheduler()
            data = {}
        return [
            (f, data[f.key] if f.key in data else self._explain(f, running[f][0]))
            for f in futures
        ]

    def _explain(self, future: Future, run: Run) -> list[Ended]:
        """Say for every block of a task without result why there is none."""
        self._looked = float("-inf")  # the dead must not be given anything
        text, kind = "its worker went away", LOST
        if future.status == "error":
            error = future.exception()
            killed = type(error).__name__ == "KilledWorker"
            text, kind = describe(error), LOST if killed else classify(error)
        else:
            self._check_scheduler()
        return [Ended(_failed(n, run.attempt, text, kind), 0.0) for n in run.blocks]

    def _check_progress(self, moved: float) -> None:
        self._check_scheduler()
        patience = find_patience(self._seconds, self._stall_s)
        if time.monotonic() - moved > patience:
            raise self._stalled(patience)

    def _check_scheduler(self) -> None:
        if self._client.status in ("closed", "closing"):
            raise StoppedError(
                "the Dask scheduler went away; finished blocks are kept: start a "
                "cluster and run the same command again"
            )

    def _stalled(self, patience: float) -> StoppedError:
        workers = self._client.scheduler_info(n_workers=-1)["workers"]
        states = ", ".join(
            f"{address} {info.get('status', '?')}" for address, info in workers.items()
        )
        return StoppedError(
            f"no block ended for {patience:.0f} s; {len(workers)} workers: "
            f"{states or 'none'}; look at the workers' logs, then run the same command "
            f"again{self._say_stacks()}"
        )

    def _say_stacks(self) -> str:
        """Say what the workers' tasks were doing, as far as they still answer."""
        try:
            found = self._client.sync(
                self._client.scheduler.call_stack, callback_timeout=ASK_S
            )
        except Exception as err:  # a reason why there is none is worth less than none
            return f"\n(their stacks cannot be had: {describe(err)})"
        lines = []
        for worker, tasks in dict(found or {}).items():
            for key, frames in dict(tasks).items():
                lines += [f"{worker} {key}:", *(f.rstrip() for f in frames[-8:])]
        return "".join(f"\n{line}" for line in lines)


def _drain(ended: queue.SimpleQueue[Future]) -> list[Future]:
    """All tasks that have ended; wait a little for the first, then for none."""
    found = []
    try:
        found.append(ended.get(timeout=LOOK_S))
        while True:
            found.append(ended.get_nowait())
    except queue.Empty:
        return found


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


def run_remote(blocks: Sequence[int], attempt: int, call: Call) -> list[Ended]:
    """Run blocks one after the other in this worker process.

    Parameters
    ----------
    blocks : sequence of int
        Numbers in the plan.
    attempt : int
        Which try this is.
    call : tuple
        How the kernel is made, once for a process, and how many blocks may be
        in flight.

    Returns
    -------
    list of Ended
        Of the first blocks; those that are missing were not begun, because the
        task had grown old or the kernel could not be made. Never raises for a
        failure of a block or of the kernel's making.
    """
    try:
        held = _hold(call)
    except Exception as error:
        kind = classify(error)
        kind = kind if kind == PROCESS else RUN
        text = f"a worker could not get ready: {describe(error)}"
        return [Ended(_failed(blocks[0], attempt, text, kind), 0.0)]
    found: list[Ended] = []
    began = time.monotonic()
    for number in blocks:
        if found and time.monotonic() - began > LATEST_S:
            break
        # One block at a time, so that tasks take turns.
        with held.gate:
            start = time.perf_counter()
            outcome = _run_block(held.kernel, number, attempt)
            found.append(Ended(outcome, time.perf_counter() - start))
    return found


def _hold(call: Call) -> _Held:
    """Kernel of a plan, made at the first call."""
    build, url, plan_hash, in_flight, extra = call
    with _lock:
        held = _held.get((url, plan_hash))
        if held is None:
            # One plan at a time: a second model would double the memory.
            _held.clear()
            held = _Held(build(url, plan_hash, *extra), in_flight)
            _held[url, plan_hash] = held
        return held


def _run_block(kernel: Kernel, number: int, attempt: int) -> Outcome:
    try:
        return run_block(kernel, number, attempt)
    except Exception as error:  # the other blocks of the run must not suffer
        return _failed(number, attempt, describe(error), classify(error))

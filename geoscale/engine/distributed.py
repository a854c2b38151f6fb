"""The same blocks on a Dask cluster: a bounded window of runs of blocks.

Dask is used through `map` and a done-callback; scheduling state stays out of
our objects. Tasks carry a path, a hash and a few numbers. No graph, no
``resources=``, no actors, no results of more than a kilobyte a block.

First attempts share worker processes, and tasks where blocks are short. A
retry has a worker for itself: only then does a worker's death say anything
about the block. What takes far too long is sent to another worker as well.
"""

from __future__ import annotations

import dataclasses
import logging
import queue
import time
import uuid
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING, Any

from geoscale.engine.failures import LOST, classify, describe
from geoscale.engine.remote import Build, Call, Ended, Reply, make_failure, run_remote
from geoscale.engine.roster import Roster
from geoscale.engine.runs import FirstTries, Pace, Retries, Run
from geoscale.engine.stall import STALL_S, find_patience
from geoscale.engine.stragglers import SLOW_S, Patience, Sent
from geoscale.errors import StoppedError
from geoscale.types import MayStop, Outcome

if TYPE_CHECKING:
    from distributed import Client, Future

_LOG = logging.getLogger(__name__)

FETCH_S = 20.0
"""Longest wait for the results of tasks that have ended, in s; they are small."""
ASK_S = 10.0
"""Longest wait for the stacks of workers that may hang, in s."""
LOOK_S = 1.0
"""Age at which the list of workers is asked for again, in s."""
_CUT_OFF = (OSError, RuntimeError, CancelledError)
"""What a client raises that has lost its scheduler, or is closing for it."""


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
    slow_s : float
        Least time before a task is sent to another worker as well, in s.

    Attributes
    ----------
    pace : Pace
        How long blocks take; chooses how many share a task.
    roster : Roster
        Which workers are given blocks.
    """

    def __init__(  # noqa: PLR0913  (four, and settings by name)
        self,
        client: Client,
        build: Build,
        url: str,
        plan_hash: str,
        *,
        in_flight: int = 2,
        extra: tuple[Any, ...] = (),
        stall_s: float = STALL_S,
        slow_s: float = SLOW_S,
    ) -> None:
        self.pace = Pace()
        self.roster = Roster()
        self._client = client
        self._call: Call = (build, url, plan_hash, in_flight, extra, uuid.uuid4().hex)
        self._in_flight = in_flight
        self._stall_s = stall_s
        self._patience = Patience(slow_s)
        self._workers: dict[str, int] = {}
        self._looked = self._compared = float("-inf")

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
            If the scheduler or all workers are gone, no worker can make the kernel,
            or nothing moves.
        """
        tries = attempts or [1] * len(blocks)
        pairs = zip(blocks, tries, strict=True)
        first = (number for number, attempt in pairs if attempt == 1)
        if stop is not None:
            # each worker has one task waiting beside those it works on
            stop.queue(self._in_flight + 1)
        self._patience.expect(len(blocks))
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
        running: dict[Future, Sent] = {}
        moved = time.monotonic()
        try:
            while True:
                open_runs = [s.run for s in set(running.values()) if not s.is_over]
                goes_on = stop is None or stop.go_on()
                waits = todo.is_left and self._waits_for_workers(moved)
                runs = []
                if goes_on and not waits:
                    runs = todo.take(self.roster.pick(self._look()), open_runs)
                for sent, future in (*self._submit(runs), *self._repeat(running)):
                    running[future] = sent
                    future.add_done_callback(ended.put)
                if not (open_runs or runs) and not (
                    goes_on and (waits or self._waits_for_late(running, moved))
                ):
                    return
                futures = _drain(ended)
                if not futures:
                    # New workers are to get their share, whatever moves or not.
                    self._check_progress(moved)
                    continue
                moved = time.monotonic()
                for future, reply in self._fetch(futures, running):
                    yield from self._take(running.pop(future), future, reply, todo)
        finally:
            if running and self._client.status == "running":
                self._client.cancel(list(running))

    def _take(
        self, sent: Sent, future: Future, reply: Reply, todo: FirstTries | Retries
    ) -> Iterator[Outcome]:
        """Count what a task brought, unless another has brought the same before."""
        sent.tasks.discard(future)
        future.release()
        if reply.worker:
            self._note_worker(reply)
        if sent.is_over:
            # It wrote the same blocks once more: its digests are valid, too.
            for outcome, _ in reply.found:
                if outcome.ok:
                    yield dataclasses.replace(outcome, late=True, changes=b"")
            return
        if sent.tasks and not (reply.found and reply.worker):
            return  # lost, or refused: the other worker is still at it
        sent.is_over = True
        todo.put_back(sent.run, len(reply.found))
        if reply.worker and reply.found:
            self._patience.note(time.monotonic() - sent.since, len(reply.found))
        for outcome, seconds in reply.found:
            if outcome.ok:
                self.pace.note(seconds)
            yield outcome

    def _note_worker(self, reply: Reply) -> None:
        self.roster.note_answer(reply.worker)
        if reply.unfit:
            self.roster.set_aside(reply.worker, reply.host, reply.unfit)
        if reply.leaves:
            self.roster.note_leaving(reply.worker)

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

    def _waits_for_workers(self, moved: float) -> bool:
        """Whether others than those that were set aside are still to come."""
        coming = len(getattr(self._client.cluster, "plan", None) or ())
        return self.roster.is_waiting(self._look(), coming, time.monotonic() - moved)

    def _waits_for_late(self, running: dict[Future, Sent], moved: float) -> bool:
        """Whether to give tasks that were overtaken some time to record their end.

        Where bits depend on the worker, their bytes are others than those that were
        recorded, and equally valid.
        """
        return time.monotonic() - moved < (self._patience.seconds or 0) * bool(running)

    def _submit(self, runs: list[Run]) -> Iterator[tuple[Sent, Future]]:
        """Send runs to the scheduler, in one message where it may choose."""
        free = [run for run in runs if run.where is None]
        batches = [free] if free else []
        batches += [[run] for run in runs if run.where is not None]
        for batch in batches:
            where = [batch[0].where] if batch[0].where else self._pick_some()
            for run, future in zip(batch, self._send(batch, where), strict=True):
                yield Sent(run, time.monotonic(), {future}), future

    def _pick_some(self) -> list[str] | None:
        """Workers that may be given blocks; None where that is any."""
        picked = list(self.roster.pick(self._workers))
        return picked if picked and self.roster.is_picky else None

    def _send(self, batch: list[Run], where: list[str] | None) -> list[Future]:
        self._check_scheduler()
        found: list[Future] = self._client.map(
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
            workers=where,
            # else a task whose workers die would wait for them without end
            allow_other_workers=where is not None,
            pure=False,
            retries=0,
        )
        return found

    def _repeat(self, running: dict[Future, Sent]) -> Iterator[tuple[Sent, Future]]:
        """Send what takes far too long to another worker as well."""
        now = time.monotonic()
        if now - self._compared < LOOK_S:
            return
        self._compared = now
        late = self._patience.find_late(set(running.values()), now)
        if not late:
            return
        holders = self._find_holders()
        # what nobody has waits for a worker: there is none, then
        busy = {one: {holders.get(task.key, "") for task in one.tasks} for one in late}
        late = [one for one in late if any(busy[one])]
        self.roster.note_late(worker for one in late for worker in busy[one])
        picked = self.roster.pick(self._workers)
        late = [one for one in late if picked.keys() - busy[one]]
        if not late:
            return
        workers = set().union(*(busy[one] for one in late)) - {""}
        _LOG.warning("%s", self._patience.describe(late, workers))
        for one in late:
            (future,) = self._send([one.run], list(picked.keys() - busy[one]))
            one.tasks.add(future)
            one.since, one.copies = now, one.copies + 1
            yield one, future

    def _find_holders(self) -> dict[str, str]:
        """Worker that has each task."""
        try:
            found = dict(self._client.processing())
        except _CUT_OFF:
            self._check_scheduler()
            return {}
        return {key: worker for worker, keys in found.items() for key in keys}

    def _fetch(
        self, futures: list[Future], running: dict[Future, Sent]
    ) -> list[tuple[Future, Reply]]:
        """Results of ended tasks, asked for at once: a round trip costs as a task."""
        good = {f.key: f for f in futures if f.status == "finished"}

        async def gather() -> dict[str, Reply]:
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
            (f, data[f.key] if f.key in data else self._explain(f, running[f].run))
            for f in futures
        ]

    def _explain(self, future: Future, run: Run) -> Reply:
        """Say for every block of a task without result why there is none."""
        self._looked = float("-inf")  # the dead must not be given anything
        text, kind = "its worker went away", LOST
        if future.status == "error":
            error = future.exception()
            killed = type(error).__name__ == "KilledWorker"
            text, kind = describe(error), LOST if killed else classify(error)
            if killed:
                self.roster.note_death(str(error.last_worker.address))
        else:
            self._check_scheduler()
        failed = [make_failure(n, run.attempt, text, kind) for n in run.blocks]
        return Reply("", "", [Ended(outcome, 0.0) for outcome in failed])

    def _check_progress(self, moved: float) -> None:
        self._check_scheduler()
        patience = find_patience(self._patience.lengths, self._stall_s)
        if not self._look():
            # jobs of workers may wait in a queue for as long as their user said
            patience = max(patience, getattr(self._client.cluster, "wait_s", 0.0))
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

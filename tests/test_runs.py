"""Runs of blocks in one Dask task: each block keeps its own fate."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from geoscale.clusters import connect
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.drive import Tally, drive, finalize
from geoscale.engine.failures import LOST, PERMANENT
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.remote import run_remote
from geoscale.engine.runs import LONGEST, SHARE, FirstTries, Pace, Retries, Run
from geoscale.errors import StoppedError
from geoscale.types import Outcome
from tests.support.toy import (
    stored_bytes,
    toy_kernel,
    toy_plan,
    toy_sink,
    toy_source,
)

BLOCK = 16
BLOCKS = 256

KERNELS = {}


def build_from_here(url, plan_hash):
    return KERNELS[url, plan_hash]


class Watched:
    """A client that remembers what was submitted."""

    def __init__(self, client) -> None:
        self._client = client
        self.runs = []
        self.pinned = []

    def __getattr__(self, name):
        return getattr(self._client, name)

    def map(self, function, blocks, attempts, **options):
        for run in zip(blocks, attempts, strict=True):
            (self.pinned if options["workers"] else self.runs).append(run)
        return self._client.map(function, blocks, attempts, **options)


@pytest.fixture(scope="module")
def threads():
    """A cluster of two workers in this process."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=False,
            dashboard_address=None,
            worker_dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@contextmanager
def prepared(url, client, source=None, delay=0.0):
    plan, journal = toy_plan(BLOCK), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    KERNELS[url, plan.hash] = toy_kernel(plan, url, delay, source)
    watched = Watched(client)
    yield plan, journal, watched, DaskExecutor(watched, build_from_here, url, plan.hash)
    del KERNELS[url, plan.hash]


def records(url):
    found = Counter()
    for path in (Path(url) / ".geoscale" / "ledger").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            found[int(line.split(",")[0].removeprefix('{"b":'))] += 1
    return found


def test_fast_blocks_share_tasks_and_each_is_run_and_recorded_once(tmp_path, threads):
    url = str(tmp_path / "out.zarr")
    source = toy_source()
    with prepared(url, threads, source) as (plan, journal, watched, executor):
        tally = drive(plan, journal, executor)
    assert tally.computed == BLOCKS
    assert source.reads == BLOCKS
    assert records(url) == dict.fromkeys(range(BLOCKS), 1)
    given = [n for blocks, _ in watched.runs for n in blocks]
    assert sorted(given) == list(range(BLOCKS))
    lengths = [len(blocks) for blocks, _ in watched.runs]
    assert lengths[0] == 1
    assert max(lengths) > 4
    assert all(
        blocks == tuple(range(blocks[0], blocks[0] + len(blocks)))
        for blocks, _ in watched.runs
    )
    loop_url = str(tmp_path / "loop.zarr")
    toy_sink(plan, loop_url).create()
    drive(plan, Journal(loop_url), LoopExecutor(toy_kernel(plan, loop_url)))
    assert stored_bytes(url) == stored_bytes(loop_url)


def test_slow_blocks_keep_a_task_each(tmp_path, threads):
    url = str(tmp_path / "out.zarr")
    with prepared(url, threads, delay=1.0) as (_plan, _, watched, executor):
        with closing(executor.execute(range(100, BLOCKS))) as stream:
            seen = [next(stream) for _ in range(4)]
        assert all(outcome.ok for outcome in seen)
        assert {len(blocks) for blocks, _ in watched.runs} == {1}
        assert len(watched.runs) <= 2 * 3 + len(seen)


def test_a_block_that_fails_within_a_run_fails_alone_and_is_retried_alone(
    tmp_path, threads
):
    url = str(tmp_path / "out.zarr")
    source = toy_source()
    bad, sick = 150, 200
    with prepared(url, threads, source) as (plan, journal, watched, executor):
        source.fail = {plan.task(bad).read: -1, plan.task(sick).read: 2}
        tally = drive(plan, journal, executor)
    assert list(tally.quarantined) == [bad]
    assert tally.computed == BLOCKS - 1
    assert tally.attempts == {bad: 3, sick: 2}
    shared = next(blocks for blocks, _ in watched.runs if bad in blocks)
    assert len(shared) > 1
    assert sorted(watched.pinned) == [((n,), a) for n in (bad, sick) for a in (2, 3)]
    assert records(url)[bad] == 3
    assert all(records(url)[n] == 1 for n in range(BLOCKS) if n not in (bad, sick))


def test_an_error_outside_the_kernel_spares_the_other_blocks(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan = toy_plan(BLOCK)
    KERNELS[url, plan.hash] = toy_kernel(plan, url)
    toy_sink(plan, url).create()
    call = (build_from_here, url, plan.hash, 1, (), "run")
    found = run_remote((100, 10**6, 101), 1, call).found
    assert [e.outcome.ok for e in found] == [True, False, True]
    assert found[1].outcome.kind == PERMANENT
    assert found[0].seconds > 0


def test_an_old_task_gives_back_what_it_has_not_begun(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan = toy_plan(BLOCK)
    KERNELS[url, plan.hash] = toy_kernel(plan, url, delay=1.1)
    toy_sink(plan, url).create()
    call = (build_from_here, url, plan.hash, 1, (), "run")
    found = run_remote(range(100, 110), 1, call).found
    assert 1 <= len(found) <= 2
    todo = FirstTries(range(110, 120), Pace(), 1)
    todo.put_back(Run(tuple(range(100, 110))), len(found))
    assert todo.take({"a": 1}, [])[0].blocks == (100 + len(found),)


def test_lengths_follow_the_blocks():
    pace = Pace()
    assert pace.length(10**6, 4) == 1
    for _ in range(200):
        pace.note(0.01)
    assert pace.length(10**6, 4) == LONGEST
    assert pace.length(30 * 4 * SHARE, 4) == 30
    assert pace.length(3, 4) == 2  # tasks of 20 ms: 200 a second at the most
    for _ in range(200):
        pace.note(0.1)
    assert 14 <= pace.length(10**6, 4) <= 15
    assert pace.length(100, 4) == 100 // (4 * SHARE)
    assert 12 <= pace.length(100, 256) <= 13  # 200 tasks a second for all of them
    for _ in range(200):
        pace.note(2.0)
    assert pace.length(10**6, 4) == 1
    alone = Pace(longest=1)
    alone.note(0.001)
    assert alone.length(10**6, 4) == 1


def test_retries_have_a_worker_each():
    todo = Retries([(7, 2), (8, 2), (9, 3)])
    runs = todo.take({"a": 2, "b": 2}, [])
    assert runs == [Run((7,), 2, "a"), Run((8,), 2, "b")]
    assert todo.take({"a": 2, "b": 2}, runs) == []
    assert todo.take({"a": 2, "b": 2}, runs[1:]) == [Run((9,), 3, "a")]
    assert Retries([(7, 2)]).take({}, []) == [Run((7,), 2, None)]


def outcome(number, attempt, kind=LOST):
    return Outcome(
        block=number, ok=False, digests={}, stats={}, kind=kind, attempt=attempt
    )


def test_only_losses_of_a_block_that_was_alone_count_against_it():
    tally = Tally(total=64)
    for number in range(64):
        tally.note(outcome(number, 1))
    assert tally.losses == {}
    assert tally.tries(5) == 1
    for attempt in range(2, 9):
        tally.note(outcome(5, attempt))
    assert not tally.quarantined
    tally.note(outcome(5, 9))
    assert list(tally.quarantined) == [5]


class Deadly:
    """An executor whose every worker dies."""

    def execute(self, blocks, attempts=None, stop=None):
        for number in blocks:
            yield outcome(number, 1)


def test_a_run_whose_workers_all_die_stops(tmp_path):
    plan = toy_plan()
    with pytest.raises(StoppedError, match=r"died under the first 32 attempts.*memory"):
        drive(plan, Journal(str(tmp_path / "out.zarr")), Deadly())


class Poison:
    """Ends the process that reads a window, some times."""

    def __init__(self, url, window, times) -> None:
        self._source, self._window, self._times = toy_source(), window, times
        self._deaths = Path(f"{url}.deaths")

    def __getattr__(self, name):
        return getattr(self._source, name)

    def read(self, window, times):
        if window == self._window:
            self._deaths.mkdir(exist_ok=True)
            died = len(list(self._deaths.iterdir()))
            if died < self._times:
                (self._deaths / str(died)).touch()
                os._exit(9)
        return self._source.read(window, times)


def build_poisoned(url, plan_hash, number, times):
    plan = Journal(url).load_plan()
    return toy_kernel(plan, url, source=Poison(url, plan.task(number).read, times))


def run_poisoned(url, number, times):
    plan, journal = toy_plan(BLOCK), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    with connect(2, threads=2) as client:
        watched = Watched(client)
        executor = DaskExecutor(
            watched, build_poisoned, url, plan.hash, extra=(number, times), stall_s=60
        )
        tally = drive(plan, journal, executor)
    return tally, watched, finalize(plan, journal, sink, {})


def test_a_worker_that_dies_under_a_run_is_held_against_no_block(tmp_path):
    tally, watched, found = run_poisoned(str(tmp_path / "out.zarr"), 180, 2)
    assert found.is_sound
    assert tally.computed == BLOCKS
    assert not tally.quarantined
    assert set(tally.losses) == {180}
    assert len(tally.shared) > 1  # it was in company
    assert {len(blocks) for blocks, _ in watched.pinned} == {1}
    # a retry is pinned only where a worker is there at that moment
    assert {blocks[0] for blocks, _ in watched.pinned} <= set(tally.shared)


@pytest.mark.slow
def test_a_block_that_kills_its_workers_is_quarantined_and_no_other(tmp_path):
    tally, _, found = run_poisoned(str(tmp_path / "out.zarr"), 180, 10**6)
    assert list(tally.quarantined) == [180]
    assert tally.computed == BLOCKS - 1
    assert found.missing == [180]

"""A run stops in order when asked, in time for a deadline, and never hangs."""

from __future__ import annotations

import threading

import pytest

from geoscale.engine.drive import drive
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.stopping import MARGIN_S, Stop
from geoscale.errors import HungError
from tests.support.clock import Clock
from tests.support.toy import (
    run_toy,
    stored_bytes,
    toy_kernel,
    toy_plan,
    toy_sink,
    toy_source,
)


def test_no_block_is_begun_that_would_end_after_the_deadline():
    clock = Clock(1000.0)
    stop = Stop(100.0, clock)
    for seconds in [10.0] * 19 + [30.0]:
        stop.note(seconds)
    assert stop.go_on()
    clock.now += 100 - MARGIN_S - 10 - 0.5
    assert stop.go_on()
    clock.now += 1
    assert not stop.go_on()
    clock.now -= 50
    assert not stop.go_on(), "a run that has begun to stop stops"
    assert stop.reason == "the deadline is near"


def test_the_longest_usual_block_counts_and_so_do_queued_ones():
    clock = Clock(1000.0)
    stop = Stop(100.0, clock)
    for seconds in [1.0] * 10 + [20.0] * 10:
        stop.note(seconds)
    stop.queue(3)
    clock.now += 100 - MARGIN_S - 60 - 0.5
    assert stop.go_on()
    clock.now += 1
    assert not stop.go_on()


@pytest.mark.parametrize("in_flight", [1, 3])
def test_a_run_that_is_asked_to_stop_finishes_what_it_began(tmp_path, in_flight):
    clean, url = str(tmp_path / "clean.zarr"), str(tmp_path / "out.zarr")
    run_toy(clean)
    plan, stop = toy_plan(), Stop()
    toy_sink(plan, url).create()

    def ask(tally, outcome):
        if tally.computed == 20:
            stop.ask("SIGTERM")

    executor = LoopExecutor(toy_kernel(plan, url), in_flight)
    tally = drive(plan, Journal(url), executor, progress=ask, stop=stop)
    assert tally.stopped == "SIGTERM"
    assert 20 <= tally.computed < 20 + in_flight
    ledger = Journal(url).read()
    assert len(ledger.done) == tally.computed, "every block begun has its record"
    assert run_toy(url).computed == 64 - tally.computed
    assert stored_bytes(url) == stored_bytes(clean)


@pytest.mark.parametrize("in_flight", [1, 2])
def test_a_block_that_hangs_stops_the_run_and_says_where(tmp_path, in_flight):
    url, plan, source = str(tmp_path / "out.zarr"), toy_plan(), toy_source()
    toy_sink(plan, url).create()
    release, read = threading.Event(), source.read
    stuck = plan.task(9).read

    def wait_for_ever(window, times):
        if window == stuck:
            release.wait()
        return read(window, times)

    source.read = wait_for_ever
    executor = LoopExecutor(
        toy_kernel(plan, url, source=source), in_flight, stall_s=1.5
    )
    try:
        with pytest.raises(HungError, match="no block ended for") as caught:
            drive(plan, Journal(url), executor)
    finally:
        release.set()
    assert "wait_for_ever" in str(caught.value), "the stack of the block is shown"
    done = len(Journal(url).read().done)
    assert done >= 9, "what was finished is kept"

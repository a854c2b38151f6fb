"""The same histories over a store that fails in every way that stores do.

To what may happen to an output (`tests.test_state_machine`) come puts that fail, that
are made and not answered, that are torn, late or made twice, listings that do not show
what is new, a store that fills up and one that takes nothing.
"""

from __future__ import annotations

from collections import Counter
from contextlib import suppress

import hypothesis.strategies as st
import pytest
from hypothesis.stateful import initialize, invariant, rule

from geoscale import patience
from geoscale.engine.block import run_block
from geoscale.engine.drive import drive, finalize
from geoscale.engine.failures import RUN, TRANSIENT
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.verify import verify_blocks
from geoscale.errors import StoppedError, StoreError
from geoscale.testing_store import MODES, Faults
from tests.support.toy import run_toy, stored_bytes, toy_kernel, toy_sink
from tests.test_state_machine import NUMBERS, PLAN, Output, Stop, try_it

ENDS = (Stop, StoppedError, StoreError)
MODES_MET = st.sampled_from(MODES)
SHARES = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 2**16)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.0)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


class FaultyOutput(Output):
    """One output in a store that fails."""

    met: Counter[str]

    gentle = False

    @initialize(gentle=st.booleans())
    def choose(self, gentle):
        """Half of the histories hurt nothing: there the ledger is held to its word."""
        self.gentle = gentle

    def open(self):
        self.faults = Faults(self.folder)
        return self.faults.url("out.zarr")

    @rule(number=NUMBERS, at=st.floats(0, 0.999), bit=st.integers(0, 7))
    def flip_a_bit(self, number, at, bit):
        if not self.gentle:
            super().flip_a_bit(number, at, bit)

    @rule(number=NUMBERS, keep=st.sampled_from([0, 1, 40]))
    def cut_a_shard(self, number, keep):
        if not self.gentle:
            super().cut_a_shard(number, keep)

    @rule(number=NUMBERS)
    def delete_a_shard(self, number):
        if not self.gentle:
            super().delete_a_shard(number)

    @rule(mode=MODES_MET, share=SHARES, seed=SEEDS)
    def let_puts_fail(self, mode, share, seed):
        hurts = mode in ("torn", "silent")
        self.faults.shares = {"lost" if self.gentle and hurts else mode: share}
        self.faults.reseed(seed)

    @rule(share=st.floats(0, 0.4))
    def let_reads_fail(self, share):
        self.faults.reads = share

    @rule(listings=st.integers(0, 3))
    def hide_what_is_new(self, listings):
        self.faults.hidden = listings

    @rule(room=st.integers(0, 40_000))
    def fill_it_up(self, room):
        self.faults.room = room

    @rule()
    def take_nothing(self):
        self.faults.is_readonly = True

    @rule()
    def mend_it(self):
        self.faults.shares, self.faults.reads, self.faults.hidden = {}, 0.0, 0
        self.faults.room, self.faults.is_readonly = None, False

    @rule()
    def deliver_what_is_late(self):
        self.faults.deliver()

    @rule(after=st.integers(1, 20), in_flight=st.integers(1, 3), lost=st.booleans())
    def stop_a_run(self, after, in_flight, lost):
        with suppress(*ENDS):
            super().stop_a_run(after, in_flight, lost)

    @rule(
        mode=MODES_MET, share=SHARES, seed=SEEDS, after=st.integers(1, 64),
        in_flight=st.integers(1, 3), lost=st.booleans(),
    )  # fmt: skip
    def run_while_puts_fail(self, mode, share, seed, after, in_flight, lost):
        self.let_puts_fail(mode, share, seed)
        self.stop_a_run(after, in_flight, lost)

    @rule(mode=MODES_MET, share=SHARES, seed=SEEDS)
    def repair_while_puts_fail(self, mode, share, seed):
        self.let_puts_fail(mode, share, seed)
        self.repair()

    @rule(number=NUMBERS)
    def finish_a_block_late(self, number):
        outcome = run_block(self.kernel, number)
        if not outcome.ok:
            assert outcome.kind in (TRANSIENT, RUN), outcome.error
            # a torn put that was given up: the ledger has what `verify` now denies
            self.hurt |= "torn" in self.faults.shares

    @rule(number=NUMBERS)
    def write_without_a_record(self, number):
        with suppress(*ENDS):
            if number not in Journal(self.url).read().done:
                self.finish_a_block_late(number)

    @rule()
    def repair(self):
        ended = False
        with suppress(*ENDS):
            journal = Journal(self.url)
            journal.begin(PLAN)
            found = verify_blocks(PLAN, journal, self.sink)
            for damage in found.damaged:
                self.sink.drop(damage.key)
            if found.damaged:
                journal.undo({d.block for d in found.damaged})
            ended = not (self.faults.hidden or "silent" in self.faults.shares)
        with self.faults.calm():
            left = verify_blocks(PLAN, Journal(self.url), self.sink).damaged
        assert not (ended and left)
        self.hurt = bool(left)

    @invariant()
    def the_ledger_promises_only_what_is_there(self):
        if not hasattr(self, "faults"):
            return
        # half a shard that was taken for whole is what `verify` is for
        silent = self.faults.seen.pop("silent", 0)
        self.met["silent"] += silent
        self.hurt |= silent > 0
        with self.faults.calm():
            super().the_ledger_promises_only_what_is_there()

    def finish(self):
        self.met.update(self.faults.seen)
        self.mend_it()
        self.faults.deliver()
        super().finish()


def try_them(clean, examples, steps, proof):
    met: Counter[str] = Counter()
    try_it(clean, examples, steps, proof, type("Met", (FaultyOutput,), {"met": met}))
    print(dict(met))
    return met


def test_some_histories_over_a_failing_store_end_in_the_clean_bytes(clean, proof):
    try_them(clean, 10, 12, proof)


@pytest.mark.slow
def test_many_histories_over_a_failing_store_end_in_the_clean_bytes(
    clean, proof, share
):
    met = try_them(clean, max(10, round(share * 150)), 30, proof)
    wanted = {*MODES, "full", "unread"}
    seen = {mode for mode in wanted if met[mode]}
    assert len(seen) >= (len(wanted) if share == 1 else 3), "few kinds of failures came"


@pytest.mark.parametrize("mode", ["fail", "lost", "torn", "late", "twice"])
def test_failures_that_pass_lose_no_block_and_no_attempt(clean, tmp_path, mode, proof):
    faults = Faults(tmp_path)
    # as often as can be without a put that fails for good
    faults.script = [mode, mode, mode, ""] * 200
    tally = run_toy(faults.url("out.zarr"))
    assert (tally.computed, tally.failures) == (64, 0)
    assert faults.seen[mode] > 100
    faults.deliver()
    assert stored_bytes(str(tmp_path / "out.zarr")) == clean
    proof(faults=faults.seen[mode], compared=sum(map(len, clean.values())))


def test_half_a_shard_that_was_taken_for_whole_is_never_success(clean, tmp_path):
    faults = Faults(tmp_path)
    url = faults.url("out.zarr")
    sink, journal = toy_sink(PLAN, url), Journal(url)
    sink.create()
    journal.begin(PLAN)
    faults.script = [""] * 30 + ["silent"]
    drive(PLAN, journal, LoopExecutor(toy_kernel(PLAN, url)))
    found = finalize(PLAN, journal, sink, {})
    assert [d.reason for d in found.damaged] == ["changed"]
    assert journal.final() is None


def test_a_full_store_stops_the_run_and_more_room_lets_it_go_on(clean, tmp_path):
    faults = Faults(tmp_path)
    faults.room = 60_000
    with pytest.raises(StoppedError, match=r"no room left at faulty://.*same command"):
        run_toy(faults.url("out.zarr"))
    # one shard, and the records of the blocks before it
    assert faults.seen["full"] <= 2, "a full store is not asked again"
    faults.room = None
    assert run_toy(faults.url("out.zarr")).computed > 0
    assert stored_bytes(str(tmp_path / "out.zarr")) == clean


def test_a_store_that_takes_nothing_stops_the_run_at_its_first_block(tmp_path):
    faults = Faults(tmp_path)
    url = faults.url("out.zarr")
    toy_sink(PLAN, url).create()
    journal = Journal(url)
    journal.begin(PLAN)
    faults.is_readonly, before = True, faults.seen["put"]
    with pytest.raises(StoppedError, match="not allowed to write to faulty://"):
        drive(PLAN, journal, LoopExecutor(toy_kernel(PLAN, url)))
    # one shard, and the record of its failure
    assert faults.seen["put"] - before <= 2


def test_new_records_that_a_listing_hides_cost_work_and_nothing_else(clean, tmp_path):
    faults = Faults(tmp_path)
    url = faults.url("out.zarr")
    toy_sink(PLAN, url).create()
    drive(PLAN, Journal(url), LoopExecutor(toy_kernel(PLAN, url)))
    faults.hidden = 1000
    journal = Journal(url)
    assert drive(PLAN, journal, LoopExecutor(toy_kernel(PLAN, url))).computed == 64
    assert not finalize(PLAN, journal, toy_sink(PLAN, url), {}).is_sound
    faults.hidden = 0
    assert run_toy(url).computed == 0
    assert stored_bytes(str(tmp_path / "out.zarr")) == clean

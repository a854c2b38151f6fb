"""Whatever happens to an output, and in whatever order: it can be brought to the end.

Rules of a state machine stop runs, finish blocks late, damage, delete and forget; after
each of them the ledger may only promise what is there or what `verify` denies, and
one more run ends in the bytes of an undisturbed one.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from geoscale.engine.block import run_block
from geoscale.engine.drive import drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.verify import verify_blocks
from geoscale.storage import Folder
from tests.support.toy import run_toy, stored_bytes, toy_kernel, toy_plan, toy_sink

PLAN = toy_plan()
BLOCKS = len(PLAN.grid)
NUMBERS = st.integers(0, BLOCKS - 1)


class Stop(Exception):
    """What ends a run in the middle."""


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


class Output(RuleBasedStateMachine):
    """One output, and what may happen to it."""

    clean: dict[str, bytes]
    histories: int

    @initialize()
    def begin(self):
        self.folder = tempfile.mkdtemp()
        self.place = f"{self.folder}/out.zarr"
        self.url = self.open()
        self.sink = toy_sink(PLAN, self.url)
        self.sink.create()
        Journal(self.url).begin(PLAN)
        self.kernel = toy_kernel(PLAN, self.url)
        self.hurt = False

    def open(self):
        """URL of the output, whose files lie at `place`."""
        return self.place

    def teardown(self):
        if hasattr(self, "folder"):
            self.finish()
            type(self).histories += 1
            shutil.rmtree(self.folder)

    @rule(after=st.integers(1, 20), in_flight=st.integers(1, 3), lost=st.booleans())
    def stop_a_run(self, after, in_flight, lost):
        """Stop it after some blocks; perhaps the newest records are lost with it."""
        journal = Journal(self.url)

        def stop(tally, outcome):
            if tally.computed >= after:
                if lost:
                    journal._pending.clear()
                raise Stop

        executor = LoopExecutor(self.kernel, in_flight)
        try:
            drive(PLAN, journal, executor, progress=stop)
        except Stop:
            return

    @rule(number=NUMBERS)
    def finish_a_block_late(self, number):
        """A worker that was held to be dead writes after all."""
        assert run_block(self.kernel, number).ok

    @rule(number=NUMBERS)
    def write_without_a_record(self, number):
        """A driver dies between a block's write and its record."""
        if number not in Journal(self.url).read().done:
            assert run_block(self.kernel, number).ok

    @rule(number=NUMBERS, at=st.floats(0, 0.999), bit=st.integers(0, 7))
    def flip_a_bit(self, number, at, bit):
        for path in self.shards(number)[:1]:
            data = bytearray(path.read_bytes())
            data[int(at * len(data))] ^= 1 << bit
            path.write_bytes(data)
            self.hurt = True

    @rule(number=NUMBERS, keep=st.sampled_from([0, 1, 40]))
    def cut_a_shard(self, number, keep):
        for path in self.shards(number)[-1:]:
            path.write_bytes(path.read_bytes()[:keep])
            self.hurt = True

    @rule(number=NUMBERS)
    def delete_a_shard(self, number):
        for path in self.shards(number)[:1]:
            path.unlink()
            self.hurt = True

    @rule(which=st.integers(0, 30))
    def forget_a_segment(self, which):
        segments = sorted((Path(self.place) / ".geoscale/ledger").glob("*.jsonl"))
        for path in segments[which : which + 1]:
            path.unlink()

    @rule(which=st.integers(0, 30), keep=st.floats(0, 1))
    def tear_a_segment(self, which, keep):
        segments = sorted((Path(self.place) / ".geoscale/ledger").glob("*.jsonl"))
        for path in segments[which : which + 1]:
            data = path.read_bytes()
            path.write_bytes(data[: int(keep * len(data))])

    @rule()
    def leave_a_partial_file(self):
        Folder(self.place).put(".x.partial", b"left behind")

    @rule()
    def repair(self):
        journal = Journal(self.url)
        journal.begin(PLAN)
        found = verify_blocks(PLAN, journal, self.sink)
        for damage in found.damaged:
            self.sink.drop(damage.key)
        if found.damaged:
            journal.undo({d.block for d in found.damaged})
        assert verify_blocks(PLAN, journal, self.sink).damaged == []
        self.hurt = False

    @invariant()
    def the_ledger_promises_only_what_is_there(self):
        if not hasattr(self, "url") or self.hurt:
            return
        assert verify_blocks(PLAN, Journal(self.url), self.sink).damaged == []

    def finish(self):
        self.repair()
        journal = Journal(self.url)
        tally = drive(PLAN, journal, LoopExecutor(self.kernel))
        assert not tally.quarantined
        assert finalize(PLAN, journal, self.sink, {}).is_sound
        self.sink.finalize()
        assert stored_bytes(self.place) == self.clean
        assert drive(PLAN, Journal(self.url), LoopExecutor(self.kernel)).computed == 0

    def shards(self, number):
        time, y, x = PLAN.grid.index(number)
        names = [
            f"{layer.name}/c/{time}/{'0/' if layer.classes else ''}{y}/{x}"
            for layer in self.sink.template.layers
        ]
        paths = [Path(self.place) / name for name in names]
        return [path for path in paths if path.is_file() and path.stat().st_size]


def try_it(clean, examples, steps, proof, machine=Output):
    kind = type("Tried", (machine,), {"clean": clean, "histories": 0})
    run_state_machine_as_test(
        kind,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        ),
    )
    size = sum(map(len, clean.values()))
    proof(faults=kind.histories * steps, compared=kind.histories * size)


def test_some_histories_end_in_the_clean_bytes(clean, proof):
    try_it(clean, 8, 8, proof)


@pytest.mark.slow
def test_many_histories_end_in_the_clean_bytes(clean, proof, share):
    try_it(clean, max(10, round(share * 150)), 25, proof)

"""A run on fakes: resume, duplicates, damage, failures, two executors."""

from __future__ import annotations

from pathlib import Path

import pytest

from geoscale.engine.block import run_block
from geoscale.engine.drive import drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.verify import verify_blocks
from geoscale.errors import OutputError, StoppedError
from tests.support.toy import (
    run_toy,
    run_toy_dask,
    stored_bytes,
    toy_kernel,
    toy_plan,
    toy_sink,
    toy_source,
)


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    tally = run_toy(url)
    assert tally.computed == tally.total == 64
    return stored_bytes(url)


def test_overlapped_blocks_equal_the_plain_loop(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url, in_flight=4)
    assert stored_bytes(url) == clean


@pytest.mark.parametrize("workers", [1, 2])
def test_dask_equals_the_plain_loop(clean, tmp_path, workers):
    url = str(tmp_path / "out.zarr")
    tally = run_toy_dask(url, workers=workers)
    assert tally.computed == 64
    assert tally.failures == 0
    assert stored_bytes(url) == clean


def test_a_finished_run_run_again_computes_nothing(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    again = run_toy(url)
    assert again.computed == 0
    assert again.done_before == 64
    assert stored_bytes(url) == clean


def test_a_stopped_run_goes_on_where_it_was(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    plan = toy_plan()
    toy_sink(plan, url).create()

    class Stop(Exception):
        pass

    def stop(tally, outcome):
        if tally.computed == 20:
            raise Stop

    executor = LoopExecutor(toy_kernel(plan, url))
    with pytest.raises(Stop):
        drive(plan, Journal(url), executor, progress=stop)
    assert Journal(url).final() is None
    assert run_toy(url).computed == 44
    assert stored_bytes(url) == clean


def test_blocks_run_twice_or_late_change_nothing(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    kernel = toy_kernel(toy_plan(), url)
    for number in (0, 9, 63):
        assert run_block(kernel, number).ok
    assert stored_bytes(url) == clean
    plan = toy_plan()
    found = verify_blocks(plan, Journal(url), toy_sink(plan, url))
    assert found.is_sound


def test_verify_finds_one_bit_in_any_chunk_and_repair_mends_it(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    plan, sink, journal = toy_plan(), None, Journal(url)
    sink = toy_sink(plan, url)
    keys = list(sink.keys())
    assert len(keys) > 150
    for i, key in enumerate(keys):
        path = Path(url) / key
        data = bytearray(path.read_bytes())
        at = (i * 7919) % (8 * len(data))
        data[at // 8] ^= 1 << (at % 8)
        path.write_bytes(data)
    found = verify_blocks(plan, journal, sink)
    assert {d.key for d in found.damaged} == set(keys)
    assert {d.reason for d in found.damaged} == {"changed"}

    for damage in found.damaged:
        sink.drop(damage.key)
    journal.begin(plan)
    journal.undo(found.blocks())
    assert journal.final() is None
    assert run_toy(url).computed == len(found.blocks())
    assert stored_bytes(url) == clean


def test_another_plan_is_refused_and_the_fields_are_named(tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    with pytest.raises(OutputError, match=r"inference\.stride: 20 there, 16 here"):
        Journal(url).begin(toy_plan(stride=16))


def test_a_changed_stored_plan_is_refused(tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    path = Path(url) / ".geoscale" / "plan.json"
    path.write_text(path.read_text().replace('"stride": 20', '"stride": 18'))
    with pytest.raises(OutputError, match="plan was changed"):
        Journal(url).load_plan()


def test_a_torn_ledger_line_costs_only_its_block(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    run_toy(url)
    segment = next((Path(url) / ".geoscale" / "ledger").glob("*.jsonl"))
    segment.write_bytes(segment.read_bytes()[:-20])
    assert run_toy(url).computed == 1
    assert stored_bytes(url) == clean


def test_a_read_that_fails_twice_is_tried_again(clean, tmp_path):
    url = str(tmp_path / "out.zarr")
    plan, journal, source = toy_plan(), Journal(url), toy_source()
    source.fail = {plan.task(30).read: 2}
    sink = toy_sink(plan, url)
    sink.create()
    kernel = toy_kernel(plan, url, source=source)
    tally = drive(plan, journal, LoopExecutor(kernel))
    assert tally.failures == 2
    assert not tally.quarantined
    assert finalize(plan, journal, sink, {}).is_sound


def test_a_block_that_always_fails_is_quarantined_and_the_rest_completes(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan, journal, source = toy_plan(), Journal(url), toy_source()
    source.fail = {plan.task(30).read: -1}
    sink = toy_sink(plan, url)
    sink.create()
    kernel = toy_kernel(plan, url, source=source)
    tally = drive(plan, journal, LoopExecutor(kernel))
    assert tally.computed == 63
    assert list(tally.quarantined) == [30]
    assert tally.failures == 3, "it was tried three times and no more"
    assert "block 0-3-6 failed in read: made to fail" in tally.quarantined[30]
    found = finalize(plan, journal, sink, {})
    assert found.missing == [30]
    assert journal.final() is None


def test_a_store_without_room_stops_the_run(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan, journal = toy_plan(), Journal(url)
    toy_sink(plan, url).create()
    kernel = toy_kernel(plan, url)

    class Full:
        def write(self, time, core, layers):
            raise StoppedError("no room left at /x")

    object.__setattr__(kernel, "sink", Full())
    with pytest.raises(StoppedError, match=r"no room left.*\n?every block would fail"):
        drive(plan, journal, LoopExecutor(kernel))
    assert sum(journal.read().failures.values()) == 1

"""The journal: what records say, in little memory, whatever their number."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest

from geoscale.engine.journal import (
    SAMPLE,
    SEGMENT_LEAST_S,
    SEGMENT_RECORDS,
    SEGMENT_SECONDS,
    Journal,
)
from geoscale.errors import OutputError
from geoscale.types import Outcome
from tests.support.clock import Clock
from tests.support.toy import toy_plan


def made(block, digest="d", attempt=1, **stats):
    counters = {"core_px": 4, "read_s": 0.5} | stats
    return Outcome(block=block, ok=True, digests={f"k/{block}": digest}, stats=counters,
                   attempt=attempt)  # fmt: skip


def failed(block, kind="transient"):
    return Outcome(block=block, ok=False, digests={}, stats={}, error="no", kind=kind,
                   attempt=1)  # fmt: skip


def written(journal):
    return dict(journal.written(journal.read()))


def test_a_block_has_the_digest_of_its_record(tmp_path):
    journal = Journal(str(tmp_path))
    for outcome in (made(3), failed(4), failed(4, "lost"), made(5, None)):
        journal.add(outcome)
    journal.flush()
    ledger = journal.read()
    assert ledger.done == {3, 5}
    assert ledger.failures == {4: 1}
    assert ledger.failed[4]["kind"] == "lost"
    assert written(journal) == {3: {"k/3": {"d"}}, 5: {"k/5": {None}}}
    assert ledger.totals == {"core_px": 8, "read_s": 1.0}


def test_late_duplicates_may_have_written_either(tmp_path):
    journal = Journal(str(tmp_path))
    for outcome in (made(3, "a"), made(4, "x"), made(3, "b")):
        journal.add(outcome)
    journal.flush()
    assert written(journal) == {3: {"k/3": {"a", "b"}}, 4: {"k/4": {"x"}}}
    assert journal.read().totals["core_px"] == 8, "a block counts once"


def test_a_segment_that_is_just_being_stored_is_none_yet(tmp_path):
    journal = Journal(str(tmp_path))
    journal.add(made(3))
    journal.flush()
    folder = tmp_path / ".geoscale" / "ledger"
    (path,) = folder.iterdir()
    (folder / f".{path.name}.{32 * 'f'}.partial").write_bytes(b"{")
    assert len(journal.segments()) == 1
    assert journal.read().done == {3}


def test_what_was_undone_counts_no_more(tmp_path):
    journal = Journal(str(tmp_path))
    journal.add(made(3, "a"))
    journal.undo([3])
    assert journal.read().done == set()
    assert written(journal) == {}
    journal.add(made(3, "b"))
    journal.flush()
    assert written(journal) == {3: {"k/3": {"b"}}}, "the damaged bytes are not sound"


@pytest.mark.parametrize(
    "line", ["{", "[]", "7", '{"b": "x"}', '{"b": 1, "d": 3}', "{}"]
)
def test_a_torn_line_is_no_record(tmp_path, line):
    journal = Journal(str(tmp_path))
    journal.add(made(1))
    journal.flush()
    (tmp_path / ".geoscale/ledger/000009-x-000000.jsonl").write_text(line)
    ledger = journal.read()
    assert (ledger.done, ledger.torn, ledger.epoch) == ({1}, 1, 9)
    assert list(written(journal)) == [1]


def segments(tmp_path):
    return len(list((tmp_path / ".geoscale/ledger").glob("*.jsonl")))


def test_records_are_stored_by_number_or_age_and_not_too_often(tmp_path):
    clock = Clock()
    journal = Journal(str(tmp_path), clock)
    for number in range(2 * SEGMENT_RECORDS):
        journal.add(made(number))
    assert segments(tmp_path) == 0, "short blocks wait for a quarter of a second"
    clock.now += SEGMENT_LEAST_S
    journal.add(made(100))
    assert segments(tmp_path) == 1
    clock.now += SEGMENT_LEAST_S
    journal.add(made(101))
    assert segments(tmp_path) == 1
    clock.now += SEGMENT_SECONDS
    journal.add(made(102))
    assert segments(tmp_path) == 2
    assert len(journal.read().done) == 2 * SEGMENT_RECORDS + 3


def test_a_plan_that_cannot_be_read_is_named(tmp_path):
    journal = Journal(str(tmp_path))
    journal.begin(toy_plan())
    (tmp_path / ".geoscale" / "plan.json").write_text('{"result_version": ')
    with pytest.raises(OutputError, match=r"cannot be read \(JSON.*restore plan.json"):
        journal.load_plan()


def test_plots_get_some_blocks_of_all_parts_of_a_long_run(tmp_path):
    journal = Journal(str(tmp_path), Clock())
    count = 5 * SAMPLE
    for number in range(count):
        journal.add(made(number, nth=number))
    journal.flush()
    ledger = journal.read()
    assert SAMPLE / 2 <= len(ledger.sample) <= SAMPLE
    order = [stats["nth"] for stats in ledger.sample]
    assert order == sorted(order)
    steps = [b - a for a, b in pairwise(order)]
    assert max(steps) <= 2 * min(steps)
    assert ledger.totals["core_px"] == 4 * count


def test_assets_that_are_missing_are_counted_by_block(tmp_path):
    journal = Journal(str(tmp_path))
    gone = [["item-1", ["red"], "404"]]
    journal.add(made(1, missing=gone))
    journal.add(made(2, missing=gone))
    journal.flush()
    (row,) = journal.read().missing.values()
    assert row == {"item": "item-1", "bands": ["red"], "why": "404", "blocks": 2}


def test_the_whole_of_a_large_ledger_is_small(tmp_path):
    journal = Journal(str(tmp_path), Clock())
    lines = [
        json.dumps(
            {"b": n, "a": 1, "d": {f"classes/c/0/{n}/0": "a" * 32}, "s": {"x": 1}}
        )
        for n in range(200_000)
    ]
    folder = tmp_path / ".geoscale/ledger"
    folder.mkdir(parents=True)
    (folder / "000001-a-000000.jsonl").write_text("\n".join(lines))
    del lines
    import tracemalloc

    tracemalloc.start()
    ledger = journal.read()
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(ledger.done) == 200_000
    assert held / 200_000 < 150, "bytes a block"

"""An Icechunk repository as the output: readers see whole epochs, kills lose none."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import zarr

import geoscale as gs
from geoscale.engine.block import run_block
from geoscale.engine.drive import drive, finalize
from geoscale.engine.epochs import EpochJournal
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.verify import verify_blocks
from geoscale.errors import JobError, OutputError
from geoscale.options import Output
from geoscale.sinks.icechunk import IcechunkSink
from geoscale.sinks.layout import load_template, open_output
from geoscale.types import EpochSink
from tests.cli.conftest import environment, geoscale
from tests.support.toy import run_toy, stored_bytes, toy_kernel, toy_plan, toy_sink

icechunk = pytest.importorskip("icechunk")
ROOT = Path(__file__).resolve().parents[1]
PLAN = toy_plan()
EPOCH = 10


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


def make_sink(url):
    return IcechunkSink(url, toy_sink(PLAN, url).template)


def make_kernel(url):
    return dataclasses.replace(toy_kernel(PLAN, url), sink=make_sink(url))


def run(url, *, blocks=EPOCH, in_flight=1, progress=None):
    sink = make_sink(url)
    sink.create()
    # time flies: nothing but the number of blocks may begin an epoch here
    clock = itertools.count(0.0, 7.0).__next__
    journal = EpochJournal(url, sink, blocks=blocks, seconds=1e9, clock=clock)
    executor = LoopExecutor(make_kernel(url), in_flight)
    tally = drive(PLAN, journal, executor, progress=progress)
    assert finalize(PLAN, Journal(url), make_sink(url), {}).is_sound
    make_sink(url).finalize()
    return tally


def find_seen(url):
    """Blocks of which a reader sees a pixel now."""
    data = np.asarray(open_output(url)["confidence"])[0]
    cores = {int(n): PLAN.grid.core(int(n)) for n in PLAN.numbers()}
    return {
        n
        for n, core in cores.items()
        if not np.isnan(data[core.y0 : core.y1, core.x0 : core.x1]).all()
    }


def commits(url):
    storage = icechunk.local_filesystem_storage(url)
    found = icechunk.Repository.open(storage).ancestry(branch="main")
    return [one.message for one in found]


def run_plain_keys(folder):
    url = str(folder / "plain.zarr")
    run_toy(url)
    return list(toy_sink(PLAN, url).keys())


def test_it_equals_a_plain_store(clean, tmp_path):
    url = str(tmp_path / "out.ice")
    assert run(url, in_flight=3).computed == 64
    assert stored_bytes(url) == clean
    assert isinstance(make_sink(url), EpochSink)
    assert not isinstance(toy_sink(PLAN, url), EpochSink)
    assert commits(url).count(f"{EPOCH} blocks") == 6
    again = run(url)
    assert (again.computed, again.done_before) == (0, 64)
    plain = run_plain_keys(tmp_path)
    assert list(make_sink(url).keys()) == plain
    assert load_template(url) == toy_sink(PLAN, url).template


def test_readers_see_whole_epochs_and_the_ledger_no_more_than_they(tmp_path):
    url, seen = str(tmp_path / "out.ice"), []

    def look(tally, outcome):
        seen.append((tally.computed, find_seen(url), Journal(url).read().done))

    run(url, progress=look)
    assert len(seen) == 65
    visible = find_seen(url)
    assert len(visible) > 55
    for computed, shown, known in seen:
        assert len(known) == computed // EPOCH * EPOCH
        assert shown == known & visible


class Stop(Exception):
    pass


def stop_at(count):
    def stop(tally, outcome):
        if tally.computed == count:
            raise Stop

    return stop


def test_a_stopped_run_commits_what_it_has_and_goes_on(clean, tmp_path):
    url = str(tmp_path / "out.ice")
    with pytest.raises(Stop):
        run(url, progress=stop_at(25))
    assert len(Journal(url).read().done) == 25
    assert run(url).computed == 39
    assert stored_bytes(url) == clean


KILLED = """
import sys
from tests.test_icechunk import run
run(sys.argv[1])
"""


@pytest.mark.parametrize(
    "point", ["commit.before:3", "commit.after:3", "ledger.after:3"]
)
def test_a_driver_that_dies_at_a_commit_loses_that_epoch_and_no_more(
    clean, tmp_path, point, proof
):
    url = str(tmp_path / "out.ice")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, url],
        env=os.environ | {"GEOSCALE_CRASH_AT": point},
        cwd=ROOT, capture_output=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 9, ended.stderr
    known = len(Journal(url).read().done)
    assert known == {"ledger.after:3": 3 * EPOCH}.get(point, 2 * EPOCH)
    committed = commits(url).count(f"{EPOCH} blocks")
    assert committed == {"commit.before:3": 2}.get(point, 3)
    # what is recorded is there, whatever else is
    assert not verify_blocks(PLAN, Journal(url), make_sink(url)).damaged
    assert run(url).computed == 64 - known
    assert stored_bytes(url) == clean
    proof(faults=1, compared=sum(map(len, clean.values())))


def test_blocks_made_twice_late_or_by_two_are_committed_all_the_same(clean, tmp_path):
    url = str(tmp_path / "out.ice")
    kernel, late = None, []
    sink = make_sink(url)
    sink.create()
    kernel = make_kernel(url)
    late = [run_block(kernel, n) for n in (0, 9, 63)]
    assert run(url).computed == 64
    sink.commit([outcome.changes for outcome in late * 2], "late")
    assert stored_bytes(url) == clean
    assert verify_blocks(PLAN, Journal(url), make_sink(url)).is_sound


@pytest.mark.parametrize("how", ["flip", "cut", "gone"])
def test_a_damaged_chunk_is_found_and_only_its_block_is_made_again(
    clean, tmp_path, how
):
    url = str(tmp_path / "out.ice")
    run(url)
    path = max((Path(url) / "chunks").iterdir(), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    if how == "gone":
        path.unlink()
    else:
        path.write_bytes(data if how == "flip" else data[:40])
    sink, journal = make_sink(url), Journal(url)
    found = verify_blocks(PLAN, journal, sink)
    assert [d.reason for d in found.damaged] == [
        "missing" if how == "gone" else "changed"
    ]
    journal.begin(PLAN)
    for damage in found.damaged:
        sink.drop(damage.key)
    journal.undo(found.blocks())
    assert run(url).computed == 1
    assert stored_bytes(url) == clean


def test_another_committer_is_not_overwritten(clean, tmp_path):
    """A driver that was held to be gone commits in between: both are kept."""
    url = str(tmp_path / "out.ice")
    sink = make_sink(url)
    sink.create()
    ours, theirs = (run_block(make_kernel(url), n) for n in (3, 60))
    merged = []

    def commit_between(session):
        session.merge(pickle.loads(ours.changes))
        if not merged:
            make_sink(url).commit([theirs.changes], "theirs")
        merged.append(1)

    sink._commit(commit_between, "ours")
    assert len(merged) == 2, "the conflict was seen"
    assert commits(url)[:2] == ["ours", "theirs"]
    for outcome in (ours, theirs):
        for key, digest in outcome.digests.items():
            assert make_sink(url).fetch_digest(key) == digest


def test_what_is_not_ours_is_refused(tmp_path):
    (tmp_path / "x.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"something else: it holds `x\.txt`"):
        make_sink(str(tmp_path)).create()
    other = str(tmp_path / "theirs")
    repository = icechunk.Repository.create(icechunk.local_filesystem_storage(other))
    session = repository.writable_session("main")
    zarr.create_group(session.store)
    session.commit("theirs")
    with pytest.raises(OutputError, match="that geoscale did not make"):
        make_sink(other).create()
    with pytest.raises(OutputError, match="is no Icechunk repository"):
        make_sink(str(tmp_path / "nothing")).fetch_digest("x")
    with pytest.raises(OutputError, match="local folders and on s3://"):
        make_sink("memory://x").create()


def test_options_say_what_does_not_go_together():
    assert Output(store="icechunk").overviews is False
    with pytest.raises(ValueError, match="has no overviews; leave them out"):
        Output(store="icechunk", overviews=True)
    # a plan of a plain output has the name that it had before there was a choice
    assert not {"store", "epoch_s"} & Output().model_dump().keys()
    assert Output.model_validate(Output(store="icechunk").model_dump()).store == (
        "icechunk"
    )


def count_done(url):
    return len(Journal(url).read().done) if Path(url).exists() else 0


def write_job(folder, to, more=""):
    job = folder / f"{Path(to).stem}.yaml"
    job.write_text(
        "imagery: {items: items.json}\nmodel: s2-landcover-unet\n"
        "inference: {block: 32, patch: 88, stride: 32}\n"
        f"output: {{to: '{to}', overviews: false{more}}}\n"
    )
    return job


@pytest.mark.slow
def test_the_real_command_survives_kills_with_an_icechunk_output(
    tmp_path, share, proof
):
    """``geoscale run -w 2``, killed again and again, ends as a plain store does."""
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    kills, met, rng = max(3, round(20 * share)), 0, random.Random(20)
    print("seed 20")
    prepare(tmp_path, 600)
    assert gs.run_job(write_job(tmp_path, "plain.zarr")).complete
    plain = stored_bytes(str(tmp_path / "plain.zarr"))
    url = str(tmp_path / "out.ice")
    job = write_job(tmp_path, url, ", store: icechunk, epoch_s: 0.5")
    command = [sys.executable, "-m", "geoscale.cli", "run", str(job), "-w", "2"]
    for _ in range(kills):
        process = subprocess.Popen(
            command, env=environment(),
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            start_new_session=True,
        )  # fmt: skip
        before, until = count_done(url), time.monotonic() + 60
        while count_done(url) <= before and time.monotonic() < until:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.4))
        met += process.poll() is None
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = subprocess.run(
        [*command, "--json"], env=environment(), capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert stored_bytes(url)["classes"] == plain["classes"]
    assert gs.verify(url).is_sound
    assert json.loads(geoscale("status", url, "--json").stdout)["complete"] is True
    assert geoscale("view", url, "--to", tmp_path / "page.html").returncode == 0
    assert "last commit" in (tmp_path / "page.html").read_text()
    cogs = gs.export(url, tmp_path / "cogs")
    assert cogs[0].stat().st_size > 1000
    with pytest.raises(JobError, match="one driver commits"):
        gs.run_job(job, shard=(0, 2))
    assert met >= 2, "it was killed in the middle"
    proof(faults=met, compared=len(plain["classes"]))

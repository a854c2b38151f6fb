"""Workers whose jobs end: they begin nothing that they cannot end, and lose nothing."""

from __future__ import annotations

import subprocess
import time

import pytest
from distributed import Client

from geoscale.clusters import load_profile
from geoscale.clusters.jobqueue import write_worker_script
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.drive import drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.leaving import ENDS, find_end
from geoscale.engine.roster import Roster
from tests.support.cluster import OutsideCluster, hit
from tests.support.toy import (
    build_telling_kernel,
    run_toy,
    stored_bytes,
    toy_plan,
    toy_sink,
    written,
)

BLOCKS = 64


def test_no_block_is_begun_that_would_end_too_late():
    end = find_end({ENDS: "100"}, lambda: 80.0)
    assert end.go_on()
    for _ in range(20):
        end.note(16.0)
    assert not end.go_on(), "20 s are less than a block of 16 s and 5 s to end"
    assert find_end({ENDS: "soon"}).go_on()


def test_workers_that_leave_are_given_nothing_and_waited_for():
    roster = Roster()
    roster.note_leaving("tcp://a:1")
    assert roster.pick({"tcp://a:1": 1, "tcp://b:1": 1}) == {"tcp://b:1": 1}
    assert roster.is_picky
    assert not roster.is_waiting({"tcp://a:1": 1, "tcp://b:1": 1}, 2, 0.0)
    assert roster.is_waiting({"tcp://a:1": 1}, 0, 1e6), "another comes in its place"
    assert not roster.is_waiting({}, 0, 0.0)


def test_the_script_tells_workers_when_their_job_ends():
    told = {"type": "slurm", "walltime": "10m", "cores": 1, "memory": "3GB"}
    script = write_worker_script(load_profile(told))
    (line,) = [one for one in script.splitlines() if ENDS in one]
    seen = set()
    for _ in range(40):
        done = subprocess.run(
            ["bash", "-c", f"{line}; echo ${ENDS}"], capture_output=True, text=True
        )
        left = int(done.stdout) - time.time()
        assert 600 - 30 - 2 <= left <= 600
        seen.add(round(left))
    assert len(seen) > 5, "not all at once"


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


@pytest.mark.slow
def test_a_worker_drains_before_its_job_ends_and_the_next_goes_on(tmp_path, clean):
    """Its process is killed at the time that it was told: no block is lost."""
    url = str(tmp_path / "out.zarr")
    plan, journal = toy_plan(), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    ends = time.time() + 20
    with OutsideCluster(tmp_path, envs=[{ENDS: str(ends)}], nannies=False) as cluster:
        address = cluster.ensure()
        cluster.wait_for_workers()
        (first,) = cluster.workers()
        with Client(address) as client:
            executor = DaskExecutor(
                client, build_telling_kernel, url, plan.hash, extra=(0.3,)
            )
            seen = []

            def progress(tally, outcome):
                seen.append(time.time())

            stream = drive_beside(plan, journal, executor, progress)
            while time.time() < ends:
                time.sleep(0.1)
            of_first = [pid for pid, _ in written(url)]
            last = max(seen)
            hit(first)
            cluster._envs[0] = {}
            cluster.nannies[0].wait(timeout=30)
            cluster.ensure()
            tally = stream.result(timeout=90)
    assert 0 < len(of_first) < BLOCKS, "it ended in mid-run"
    assert set(of_first) == {first}
    assert last < ends - 2, "it has begun none for a while"
    assert tally.failures == 0, "nothing was lost"
    assert len(written(url)) == BLOCKS, "and nothing made twice"
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()
    assert stored_bytes(url) == clean


def drive_beside(plan, journal, executor, progress):
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    return pool.submit(drive, plan, journal, executor, progress=progress)

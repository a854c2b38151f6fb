"""Kills on a cluster of processes: scheduler, nannies, workers, driver, all of them.

After every kill the same command ends in the same bytes, and what is made twice stays
within G4.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from geoscale.engine.journal import SEGMENT_RECORDS, Journal
from geoscale.engine.runs import LATEST_S
from geoscale.engine.verify import verify_blocks
from tests.support.cluster import ROOT, OutsideCluster, hit, start_toy
from tests.support.toy import run_toy, stored_bytes, toy_plan, toy_sink, written

SEED = int(os.environ.get("GEOSCALE_SEED", "20"))
BLOCK, DELAY_S, WORKERS = 20, 0.1, 2
VICTIMS = ("driver", "scheduler", "nanny", "worker", "group")
BOUND = WORKERS * (round(LATEST_S / DELAY_S) + 1) + SEGMENT_RECORDS
"""G4: tasks in flight, each of blocks for two seconds and one more, and records."""
PATIENCE_S = 90


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    assert run_toy(url, block=BLOCK).computed == len(toy_plan(BLOCK).grid)
    return stored_bytes(url)


def kill(cluster, driver, victim, rng):
    """Kill one of the processes, or all."""
    if victim == "driver":
        hit(driver.pid)
    elif victim == "scheduler":
        hit(cluster.scheduler.pid)
    elif victim == "nanny":
        hit(rng.choice(list(cluster.nannies.values())).pid)
    elif victim == "worker":
        hit(rng.choice(cluster.workers()))
    else:
        for pid in (*cluster.every(), driver.pid):
            hit(pid)


def finish(driver):
    """What a driver says until it ends by itself; one that does not is a failure."""
    try:
        return driver.communicate(timeout=PATIENCE_S)
    finally:
        hit(driver.pid)


def end(driver, victim):
    """Wait for a driver whose cluster was hurt; it ends by itself, and as it should."""
    said, why = finish(driver)
    if victim in ("nanny", "worker"):
        assert driver.returncode == 0, why[-3000:]
        assert "computed" in said
    elif victim == "scheduler":
        # it may have had its last result in hand
        assert driver.returncode == 0 or "the Dask scheduler went away" in why, why
    return driver.returncode


def one_kill(url, cluster, victim, rng, clean):
    """Run, kill, run again; return how many blocks were lost and what was there."""
    Path(f"{url}.hurry").unlink(missing_ok=True)
    Path(f"{url}.written").unlink(missing_ok=True)
    before = len(Journal(url).read().done)
    driver = start_toy(url, cluster.ensure(), DELAY_S, BLOCK)
    assert driver.stdout.readline() == "start\n", driver.stderr.read()[-3000:]
    cluster.wait_for_workers()
    # where records are at risk, some kills come when more is made than may be lost
    left = len(toy_plan(BLOCK).grid) - before
    most = left if victim in ("driver", "group") else left // 4
    count = rng.randint(0, most)
    while len(written(url)) < count and driver.poll() is None:
        time.sleep(0.01)
    time.sleep(rng.uniform(0, 0.2))
    kill(cluster, driver, victim, rng)
    made = len({block for _, block in written(url)})
    Path(f"{url}.hurry").touch()
    end(driver, victim)
    lost = before + made - len(Journal(url).read().done)
    assert lost <= BOUND, (victim, lost)
    again = run_toy(url, block=BLOCK)
    assert again.done == again.total
    assert stored_bytes(url) == clean, victim
    return max(0, lost)


def kills(tmp_path, count, clean, proof):
    print(f"seed {SEED}")
    rng, url = random.Random(SEED), str(tmp_path / "out.zarr")
    run_toy(url, block=BLOCK)
    hits, worst = Counter(), 0
    with OutsideCluster(tmp_path, WORKERS) as cluster:
        for number in range(count):
            forget(url, rng)
            victim = VICTIMS[number % len(VICTIMS)]
            worst = max(worst, one_kill(url, cluster, victim, rng, clean))
            hits[victim] += 1
    print(f"{dict(hits)}; at most {worst} blocks were made and lost, {BOUND} may be")
    proof(faults=count, compared=count * sum(map(len, clean.values())))


def forget(url, rng):
    """Bring an output back to nothing, or to a part of itself."""
    if rng.random() < 0.3:
        shutil.rmtree(url)
        toy_sink(toy_plan(BLOCK), url).create()
        return
    for path in sorted((Path(url) / ".geoscale" / "ledger").glob("*.jsonl")):
        if rng.random() < 0.7:
            path.unlink()
    (Path(url) / ".geoscale" / "final.json").unlink(missing_ok=True)


@pytest.mark.slow
def test_240_kills_of_any_process_end_in_the_same_bytes(tmp_path, clean, share, proof):
    kills(tmp_path, max(len(VICTIMS), round(240 * share)), clean, proof)


@pytest.mark.slow
def test_a_worker_that_was_held_to_be_dead_may_write_late(tmp_path, clean, proof):
    """Suspended past the scheduler's patience: others do its work, then it does."""
    url = str(tmp_path / "out.zarr")
    env = {"DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "3s"}
    with OutsideCluster(tmp_path, WORKERS, env=env, nannies=False) as cluster:
        driver = start_toy(url, cluster.ensure(), DELAY_S, BLOCK)
        assert driver.stdout.readline() == "start\n"
        zombie = None
        while zombie is None:
            writers = [pid for pid, _ in written(url)]
            zombie = next((pid for pid in writers if writers.count(pid) > 2), None)
            time.sleep(0.01)
        hit(zombie, signal.SIGSTOP)
        try:
            count = len([pid for pid, _ in written(url) if pid == zombie])
            time.sleep(1)
            Path(f"{url}.hurry").touch()
            assert end(driver, "worker") == 0
        finally:
            hit(zombie, signal.SIGCONT)
        deadline = time.monotonic() + 20
        late = []
        while not late and time.monotonic() < deadline:
            late = [block for pid, block in written(url) if pid == zombie][count:]
            time.sleep(0.05)
        assert late, "it wrote after it was given up"
        others = {block for pid, block in written(url) if pid != zombie}
        assert set(late) <= others, "what others had written meanwhile"
        time.sleep(0.5)
    assert stored_bytes(url) == clean
    plan = toy_plan(BLOCK)
    assert verify_blocks(plan, Journal(url), toy_sink(plan, url)).is_sound
    proof(faults=1, compared=sum(map(len, clean.values())))


@pytest.mark.slow
def test_the_command_says_that_its_scheduler_died_and_goes_on_with_another(tmp_path):
    pytest.importorskip("spyndex")
    import geoscale as gs
    from geoscale.demo.run import prepare

    prepare(tmp_path, 600)
    job, profile = tmp_path / "job.yaml", tmp_path / "cluster.yaml"
    job.write_text(
        "imagery: {items: items.json}\nmodel: s2-landcover-unet\n"
        "inference: {block: 64, patch: 120, stride: 64}\noutput: out.zarr\n"
    )
    command = [sys.executable, "-m", "geoscale.cli", "run", str(job), "-c", profile]
    text = "type: scheduler\ntimeout_s: 5\naddress: "
    with OutsideCluster(tmp_path, 1) as cluster:
        profile.write_text(text + cluster.ensure())
        driver = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
        for line in driver.stdout:
            if "/100 blocks" in line:
                break
        while len(Journal(str(tmp_path / "out.zarr")).read().done) < 1:
            time.sleep(0.05)
        hit(cluster.scheduler.pid)
        _, why = finish(driver)
        assert driver.returncode == 4, why
        assert "the Dask scheduler went away; finished blocks are kept" in why
        assert "Traceback" not in why
        kept = gs.status(tmp_path / "out.zarr")["done"]
        assert 0 < kept < 100
        profile.write_text(text + cluster.ensure())
        again = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, check=False, cwd=ROOT
        )
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["computed"] == 100 - kept
    assert gs.verify(tmp_path / "out.zarr").is_sound

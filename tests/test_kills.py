"""Kills: the same command, again and again, ends in the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from geoscale.clusters import connect
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.drive import drive
from geoscale.engine.journal import Journal
from geoscale.errors import StoppedError
from tests.support.cluster import OutsideCluster, hit, start_toy
from tests.support.toy import (
    build_toy_kernel,
    run_toy,
    stored_bytes,
    toy_plan,
    toy_sink,
)

ROOT = Path(__file__).resolve().parents[1]
SEED = int(os.environ.get("GEOSCALE_SEED", "20"))


def kill_and_resume(tmp_path, kills, proof):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    clean_url = str(tmp_path / "clean.zarr")
    run_toy(clean_url)
    clean = stored_bytes(clean_url)
    url = str(tmp_path / "out.zarr")
    for _ in range(kills):
        process = start_toy(url, "loop", 0.03)
        assert process.stdout.readline() == "start\n"
        time.sleep(rng.uniform(0, 1.2))
        hit(process.pid)
        process.communicate()
    out = finish(start_toy(url, "loop", 0.0))
    assert "of 64" in out
    assert stored_bytes(url) == clean
    assert "computed 0 of 64" in finish(start_toy(url, "loop", 0.0))
    proof(faults=kills, compared=sum(map(len, clean.values())))


def finish(process, timeout=90):
    out, why = process.communicate(timeout=timeout)
    assert process.returncode == 0, why
    return out


def break_ledger(url, rng):
    """Forget half of a finished run, so that the next kill meets work."""
    segments = sorted((Path(url) / ".geoscale" / "ledger").glob("*.jsonl"))
    for path in segments:
        if rng.random() < 0.5:
            path.unlink()


def test_a_killed_driver_loses_nothing(tmp_path, proof):
    kill_and_resume(tmp_path, 4, proof)


def descendants(process):
    try:
        every = psutil.Process(process.pid).children(recursive=True)
        return [p.pid for p in every if any("spawn_main" in a for a in p.cmdline())]
    except psutil.Error:
        return []


@pytest.mark.slow
def test_the_real_command_survives_60_kills(tmp_path, share, proof):
    """Real imagery, the real network, `geoscale run --workers 2`, 64 blocks."""
    pytest.importorskip("spyndex")
    import geoscale as gs
    from geoscale.demo.run import prepare

    print(f"seed {SEED}")
    rng = random.Random(SEED)
    prepare(tmp_path, 1024)
    job = tmp_path / "kills.yaml"
    job.write_text(
        "imagery: {items: items.json}\n"
        "model: s2-landcover-unet\n"
        "inference: {block: 128, patch: 184, stride: 128}\n"
        "output: {to: killed.zarr, layers: [classes, confidence, scores]}\n"
    )
    clean_job = tmp_path / "clean.yaml"
    clean_job.write_text(job.read_text().replace("killed.zarr", "clean.zarr"))
    # The same command: with another number of threads, libraries choose other
    # kernels and scores may differ in their last bit.
    command = [sys.executable, "-m", "geoscale.cli", "run", str(job), "-w", "2"]
    undisturbed = [str(clean_job) if a == str(job) else a for a in command]
    subprocess.run(undisturbed, check=True, stdout=subprocess.DEVNULL)
    clean = stored_bytes(str(tmp_path / "clean.zarr"))
    out = tmp_path / "killed.zarr"

    hits = {"driver": 0, "worker": 0, "both": 0}
    count = max(3, round(60 * share))
    while sum(hits.values()) < count:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        time.sleep(rng.uniform(2.0, 9.0))
        victim = rng.choice(sorted(hits))
        workers = descendants(process)
        if process.poll() is None and (workers or victim == "driver"):
            hits[victim] += 1
            if victim != "driver":
                hit(rng.choice(workers))
        if victim != "worker":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=120)
        if process.returncode == 0:
            break_ledger(str(out), rng)
            (out / ".geoscale" / "final.json").unlink()
    print(hits)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert stored_bytes(str(out)) == clean
    again = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, check=True
    )
    assert '"computed": 0' in again.stdout
    assert gs.verify(out).is_sound
    loop_job = tmp_path / "loop.yaml"
    loop_job.write_text(job.read_text().replace("killed.zarr", "loop.zarr"))
    assert gs.run_job(loop_job).complete
    assert stored_bytes(str(tmp_path / "loop.zarr"))["classes"] == clean["classes"]
    proof(faults=count, compared=sum(map(len, clean.values())))


def test_a_run_that_loses_its_scheduler_stops_and_says_so(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan, journal = toy_plan(), Journal(url)
    toy_sink(plan, url).create()
    journal.begin(plan)
    with OutsideCluster(tmp_path, 1) as cluster:

        def kill(tally, outcome):
            if tally.computed == 10:
                hit(cluster.scheduler.pid)

        profile = {"type": "scheduler", "address": cluster.ensure(), "timeout_s": 5}
        with connect(profile) as client:
            executor = DaskExecutor(
                client, build_toy_kernel, url, plan.hash, extra=(0.1,)
            )
            with pytest.raises(StoppedError, match=r"went away.*run the same command"):
                drive(plan, journal, executor, progress=kill)
    kept = len(journal.read().done)
    assert 10 <= kept < 64
    assert run_toy(url).computed == 64 - kept

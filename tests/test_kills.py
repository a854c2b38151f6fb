"""Kills: the same command, again and again, ends in the same bytes."""

from __future__ import annotations

import contextlib
import json
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
from tests.support.toy import (
    build_toy_kernel,
    run_toy,
    stored_bytes,
    toy_plan,
    toy_sink,
)

ROOT = Path(__file__).resolve().parents[1]
SEED = int(os.environ.get("GEOSCALE_SEED", "20"))


def start(url, mode, delay):
    return subprocess.Popen(
        [sys.executable, "-m", "tests.support.toy", url, mode, str(delay)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
    )


def worker_pids(url):
    found = []
    for path in Path(f"{url}.pids").glob("*"):
        try:
            os.kill(int(path.name), 0)
        except ProcessLookupError:
            path.unlink(missing_ok=True)
        else:
            found.append(int(path.name))
    return found


def hit(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def finish(process, timeout=90):
    out, _ = process.communicate(timeout=timeout)
    assert process.returncode == 0, out
    return out


def kill_and_resume(tmp_path, kills, victims, modes, proof):
    print(f"seed {SEED}")
    rng = random.Random(SEED)
    clean_url = str(tmp_path / "clean.zarr")
    run_toy(clean_url)
    clean = stored_bytes(clean_url)
    url = str(tmp_path / "out.zarr")
    for kill in range(kills):
        victim, mode = victims[kill % len(victims)], modes[kill % len(modes)]
        process = start(url, mode, 0.03)
        assert process.stdout.readline() == "start\n"
        time.sleep(rng.uniform(0, 1.2) + (1.5 if mode == "dask" else 0))
        workers = worker_pids(url) if mode == "dask" else []
        if victim != "driver" and workers:
            hit(rng.choice(workers))
        if victim != "worker":
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()
        else:
            finish(process)
            break_ledger(url, rng)
    out = finish(start(url, "loop", 0.0))
    assert "of 64" in out
    assert stored_bytes(url) == clean
    assert "computed 0 of 64" in finish(start(url, "loop", 0.0))
    proof(faults=kills, compared=sum(map(len, clean.values())))


def break_ledger(url, rng):
    """Forget half of a finished run, so that the next kill meets work."""
    segments = sorted((Path(url) / ".geoscale" / "ledger").glob("*.jsonl"))
    for path in segments:
        if rng.random() < 0.5:
            path.unlink()


def test_a_killed_driver_loses_nothing(tmp_path, proof):
    kill_and_resume(tmp_path, 4, ["driver"], ["loop"], proof)


@pytest.mark.slow
def test_twenty_kills_of_driver_worker_and_both_end_in_the_same_bytes(tmp_path, proof):
    kill_and_resume(tmp_path, 20, ["driver", "worker", "both"], ["dask"], proof)


def descendants(process):
    try:
        every = psutil.Process(process.pid).children(recursive=True)
        return [p.pid for p in every if any("spawn_main" in a for a in p.cmdline())]
    except psutil.Error:
        return []


@pytest.mark.slow
def test_the_real_command_survives_twenty_kills(tmp_path, proof):
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
    while sum(hits.values()) < 20:
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
    proof(faults=20, compared=sum(map(len, clean.values())))


@contextlib.contextmanager
def outside_cluster(folder):
    """Start a scheduler and a worker by Dask's own commands; give both processes."""
    where = folder / "scheduler.json"
    options = ["--scheduler-file", str(where), "--no-dashboard"]
    more = {
        "scheduler": ["--host", "127.0.0.1", "--port", "0"],
        "worker": ["--nthreads", "2", "--no-nanny"],
    }
    found = []
    try:
        for kind, extra in more.items():
            module = f"distributed.cli.dask_{kind}"
            command = [sys.executable, "-W", "ignore", "-m", module, *options, *extra]
            found.append(subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL))
            while not where.exists():
                time.sleep(0.05)
        yield json.loads(where.read_text())["address"], found[0]
    finally:
        for process in found:
            process.kill()
            process.wait()


def test_a_run_that_loses_its_scheduler_stops_and_says_so(tmp_path):
    url = str(tmp_path / "out.zarr")
    plan, journal = toy_plan(), Journal(url)
    toy_sink(plan, url).create()
    journal.begin(plan)
    with outside_cluster(tmp_path) as (address, scheduler):

        def kill(tally, outcome):
            if tally.computed == 10:
                scheduler.kill()

        profile = {"type": "scheduler", "address": address, "timeout_s": 5}
        with connect(profile) as client:
            executor = DaskExecutor(
                client, build_toy_kernel, url, plan.hash, extra=(0.1,)
            )
            with pytest.raises(StoppedError, match=r"went away.*run the same command"):
                drive(plan, journal, executor, progress=kill)
    kept = len(journal.read().done)
    assert 10 <= kept < 64
    assert run_toy(url).computed == 64 - kept

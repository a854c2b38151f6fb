"""Kills: the same command, again and again, ends in the same bytes."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.toy import run_toy, stored_bytes

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


def kill_and_resume(tmp_path, kills, victims, modes):
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


def break_ledger(url, rng):
    """Forget half of a finished run, so that the next kill meets work."""
    segments = sorted((Path(url) / ".geoscale" / "ledger").glob("*.jsonl"))
    for path in segments:
        if rng.random() < 0.5:
            path.unlink()


def test_a_killed_driver_loses_nothing(tmp_path):
    kill_and_resume(tmp_path, 4, ["driver"], ["loop"])


@pytest.mark.slow
def test_twenty_kills_of_driver_worker_and_both_end_in_the_same_bytes(tmp_path):
    kill_and_resume(tmp_path, 20, ["driver", "worker", "both"], ["dask"])

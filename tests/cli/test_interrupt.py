"""Ctrl-C: once stops in order and the same command goes on; twice leaves at once."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.cli.conftest import environment, geoscale


def start(*args):
    return subprocess.Popen(
        [sys.executable, *map(str, args)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )


def small_blocks(demo, name):
    text = Path(demo["job"]).read_text().replace("landcover.z", f"{name}.z")
    for old, new in (("patch: 568", "patch: 128"), ("512", "64")):
        text = text.replace(old, new)
    job = Path(demo["job"]).with_name(f"{name}.yaml")
    job.write_text(text)
    return job


def test_ctrl_c_keeps_blocks_and_the_same_command_goes_on(demo):
    job = small_blocks(demo, "stopped")
    process = start("-m", "geoscale.cli", "run", job)
    for line in process.stdout:
        if "/100 blocks" in line:
            break
    time.sleep(1.0)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 130, said
    assert "stopping, finished blocks are kept" in said
    assert "the same command goes on" in said
    assert "Traceback" not in said
    found = json.loads(
        geoscale("status", job.with_name("stopped.zarr"), "--json").stdout
    )
    assert 0 < found["done"] < 100
    again = geoscale("run", job, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["computed"] == 100 - found["done"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_batch_systems_warning_finishes_what_was_begun(demo, number):
    job = small_blocks(demo, number.name.lower())
    process = start("-m", "geoscale.cli", "run", job)
    for line in process.stdout:
        if "/100 blocks" in line:
            break
    time.sleep(1.0)
    process.send_signal(number)
    said, told = process.communicate(timeout=30)
    assert process.returncode == 75, told
    assert f"stopped in order ({number.name})" in said
    assert "blocks left: run the same command again" in said
    output = job.with_suffix(".zarr")
    found = json.loads(geoscale("status", output, "--json").stdout)
    assert 0 < found["done"] < 100
    assert not list((output / ".geoscale").glob("lease-*"))
    again = geoscale("run", job, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["computed"] == 100 - found["done"]


def test_a_deadline_that_is_too_near_begins_nothing(demo):
    job = small_blocks(demo, "deadline")
    done = geoscale("run", job, "--deadline", "1s")
    assert done.returncode == 75, done.stderr
    assert "stopped in order (the deadline is near)" in done.stdout
    assert geoscale("run", job, "--deadline", "soon").returncode == 2


def test_a_second_ctrl_c_leaves_at_once():
    code = (
        "import time\n"
        "from geoscale.cli.interrupt import interruptible\n"
        "with interruptible('never said'):\n"
        "    try:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "    finally:\n"
        "        print('in order', flush=True)\n"
        "        time.sleep(60)\n"
    )
    process = start("-c", code)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    assert process.stdout.readline() == "in order\n"
    before = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=10) == 130
    assert time.monotonic() - before < 3
    assert "never said" not in process.stderr.read()

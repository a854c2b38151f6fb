"""A million blocks and 450,000 items: planned, resumed and driven within bounds.

`GEOSCALE_PROOF_SHARE` (default a tenth) says how much of it; bounds are those of the
whole. Seconds are printed, never asserted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARE = float(os.environ.get("GEOSCALE_PROOF_SHARE", "0.1"))
ITEMS, BLOCKS = int(450_000 * SHARE), int(1000 * SHARE**0.5) ** 2
MOST_MB = {"plan": 1500, "resume": 500, "drive": 500}

pytestmark = pytest.mark.slow


def run(*args):
    command = [sys.executable, "-m", "tests.support.million", *map(str, args)]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    print(args[0], found)
    assert found["peak_mb"] <= MOST_MB[args[0]], found
    return found


def test_a_continent_is_planned_and_resumed_within_bounds(tmp_path, record_property):
    url = str(tmp_path / "map.zarr")
    made = run("plan", url, ITEMS, BLOCKS)
    assert made["items"] == ITEMS
    assert made["blocks"] == BLOCKS
    again = run("resume", url)
    assert (again["blocks"], again["done"]) == (BLOCKS, 0)
    assert again["first"]
    assert again["cpu_s"] < made["cpu_s"], "a plan that is stored is not made again"
    record_property("compared", ITEMS)


def test_blocks_without_work_pass_with_little_memory(record_property):
    found = run("drive", BLOCKS)
    assert found["blocks"] == BLOCKS
    assert found["failures"] == 0
    assert found["scheduler_tasks_max"] <= 100, "tasks are submitted a window at a time"
    assert found["tasks"] <= BLOCKS / 20, "neighbours share a task"
    record_property("compared", BLOCKS)

"""A process that dies at any named point, early, midway or late: nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from geoscale.engine.journal import SEGMENT_RECORDS
from geoscale.faults import KILLED, POINTS
from tests.support.toy import run_toy, stored_bytes

ROOT = Path(__file__).resolve().parents[1]
BLOCKS = 64

HERE = [name for name in POINTS if not name.startswith("commit.")]
"""Commits are Icechunk's: tests/test_icechunk.py."""


def run(url, **env):
    return subprocess.run(
        [sys.executable, "-m", "tests.support.toy", url, "loop"],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("clean")
    url, counts = str(folder / "out.zarr"), folder / "counts.json"
    done = run(url, GEOSCALE_CRASH_COUNTS=str(counts))
    assert done.returncode == 0, done.stderr
    passed = json.loads(counts.read_text())
    assert set(passed) == set(HERE), "every point lies on the way"
    return stored_bytes(url), passed


def check(clean, tmp_path, name, where, proof):
    wanted, passed = clean
    number = {"first": 1, "middle": (passed[name] + 1) // 2, "last": passed[name]}[
        where
    ]
    url = str(tmp_path / "out.zarr")
    died = run(url, GEOSCALE_CRASH_AT=f"{name}:{number}")
    assert died.returncode == KILLED, died.stderr
    again = run(url)
    assert again.returncode == 0, again.stderr
    assert stored_bytes(url) == wanted
    # G4: what a death may cost is what was in flight, and unflushed records
    began = {"block.begin": number - 1, "block.inferred": number - 1,
             "block.written": number - 1}.get(name)  # fmt: skip
    if began is not None:
        computed = int(again.stdout.split("computed ")[1].split()[0])
        assert computed <= BLOCKS - began + SEGMENT_RECORDS
    assert run_toy(url).computed == 0
    proof(faults=1, compared=sum(map(len, wanted.values())))


@pytest.mark.slow
@pytest.mark.parametrize("where", ["first", "middle", "last"])
@pytest.mark.parametrize("name", HERE)
def test_death_at_any_point_is_made_good(clean, tmp_path, name, where, proof):
    check(clean, tmp_path, name, where, proof)


@pytest.mark.parametrize("name", ["put.torn", "ledger.before"])
def test_death_in_the_middle_of_a_put_is_made_good(clean, tmp_path, name, proof):
    check(clean, tmp_path, name, "middle", proof)

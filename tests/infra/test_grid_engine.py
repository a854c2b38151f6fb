"""A real Grid Engine: the job makes the loop's bytes, whatever is deleted."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

import geoscale as gs
from geoscale.errors import JobError
from tests.support.batch import (
    BLOCKS,
    count_records,
    geoscale,
    is_over,
    logs,
    pixels,
    put_profile,
    submit,
    wait,
    write_job,
)

pytestmark = pytest.mark.infra

PROFILE = {
    "type": "sge",
    "queue": "lab.q",
    "walltime": "10m",
    "jobs": 2,
    "cores": 1,
    "memory": "3GB",
    "driver": {"memory": "3GB"},
    "interface": "lo",
}


def write_profile(folder: Path, **fields) -> Path:
    return put_profile(folder, {**PROFILE, **fields})


def jobs_called(name: str) -> list[str]:
    said = subprocess.run(["qstat"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in said.splitlines()[2:]]
    return [row[0] for row in rows if row[2] == name[:10]]


@pytest.mark.parametrize("shape", ["driver-and-workers", "array"])
def test_every_shape_makes_the_loops_bytes(
    grid_engine, data_dir, tmp_path, reference, shape
):
    output = submit(write_job(tmp_path, data_dir), write_profile(tmp_path, shape=shape))
    found = wait(output, is_over, 240)
    assert found["complete"], logs(output)
    assert found["done"] == BLOCKS
    assert pixels(output) == reference


def test_a_worker_job_that_is_deleted_is_replaced(
    grid_engine, data_dir, tmp_path, reference, monkeypatch
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "4")
    output = submit(write_job(tmp_path, data_dir), write_profile(tmp_path))
    found = wait(output, lambda f: 2 <= f["done"] < BLOCKS - 4, 180)
    name = f"gs{found['jobs'][0]['id']}w"
    seen = set(before := jobs_called(name))
    subprocess.run(["qdel", before[0]], check=True, capture_output=True)

    def look(found):
        seen.update(jobs_called(name))
        return is_over(found)

    assert wait(output, look, 240)["complete"], logs(output)
    assert pixels(output) == reference
    assert len(seen) >= 3, "another job came in its place"


def test_a_driver_that_is_cancelled_stays_away_and_the_next_goes_on(
    grid_engine, data_dir, tmp_path, reference, monkeypatch
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "6")
    job, profile = write_job(tmp_path, data_dir), write_profile(tmp_path)
    output = submit(job, profile)
    wait(output, lambda f: 2 <= f["done"] < BLOCKS - 4, 180)
    assert geoscale("cancel", output).returncode == 0
    over = wait(output, is_over, 60)
    assert not over["complete"]
    end = time.monotonic() + 90
    while jobs_called(f"gs{over['jobs'][0]['id']}w"):
        assert time.monotonic() < end, "workers are left"
        time.sleep(1)
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "0")
    submit(job, profile)
    assert wait(output, is_over, 240)["complete"], logs(output)
    assert pixels(output) == reference


def test_a_wall_time_shorter_than_the_job_is_survived(
    grid_engine, data_dir, tmp_path, reference, monkeypatch
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "20")
    profile = write_profile(tmp_path, shape="array", walltime="2m")
    output = submit(write_job(tmp_path, data_dir), profile)
    found = wait(output, is_over, 900)
    assert found["complete"], logs(output)
    assert found["runs"] >= 2
    assert pixels(output) == reference
    assert all(count == 1 for count in count_records(output).values())


def test_grid_engines_own_words_are_quoted(grid_engine, data_dir, tmp_path):
    profile = write_profile(tmp_path, queue="none.q")
    done = geoscale(
        "submit", write_job(tmp_path, data_dir), "-c", profile, "--trust-code"
    )
    assert done.returncode == 2
    assert "Grid Engine refused the job" in done.stderr
    assert "none.q" in done.stderr
    cluster = gs.connect({**PROFILE, "queue": "none.q"})
    with pytest.raises(JobError, match=r"none\.q"), cluster:
        pass

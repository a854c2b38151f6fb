"""A real Slurm: the three shapes make the loop's bytes, whatever is cancelled."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import psutil
import pytest

import geoscale as gs
from geoscale.errors import JobError, StoppedError
from tests.support.batch import (
    BLOCKS,
    count_records,
    geoscale,
    is_over,
    logs,
    pixels,
    put_profile,
    status,
    submit,
    wait,
    write_job,
)

pytestmark = pytest.mark.infra

PROFILE = {
    "type": "slurm",
    "partition": "short",
    "walltime": "10m",
    "jobs": 2,
    "cores": 1,
    "memory": "3GB",
    "driver": {"memory": "3GB"},
    "interface": "lo",
}
SHAPES = ("driver-and-workers", "one-allocation", "array")


def write_profile(folder: Path, **fields) -> Path:
    return put_profile(folder, {**PROFILE, **fields})


def squeue(*words: str) -> list[str]:
    done = subprocess.run(
        ["squeue", "--noheader", *words], capture_output=True, text=True, check=True
    )
    return done.stdout.split("\n")[:-1]


@pytest.fixture(autouse=True)
def nothing_is_left(slurm):
    yield
    end = time.monotonic() + 90
    while left := squeue("--format=%i %j %T %r"):
        assert time.monotonic() < end, left
        time.sleep(1)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_makes_the_loops_bytes(
    slurm, data_dir, tmp_path, reference, shape, record_property
):
    profile = write_profile(tmp_path, shape=shape)
    job = write_job(tmp_path, data_dir)
    printed = geoscale("submit", job, "-c", profile, "--print", "--trust-code")
    output = submit(job, profile)
    found = wait(output, is_over, 180)
    assert found["complete"], logs(output)
    assert found["done"] == found["blocks"] == BLOCKS
    assert all(one["state"].split()[-2] == "COMPLETED" for one in found["jobs"])
    assert pixels(output) == reference
    # what is printed, and shown in the docs, is what runs
    for script in (output / ".geoscale" / "jobs").glob("*.sh"):
        assert script.read_text() in printed.stdout
    record_property("compared", BLOCKS)


def test_a_cancelled_worker_job_is_replaced(
    slurm, data_dir, tmp_path, reference, monkeypatch
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "2")
    output = submit(write_job(tmp_path, data_dir), write_profile(tmp_path))
    found = wait(output, lambda f: 2 <= f["done"] < BLOCKS - 4, 120)
    (driver,) = found["jobs"]
    workers = f"--name=gs{driver['id']}w"
    before = squeue(workers, "--format=%i")
    assert len(before) == 2
    subprocess.run(["scancel", before[0].strip()], check=True)
    seen = set(before)

    def look(found):
        seen.update(squeue(workers, "--format=%i"))
        return is_over(found)

    assert wait(output, look, 180)["complete"], logs(output)
    assert pixels(output) == reference
    assert len(seen) >= 3, "another job came in its place"


@pytest.mark.parametrize("how", ["scancel", "geoscale cancel", "kill -9"])
def test_a_cancelled_driver_stays_away_and_the_next_goes_on(
    slurm, data_dir, tmp_path, reference, monkeypatch, how
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "6")
    job, profile = write_job(tmp_path, data_dir), write_profile(tmp_path)
    output = submit(job, profile)
    found = wait(output, lambda f: 2 <= f["done"] < BLOCKS - 4, 120)
    driver = found["jobs"][0]["id"]
    if how == "geoscale cancel":
        # a second one is refused, and says what to do
        again = geoscale("submit", job, "-c", profile, "--trust-code")
        assert again.returncode == 2
        assert f"job {driver} for" in again.stderr
        assert "geoscale cancel" in again.stderr
        assert geoscale("cancel", output).returncode == 0
    elif how == "scancel":
        subprocess.run(["scancel", driver], check=True)
    else:
        for one in psutil.process_iter(["cmdline"]):
            if {"run", str(job)} <= set(one.info["cmdline"] or ()):
                one.kill()
    over = wait(output, is_over, 60)
    assert not over["complete"]
    assert 0 < over["done"] < BLOCKS
    assert "look at the logs" in over["advice"]
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "0")
    assert submit(job, profile) == output
    assert wait(output, is_over, 180)["complete"], logs(output)
    assert pixels(output) == reference
    records = count_records(output)
    assert len(records) == BLOCKS
    # blocks that were recorded were not made again
    assert sum(records.values()) == BLOCKS


@pytest.mark.parametrize("shape", SHAPES)
def test_a_wall_time_shorter_than_the_job_is_survived(
    slurm, data_dir, tmp_path, reference, monkeypatch, shape
):
    """Two minutes, of which a quarter is for winding up; work of three and more."""
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "20")
    times = {"walltime": "10m", "driver": {"memory": "3GB", "walltime": "2m"}}
    if shape != "driver-and-workers":
        times = {"walltime": "2m"}
    profile = write_profile(tmp_path, shape=shape, **times)
    output = submit(write_job(tmp_path, data_dir), profile)
    restarts = set()

    def look(found):
        for one in found["jobs"]:
            command = ["scontrol", "show", "job", one["id"]]
            said = subprocess.run(command, capture_output=True, text=True).stdout
            restarts.update(w for w in said.split() if w.startswith("Restarts="))
        return is_over(found)

    found = wait(output, look, 900)
    assert found["complete"], logs(output)
    assert restarts - {"Restarts=0"}, "it was queued again"
    assert pixels(output) == reference
    assert found["runs"] >= 2
    # what was recorded is not made again
    assert all(count == 1 for count in count_records(output).values())


def test_a_block_longer_than_the_wall_time_ends_the_job(
    slurm, data_dir, tmp_path, monkeypatch
):
    monkeypatch.setenv("GEOSCALE_TEST_DELAY", "300")
    profile = write_profile(tmp_path, shape="array", walltime="1m")
    output = submit(write_job(tmp_path, data_dir), profile)
    found = wait(output, is_over, 240)
    assert not found["complete"]
    # the process ends first, or, where the machine is busy, its wall time
    assert any(s in found["jobs"][0]["state"] for s in ("FAILED", "TIMEOUT"))
    assert "a block, or the end of the map, takes longer" in logs(output)


def test_slurms_own_words_are_quoted(slurm, data_dir, tmp_path):
    job = write_job(tmp_path, data_dir)
    for fields in ({"partition": "shrt"}, {"driver": {"partition": "shrt"}}):
        done = geoscale(
            "submit", job, "-c", write_profile(tmp_path, **fields), "--trust-code"
        )
        assert done.returncode == 2
        assert "invalid partition specified: shrt" in done.stderr
        assert "Slurm refused the job" in done.stderr
    cluster = gs.connect({**PROFILE, "partition": "shrt"})
    with pytest.raises(JobError, match="invalid partition specified: shrt"), cluster:
        pass


def test_no_worker_in_time_says_what_the_queue_says(slurm):
    profile = {**PROFILE, "partition": "full", "wait": "5s"}
    cluster = gs.connect(profile)
    with pytest.raises(StoppedError, match=r"PENDING \(PartitionDown\)"), cluster:
        pass


def test_connect_and_submit_from_python(slurm, data_dir, tmp_path, reference):
    from tests.support.cards import simplecnn

    stack = gs.open_stack(
        data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif",
        sensor="sentinel-2",
        scale=1e-4,
        source_nodata="none",
    )
    plan = gs.plan(stack, simplecnn(data_dir), block_px=128)
    with gs.connect(PROFILE) as client:
        addresses = list(client.scheduler_info()["workers"])
        report = gs.run(plan, tmp_path / "run.zarr", client=client, trust_code=True)
    assert all(address.startswith("tls://127.0.0.1") for address in addresses)
    assert report.complete
    assert pixels(tmp_path / "run.zarr") == reference
    job = gs.submit(plan, tmp_path / "sent.zarr", cluster=PROFILE, trust_code=True)
    assert "driver" in repr(job)
    found = job.result(timeout_s=180)
    assert found.classes.dims == ("time", "y", "x")
    assert job.status()["complete"]
    assert pixels(tmp_path / "sent.zarr") == reference


def test_gpus_are_asked_for_and_told_apart(slurm):
    profile = {**PROFILE, "gpus": 1}
    with gs.connect(profile) as client:
        client.wait_for_workers(2, timeout=60)
        found = client.run(_visible)
    # both jobs lie on one node or on two; each sees one device
    assert all(len(devices.split(",")) == 1 for devices in found.values())
    assert all(devices for devices in found.values())


def _visible() -> str:
    import os

    return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def test_a_cluster_is_checked(slurm, tmp_path):
    done = geoscale(
        "cluster", "check", write_profile(tmp_path), "--output", tmp_path / "out.zarr"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "#SBATCH -p short" in done.stdout
    assert "1 worker of 1 answer" in done.stdout
    assert "every worker reads and writes" in done.stdout
    assert not status_of_doctor(tmp_path)


def status_of_doctor(folder: Path) -> list[Path]:
    return list((folder / "out.zarr").glob(".geoscale-doctor*"))


def test_nothing_was_submitted_there(tmp_path):
    done = geoscale("cancel", tmp_path / "none.zarr")
    assert done.returncode == 2
    assert "no job was submitted" in done.stderr
    assert status

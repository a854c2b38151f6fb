"""Whole jobs with imagery and outputs in S3: what users do, by the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time

import pytest

import geoscale as gs
from tests.cli.conftest import environment, geoscale
from tests.infra.conftest import KEY, SECRET
from tests.support.toy import stored_bytes

pytestmark = pytest.mark.infra
BLOCKS = 100


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The demo's scenes, and a job of 100 blocks over them, done on disk."""
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    folder = tmp_path_factory.mktemp("scenes")
    prepare(folder, 600)
    write_job(folder, "local.yaml", "local.zarr")
    assert gs.run_job(folder / "local.yaml").complete
    return folder


@pytest.fixture(scope="module")
def local(folder):
    return stored_bytes(str(folder / "local.zarr"))


def write_job(folder, name, to, items="items.json", more=""):
    path = folder / name
    path.write_text(
        f"imagery: {{items: '{items}'}}\nmodel: s2-landcover-unet\n"
        "inference: {block: 64, patch: 120, stride: 64}\n"
        f"output: {{to: '{to}', layers: [classes, confidence]{more}}}\n"
    )
    return path


def equal(found, local, *, exact=True):
    """Compare arrays; scores may differ by a step where threads are others."""
    assert found.keys() == local.keys()
    for name in found if exact else ("classes", "x", "y"):
        if name != "attrs":
            assert found[name] == local[name], name


def hidden(s3, *texts):
    """Whether the credentials are in nothing that was stored or said."""
    assert s3.find(KEY, SECRET) == []
    return not any(word in text for text in texts for word in (KEY, SECRET))


def test_a_job_into_s3_and_all_that_is_done_with_its_map(s3, folder, local, tmp_path):
    url = s3.url("maps/loop.zarr")
    ran = geoscale("run", write_job(folder, "loop.yaml", url), "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["computed"] == BLOCKS
    equal(stored_bytes(url), local)

    status = geoscale("status", url)
    assert (status.returncode, status.stderr) == (0, "")
    assert f"{BLOCKS} of {BLOCKS} done" in status.stdout
    key = next(k for k in s3.keys("maps/loop.zarr/classes/c/"))
    data = bytearray(s3.read(key))
    data[len(data) // 2] ^= 1
    s3.write(key, bytes(data))
    verified = geoscale("verify", url)
    assert verified.returncode == 4
    assert f"changed: {key.removeprefix('maps/loop.zarr/')}" in verified.stdout
    stray = "maps/loop.zarr/classes/c/7/0/0"
    s3.write(stray, b"left by a killed writer")
    mended = geoscale("repair", url, "--json")
    assert mended.returncode == 0, mended.stderr
    assert json.loads(mended.stdout)["computed"] == 1
    equal(stored_bytes(url), local)
    assert stray not in s3.keys("maps/"), "orphans are swept there, too"

    exported = geoscale("export", url, "--to", tmp_path / "cogs")
    assert exported.returncode == 0, exported.stderr
    viewed = geoscale("view", url, "--to", tmp_path / "page.html")
    assert viewed.returncode == 0, viewed.stderr
    said = [p.read_bytes().decode("latin-1") for p in tmp_path.rglob("*.*")]
    steps = (ran, status, verified, mended, exported, viewed)
    assert len(said) >= 4
    assert hidden(s3, *said, *(e.stdout + e.stderr for e in steps))


def test_a_cluster_writes_the_same_from_imagery_in_s3(s3, folder, local, proof):
    for path in [folder / "items.json", *(folder / "scenes").rglob("*.tif")]:
        s3.write(f"imagery/{path.relative_to(folder)}", path.read_bytes())
    items, url = s3.url("imagery/items.json"), s3.url("maps/dask.zarr")
    job = write_job(folder, "dask.yaml", url, items)
    (folder / "scenes").rename(folder / "hidden")
    try:
        ran = geoscale("run", job, "-w", 2, "--json")
    finally:
        (folder / "hidden").rename(folder / "scenes")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["failures"] == 0
    found = stored_bytes(url)
    equal(found, local, exact=False)
    assert hidden(s3, ran.stdout, ran.stderr)
    proof(faults=0, compared=len(found["classes"]))


def wait_for_blocks(s3, count, process):
    """Wait until some records are stored."""
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        found = [s3.read(k) for k in s3.keys("maps/kill.zarr/.geoscale/ledger/")]
        if sum(data.count(b'"d":') for data in found) >= count:
            return
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("more", "store"), [((), ""), (("-w", "2"), ""), (("-w", "2"), "icechunk")]
)
def test_a_killed_driver_loses_nothing(s3, folder, local, more, store, proof):
    if store:
        pytest.importorskip(store)
    url = s3.url("maps/kill.zarr")
    kind = f", store: {store}, epoch_s: 0.3, overviews: false" if store else ""
    job = write_job(folder, f"kill{len(more)}{store}.yaml", url, more=kind)
    command = [sys.executable, "-m", "geoscale.cli", "run", str(job), *more]
    process = subprocess.Popen(
        command, env=environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    wait_for_blocks(s3, 2, process)
    assert process.poll() is None, "it was killed in the middle"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    ran = geoscale("run", job, *more, "--json")
    assert ran.returncode == 0, ran.stderr
    print(ran.stderr)
    assert 0 < json.loads(ran.stdout)["computed"] < BLOCKS
    found = stored_bytes(url)
    if store:
        assert found["classes"] == local["classes"]
    else:
        equal(found, local, exact=not more)
    assert hidden(s3, ran.stdout, ran.stderr)
    again = geoscale("run", job, *more, "--json")
    assert json.loads(again.stdout)["computed"] == 0
    proof(faults=1, compared=sum(map(len, found.values())))


def test_a_bucket_that_is_not_there_is_refused_before_a_pixel_is_read(s3, folder):
    job = write_job(folder, "nowhere.yaml", "s3://nowhere/map.zarr")
    (folder / "scenes").rename(folder / "hidden")
    try:
        ran = geoscale("run", job)
    finally:
        (folder / "hidden").rename(folder / "scenes")
    assert ran.returncode == 2, ran.stderr
    assert "there is no bucket `nowhere`, which s3://nowhere/map.zarr" in ran.stderr
    for verb in ("status", "verify", "view"):
        ended = geoscale(verb, "s3://nowhere/map.zarr")
        assert ended.returncode == 2
        assert "there is no bucket `nowhere`" in ended.stderr


def test_the_doctor_tries_the_bucket(s3):
    said = geoscale("doctor", "--output", s3.url("maps/new.zarr"))
    assert "keeps what is written" in said.stdout, said.stdout
    assert hidden(s3, said.stdout, said.stderr)

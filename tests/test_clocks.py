"""Wall clocks that are an hour wrong, each its own way: only log times change."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from geoscale.engine.journal import Journal
from tests.support.clocks import skewed
from tests.support.cluster import OutsideCluster, start_toy
from tests.support.toy import run_toy, stored_bytes

TTL = {"GEOSCALE_TOY_TTL": "4"}
PATIENCE_S = 90


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


def drive(url, hours, delay):
    return start_toy(url, "alone", delay, env=TTL | skewed(hours))


def begin(url, hours, delay):
    driver = drive(url, hours, delay)
    assert driver.stdout.readline() == "start\n", driver.stderr.read()[-3000:]
    return driver


def end(driver):
    said, why = driver.communicate(timeout=PATIENCE_S)
    return driver.returncode, said + why


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_the_clocks_of_the_children_are_wrong(hours):
    done = subprocess.run(
        [sys.executable, "-c", "import time; print(time.time())"],
        env=os.environ | skewed(hours),
        capture_output=True,
        text=True,
        check=True,
    )
    assert abs(float(done.stdout) - time.time() - hours * 3600) < 60


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_second_driver_is_refused_whatever_the_clocks(tmp_path, hours, clean, proof):
    url = str(tmp_path / "out.zarr")
    first = begin(url, hours, 0.2)
    code, said = end(drive(url, -hours, 0.0))
    assert code != 0
    assert f"another run works on {url}: process {first.pid}" in said
    Path(f"{url}.hurry").touch()
    code, said = end(first)
    assert code == 0, said
    assert "computed 64 of 64" in said
    assert stored_bytes(url) == clean
    proof(faults=2, compared=sum(map(len, clean.values())))


@pytest.mark.slow
@pytest.mark.parametrize("hours", [-1, 1])
def test_a_driver_that_shows_no_sign_is_taken_over_whatever_the_clocks(
    tmp_path, hours, clean, proof
):
    url = str(tmp_path / "out.zarr")
    first = begin(url, hours, 0.2)
    while not Journal(url).read().done:
        time.sleep(0.05)
    first.send_signal(signal.SIGSTOP)
    try:
        second = begin(url, -hours, 0.0)
        Path(f"{url}.hurry").touch()
        code, said = end(second)
    finally:
        first.send_signal(signal.SIGCONT)
    assert code == 0, said
    assert 0 < int(said.split("computed ")[1].split()[0]) < 64
    code, said = end(first)
    assert code == 0, said
    assert stored_bytes(url) == clean
    proof(faults=2, compared=sum(map(len, clean.values())))


@pytest.mark.slow
def test_a_cluster_whose_clocks_disagree_makes_the_same_map(tmp_path, clean, proof):
    url = str(tmp_path / "out.zarr")
    envs = [skewed(1), skewed(-1)]
    with OutsideCluster(tmp_path, envs=envs) as cluster:
        driver = start_toy(url, cluster.ensure(), 0.05, env=skewed(1))
        code, said = end(driver)
    assert code == 0, said
    assert "computed 64 of 64" in said
    assert stored_bytes(url) == clean
    proof(faults=3, compared=sum(map(len, clean.values())))

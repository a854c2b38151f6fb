"""Cluster profiles: what is shipped is valid, and mistakes are named."""

from __future__ import annotations

import psutil
import pytest

from geoscale.clusters import LocalProfile, connect, load_profile
from geoscale.errors import JobError, StoppedError
from tests.cli.conftest import ROOT

SHIPPED = sorted((ROOT / "clusters").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_profiles_are_valid_and_say_how_they_are_used(path):
    load_profile(path)
    assert f"--cluster clusters/{path.name}" in path.read_text()


def test_there_are_shipped_profiles():
    assert {path.stem for path in SHIPPED} >= {"local", "scheduler"}


def test_a_number_and_an_address_will_do():
    assert load_profile("3") == LocalProfile(type="local", workers=3)
    assert load_profile(2).workers == 2
    assert load_profile("tcp://10.0.0.1:8786").timeout_s == 60


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("type: local\nworkrs: 2", r"unknown key `workrs`; did you mean `workers`\?"),
        ("type: local\nworkers: 0", "`workers`"),
        ("type: local\nmemory: lots", "`memory`"),
        ("type: lokal", r"did you mean `local`\?"),
        ("workers: 2", "`type` is missing"),
        ("type: slurm\nqueue: gpu", "come with a later version"),
        ("type: scheduler\naddress: 10.0.0.1:8786", "`address`"),
        ("- local", "is a list"),
        ("", "is empty"),
        ("type: [", "not plain YAML"),
    ],
)
def test_mistakes_are_named(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=words) as info:
        load_profile(path)
    assert "mine.yaml" in str(info.value)


def test_a_missing_profile_says_what_would_do():
    with pytest.raises(JobError, match=r"a number of local workers"):
        load_profile("clusters/none.yaml")
    with pytest.raises(JobError, match="workers"):
        load_profile("0")


def test_no_scheduler_answers():
    profile = {"type": "scheduler", "address": "tcp://127.0.0.1:1", "timeout_s": 0.5}
    with (
        pytest.raises(StoppedError, match="no Dask scheduler answers"),
        connect(profile),
    ):
        pass


def test_a_local_cluster_has_safe_settings_and_listens_here_only():
    fields = {"type": "local", "workers": 1, "memory": "1.5GB"}
    with connect(fields, threads=3) as client:
        info = client.scheduler_info()
        (worker,) = info["workers"].values()
        assert worker["nthreads"] == 3
        assert worker["memory_limit"] == 1_500_000_000
        assert info["address"].startswith("tcp://127.0.0.1:")
        process = psutil.Process()
        for one in (process, *process.children(recursive=True)):
            listening = [c for c in one.net_connections() if c.status == "LISTEN"]
            assert {c.laddr.ip for c in listening} <= {"127.0.0.1"}
        names = ("scheduler.work-stealing", "worker.memory.spill")
        for name in names:
            assert client.submit(_setting, name, pure=False).result() is False


def _setting(name):
    import dask

    return dask.config.get(f"distributed.{name}")


def test_workers_that_are_still_starting_share_the_cpus_too():
    # Whoever has joined first must not get the threads of all: other threads,
    # other kernels, other last bits.
    from distributed import Client, LocalCluster

    from geoscale.launch import count_processes

    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=None, host="127.0.0.1"
        ) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(1)
        cluster.scale(3)
        assert count_processes(client) == 3

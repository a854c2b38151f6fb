"""The doctor: every finding is named, and what is wrong says how to mend it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import time
from typing import ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from geoscale.cli import main
from geoscale.clusters import ask_workers, connect
from geoscale.doctor import (
    check_cluster,
    check_environment,
    check_proj,
    check_store,
    compare_versions,
    examine,
)
from geoscale.models import find_differences
from tests.support.workers import empty_cluster, fake_package, start_worker

NO_AWS = {
    "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
    "AWS_CONFIG_FILE": "/nowhere",
    "AWS_NO_SIGN_REQUEST": "YES",
}


def test_doctor_names_what_it_looked_at(capsys, tmp_path):
    code = main(["doctor", "--output", str(tmp_path / "a" / "out.zarr")])
    text = capsys.readouterr().out
    for name in ("python", "gdal", "PROJ", "torch", "cpus", "memory", "disk", "store"):
        assert name in text
    assert "pip install" not in text.replace("pip install 'geoscale[", "")
    assert code in (0, 2)
    assert ("nothing wrong" in text) == (code == 0)
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_doctor_as_json(capsys):
    main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {"level", "name", "found", "fix"} == set(rows[0])


def test_a_check_that_breaks_is_a_finding(tmp_path):
    mine = tmp_path / "file"
    mine.write_text("mine")
    found = [f for f in examine(output=str(mine / "out.zarr")) if f.level == "wrong"]
    assert [f.name for f in found] == ["store"]


@pytest.mark.parametrize(
    ("environ", "name", "words"),
    [
        ({"GDAL_NUM_THREADS": "ALL_CPUS"}, "gdal", "with several threads GDAL may"),
        ({"CPL_CURL_VERBOSE": "YES"}, "gdal", "unset CPL_CURL_VERBOSE"),
        ({"CPL_DEBUG": "ON"}, "gdal", "unset CPL_DEBUG"),
        ({"https_proxy": "http://me:SECRET@proxy:3128"}, "proxies", "into NO_PROXY"),
        ({"AWS_NO_SIGN_REQUEST": ""}, "aws", "AWS_NO_SIGN_REQUEST=YES"),
        ({"AWS_PROFILE": "mine"}, "aws", "unset AWS_NO_SIGN_REQUEST"),
        ({"OMP_NUM_THREADS": "4096"}, "threads", "libraries fight"),
    ],
)
def test_traps_of_the_environment_are_named_with_their_fix(environ, name, words):
    quiet = [f for f in check_environment(NO_AWS) if f.level != "ok"]
    assert quiet == []
    found = [f for f in check_environment(NO_AWS | environ) if f.level != "ok"]
    assert [(f.level, f.name) for f in found] == [("note", name)]
    assert words in found[0].fix
    assert "SECRET" not in str(found)


def test_proxies_with_exceptions_are_fine():
    environ = NO_AWS | {"HTTP_PROXY": "http://proxy", "no_proxy": "localhost"}
    (found,) = check_environment(environ)
    assert found.level == "ok"
    assert found.found == "HTTP_PROXY set, and NO_PROXY"


def proj_db(folder, minor):
    folder.mkdir()
    with sqlite3.connect(folder / "proj.db") as file:
        file.execute("CREATE TABLE metadata (key TEXT, value TEXT)")
        rows = [
            ("DATABASE.LAYOUT.VERSION.MAJOR", "1"),
            ("DATABASE.LAYOUT.VERSION.MINOR", str(minor)),
        ]
        file.executemany("INSERT INTO metadata VALUES (?, ?)", rows)
    file.close()
    return str(folder)


def test_a_database_of_another_proj_is_named(tmp_path):
    old, new = proj_db(tmp_path / "old", 0), proj_db(tmp_path / "new", 99)
    garbage = tmp_path / "garbage"
    garbage.mkdir()
    (garbage / "proj.db").write_bytes(b"no database" * 100)
    for place, level, words in (
        (old, "wrong", "belongs to an older PROJ"),
        (new, "note", "is used instead"),
        (str(tmp_path), "wrong", "holds no proj.db"),
        (str(garbage), "wrong", "holds no proj.db that can be read"),
    ):
        (found,) = check_proj({"PROJ_LIB": place})
        assert found.level == level
        assert words in found.found
        assert "unset PROJ_LIB" in found.fix
    assert list(check_proj({})) == []


class Liar(MemoryFileSystem):
    """A store that breaks one promise."""

    protocol = "liar"
    store: ClassVar = {}
    pseudo_dirs: ClassVar = [""]
    lie = ""

    def pipe_file(self, path, value, **options):
        if self.lie == "refuse":
            raise PermissionError(13, "Access Denied: sig=s3cr3t", path)
        return super().pipe_file(path, value, **options)

    def cat_file(self, path, **options):
        data = super().cat_file(path, **options)
        return data[:-1] if self.lie == "cut" else data

    def ls(self, path, detail=True, **options):
        return [] if self.lie == "hide" else super().ls(path, detail, **options)

    def rm_file(self, path):
        if self.lie != "keep":
            super().rm_file(path)


@pytest.mark.parametrize(
    ("lie", "words"),
    [
        ("cut", "not what was written"),
        ("hide", "not listed"),
        ("keep", "still there"),
        ("refuse", "not allowed to write"),
        ("", "keeps what is written"),
    ],
)
def test_a_store_that_breaks_a_promise_is_wrong(monkeypatch, lie, words):
    fsspec.register_implementation("liar", Liar, clobber=True)
    monkeypatch.setattr(Liar, "lie", lie)
    Liar.store.clear()
    (found,) = check_store("liar://bucket/out.zarr")
    assert found.level == ("wrong" if lie else "ok")
    assert words in found.found
    assert "s3cr3t" not in str(found)
    if lie != "keep":
        assert not Liar.store, "nothing is left behind"
    if not lie:
        assert "s there and back" in found.found
        assert "cannot create an object once" in found.found


def test_a_local_store_creates_an_object_once(tmp_path):
    (found,) = check_store(str(tmp_path / "out.zarr"))
    assert found.level == "ok"
    assert "an object is created once" in found.found


@pytest.mark.parametrize("url", ["nosuch://a/b", "gs://bucket/out.zarr"])
def test_a_store_without_its_library_says_what_to_install(url):
    (found,) = check_store(url)
    assert found.level == "wrong"
    assert found.fix == (
        "pip install 'geoscale[gcs]'" if url.startswith("gs") else "check the address"
    )


@pytest.mark.infra
def test_a_bucket_goes_there_and_back(monkeypatch):
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0
    )
    pytest.importorskip("s3fs")
    server.start()
    try:
        host, port = server.get_host_and_port()
        for name, value in {
            "AWS_ACCESS_KEY_ID": "testing-key",
            "AWS_SECRET_ACCESS_KEY": "testing-secret",
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        fsspec.filesystem("s3").mkdir("bucket")
        (found,) = check_store("s3://bucket/out.zarr")
        assert found.level == "ok", found
        assert fsspec.filesystem("s3").find("bucket") == []
        (found,) = check_store("s3://no-such-bucket/out.zarr")
        assert found.level == "wrong"
        assert "make it, or correct the name" in found.found
    finally:
        server.stop()


OURS = dict.fromkeys(("geoscale", "numpy", "torch", "gdal", "dask"), "1.0")


def test_versions_that_decide_are_wrong_others_are_told():
    assert [f.level for f in compare_versions(OURS, {"tcp://a": OURS})] == ["ok"]
    theirs = {
        "tcp://a": OURS,
        "tcp://b": {**OURS, "torch": "2.0"},
        "tcp://c": {**OURS, "torch": "2.0", "dask": "3.0"},
    }
    torch, dask = compare_versions(OURS, theirs)
    assert (torch.level, dask.level) == ("wrong", "note")
    assert "torch is 2.0 on tcp://b and 1 more, 1.0 here" in torch.found
    assert "one environment" in torch.fix


def test_what_one_side_has_not_loaded_is_no_difference():
    assert find_differences(OURS, {**OURS, "gdal": None}) == []
    assert find_differences({"python": "3.12.1"}, {"python": "3.12.9"}) == []
    (one,) = find_differences({"python": "3.12.1"}, {"python": "3.13.1"})
    assert one.name == "python"


def test_an_unknown_cluster_is_a_finding(capsys):
    assert main(["doctor", "--cluster", "no.yaml"]) == 2
    assert "no.yaml does not exist" in capsys.readouterr().out


def levels(findings):
    return {(f.name, f.level) for f in findings}


@pytest.mark.slow
def test_every_worker_is_asked_and_reaches_the_output(tmp_path):
    found = list(check_cluster("2", str(tmp_path / "out.zarr")))
    assert {f.level for f in found} == {"ok"}, found
    said = {f.name: f.found for f in found}
    assert said["cluster"].startswith("2 workers of 2 answer, on 1 host")
    assert said["versions"] == "the same here and on every worker"
    assert f"reads and writes {tmp_path}" in said["storage"]
    assert "agree" in said["clocks"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_storage_that_is_not_shared_and_other_versions_are_wrong(tmp_path):
    with (
        empty_cluster() as cluster,
        start_worker(cluster, tmp_path, path=fake_package(tmp_path, "torch", "9.9")),
        start_worker(cluster, tmp_path),
    ):
        found = list(check_cluster(cluster.scheduler_address, "memory://apart/out"))
    assert ("storage", "wrong") in levels(found)
    assert ("versions", "wrong") in levels(found)
    said = {f.name: f for f in found if f.level == "wrong"}
    assert "does not see what the driver wrote" in said["storage"].found
    assert "storage that the driver and all workers share" in said["storage"].fix
    assert "torch is 9.9 on tcp://127.0.0.1" in said["versions"].found


@pytest.mark.slow
def test_a_worker_that_hangs_is_told_and_not_waited_for():
    with connect(2, threads=1) as client:
        pids = ask_workers(client, os.getpid)
        assert len(set(pids.values())) == 2
        worker, pid = pids.popitem()
        os.kill(pid, signal.SIGSTOP)
        try:
            began = time.monotonic()
            found = ask_workers(client, os.getpid, timeout_s=2.0)
        finally:
            os.kill(pid, signal.SIGCONT)
    assert isinstance(found.pop(worker), TimeoutError)
    assert found == pids
    assert time.monotonic() - began < 60

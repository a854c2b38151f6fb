"""Cluster profiles: what is shipped is valid, and mistakes are named."""

from __future__ import annotations

import socket
import ssl
import sys
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from geoscale.clusters import LocalProfile, connect, load_profile
from geoscale.errors import JobError, StoppedError
from tests.cli.conftest import ROOT

TLS_FILES = "tls_ca_file: a\ntls_cert: b\ntls_key: c"
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
        ("type: scheduler\naddress: 10.0.0.1:8786", "`address`"),
        ("type: local\nhost: 0.0.0.0; rm", "`host`"),
        ("type: local\ntls_folder: a", "`tls_folder` goes with TLS"),
        (
            "type: local\nhost: 0.0.0.0\ninsecure: true\ntls_folder: a",
            "`insecure: true` has none",
        ),
        ("type: scheduler\naddress: tls://a:1\ntls_key: k", "`tls_ca_file` is missing"),
        (
            "type: scheduler\naddress: tcp://a:1\n" + TLS_FILES,
            "an address of tls://",
        ),
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


def listening():
    """Addresses on which this process and its children listen."""
    me = psutil.Process()
    return {
        (c.laddr.ip, c.laddr.port)
        for one in (me, *me.children(recursive=True))
        for c in one.net_connections()
        if c.status == "LISTEN"
    }


def speaks_plainly(port):
    """Whether a port answers in Dask's plain protocol."""
    with socket.create_connection(("127.0.0.1", port), timeout=5) as plain:
        plain.settimeout(1)
        try:
            return bool(plain.recv(1))  # Dask's plain TCP greets first
        except TimeoutError:
            return False


def try_tls(port):
    """Shake hands without a certificate of the cluster's; say what went wrong."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
            context.wrap_socket(plain) as encrypted,
        ):
            assert encrypted.cipher() is not None
            encrypted.settimeout(5)
            return "let in" if encrypted.recv(1) else "closed"
    except (ssl.SSLError, ConnectionError) as err:
        return type(err).__name__


def test_beyond_this_machine_a_cluster_speaks_tls_only(tmp_path):
    pytest.importorskip("cryptography")
    folder = tmp_path / "private"
    fields = {"type": "local", "host": "0.0.0.0", "tls_folder": str(folder)}
    with connect(fields, threads=1) as client:
        info = client.scheduler_info()
        addresses = [info["address"], *info["workers"]]
        assert all(a.startswith("tls://") for a in addresses), addresses
        ports = {port for ip, port in listening() if ip == "0.0.0.0"}
        assert len(ports) >= 2, "scheduler and worker"
        assert not any(speaks_plainly(port) for port in ports)
        assert "let in" not in {try_tls(port) for port in ports}
        modes = {p.name: p.stat().st_mode & 0o777 for p in folder.iterdir()}
        assert modes == dict.fromkeys(("cert.pem", "key.pem", "scheduler.yaml"), 0o600)
        assert folder.stat().st_mode & 0o777 == 0o700
        with connect(folder / "scheduler.yaml") as other:
            assert other.submit(sum, (1, 2)).result() == 3
        address = info["address"].replace("tls://", "tcp://")
        stranger = {"type": "scheduler", "address": address, "timeout_s": 1}
        with pytest.raises(StoppedError), connect(stranger):
            pass
    assert list(folder.iterdir()) == []


def test_the_test_knows_a_cluster_without_tls():
    with connect(1, threads=1) as client:
        port = urlsplit(client.scheduler_info()["address"]).port
        assert speaks_plainly(port)


def test_without_cryptography_nobody_else_is_let_in(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography", None)
    fields = {"type": "local", "host": "0.0.0.0"}
    with pytest.raises(JobError, match=r"geoscale\[tls\]") as caught, connect(fields):
        pass
    assert "`insecure: true`" in str(caught.value)


def test_insecure_is_said_in_one_line(caplog):
    fields = {"type": "local", "host": "0.0.0.0", "insecure": True}
    with connect(fields, threads=1) as client:
        assert client.scheduler_info()["address"].startswith("tcp://")
    (said,) = (r.getMessage() for r in caplog.records if "encrypted" in r.msg)
    assert said.startswith("0.0.0.0 is not encrypted: whoever reaches it")
    assert "\n" not in said


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("tcp://192.0.2.1:8786", True),
        ("tcp://127.0.0.1:1", False),
        ("tcp://localhost:1", False),
        ("tls://192.0.2.1:8786", False),
    ],
)
def test_a_scheduler_elsewhere_without_tls_is_warned_of(address, warns, caplog):
    profile = {"type": "scheduler", "address": address, "timeout_s": 0.2}
    with pytest.raises((StoppedError, JobError)), connect(profile):
        pass
    said = [r.getMessage() for r in caplog.records if "encrypted" in r.msg]
    assert len(said) == warns
    assert all(f"{address} is not encrypted" in line for line in said)


def test_tls_files_are_found_beside_the_profile_and_named_where_missing(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "type: scheduler\naddress: tls://127.0.0.1:1\n"
        "tls_ca_file: ca.pem\ntls_cert: cert.pem\ntls_key: ~/key.pem\n"
    )
    found = load_profile(path)
    assert found.tls_ca_file == str(tmp_path / "ca.pem")
    assert found.tls_key == str(Path.home() / "key.pem")
    bare = {"type": "scheduler", "address": "tls://127.0.0.1:1"}
    with pytest.raises(JobError, match="speaks TLS: give `tls_ca_file`"), connect(bare):
        pass
    lacks = rf"`tls_ca_file` {tmp_path}/ca\.pem cannot"
    with pytest.raises(JobError, match=lacks), connect(path):
        pass

"""Workers over a real SSH server: TLS, the same bytes, and words where it fails."""

from __future__ import annotations

import getpass
import shutil
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml

import geoscale as gs
from geoscale.errors import JobError, StoppedError
from tests.cli.conftest import geoscale
from tests.infra.conftest import free_port
from tests.support.batch import pixels

pytestmark = pytest.mark.infra

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
PidFile {folder}/pid
StrictModes no
UsePAM no
PasswordAuthentication no
"""
CLIENT = """\
Host one two
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/user
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking yes
Host stranger
    HostName 127.0.0.1
    Port {port}
    IdentityFile {folder}/other
    IdentitiesOnly yes
    UserKnownHostsFile {folder}/known
    StrictHostKeyChecking yes
"""


@pytest.fixture(scope="module")
def ssh(tmp_path_factory):
    """A server on loopback with keys of its own, and the client's configuration."""
    if not Path(SSHD).exists() or shutil.which("ssh") is None:
        pytest.skip("there is no OpenSSH server: apt-get install openssh-server")
    folder, port = tmp_path_factory.mktemp("ssh"), free_port()
    for name in ("host", "user", "other"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name]
        subprocess.run(command, check=True)
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {public}\n")
    (folder / "sshd").write_text(CONFIG.format(port=port, folder=folder))
    (folder / "client").write_text(CLIENT.format(port=port, folder=folder))
    Path("/run/sshd").mkdir(exist_ok=True)
    server = subprocess.Popen(
        [SSHD, "-D", "-e", "-f", folder / "sshd"],
        stderr=(folder / "log").open("w"),
    )
    until = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            assert server.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until
            time.sleep(0.1)
    yield folder
    server.terminate()
    server.wait()


def make_profile(ssh, tmp_path, **fields):
    told = {
        "type": "ssh",
        "hosts": ["one", "two"],
        "interface": "lo",
        "memory": "3GB",
        "threads_per_worker": 1,
        "username": getpass.getuser(),
        "ssh_config": str(ssh / "client"),
    }
    path = tmp_path / "cluster.yaml"
    path.write_text(yaml.safe_dump({**told, **fields}))
    return path


def test_a_job_on_two_machines_gives_the_loops_bytes(ssh, tmp_path):
    from geoscale.demo.run import prepare

    prepare(tmp_path, 300)
    job = {"imagery": {"items": "items.json"}, "model": "s2-landcover-unet",
           "inference": {"block": 128, "patch": 184, "stride": 128}}  # fmt: skip
    for name in ("loop", "ssh"):
        told = {**job, "output": f"{name}.zarr"}
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump(told))
    done = geoscale("run", tmp_path / "loop.yaml")
    assert done.returncode == 0, done.stderr
    profile = make_profile(ssh, tmp_path)
    done = geoscale("run", tmp_path / "ssh.yaml", "--cluster", profile)
    assert done.returncode == 0, done.stderr
    one, other = (
        {k: v for k, v in pixels(tmp_path / f"{n}.zarr").items() if "classes" in k}
        for n in ("loop", "ssh")
    )
    assert one
    assert one == other


def test_workers_speak_tls_and_leave_nothing(ssh, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    before = set(Path("/tmp").glob("tmp.*"))
    with gs.connect(make_profile(ssh, tmp_path, workers_per_host=2)) as client:
        assert client.scheduler.address.startswith("tls://")
        assert len(client.nthreads()) == 4
        assert all(name.startswith("tls://") for name in client.nthreads())
        kept = [p for p in Path("/tmp").glob("tmp.*/pem") if p.parent not in before]
        assert len(kept) == 2
        assert all(p.stat().st_mode & 0o077 == 0 for p in kept)
    assert not any(p.exists() for p in kept)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_machine_that_lets_nobody_in_is_named(ssh, tmp_path):
    profile = make_profile(ssh, tmp_path, hosts=["stranger"])
    with pytest.raises(
        JobError, match=r"ssh does not reach stranger: .*denied"
    ) as info:
        gs.connect(profile).__enter__()
    assert "by hand" in str(info.value)


def test_a_machine_without_geoscales_environment_is_named(ssh, tmp_path):
    profile = make_profile(ssh, tmp_path, hosts=["one"], python="/no/such/python")
    with pytest.raises(StoppedError, match=r"no worker started on one \(exit 127\): "):
        gs.connect(profile).__enter__()


def test_a_port_where_nobody_listens_is_named(ssh, tmp_path):
    text = (ssh / "client").read_text()
    (tmp_path / "client").write_text(
        "\n".join(
            f"    Port {free_port()}" if "Port" in line else line
            for line in text.splitlines()
        )
    )
    profile = make_profile(ssh, tmp_path, ssh_config=str(tmp_path / "client"))
    with pytest.raises(JobError, match=r"ssh does not reach one: .*refused"):
        gs.connect(profile).__enter__()

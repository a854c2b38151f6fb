"""Real services on loopback, started here and ended here."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest

from tests.support.batch import BLOCKS, geoscale, pixels, write_job

# configuration of a server, which that server runs
collect_ignore = ["gateway/config.py"]

KEY, SECRET = "CANARYKEYID0", "CANARYs3cretACCESSkey"
BUCKET = "lab"


@dataclass(frozen=True)
class S3:
    """A server that speaks S3, and a client that is not ours."""

    endpoint: str
    client: Any

    def url(self, key: str) -> str:
        return f"s3://{BUCKET}/{key}"

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return [o["Key"] for page in found for o in page.get("Contents", ())]

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=BUCKET, Key=key)["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=BUCKET, Key=key, Body=data)

    def find(self, *words: str) -> list[str]:
        """Keys of objects that hold one of these words."""
        texts = [word.encode() for word in words]
        held = {key: self.read(key) for key in self.keys()}
        return [key for key, data in held.items() if any(t in data for t in texts)]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    """A server of its own process; skipped where it or s3fs is not installed."""
    for name in ("moto", "flask", "flask_cors", "boto3", "s3fs"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    endpoint, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    try:
        while True:
            try:
                urlopen(f"{endpoint}/moto-api/", timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"the S3 server did not start: {' '.join(command)}")
                time.sleep(0.1)
        yield endpoint
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def s3(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3]:
    """An empty bucket, reached through the environment alone."""
    import boto3
    from botocore.config import Config

    for name in [n for n in os.environ if n.startswith("AWS_")]:
        monkeypatch.delenv(name)
    reach(moto_endpoint, monkeypatch)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEY)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    urlopen(f"{moto_endpoint}/moto-api/reset", data=b"", timeout=30).close()
    client = boto3.client(
        "s3", endpoint_url=moto_endpoint, config=Config(s3={"addressing_style": "path"})
    )
    client.create_bucket(Bucket=BUCKET)
    yield S3(moto_endpoint, client)
    forget_clients()


def reach(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process and its children find S3 at an endpoint."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    forget_clients()


def forget_clients() -> None:
    """Clients keep the endpoint that they were made with."""
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A real Slurm of two virtual nodes; its state folder."""
    if os.geteuid() != 0:
        pytest.skip("starting Slurm needs root: its daemons run as other users")
    need_packages("slurmctld", "slurmd", "munged", packages="slurm-wlm munge")
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed: pip install -e '.[dev]'")
    state = tmp_path_factory.mktemp("slurm")
    # munge refuses a socket in a folder that others cannot enter
    for folder in (state, *state.parents):
        if folder.stat().st_mode & 0o005 != 0o005:
            folder.chmod(folder.stat().st_mode | 0o055)
    port, first = free_port(), free_ports(2)
    scripts = Path(__file__).parent / "slurm"
    words = [str(state), "2", "4", "2", str(port), str(first)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SLURM_CONF", str(state / "slurm.conf"))
        try:
            run_script(scripts / "up.sh", *words)
            yield state
        finally:
            run_script(scripts / "down.sh", str(state))


@pytest.fixture(scope="session")
def reference(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, bytes]:
    """The job in one process, without a cluster, with as many cores as a worker."""
    folder = tmp_path_factory.mktemp("loop")
    # the last bits of scores follow the number of threads
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GEOSCALE_CPUS", "1")
        done = geoscale("run", write_job(folder, data_dir), "--trust-code")
    assert done.returncode == 0, done.stderr
    found = pixels(folder / "map.zarr")
    assert len(found) == 2 * BLOCKS + 3  # two layers; x, y and time
    return found


def need_packages(*commands: str, packages: str) -> None:
    """Skip where programs are missing; install them only where that is asked for."""
    path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
    if all(shutil.which(name, path=path) for name in commands):
        return
    install = f"apt-get install -y --no-install-recommends {packages}"
    if os.environ.get("GEOSCALE_INFRA_INSTALL") != "1":
        pytest.skip(f"not installed: {install} (GEOSCALE_INFRA_INSTALL=1 does it)")
    done = subprocess.run(install.split(), capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"cannot be installed here: {done.stderr.strip()[-200:]}")


def run_script(script: Path, *words: str) -> None:
    # daemons would keep a pipe open
    with tempfile.TemporaryFile() as said:
        ended = subprocess.run(
            ["bash", str(script), *words], stdout=said, stderr=said, timeout=120
        )
        said.seek(0)
        text = said.read().decode(errors="replace")
    assert ended.returncode == 0, text


def free_ports(count: int) -> int:
    """First of some neighbouring ports that are free."""
    while True:
        first = free_port()
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + count):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first


@pytest.fixture(scope="session")
def grid_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Debian's Grid Engine with one host of four slots."""
    if os.geteuid() != 0:
        pytest.skip("starting Grid Engine needs root: its daemons run as other users")
    need_packages(
        "sge_qmaster",
        "sge_execd",
        "qsub",
        packages="gridengine-master gridengine-exec gridengine-client",
    )
    if importlib.util.find_spec("dask_jobqueue") is None:
        pytest.skip("dask-jobqueue is not installed: pip install -e '.[dev]'")
    scripts, first = Path(__file__).parent / "sge", free_ports(2)
    ports = str(first), str(first + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SGE_ROOT", "/var/lib/gridengine")
        patch.setenv("SGE_CELL", "default")
        patch.setenv("SGE_QMASTER_PORT", ports[0])
        patch.setenv("SGE_EXECD_PORT", ports[1])
        try:
            run_script(
                scripts / "up.sh", str(tmp_path_factory.mktemp("sge")), "4", *ports
            )
            yield
        finally:
            run_script(scripts / "down.sh", *ports)

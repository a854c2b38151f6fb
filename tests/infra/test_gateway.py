"""A real Dask Gateway: TLS, workers in an environment and on a disk of their own."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml

import geoscale as gs
from geoscale.errors import JobError, StoppedError
from tests.infra.conftest import KEY as S3_KEY
from tests.infra.conftest import SECRET, free_port
from tests.support.batch import count_records, pixels
from tests.support.cards import SUPPORT, simplecnn_dict

pytestmark = pytest.mark.infra

HERE = Path(__file__).parent / "gateway"
ROOT = SUPPORT.parents[1]
BLOCKS = 16
PASSWORD, KEY = "CANARYpassw0rd", "CANARYapiKEY0123"
NET = '''

class Slow(SimpleCNN):
    """Takes its time, if the environment says so; the answer is the same."""

    def forward(self, x):
        import os
        import time

        time.sleep(float(os.environ.get("GEOSCALE_TEST_DELAY", "0")))
        return super().forward(x)
'''


@dataclass
class Lab:
    """A gateway, and what its users have."""

    folder: Path
    address: str = ""
    environ: dict[str, str] = field(default_factory=dict)

    @property
    def private(self) -> Path:
        """On the driver's disk; workers have an empty folder there."""
        return self.folder / "private"

    @property
    def shared(self) -> Path:
        """Seen by all, as a bucket would be."""
        return self.folder / "shared"

    @property
    def cache(self) -> Path:
        """Of the workers."""
        return self.folder / "cache"

    def profile(self, *, name: str = "gateway.yaml", **fields: Any) -> Path:
        """A profile as users write one."""
        told = {
            "type": "gateway",
            "address": self.address,
            "workers": 2,
            "options": {"worker_memory": 3},
            "wait": "60s",
            "environment": {"GEOSCALE_CACHE": str(self.cache)},
        }
        environment = {**told["environment"], **fields.pop("environment", {})}
        path = self.private / name
        path.write_text(yaml.safe_dump({**told, **fields, "environment": environment}))
        return path

    def job(self, name: str, **inference: Any) -> Path:
        """sen1floods11's Spain by SimpleCNN, with code and weights of the user's."""
        data = Path(self.environ["GEOSCALE_TEST_DATA"])
        job = {
            "imagery": {
                "files": str(data / "sen1floods11" / "Spain_7370579_S2Hand.tif"),
                "sensor": "sentinel-2",
                "scale": 1e-4,
                "source_nodata": "none",
            },
            "model": str(self.private / "card.yaml"),
            "inference": {"block": 128, **inference},
            "output": {"to": str(self.output(name))},
        }
        path = self.private / f"{name}.yaml"
        path.write_text(yaml.safe_dump(job, sort_keys=False))
        return path

    def output(self, name: str) -> Path:
        return self.shared / f"{name}.zarr"

    def start(self, *words: object, **environ: str) -> subprocess.Popen[str]:
        """Begin a command as a user does, on one core as its workers."""
        return subprocess.Popen(
            [sys.executable, "-m", "geoscale.cli", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environ | environ,
            preexec_fn=lambda: os.sched_setaffinity(0, {0}),
        )

    def geoscale(
        self, *words: object, **environ: str
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; nothing of it, or beside its output, may show a secret."""
        process = self.start(*words, **environ)
        try:
            out, err = process.communicate(timeout=180)
        finally:
            process.kill()
        assert PASSWORD not in out + err
        assert KEY not in out + err
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    def run(self, job: Path, profile: Path) -> subprocess.CompletedProcess[str]:
        return self.geoscale("run", job, "--cluster", profile, "--trust-code")

    def clusters(self) -> list[str]:
        """Clusters that are there, as the gateway says."""
        from dask_gateway import BasicAuth, Gateway

        with Gateway(self.address, auth=BasicAuth("alice", PASSWORD)) as gateway:
            return [one.name for one in gateway.list_clusters()]

    def stop_all(self) -> None:
        from dask_gateway import BasicAuth, Gateway

        with Gateway(self.address, auth=BasicAuth("alice", PASSWORD)) as gateway:
            for one in gateway.list_clusters():
                gateway.stop_cluster(one.name)

    def kept(self) -> list[Path]:
        return sorted(p for p in self.cache.rglob("*") if p.is_file())


def make_environment(folder: Path, version: str | None = None) -> Path:
    """An interpreter with geoscale of its own, and all else of this one."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "shared.pth").write_text(sysconfig.get_path("purelib") + "\n")
    copy_geoscale(site, version)
    return folder / "bin" / "python"


def copy_geoscale(to: Path, version: str | None = None) -> None:
    shutil.copytree(ROOT / "geoscale", to / "geoscale")
    if version is not None:
        init = to / "geoscale" / "__init__.py"
        old = f'__version__ = "{gs.__version__}"'
        assert old in init.read_text()
        init.write_text(init.read_text().replace(old, f'__version__ = "{version}"'))


def hides() -> bool:
    """Whether processes may be given a folder that others do not see."""
    command = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    if shutil.which("unshare") is None:
        return False
    tried = "mount -t tmpfs none /mnt"
    return subprocess.run([*command, tried], capture_output=True).returncode == 0


def fill(lab: Lab, data: Path) -> None:
    """What the user has on the driver's disk: a card, code and weights."""
    for place in (lab.private, lab.shared, lab.cache):
        place.mkdir()
    card = simplecnn_dict(data)
    code = (SUPPORT / "simplecnn.py").read_text()
    (lab.private / "net.py").write_text(code + NET)
    shutil.copy(card["weights"]["href"], lab.private / "weights.safetensors")
    card["architecture"] = "net.py:Slow"
    card["weights"] = {"href": "weights.safetensors"}
    (lab.private / "card.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(card))))


@pytest.fixture(scope="module")
def lab(data_dir, tmp_path_factory):
    """A gateway on loopback with its proxy, in processes that end with the module."""
    for name in ("dask_gateway", "dask_gateway_server", "sqlalchemy"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install -e '.[dev]'")
    if not hides():
        pytest.skip("only root can hide the driver's folder from workers (unshare)")
    lab = Lab(tmp_path_factory.mktemp("gateway"))
    fill(lab, data_dir)
    port = free_port()
    python = make_environment(lab.folder / "venv")
    lab.address = f"http://127.0.0.1:{port}"
    plain = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    lab.environ = {
        **plain,
        "PYTHONPATH": str(ROOT),
        "GEOSCALE_GATEWAY_USER": "alice",
        "GEOSCALE_GATEWAY_PASSWORD": PASSWORD,
        "GEOSCALE_TEST_DATA": str(data_dir),
    }
    settings = {
        **plain,
        "GW_PORT": str(port),
        "GW_API_PORT": str(free_port()),
        "GW_FOLDER": str(lab.folder),
        "GW_START": f"{HERE / 'start.sh'} {python} {lab.private}",
        "GW_PASSWORD": PASSWORD,
        "GW_KEY": KEY,
    }
    with serve(HERE / "config.py", lab.folder, lab.address, settings):
        yield lab


@contextmanager
def serve(
    config: Path, folder: Path, address: str, environ: dict[str, str]
) -> Iterator[None]:
    """A gateway and its proxy, until the block ends."""
    log = folder / "gateway.log"
    with log.open("w") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "dask_gateway_server", "-f", config],
            stdout=file,
            stderr=file,
            cwd=folder,
            env=environ,
        )
    until = time.monotonic() + 60
    try:
        while True:
            try:
                urlopen(f"{address}/api/health", timeout=5).close()
                break
            except OSError:
                assert server.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.1)
        yield
    finally:
        server.send_signal(signal.SIGINT)
        try:
            server.wait(30)
        except subprocess.TimeoutExpired:
            server.kill()


@pytest.fixture(autouse=True)
def no_cluster_is_left(lab):
    yield
    lab.stop_all()


@pytest.fixture(scope="module")
def reference(lab):
    """The job in one process, without a cluster."""
    done = lab.geoscale("run", lab.job("loop"), "--trust-code")
    assert done.returncode == 0, done.stderr
    found = pixels(lab.output("loop"))
    assert len(found) >= 2 * BLOCKS
    return found


def hidden(lab, output):
    """Whether neither password nor key lies beside the output or in the cache."""
    files = [p for p in (*output.rglob("*"), *lab.cache.rglob("*")) if p.is_file()]
    words = (PASSWORD.encode(), KEY.encode())
    return not any(word in p.read_bytes() for p in files for word in words)


def test_files_reach_workers_that_do_not_see_them_and_bytes_are_the_loops(
    lab, reference
):
    shutil.rmtree(lab.cache)
    lab.cache.mkdir()
    done = lab.run(lab.job("sent"), lab.profile())
    assert done.returncode == 0, done.stderr
    assert pixels(lab.output("sent")) == reference
    names = [p.name for p in lab.kept()]
    assert sorted(n for n in names if n.endswith(".py")) == ["net.py"]
    assert len([n for n in names if n.endswith(".safetensors")]) == 1
    assert not [n for n in names if n.endswith(".part")]
    assert hidden(lab, lab.output("sent"))
    assert lab.clusters() == []


@pytest.fixture(scope="module")
def job(lab):
    """A job that nobody begins: what is refused is refused before."""
    return lab.job("refused")


def refuse(lab, job, code, **fields):
    """Run a job that must be refused; give what is said."""
    environ = fields.pop("environ", {})
    profile = lab.profile(name="other.yaml", **fields)
    done = lab.geoscale("run", job, "--cluster", profile, "--trust-code", **environ)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert not any((lab.output("refused") / "classes").rglob("c/*"))
    return done.stderr


def test_a_wrong_password_says_what_to_check(lab, job):
    wrong = {"GEOSCALE_GATEWAY_PASSWORD": "CANARYwrong"}
    said = refuse(lab, job, 2, environ=wrong)
    assert "does not let you in as alice (401, `auth: basic`)" in said
    assert "check GEOSCALE_GATEWAY_USER and GEOSCALE_GATEWAY_PASSWORD" in said
    assert "CANARYwrong" not in said


def test_a_password_that_is_not_set_names_its_variable(lab, job):
    said = refuse(lab, job, 2, environ={"GEOSCALE_GATEWAY_PASSWORD": ""})
    assert "GEOSCALE_GATEWAY_PASSWORD is not set" in said


def test_a_gateway_that_is_not_there_is_named(lab, job):
    said = refuse(lab, job, 4, address=f"http://127.0.0.1:{free_port()}")
    assert "no Dask Gateway answers at http://127.0.0.1:" in said
    assert "check the address" in said


def test_options_that_the_gateway_lacks_are_told_with_those_it_has(lab, job):
    said = refuse(lab, job, 2, options={"worker_core": 1})
    assert "has no cluster option `worker_core`; did you mean `worker_cores`?" in said
    said = refuse(lab, job, 2, options={"worker_cores": 64})
    assert "refuses the cluster:" in said
    assert "worker_cores" in said
    assert lab.clusters() == []


def test_workers_of_another_version_are_refused_by_name(lab, job):
    other = lab.shared / "other"
    if not other.exists():
        other.mkdir()
        copy_geoscale(other, "0.0.9")
    said = refuse(lab, job, 4, environment={"PYTHONPATH": str(other)})
    assert "workers have other versions than this process" in said
    assert f"geoscale is 0.0.9 there, {gs.__version__} here" in said
    assert lab.clusters() == []


def test_code_is_not_sent_without_trust(lab):
    shutil.rmtree(lab.cache)
    lab.cache.mkdir()
    done = lab.geoscale("run", lab.job("untrusted"), "--cluster", lab.profile())
    assert done.returncode == 2
    assert "is Python code outside" in done.stderr
    assert "--trust-code" in done.stderr
    assert [p for p in lab.kept() if p.suffix == ".py"] == []


def test_a_killed_client_comes_back_and_no_block_is_lost(lab, reference):
    slow = {"GEOSCALE_TEST_DELAY": "1"}
    profile, out = lab.profile(environment=slow), lab.output("killed")
    words = ("run", lab.job("killed"), "--cluster", profile, "--trust-code")
    process = lab.start(*words)
    try:
        until = time.monotonic() + 120
        while not count_records(out):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.2)
    finally:
        process.kill()
        process.wait()
    before = count_records(out)
    assert 0 < len(before) < BLOCKS
    (name,) = lab.clusters()

    # whoever comes back has neither job nor profile, and no model
    (lab.private / "net.py").rename(lab.private / "away.py")
    try:
        done = lab.geoscale("attach", out, "--trust-code")
    finally:
        (lab.private / "away.py").rename(lab.private / "net.py")
    assert done.returncode == 0, done.stderr
    assert pixels(out) == reference
    after = count_records(out)
    assert len(after) == BLOCKS
    assert all(after[n] == before[n] for n in before)
    assert json.loads((out / ".geoscale" / "cluster.json").read_text())["name"] == name
    assert hidden(lab, out)
    assert lab.clusters() == []  # as its own command would have left it

    gone = lab.geoscale("attach", out)
    assert gone.returncode == 4
    assert f"cluster {name}" in gone.stderr
    assert "--cluster" in gone.stderr


def test_a_job_handed_over_needs_nobody_until_its_map_is_whole(lab, reference):
    shutil.rmtree(lab.cache)
    lab.cache.mkdir()
    slow = {"GEOSCALE_TEST_DELAY": "0.5"}
    out = lab.output("handed")
    words = (lab.job("handed"), "--cluster", lab.profile(environment=slow))
    done = lab.geoscale("submit", *words, "--trust-code")
    assert done.returncode == 0, done.stderr
    (name,) = lab.clusters()
    assert f"driver      gateway job {name}: running" in done.stdout
    again = lab.geoscale("submit", *words, "--trust-code")
    assert again.returncode == 2
    assert "is still in the queue (running)" in again.stderr

    # neither model nor job is needed any more, nor any process
    (lab.private / "net.py").rename(lab.private / "away.py")
    try:
        until = time.monotonic() + 180
        while not (out / ".geoscale" / "jobs" / f"gateway-{name}.ended").exists():
            assert time.monotonic() < until
            time.sleep(0.5)
    finally:
        (lab.private / "away.py").rename(lab.private / "net.py")
    assert pixels(out) == reference
    told = json.loads(lab.geoscale("status", out, "--json").stdout)
    assert told["complete"]
    (job,) = told["jobs"]
    assert job["over"]
    assert job["state"].startswith("ended with 0")
    assert hidden(lab, out)
    until = time.monotonic() + 60
    while lab.clusters():
        assert time.monotonic() < until, "its driver ends the cluster"
        time.sleep(0.5)


def test_a_job_handed_over_is_cancelled_and_goes_on_from_here(lab, reference):
    out = lab.output("cancelled")
    words = (lab.job("cancelled"), "--cluster")
    slow = lab.profile(environment={"GEOSCALE_TEST_DELAY": "1"})
    done = lab.geoscale("submit", *words, slow, "--trust-code")
    assert done.returncode == 0, done.stderr
    until = time.monotonic() + 120
    while not count_records(out):
        assert time.monotonic() < until
        time.sleep(0.2)
    done = lab.geoscale("cancel", out)
    assert done.returncode == 0, done.stderr
    assert "cancelled: " in done.stdout
    assert lab.clusters() == []
    before = count_records(out)
    assert 0 < len(before) < BLOCKS
    told = json.loads(lab.geoscale("status", out, "--json").stdout)
    assert told["jobs"][0]["over"]
    assert "submit it again" in told["advice"]
    done = lab.run(words[0], lab.profile())
    assert done.returncode == 0, done.stderr
    assert pixels(out) == reference
    after = count_records(out)
    assert all(after[n] == before[n] for n in before)


def test_the_model_of_a_mask_comes_too(lab):
    shutil.rmtree(lab.cache)
    lab.cache.mkdir()
    card = yaml.safe_load((lab.private / "card.yaml").read_text())
    code = (lab.private / "net.py").read_text()
    (lab.private / "sky.py").write_text(code + "\n# of the mask\n")
    sky = {**card, "name": "sky", "architecture": "sky.py:Slow"}
    (lab.private / "sky.yaml").write_text(yaml.safe_dump(sky))
    clear = card["output"]["classes"][0]["name"]
    for name, words in (
        ("masked-loop", ()),
        ("masked", ("--cluster", lab.profile(options={"worker_memory": 6}))),
    ):
        path = lab.job(name)
        job = yaml.safe_load(path.read_text())
        mask = {"model": str(lab.private / "sky.yaml"), "keep": [clear]}
        job["imagery"] |= {"mask": mask, "composite": "first"}
        path.write_text(yaml.safe_dump(job, sort_keys=False))
        done = lab.geoscale("run", path, *words, "--trust-code")
        assert done.returncode == 0, done.stderr
    assert pixels(lab.output("masked")) == pixels(lab.output("masked-loop"))
    assert {"net.py", "sky.py"} <= {p.name for p in lab.kept()}


def test_an_api_key_opens_too_and_the_cluster_may_be_kept(lab, monkeypatch):
    monkeypatch.setenv("GEOSCALE_GATEWAY_TOKEN", KEY)
    profile = lab.profile(auth="token", workers=1, maximum=2, keep=True)
    with gs.connect(profile) as client:
        assert client.scheduler.address.startswith(("tls://", "gateway://"))
        name = client.cluster.name
        assert len(client.nthreads()) == 1
    assert lab.clusters() == [name]
    with gs.connect({**yaml.safe_load(profile.read_text()), "name": name}) as again:
        assert again.cluster.name == name
    monkeypatch.setenv("GEOSCALE_GATEWAY_TOKEN", "CANARYwrongKEY")
    with pytest.raises(JobError, match="check GEOSCALE_GATEWAY_TOKEN"):
        gs.connect(profile).__enter__()
    monkeypatch.setenv("GEOSCALE_GATEWAY_TOKEN", KEY)
    lab.stop_all()
    with pytest.raises(StoppedError, match="begin another"):
        gs.connect({**yaml.safe_load(profile.read_text()), "name": name}).__enter__()


def test_outputs_in_s3_with_what_is_handed_to_the_workers(lab, reference, s3):
    url = s3.url("maps/gateway.zarr")
    names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"]
    aws = {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}
    job = yaml.safe_load(lab.job("s3").read_text())
    path = lab.private / "s3.yaml"
    path.write_text(yaml.safe_dump({**job, "output": {"to": url}}, sort_keys=False))
    profile = lab.profile(forward=names)
    words = ("run", path, "--cluster", profile, "--trust-code")
    done = lab.geoscale(*words, **aws)
    assert done.returncode == 0, done.stderr
    found = {key: s3.read(f"maps/gateway.zarr/{key}") for key in reference}
    assert found == reference
    assert s3.find(S3_KEY, SECRET, PASSWORD) == []
    assert SECRET not in done.stdout + done.stderr


def test_the_gateway_of_the_page_runs_a_job(lab, reference, tmp_path):
    page = (ROOT / "docs" / "gateway.md").read_text()
    (config,) = (
        t for t in re.findall(r"```python\n(.*?)```", page, re.S) if "c.Da" in t
    )
    (profile,) = (t for t in re.findall(r"```yaml\n(.*?)```", page, re.S) if "lab" in t)
    ports = {"18000": str(free_port()), "18001": str(free_port())}
    for name, text in (("gateway_config.py", config), ("lab.yaml", profile)):
        for old, new in ports.items():
            text = text.replace(f"127.0.0.1:{old}", f"127.0.0.1:{new}")
        (tmp_path / name).write_text(text)
    address = f"http://127.0.0.1:{ports['18000']}"
    environ = lab.environ | {"LAB_PASSWORD": PASSWORD}
    with serve(tmp_path / "gateway_config.py", tmp_path, address, environ):
        done = lab.run(lab.job("page"), tmp_path / "lab.yaml")
    assert done.returncode == 0, done.stderr
    found = pixels(lab.output("page"))
    assert {k: v for k, v in found.items() if k.startswith("classes")} == {
        k: v for k, v in reference.items() if k.startswith("classes")
    }

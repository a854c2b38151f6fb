"""Secrets: canaries go in by URLs, environment and headers, and never come out.

Whatever is written or printed is searched: by commands that succeed, by every way to
fail, by workers, by Dask's own logs and pages, and with all loggers at DEBUG.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas
import pytest
import yaml

from geoscale.redaction import clean_logs, redact
from tests.cli.conftest import ROOT, environment
from tests.support.workers import empty_cluster, start_worker

ENVIRON = {
    "AWS_ACCESS_KEY_ID": "AKIACANARY0000000001",
    "AWS_SECRET_ACCESS_KEY": "CANARYaws/secret+key02",
    "AWS_SESSION_TOKEN": "CANARYsession03",
    "GDAL_HTTP_HEADERS": "Authorization: Bearer CANARYbearer04,X-Api-Key: CANARYapi05",
    "GDAL_HTTP_USERPWD": "someone:CANARYpassword06",
    "AZURE_STORAGE_CONNECTION_STRING": (
        "DefaultEndpointsProtocol=https;AccountName=some;AccountKey=CANARYazure07==;"
    ),
    "AZURE_STORAGE_SAS_TOKEN": "sv=2024-01-01&sig=CANARYsas08",
    "PC_SDK_SUBSCRIPTION_KEY": "CANARYplanetary09",
}
AWS_DEBUG = (
    "{'Authorization': b'AWS4-HMAC-SHA256 Credential=CANARY/2024/s3, "
    "SignedHeaders=host, Signature=CANARY'}"
)
QUERY = (
    "sig=CANARYsig10&token=CANARYtoken11&AWSAccessKeyId=CANARYkey12&"
    "X-Amz-Signature=CANARYamz13&X-Amz-Credential=CANARYcred14&v=1"
)


def signed(url, user="me:CANARYuser15@"):
    """A URL with user info and a signature."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{user}{rest}?{QUERY}"


class Nasty(BaseHTTPRequestHandler):
    """Refuses everything, and repeats all that it was told."""

    def do_GET(self):
        status = 404 if self.path.startswith("/gone") else 403
        said = f"{status} for {self.path} with {dict(self.headers)}".encode()
        self.send_response(status, f"Refused {self.path}")
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(said)

    do_HEAD = do_PUT = do_POST = do_DELETE = do_GET

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def nasty():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Nasty)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def items(demo, tmp_path_factory, nasty):
    """The demo's items, signed: refused, not there, in part, and with a password."""
    folder = tmp_path_factory.mktemp("given")
    for name, base, user in (
        ("refused", nasty, ""),
        ("gone", f"{nasty}/gone", ""),
        ("some", f"{nasty}/gone", ""),
        ("user", nasty, "me:CANARYuser15@"),
    ):
        found = json.loads((demo["folder"] / "items.json").read_text())
        for item in found["features"]:
            is_here = name == "some" and item is not found["features"][-1]
            for key, asset in item["assets"].items():
                here = str(demo["folder"] / asset["href"])
                there = signed(f"{base}/{key}.tif", user)
                asset["href"] = here if is_here else there
        (folder / f"{name}.json").write_text(json.dumps(found))
    return folder


@pytest.fixture
def make_job(demo, items, tmp_path):
    """Write a job; what goes in is not where results go."""

    def make(kind="gone", **changes):
        job = yaml.safe_load(Path(demo["job"]).read_text())
        job["imagery"] = {"items": str(items / f"{kind}.json"), "allow_private": True}
        job["output"] = {"to": str(tmp_path / "out" / "map.zarr")}
        job |= changes
        (tmp_path / "given").mkdir(exist_ok=True)
        (tmp_path / "out").mkdir(exist_ok=True)
        path = tmp_path / "given" / "job.yaml"
        path.write_text(yaml.safe_dump(job))
        return path

    return make


def run(*args, code=None, env=None, cwd=None):
    """Run a command with canaries in its environment; nothing may come out."""
    command = ["-c", code] if code else ["-m", "geoscale.cli", *map(str, args)]
    ended = subprocess.run(
        [sys.executable, *command],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment() | ENVIRON | (env or {}),
        cwd=cwd,
        check=False,
    )
    assert_clean(ended.stdout, ended.stderr)
    return ended


def assert_clean(*texts):
    for text in texts:
        where = text.find("CANARY")
        assert where < 0, text[max(0, where - 400) : where + 60]


def assert_clean_files(folder):
    """Search every file, tables decoded; count them."""
    count = 0
    for path in Path(folder).rglob("*"):
        if path.is_file():
            count += 1
            data = path.read_bytes()
            if path.suffix == ".parquet":
                data = pandas.read_parquet(path).to_json(default_handler=str).encode()
            assert b"CANARY" not in data, path
    return count


# what commands say and write


@pytest.mark.parametrize("more", [(), ("--json",), ("--debug",)])
def test_a_plan_keeps_them(make_job, more):
    ended = run("plan", make_job(), *more)
    assert ended.returncode == 0, ended.stderr


SLOW = pytest.mark.slow


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "more"),
    [
        ("some", ()),
        ("some", ("--json",)),
        ("gone", ("--debug",)),
        ("refused", ("--debug",)),
    ],
)
def test_a_run_that_cannot_read_keeps_them(make_job, tmp_path, kind, more, proof):
    small = {"block": 128, "patch": 184, "stride": 128}
    ended = run("run", make_job(kind, inference=small), *more)
    assert ended.returncode == (3 if kind == "some" else 4), ended.stderr
    assert (kind == "some") == ("quarantined" in ended.stdout), "the table is tried"
    assert "http://127.0.0.1" in ended.stdout + ended.stderr, "what failed is named"
    output = tmp_path / "out" / "map.zarr"
    for command in ("status", "verify", "view"):
        last = [word for word in more if word == "--json"]
        assert run(command, output, *last).returncode in (0, 2, 3)
    searched = assert_clean_files(tmp_path / "out")
    assert searched > 3
    proof(faults=1, compared=searched)


def test_an_href_with_a_password_is_refused_before_anything_is_stored(
    make_job, tmp_path
):
    ended = run("run", make_job("user"))
    assert ended.returncode == 2, ended.stderr
    assert "it carries user info" in ended.stderr
    assert "GDAL_HTTP_USERPWD" in ended.stderr
    assert assert_clean_files(tmp_path / "out") == 0


@pytest.mark.parametrize(
    "model",
    ["weights", "card", "refused card"],
)
def test_a_model_that_cannot_be_fetched_keeps_them(
    make_job, tmp_path, nasty, model, demo
):
    gone = signed("http://127.0.0.1:9/a.yaml")
    given = {"card": gone, "refused card": signed(f"{nasty}/card.yaml")}.get(model)
    job = make_job()
    if given is None:
        shown = run("models", "show", "s2-landcover-unet", "--json")
        card = json.loads(shown.stdout)
        card["weights"] = {"url": signed(f"{nasty}/w.safetensors"), "sha256": "0" * 64}
        path = tmp_path / "given" / "card.yaml"
        path.write_text(yaml.safe_dump(card))
        given = str(path)
    job = make_job(model=given)
    for more in ((), ("--debug",)):
        ended = run("run", job, *more, env={"XDG_CACHE_HOME": str(tmp_path / "out")})
        assert ended.returncode == 2, ended.stderr
    assert_clean_files(tmp_path / "out")


@pytest.mark.parametrize("scheme", ["ftp", "http", "nosuch", "s3"])
def test_an_output_that_cannot_be_written_keeps_them(make_job, nasty, scheme):
    if scheme == "s3":
        pytest.importorskip("s3fs")
        to = f"s3://bucket/map.zarr?{QUERY}"
    else:
        to = signed(f"{scheme}://127.0.0.1:9/map.zarr")
    ended = run(
        "run",
        make_job(output={"to": to}),
        "--debug",
        env={"AWS_ENDPOINT_URL": nasty, "AWS_MAX_ATTEMPTS": "1"},
    )
    assert ended.returncode in (1, 2, 3, 4), ended.stderr
    assert "map.zarr" in ended.stderr + ended.stdout


def test_the_doctor_keeps_them(nasty, tmp_path):
    profile = tmp_path / "given.yaml"
    fields = {"type": "scheduler", "address": signed("tcp://127.0.0.1:9")}
    profile.write_text(yaml.safe_dump(fields | {"timeout_s": 0.5}))
    env = {
        "HTTPS_PROXY": signed("http://proxy:3128"),
        "AWS_ENDPOINT_URL": nasty,
        "AWS_MAX_ATTEMPTS": "1",
    }
    ftp, s3 = signed("ftp://127.0.0.1:9/map.zarr"), "s3://bucket/map.zarr"
    for words in (("--output", ftp), ("--output", s3, "--json")):
        ended = run("doctor", "--cluster", profile, *words, env=env)
        assert ended.returncode == 2, ended.stderr


SCRIPT = """\
import logging, sys
logging.basicConfig(level=logging.DEBUG)
import geoscale as gs
gs.run_job(sys.argv[1] if len(sys.argv) > 1 else {job!r})
"""


@pytest.mark.parametrize("kind", ["refused", pytest.param("gone", marks=SLOW)])
def test_a_script_with_every_logger_at_debug_keeps_them(make_job, tmp_path, kind):
    ended = run(code=SCRIPT.format(job=str(make_job(kind))))
    assert "DEBUG" in ended.stderr
    assert "rasterio" in ended.stderr
    assert_clean_files(tmp_path / "out")


def test_a_script_whose_run_stops_shows_none_in_its_traceback(make_job, nasty):
    job = make_job(model=signed(f"{nasty}/card.yaml"))
    ended = run(code=SCRIPT.format(job=str(job)))
    assert ended.returncode == 1
    assert "Traceback" in ended.stderr
    assert "card.yaml" in ended.stderr


# workers


@pytest.mark.slow
@pytest.mark.parametrize("crash", [False, True])
def test_workers_of_our_own_keep_them(make_job, tmp_path, crash):
    job = make_job("refused", inference={"block": 300})
    ended = run(
        "run",
        job,
        "--workers",
        2,
        env={"GEOSCALE_CRASH_AT": "block.begin:3"} if crash else {},
    )
    assert ended.returncode in (3, 4), ended.stderr
    assert ("workers died" in ended.stdout + ended.stderr) == crash
    assert_clean_files(tmp_path / "out")


BROKEN = """\
# geoscale as it is, but for a task that fails outside of all that we catch
import sys, types
from pathlib import Path

__path__ = [{real!r}]
exec(Path({real!r}, "__init__.py").read_text())


def run_remote(*args, **kwargs):
    raise RuntimeError("broken on this worker")


remote = sys.modules["geoscale.engine.remote"] = types.ModuleType("remote")
remote.run_remote = run_remote
"""
PAGES = (
    "json/counts.json", "json/identity.json", "json/index.html", "metrics", "health",
    "info/main/workers.html", "info/main/logs.html",
    "info/main/exceptions.html", "statics/css/base.css",
)  # fmt: skip


def read_pages(port, workers, keys):
    """What the dashboard shows of the cluster, its workers and its tasks."""
    quoted = [urllib.parse.quote(worker, safe="") for worker in workers]
    pages = [*PAGES]
    for worker in quoted:
        pages += [
            f"info/{kind}/{worker}.html" for kind in ("worker", "logs", "call-stacks")
        ]
    pages += [f"info/task/{urllib.parse.quote(key, safe='')}.html" for key in keys]
    for page in pages:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/{page}") as answer:
                yield answer.read().decode()
        except urllib.error.HTTPError as err:
            # a task that is gone by now, or a page of which Dask cannot make JSON
            yield err.read().decode()


@pytest.mark.slow
@pytest.mark.parametrize("broken", [False, True])
def test_workers_logs_and_pages_of_dask_keep_them(make_job, tmp_path, nasty, broken):
    from distributed import Client

    place = tmp_path / "broken" / "geoscale"
    place.mkdir(parents=True)
    (place / "__init__.py").write_text(BROKEN.format(real=str(ROOT / "geoscale")))
    url = str(tmp_path / "out" / "map.zarr")
    if broken:  # Dask logs a task that fails, whose arguments name the output
        url = f"memory://bucket/map.zarr?{QUERY}"
    job = make_job("refused", output={"to": url}, inference={"block": 300})
    shim = str(tmp_path / "broken") if broken else ""
    seen, keys = [], set()
    with (
        empty_cluster(dashboard=True) as cluster,
        start_worker(cluster, tmp_path, path=shim, **ENVIRON) as log,
        Client(cluster) as client,
    ):
        port = cluster.scheduler.http_server.port
        workers = list(client.scheduler_info()["workers"])
        stop = threading.Event()

        def watch():
            for look in itertools.count():
                now = list(cluster.scheduler.tasks)
                keys.update(map(str, now))
                if look % 10 == 0:
                    seen.extend(read_pages(port, workers, now[:3]))
                if stop.wait(0.01):
                    return

        watcher = threading.Thread(target=watch)
        watcher.start()
        ended = run("run", job, "--cluster", cluster.scheduler_address)
        stop.set()
        watcher.join()
        assert ended.returncode in (3, 4), ended.stderr
        told = [
            client.get_worker_logs(),
            client.get_scheduler_logs(),
            client.get_events(),
        ]
    assert_clean(*seen, *map(str, keys), *map(repr, told))
    assert any(key.startswith("geoscale-") for key in keys)
    assert len(seen) > 5
    assert_clean(log.read_text())
    assert ("broken on this worker" in log.read_text()) == broken
    assert_clean_files(tmp_path / "out")


def test_no_setting_of_dask_holds_any(monkeypatch):
    import dask

    from geoscale.clusters import connect

    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    with connect(1, threads=1) as client:
        found = client.run(lambda: repr(__import__("dask").config.config))
        assert_clean(repr(dask.config.config), *found.values())


# texts and records


@pytest.mark.parametrize(
    ("text", "left"),
    [
        (f"cannot open {signed('https://x.org/a.tif')}", "cannot open https://x.org/a.tif?…"),
        (f"/vsicurl/{signed('https://x.org/a.tif')}: 403", "/vsicurl/https://x.org/a.tif?…"),
        ('https://x.org:443 "GET /a.tif?x=CANARY HTTP/1.1" 200 None',
         'https://x.org:443 "GET /a.tif?… HTTP/1.1" 200 None'),
        (AWS_DEBUG, "SignedHeaders=host, Signature=…"),
        ("Ocp-Apim-Subscription-Key: CANARY", "Ocp-Apim-Subscription-Key: …"),
        ("Authorization: Basic CANARY==", "Authorization: Basic …"),
        ("https%3A%2F%2Fx.org%2Fa.tif%3Fsig%3DCANARY", "%3Fsig%3D…"),
        ("AccountKey=CANARY==;EndpointSuffix=core", "AccountKey=…;EndpointSuffix=core"),
        (f"said {ENVIRON['AWS_SECRET_ACCESS_KEY']}!", "said …!"),
        ("said CANARYaws%2Fsecret%2Bkey02!", "said …!"),
        ("user CANARYpassword06 was refused", "user … was refused"),
        ("the key CANARYapi05", "the key …"),
        ("no CANARYazure07== here", "no … here"),
        ("no CANARYsas08", "no …"),
    ],
)  # fmt: skip
def test_texts_lose_them(monkeypatch, text, left):
    for name, value in ENVIRON.items():
        monkeypatch.setenv(name, value)
    found = redact(text)
    assert_clean(found)
    assert left in found


@pytest.mark.parametrize(
    "text",
    [
        "unknown key `token`; did you mean `tokens`?",
        '{"key": "classes/c/0/0/0", "signer": "planetary-computer", "a": 1}',
        "false is not a number; /tmp is a folder; Authorization",
        "block 0-1-2 at https://x.org/a.tif failed: sum = 12, max: 3",
    ],
)
def test_other_texts_stay_as_they_are(monkeypatch, text):
    monkeypatch.setenv("TOKENIZERS_PARALLELISM", "false")
    monkeypatch.setenv("SSH_KEY", "/tmp")
    monkeypatch.setenv("GDAL_HTTP_HEADERS", ENVIRON["GDAL_HTTP_HEADERS"])
    assert redact(text) == text


@pytest.mark.parametrize(
    "name",
    ["rasterio._env", "fsspec.http", "urllib3.connectionpool", "botocore.endpoint",
     "distributed.worker", "geoscale.engine.roster", "s3fs", "aiohttp.client"],
)  # fmt: skip
def test_records_of_libraries_are_cleaned_whoever_handles_them(name, monkeypatch):
    for key, value in ENVIRON.items():
        monkeypatch.setenv(key, value)
    clean_logs()
    clean_logs()  # a second time changes nothing
    said = []

    class Keep(logging.Handler):
        def emit(self, record):
            said.append(self.format(record))

    logger, handler = logging.getLogger(name), Keep()
    before = logger.level, logger.propagate
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    try:
        logger.debug("GET %s with %r", signed("https://x.org/a.tif"), ENVIRON)
        logger.info("100 % done at https://x.org/a.tif?sig=CANARY")
        try:
            raise OSError(signed("https://x.org/b.tif"))
        except OSError:
            logger.exception("oh: %s", "no")
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before
    assert_clean(*said)
    assert "https://x.org/a.tif?…" in said[0]
    assert said[1] == "100 % done at https://x.org/a.tif?…"
    assert "OSError: https://x.org/b.tif?…" in said[2]


def test_records_of_others_are_left_alone():
    record = logging.getLogRecordFactory()(
        "mine", logging.INFO, "f", 1, "see %s", ("https://x.org/?a=1",), None
    )
    assert record.args == ("https://x.org/?a=1",)
    assert os.environ.get("CANARY") is None

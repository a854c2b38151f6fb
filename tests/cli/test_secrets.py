"""Signed URLs: no command says, and no page shows, what comes after the `?`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import geoscale

SECRET = "sig=s3cr3tSignature"


@pytest.fixture(scope="module")
def job(demo, tmp_path_factory):
    """The demo's job over hrefs that are signed and that nobody answers."""
    folder = tmp_path_factory.mktemp("signed")
    found = json.loads((demo["folder"] / "items.json").read_text())
    for item in found["features"]:
        for name, asset in item["assets"].items():
            asset["href"] = f"http://me:pw@127.0.0.1:9/{name}.tif?{SECRET}&v=1"
    (folder / "items.json").write_text(json.dumps(found))
    path = folder / "job.yaml"
    text = Path(demo["job"]).read_text()
    path.write_text(text.replace("items.json", "items.json\n  allow_private: true"))
    return path


def clean(*texts):
    return not any(word in text for text in texts for word in (SECRET, "me:pw"))


@pytest.mark.parametrize("more", [(), ("--json",), ("--debug",)])
def test_a_plan_keeps_them(job, more):
    ended = geoscale("plan", job, *more)
    assert clean(ended.stdout, ended.stderr)


def test_a_run_that_cannot_read_keeps_them(job):
    ended = geoscale("run", job)
    assert ended.returncode in (2, 3, 4), ended.stderr
    assert clean(ended.stdout, ended.stderr)
    output = job.with_name("landcover.zarr")
    for place in output.rglob("*"):
        if place.is_file():
            assert SECRET.encode() not in place.read_bytes(), place
    for command in ("status", "verify", "view"):
        ended = geoscale(command, output)
        assert ended.returncode in (0, 2, 3)
        assert clean(ended.stdout, ended.stderr)
    for page in job.parent.glob("*.html"):
        assert clean(page.read_text())

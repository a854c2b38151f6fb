"""What a notebook shows: all that it should, and never markup that was given."""

from __future__ import annotations

import base64
import io
import json
from html.parser import HTMLParser

import numpy as np
import pytest

import geoscale as gs
from geoscale.ending import RunReport, Trouble
from geoscale.notebook import draw_cell
from geoscale.sinks.layout import load_template
from geoscale.sinks.thumbnail import SIDE_PX, draw_thumbnail
from geoscale.submitting import SubmittedJob
from tests.support.toy import run_toy, toy_plan

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>"
SECRET = "https://store.example/a.tif?X-Amz-Signature=abcdef0123456789"


class Tags(HTMLParser):
    """Names of all tags, and the addresses that they load or lead to."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.places: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        names = dict(attrs)
        assert not [name for name in names if name.startswith("on")]
        self.places += [names[n] for n in ("src", "href") if n in names]


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("cells") / "out.zarr")
    run_toy(url)
    return url


def report(output, **more):
    fields = {
        "output": output, "complete": False, "blocks": 8, "computed": 6, "missing": 2,
        "quarantined": {}, "damaged": 0, "pixels": 10, "seconds": 1.0,
    }  # fmt: skip
    return RunReport(**{**fields, **more})


def test_what_was_given_is_text():
    html = draw_cell(EVIL, EVIL, progress=(1, 2), picture=EVIL, link=EVIL)
    found = Tags(html)
    assert found.tags == ["div", "strong", "div", "progress", "pre"]
    assert html.count("&lt;script&gt;") == 2
    link = Tags(draw_cell("a", "", link=f"http://127.0.0.1/{EVIL}"))
    assert link.tags == ["div", "strong", "div", "a"]


@pytest.mark.parametrize("link", ["javascript:alert(1)", "data:text/html,x", "", "//x"])
def test_a_link_that_is_no_address_of_http_is_left_out(link):
    assert "href" not in draw_cell("a", "b", link=link)


def test_secrets_are_not_shown():
    html = draw_cell(SECRET, SECRET, link=SECRET)
    assert "store.example" in html
    assert "abcdef0123456789" not in html


def test_a_plan_shows_what_it_says():
    plan = toy_plan()
    html = plan._repr_html_()
    assert plan.hash[:12] in html
    for word in ("imagery", "grid", "model", "patches", "blocks", "memory"):
        assert f"\n  {word}" in html or f">  {word}" in html
    assert Tags(html).tags == ["div", "strong", "pre"]


def test_a_report_shows_blocks_map_and_dashboard(output):
    trouble = Trouble(error=EVIL, kind="other", place=None, advice=EVIL)
    told = report(
        output, quarantined={"0/1/1": trouble}, dashboard="http://127.0.0.1:8787/status"
    )
    html = told._repr_html_()
    found = Tags(html)
    assert found.tags == ["div", "strong", "div", "progress", "pre", "img", "div", "a"]
    assert found.places == [draw_thumbnail(output), "http://127.0.0.1:8787/status"]
    assert "6 of 8 blocks, 75 %" in html


def test_the_small_map_has_the_colours_of_the_classes(output):
    image_module = pytest.importorskip("PIL.Image")
    data = base64.b64decode(draw_thumbnail(output).partition(",")[2])
    shown = np.asarray(image_module.open(io.BytesIO(data)))
    template, classes = load_template(output), gs.open_output(output)
    layer = template.layer("classes")
    step = -(-max(template.shape) // SIDE_PX)
    values = classes["classes"][-1, ::step, ::step].values
    attrs = template.layer_attrs(layer)
    colors = attrs["flag_colors"].replace("#", "").split()
    assert shown.shape == (*values.shape, 4)
    seen = 0
    for value, color in zip(attrs["flag_values"], colors, strict=True):
        here = shown[values == value]
        seen += len(here)
        assert (here == (*bytes.fromhex(color), 255)).all()
    assert seen > values.size / 2
    assert not shown[values == layer.fill_value].any()


def test_where_no_map_is_none_is_shown(tmp_path):
    assert draw_thumbnail(str(tmp_path / "none.zarr")) == ""
    html = report(str(tmp_path / "none.zarr"))._repr_html_()
    assert "img" not in Tags(html).tags


def test_a_submitted_job_shows_its_jobs_and_the_map_so_far(
    output, monkeypatch, tmp_path
):
    notes = tmp_path / "out.zarr" / ".geoscale" / "jobs"
    notes.mkdir(parents=True)
    note = {"number": 1, "system": "slurm", "kind": "driver", "id": "<b>41", "parts": 1,
            "walltime_s": 60.0, "script": "/w/driver.sh"}  # fmt: skip
    (notes / "slurm-41.json").write_text(json.dumps(note))
    monkeypatch.setenv("PATH", str(tmp_path))
    html = SubmittedJob(str(tmp_path / "out.zarr"))._repr_html_()
    assert Tags(html).tags == ["div", "strong", "div", "progress", "pre"]
    assert "slurm &lt;b&gt;41" in html
    assert "cannot be asked from here" in html

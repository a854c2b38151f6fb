"""The page: areas that are true, pictures, and no word that should not be there."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image

from geoscale.report.picture import as_data_url, paint_classes
from geoscale.report.timing import measure_timing
from geoscale.results.ground import cell_areas, format_area
from geoscale.results.layers import Flag
from geoscale.windows import Window


def test_cells_in_degrees_have_their_true_area():
    from pyproj import Geod

    grid = GeoBox((1800, 3600), Affine(0.1, 0, -180, 0, -0.1, 90), "EPSG:4326")
    found = cell_areas(grid)(Window(0, 0, 1800, 3600))
    globe = found.sum() * 3600
    assert globe == pytest.approx(510_065_621_724_000, rel=1e-9)
    lats = 90 - 0.1 * np.array([300, 301, 301, 300])
    exact, _ = Geod(ellps="WGS84").polygon_area_perimeter([0, 0, 0.1, 0.1], lats)
    assert found[300] == pytest.approx(abs(exact), rel=1e-4)


@pytest.mark.parametrize(
    ("crs", "x", "y", "expected"),
    [
        ("EPSG:32633", 500_000, 5_000_000, 100 / 0.9996**2),
        ("EPSG:3857", 0, 8_399_737.89, 25.0),  # 60° N: a quarter of what it seems
        ("EPSG:6933", 0, 5_000_000, 100),
    ],
)
def test_projected_pixels_have_their_true_area(crs, x, y, expected):
    grid = GeoBox((10, 10), Affine(10, 0, x, 0, -10, y), crs)
    found = cell_areas(grid)(Window(0, 0, 10, 10))
    assert found.shape == (10,)
    assert found[0] == pytest.approx(expected, rel=2e-3)


def test_classes_get_their_colours_and_nodata_none():
    flags = [Flag(3, "urban", "FF0000"), Flag(0, "water", "0000FF")]
    painted = paint_classes(np.array([[3, 0, 255]], np.uint8), flags, 255)
    assert painted.tolist() == [[[255, 0, 0, 255], [0, 0, 255, 255], [0, 0, 0, 0]]]
    assert as_data_url(painted, photo=False).startswith("data:image/png;base64,")


@pytest.mark.parametrize("photo", [True, False])
def test_a_map_round_the_globe_still_makes_a_picture(photo):
    import base64
    import io

    from PIL import Image

    url = as_data_url(np.full((9, 70_000, 4), 255, np.uint8), photo=photo)
    image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
    assert image.size == (7778, 1)


def test_timing_adds_up():
    stats = [{"read_s": 1.0, "predict_s": 3.0}, {"read_s": 1.0, "write_s": 1.0}]
    timing = measure_timing(stats)
    assert {p.name: p.seconds for p in timing.phases if p.seconds} == {
        "read": 2.0,
        "predict": 3.0,
        "write": 1.0,
    }
    assert sum(p.percent for p in timing.phases) == pytest.approx(100)
    assert timing.longest == 4.0
    assert measure_timing([]) is None


def test_areas_are_said_in_units_that_suit():
    assert format_area(0) == "0.0 ha"
    assert format_area(5e7) == "5,000 ha"
    assert format_area(1.5e8) == "150.0 km²"


@pytest.mark.parametrize("name", ["page", "change_page"])
def test_the_page_asks_nothing_of_any_network(demo, name):
    page = Path(demo[name]).read_text()
    assert "default-src 'none'" in page
    asked = re.findall(r"""(?:src|href)=["'](?!data:)[^"']*|url\(|@import""", page)
    assert asked == []


@pytest.mark.parametrize("name", ["page", "change_page"])
def test_the_only_script_is_the_one_that_the_policy_names(demo, name):
    page = Path(demo[name]).read_text()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = hashlib.sha256(script.encode()).digest()
    assert f"script-src 'sha256-{base64.b64encode(digest).decode()}'" in page
    assert page.count("<script") == page.count("script-src") == 1
    assert not re.search(r"<[^>]* on[a-z]+=", page.replace(script, ""))


def test_a_map_of_classes_alone_has_no_script(demo, tmp_path):
    from geoscale.report import write_report

    page = write_report(demo["output"], tmp_path / "page.html").read_text()
    assert "<script" not in page
    assert "script-src" not in page


def pictures(page):
    found = re.findall(
        r'<img [^>]*src="data:image/[a-z]+;base64,([^"]+)" alt="([^"]+)', page
    )
    return {
        alt: np.asarray(Image.open(io.BytesIO(base64.b64decode(d)))) for d, alt in found
    }


def test_both_dates_are_shown_alike_and_differ_where_it_changed(demo):
    shown = pictures(Path(demo["change_page"]).read_text())
    before = shown["Imagery before, 2024-06-15"].astype(int)
    after = shown["Imagery, after (simulated), 2025-06-15"].astype(int)
    differs = abs(before[..., :3] - after[..., :3]).max(axis=2) > 60
    differs &= before[..., 3] > 0  # one corner lacks the earlier date
    rows, columns = np.nonzero(differs)
    assert 1000 < differs.sum() < 3000
    assert (rows > 10).all()
    assert (rows < 52).all()
    assert (columns > 164).all()
    assert (columns < 244).all()
    assert {"Probability of change"} < set(shown)


def test_without_imagery_the_classes_of_both_dates_are_shown(demo, tmp_path):
    """The page is written where nobody has the scenes any more."""
    copy = shutil.copytree(demo["change"], tmp_path / "change.zarr")
    hidden = demo["folder"] / "hidden"
    (demo["folder"] / "scenes").rename(hidden)
    try:
        page = page_of(copy, tmp_path)
    finally:
        hidden.rename(demo["folder"] / "scenes")
    assert "The classes of both dates are shown instead." in page
    shown = pictures(page)
    before, after = (
        shown["Classes before, 2024-06-15"],
        shown["Classes, after, 2025-06-15"],
    )
    assert before.shape[:2] == after.shape[:2] == (600, 600)
    assert 1000 < (before != after).sum() < 3000


def page_of(output, folder):
    from geoscale.report import write_report

    return write_report(output, folder / "page.html").read_text()


def test_the_numbers_of_the_page_are_those_of_the_map(demo):
    """The tile, the table and the matrix."""
    import geoscale as gs

    page, found = Path(demo["change_page"]).read_text(), gs.transitions(demo["change"])
    raw = gs.open_output(demo["change"], raw=True)
    changed = (raw.change.values == 1).sum()
    assert found.total_changed.px == changed > 1000
    area = format_area(found.total_changed.m2)
    assert f"<dd>{area}, " in page
    assert page.count(area) >= 3  # tile, table, summary
    assert f"of {found.total.px:,} px)" in page
    assert "2024-06-15 to 2025-06-15" in page
    assert '<text x="-8"' in page  # the heat map


def test_a_class_name_cannot_become_markup(tmp_path):
    from geoscale.results.figures import draw_flows, draw_heat_map
    from tests.results.test_transitions import made_up

    found = made_up(("<b>a</b>", "b&c"))
    for svg in (draw_heat_map(found), draw_flows(found)):
        assert "<b>" not in svg
        ET.fromstring(svg)


def test_probabilities_run_from_pale_to_red():
    from geoscale.report.change import paint_ramp

    painted = paint_ramp(np.array([[0.0, 0.5, 1.0, np.nan]]))[0]
    assert painted[0].tolist() == [0xFE, 0xF0, 0xD9, 255]
    assert painted[1].tolist() == [0xFC, 0x8D, 0x59, 255]
    assert painted[2].tolist() == [0xB3, 0, 0, 255]
    assert painted[3, 3] == 0

"""The page: areas that are true, pictures, and no word that should not be there."""

from __future__ import annotations

import re

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

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


def test_the_page_asks_nothing_of_any_network(demo):
    from pathlib import Path

    page = Path(demo["page"]).read_text()
    assert "default-src 'none'" in page
    asked = re.findall(r"""(?:src|href)=["'](?!data:)[^"']*|url\(|@import""", page)
    assert asked == []
    assert "<script" not in page

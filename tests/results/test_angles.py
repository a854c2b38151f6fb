"""Right angles: footprints of buildings from pixels, by whatever cut."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from shapely import affinity

import geoscale as gs
from geoscale.cli import main
from geoscale.results.angles import square_up
from geoscale.results.outlines import join, trace
from geoscale.windows import Window
from tests.results.test_polygons import UTM, write_output

L_SHAPE = shapely.Polygon([(0, 0), (46, 0), (46, 20), (22, 20), (22, 36), (0, 36)])


def rasterize(shape, size=(90, 90), rough=0.0):
    """Pixels whose middle lies inside, with an edge as rough as networks leave it."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[: size[0], : size[1]] + 0.5
    x, y = (v + rough * rng.normal(size=v.shape) for v in (x, y))
    return shapely.contains_xy(shape, x.ravel(), y.ravel()).reshape(size)


def outline(mask):
    """The largest object of a mask, as pixels' edges."""
    labels = mask.astype(np.int32)
    _, parts = trace(labels, Window(0, 0, *mask.shape))
    one = join(np.zeros(len(parts), int), parts, 1)[0]
    return max(shapely.get_parts(one).tolist(), key=shapely.area)


def square(shape, tolerance=1.5, aspect=1.0):
    return square_up(np.array([shape], object), tolerance, np.array([aspect]))[0]


def corners(ring):
    """Angles between neighbouring sides of a ring, degrees, 0 to 90 off a line."""
    points = shapely.get_coordinates(ring)
    sides = np.diff(points, axis=0)
    turned = np.roll(sides, -1, axis=0)
    cross = sides[:, 0] * turned[:, 1] - sides[:, 1] * turned[:, 0]
    return np.abs(np.degrees(np.arctan2(cross, (sides * turned).sum(1))))


def iou(one, other):
    return (one & other).area / (one | other).area


@settings(max_examples=25)
@given(st.floats(0, 90), st.floats(0, 1), st.floats(0, 1))
def test_a_building_in_any_direction_gets_its_six_corners_back(angle, dx, dy):
    truth = affinity.rotate(L_SHAPE, angle, "centroid")
    truth = affinity.translate(truth, 20 + dx, 25 + dy)
    pixels = outline(rasterize(truth))
    found = square(pixels)
    assert len(found.exterior.coords) == 7
    np.testing.assert_allclose(corners(found.exterior), 90, atol=1e-6)
    assert iou(found, truth) > 0.93
    assert abs(found.area / truth.area - 1) < 0.03


def test_what_a_rough_edge_leaves_vanishes():
    truth = affinity.translate(affinity.rotate(L_SHAPE, 25, "centroid"), 20, 25)
    pixels = outline(rasterize(truth, rough=1.0))
    found = square(pixels, 3.0)
    assert len(pixels.exterior.coords) > 60
    assert len(found.exterior.coords) == 7
    assert iou(found, truth) > 0.9


def test_courts_inside_stay_and_are_squared_too():
    court = shapely.box(12, 10, 30, 26)
    truth = shapely.box(0, 0, 44, 36) - court
    truth = affinity.translate(affinity.rotate(truth, 33, "centroid"), 25, 25)
    found = square(outline(rasterize(truth)))
    assert len(found.interiors) == 1
    np.testing.assert_allclose(corners(found.interiors[0]), 90, atol=1e-6)
    assert iou(found, truth) > 0.9


def test_long_sides_at_45_degrees_are_kept():
    bevel = shapely.Polygon([(0, 0), (40, 0), (40, 16), (24, 32), (0, 32)])
    truth = affinity.translate(affinity.rotate(bevel, 12, "centroid"), 20, 20)
    found = square(outline(rasterize(truth)))
    assert sorted(corners(found.exterior).round().tolist()) == [45, 45, 90, 90, 90]
    assert iou(found, truth) > 0.93


def test_what_has_no_right_angle_is_only_simplified():
    disc = shapely.Point(45, 45).buffer(30)
    star = shapely.Polygon(
        [(45 + r * np.cos(t), 45 + r * np.sin(t))
         for t, r in zip(np.arange(0, 6.28, 0.314), [40, 8] * 10, strict=False)]
    )  # fmt: skip
    for shape in (disc, star):
        found = square(outline(rasterize(shape)))
        assert found.is_valid
        assert iou(found, shape) > 0.7
    line = shapely.box(3, 3, 4, 40)
    assert square(line).equals(line)


def test_angles_are_right_on_the_ground_where_pixels_are_not_square():
    truth = affinity.rotate(shapely.box(10, 10, 60, 40), 30, "centroid")
    flat = affinity.scale(truth, 2, 1, origin=(0, 0))  # pixels half as wide as high
    found = square(outline(rasterize(flat, (70, 140))), aspect=0.5)
    ground = affinity.scale(found, 0.5, 1, origin=(0, 0))
    np.testing.assert_allclose(corners(ground.exterior), 90, atol=1e-6)
    assert iou(ground, truth) > 0.93


@pytest.fixture(scope="module")
def buildings(tmp_path_factory):
    mask = np.zeros(UTM.shape, bool)
    truth = []
    for k, (x, y) in enumerate([(10, 8), (85, 12), (40, 70), (100, 75)]):
        shape = affinity.rotate(L_SHAPE, 20 * k, "centroid")
        truth.append(affinity.translate(shape, x, y))
        mask |= rasterize(truth[-1], mask.shape)
    folder = tmp_path_factory.mktemp("buildings")
    layers = {"classes": mask.astype(np.uint8)[None]}
    return write_output(folder / "map.zarr", layers, UTM, block=64), truth


def test_footprints_do_not_depend_on_blocks(buildings, tmp_path):
    url, truth = buildings
    files = [tmp_path / f"{px}.parquet" for px in (13, 64, 200)]
    for path in files:
        made = gs.polygons(url, path, classes=["water"], right_angles=True,
                           block_px=int(path.stem))  # fmt: skip
    assert len({path.read_bytes() for path in files}) == 1
    table = made.load()
    assert len(table) == len(truth)
    plain = gs.polygons(url, tmp_path / "p.parquet", classes=["water"]).load()
    assert table.area_m2.tolist() == plain.area_m2.tolist()
    for shape in table.geometry:
        assert shape.exterior.is_ccw
        np.testing.assert_allclose(corners(shape.exterior), 90, atol=1e-4)


def test_the_command_takes_right_angles(buildings, tmp_path, capsys):
    path = tmp_path / "b.gpkg"
    words = ["--classes", "water", "--right-angles", "--to", str(path)]
    assert main(["polygons", buildings[0], *words]) == 0
    assert "4 polygons" in capsys.readouterr().out

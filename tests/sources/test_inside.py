"""Which pixels lie inside a polygon, for every cut the same."""

import numpy as np
import shapely
from affine import Affine
from rasterio.features import geometry_mask

from geoscale.sources.inside import find_inside
from geoscale.windows import Window


def draw_triangle(seed: int) -> shapely.Polygon:
    """One edge runs through middles of pixels, and ends a part of a pixel beyond."""
    rng = np.random.default_rng(seed)
    corners = rng.integers(0, 40, (3, 2)) * 3 + 0.5
    third = (corners[1] - corners[0]) / 3
    corners[0] -= third / 7
    corners[1] += third * 2 / 7
    return shapely.Polygon(corners)


def test_what_is_inside_does_not_depend_on_the_window() -> None:
    whole = Window(-60, -60, 200, 200)
    burnt = checked = 0
    for seed in range(60):
        polygon = draw_triangle(seed)
        if polygon.area < 10:
            continue
        shapely.prepare(polygon)
        inside = find_inside(polygon, whole)
        for y, x in ((0, 0), (7, 13), (33, 50)):
            part = Window(y, x, 60 + y, 70 + x)
            here = part.within(whole)
            assert (find_inside(polygon, part) == inside[here]).all()
            checked += 1
            burnt += bool((burn(polygon, part) != burn(polygon, whole)[here]).any())
    assert checked > 150
    assert burnt > 0, "GDAL would do: a simpler way is there"


def burn(polygon: shapely.Polygon, window: Window) -> np.ndarray:
    move = Affine.translation(window.x0, window.y0)
    return geometry_mask([polygon], window.shape, move, invert=True)


def test_every_pixel_is_asked_where_squares_are_mixed() -> None:
    ring = (
        shapely.Point(700, 640)
        .buffer(600)
        .difference(shapely.Point(650, 700).buffer(333))
    )
    shapely.prepare(ring)
    window = Window(-20, 5, 1300, 1301)
    xs, ys = np.meshgrid(np.arange(5, 1301) + 0.5, np.arange(-20, 1300) + 0.5)
    expected = shapely.contains_xy(ring, xs, ys)
    assert 0 < expected.mean() < 1
    np.testing.assert_array_equal(find_inside(ring, window), expected)

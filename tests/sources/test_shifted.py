"""The second date, read a little beside: onto the first, and the same for every cut."""

from __future__ import annotations

import json

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from geoscale.errors import SourceError
from geoscale.sources import open_source, source_from_spec
from geoscale.sources.shifted import ShiftedSource
from geoscale.testing import scene
from geoscale.types import Source
from geoscale.windows import Window

SHAPE = (150, 130)
Y, X = 0.4, -0.7


def ground(y, x):
    """Smooth enough that bilinear interpolation is right to a thousandth."""
    return 5 + np.sin(y / 9) + np.cos(x / 7) * np.sin((x + y) / 11)


@pytest.fixture
def pair(write_tif):
    """Two dates of the same ground; what the second shows lies Y, X beside."""
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]].astype(float)
    files = [
        write_tif("2020-06-01.tif", ground(y, x).astype(np.float32)),
        write_tif("2021-06-01.tif", ground(y - Y, x - X).astype(np.float32)),
    ]
    return open_source({"files": files})


def whole(source):
    return source.read(Window(0, 0, *SHAPE), [0, 1])


def test_the_second_date_comes_to_lie_on_the_first(pair):
    assert np.abs(np.subtract(*whole(pair).data)).max() > 0.05
    shifted = ShiftedSource(pair, Y, X)
    assert isinstance(shifted, Source)
    pixels = whole(shifted)
    inside = pixels.valid.all(axis=0)
    assert inside.sum() > 0.96 * inside.size
    assert inside[2:-2, 2:-2].all()
    # at the rim half a pixel is carried on
    rest = np.subtract(*pixels.data)[0, 2:-2, 2:-2]
    assert np.abs(rest).max() < 6e-3
    np.testing.assert_array_equal(pixels.data[0], whole(pair).data[0])


def test_no_cut_changes_a_bit_and_the_order_of_dates_is_kept(pair):
    shifted = ShiftedSource(pair, Y, X)
    expected = whole(shifted)
    for side in (37, 64):
        for y in range(0, SHAPE[0], side):
            for x in range(0, SHAPE[1], side):
                window = Window(y, x, y + side, x + side).clip(SHAPE)
                part = shifted.read(window, [1, 0])
                here = window.within(Window(0, 0, *SHAPE))
                np.testing.assert_array_equal(
                    part.data[::-1], expected.data[(..., *here)]
                )
                np.testing.assert_array_equal(
                    part.valid[::-1], expected.valid[(..., *here)]
                )


def test_it_is_rebuilt_from_its_spec(pair):
    shifted = ShiftedSource(pair, Y, X)
    spec = json.loads(json.dumps(shifted.spec()))
    again = source_from_spec(spec, shifted.tables())
    assert isinstance(again, ShiftedSource)
    np.testing.assert_array_equal(whole(again).data, whole(shifted).data)
    raw = again.calibrated("raw", 2.0)
    np.testing.assert_allclose(whole(raw).data, 2 * whole(shifted).data, rtol=1e-6)


def test_on_a_coarser_grid_the_shift_is_the_same_on_the_ground(pair):
    grid = pair.geobox
    coarse = GeoBox((75, 65), grid.affine @ Affine.scale(2), grid.crs)
    pixels = (
        ShiftedSource(pair, Y, X).coarser(coarse).read(Window(2, 2, 70, 60), [0, 1])
    )
    assert pixels.valid.all()
    assert np.abs(np.subtract(*pixels.data)).max() < 0.03
    plain = pair.coarser(coarse).read(Window(2, 2, 70, 60), [0, 1])
    assert np.abs(np.subtract(*plain.data)).max() > 0.05


def test_places_are_found_where_the_shift_puts_them(pair):
    far = ShiftedSource(pair, 0.0, 60.0)
    edges = np.array([0, 150]), np.array([0, 50, 65, 90, 130])
    assert far.covers_cells(*edges, 0).tolist() == [[True] * 4]
    assert far.covers_cells(*edges, 1).tolist() == [[True, True, True, False]]


def test_composites_are_shifted_as_a_whole_and_keep_their_names(pair):
    files = [pair.items[k].assets[pair.bands[0]].href for k in (0, 1)]
    both = open_source({"files": files, "periods": {"old": "2020", "new": "2021"}})
    shifted = ShiftedSource(both, Y, X)
    assert [one[0] for one in shifted.spec()["periods"]] == ["old", "new"]
    again = source_from_spec(json.loads(json.dumps(shifted.spec())), shifted.tables())
    rest = np.subtract(*whole(again).data)[0, 2:-2, 2:-2]
    assert np.abs(rest).max() < 6e-3


def test_an_array_is_where_it_is():
    with pytest.raises(SourceError, match="of an array shift the second date"):
        ShiftedSource(scene((9, 9), times=2), 0.2, 0.2)

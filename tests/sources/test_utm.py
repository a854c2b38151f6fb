"""UTM zones: every place and every pixel belongs to one."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from affine import Affine
from hypothesis import given
from hypothesis import strategies as st
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoscale.errors import SourceError
from geoscale.sources.aoi import Area, project
from geoscale.sources.utm import Zone, cut_sides, iter_zones, split_area
from geoscale.windows import Window

borders = st.integers(0, 60).map(lambda n: -180.0 + 6 * n)
near = st.floats(-0.01, 0.01) | st.floats(-1e-7, 1e-7) | st.just(0.0)
latitudes = st.floats(-79.99, 83.99) | st.floats(-1e-4, 1e-4)


@given(lon=borders, off=near, lat=latitudes)
def test_every_place_belongs_to_exactly_one_zone(lon, off, lat):
    lon = (lon + off + 180) % 360 - 180
    owners = [
        zone
        for zone in iter_zones()
        if zone.west <= lon < zone.east and zone.is_north == (lat >= 0)
    ]
    assert owners == [Zone.of(lon, lat)]
    assert Zone.parse(owners[0].name) == owners[0]


@given(
    border=borders,
    off=near,
    lat=latitudes,
    step=st.sampled_from([0.01, 10.0, 30.0, 1e4]),
)
def test_pixels_belong_to_the_zone_of_their_middle(border, off, lat, step):
    """Both zones at a border, asked about the pixels around one place."""
    for side in (border - 3, border + 3):
        zone = Zone.of((side + 180) % 360 - 180, lat)
        to_zone = Transformer.from_crs("EPSG:4326", zone.crs, always_xy=True)
        x, y = to_zone.transform(border + off, lat)
        grid = GeoBox(
            (9, 11),
            Affine(step, 0, (x // step - 5) * step, 0, -step, (y // step + 4) * step),
            zone.crs,
        )
        window = Window(1, 2, 8, 10)
        found = zone.mask(grid, window)
        columns, rows = np.meshgrid(np.arange(2, 10) + 0.5, np.arange(1, 8) + 0.5)
        lons, lats = to_zone.transform(
            *(grid.affine * (columns, rows)), direction="INVERSE"
        )
        expected = np.array(
            [
                [Zone.of(*place) == zone for place in zip(*row, strict=True)]
                for row in zip(lons, lats, strict=True)
            ]
        )
        # a pixel whose middle is on the border, to a tenth of a millimetre, may fall
        # either way: longitudes back from PROJ are no truer
        sure = np.abs((lons - border + 180) % 360 - 180) > 1e-9
        assert (found == expected)[sure].all(), (zone, border + off, lat)


def test_the_polygon_of_a_zone_loses_none_of_its_pixels():
    """Between the points of its polygon the border bends by centimetres."""
    zone = Zone(36, True)
    (part,) = (
        p for z, p in split_area(shapely.box(35, 50, 37, 51), "it").items() if z == zone
    )
    polygon = project(part, "EPSG:4326", zone.crs)
    to_zone = Transformer.from_crs("EPSG:4326", zone.crs, always_xy=True)
    for lat in np.linspace(50.2, 50.25, 5):  # one straight line of the polygon
        x, y = to_zone.transform(36.0, lat)
        grid = GeoBox((40, 40), Affine(0.01, 0, x - 0.2, 0, -0.01, y + 0.2), zone.crs)
        window = Window(0, 0, 40, 40)
        found = Area(polygon, grid, zone).mask(window)
        assert (found == zone.mask(grid, window)).all()
        assert 0 < found.sum() < found.size


def test_parts_of_an_area_meet_and_reach_over_their_borders_only():
    area = shapely.box(11.0, -1.0, 19.0, 1.0)
    parts = split_area(area, "it")
    assert [zone.name for zone in parts] == [
        f"utm-{n}{half}" for n in (32, 33, 34) for half in "ns"
    ]
    whole = sum(part.intersection(zone.strip()).area for zone, part in parts.items())
    assert whole == pytest.approx(area.area, rel=1e-12)
    sides = {zone.name: cut_sides(part, zone) for zone, part in parts.items()}
    assert sides["utm-32n"] == (False, True, True)
    assert sides["utm-33s"] == (True, True, True)
    assert sides["utm-34n"] == (True, False, True)
    only = split_area(shapely.box(12.0, 3.0, 18.0, 4.0), "it")
    assert [(z.name, cut_sides(p, z)) for z, p in only.items()] == [
        ("utm-33n", (False, False, False))
    ]


def test_the_antimeridian_is_a_border_like_any_other():
    area = shapely.union(shapely.box(178, 50, 180, 51), shapely.box(-180, 50, -179, 51))
    first, last = split_area(area, "it").items()
    assert (first[0].name, last[0].name) == ("utm-01n", "utm-60n")
    assert first[1].bounds == pytest.approx((-180.00001, 50, -179, 51))
    assert last[1].bounds == pytest.approx((178, 50, 180.00001, 51))
    assert cut_sides(first[1], first[0]) == (True, False, False)
    assert cut_sides(last[1], last[0]) == (False, True, False)


@pytest.mark.parametrize(("south", "north"), [(83, 84.5), (-80.1, -79)])
def test_the_poles_are_refused_with_the_crs_to_use(south, north):
    with pytest.raises(SourceError, match=r"grid.bbox reaches.*EPSG:3413.*EPSG:3031"):
        split_area(shapely.box(0, south, 1, north), "grid.bbox")
    assert split_area(shapely.box(0, -80, 1, 84), "grid.bbox").keys() == {
        Zone(31, True),
        Zone(31, False),
    }

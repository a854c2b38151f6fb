"""Where CRSs are cut: nothing that a file holds may be missing from a grid there."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from odc.geo.geobox import GeoBox
from pyproj import Transformer

from geoscale.errors import SourceError
from geoscale.sources import Grid, RasterSource, choose_grid, find_aoi
from geoscale.sources.antimeridian import find_box, split_box, to_lonlat, wrap
from geoscale.sources.gdal import COUNTS
from geoscale.sources.items import Asset, Item, normalise_item
from geoscale.sources.lazy import lazy_stack
from geoscale.sources.steps import find_middle
from geoscale.windows import Window
from tests.support.globe import centres, covered, north_up, value_at, write_tile

TILES = {
    # name: CRS, left, top, pixel, rows, columns
    "utm-01": ("EPSG:32601", 270_000, 7.0e6, 2000, 75, 75),
    "utm-60": ("EPSG:32660", 580_000, 7.0e6, 2000, 75, 75),
    "west": ("EPSG:4326", -180, 65, 0.02, 250, 150),
    "east": ("EPSG:4326", 177, 65, 0.02, 250, 150),
    "to-183": ("EPSG:4326", 177, 65, 0.02, 250, 300),
    "0-to-360": ("EPSG:4326", 0, 65, 0.2, 25, 1800),
    "half-a-pixel": ("EPSG:4326", -180.1, 65, 0.2, 25, 1800),
    "mercator": ("EPSG:3857", -20_037_508.342789244, 9.0e6, 2000, 150, 150),
    "pole": ("EPSG:3413", -300_000, 250_000, 4000, 150, 150),
    "beside-pole": ("EPSG:3413", -400_000, 250_000, 4000, 50, 150),
    "cap": ("EPSG:4326", -180, 90, 0.2, 50, 1800),
    "south-pole": ("EPSG:3031", -300_000, 250_000, 4000, 150, 150),
    **{
        f"polar-utm-{zone}": (f"EPSG:326{zone}", 390_000, 9.33e6, 2000, 110, 110)
        for zone in ("01", "15", "31", "60")
    },
}
GRIDS = {
    # name: CRS, left, top, pixel, rows, columns
    "globe": ("EPSG:4326", -180, 70, 0.2, 50, 1800),
    "globe-odd": ("EPSG:4326", -180, 70, 0.26, 38, 1385),
    "east-edge": ("EPSG:4326", 179.92, 62.5, 0.02, 50, 4),
    "west-edge": ("EPSG:4326", -180, 62.5, 0.02, 50, 4),
    "beyond-180": ("EPSG:4326", 178, 62.5, 0.02, 50, 200),
    "cap": ("EPSG:4326", -180, 90, 0.2, 75, 1800),
    "south-cap": ("EPSG:4326", -180, -78, 0.2, 60, 1800),
    "mercator": ("EPSG:3857", -20_037_508, 8.85e6, 10_000, 30, 4007),
    "equal-area": ("EPSG:6933", -17_367_530, 7.0e6, 20_000, 50, 1736),
    "pacific": ("EPSG:3832", 3.25e6, 8.9e6, 2000, 75, 100),
    "utm-01": ("EPSG:32601", 80_000, 6.95e6, 2000, 75, 200),
    "utm-60": ("EPSG:32660", 480_000, 6.95e6, 2000, 75, 200),
    "polar": ("EPSG:3413", -300_000, 300_000, 4000, 150, 150),
    "polar-wide": ("EPSG:3413", -3.0e6, 3.0e6, 40_000, 150, 150),
    "south-polar": ("EPSG:3031", -300_000, 300_000, 4000, 150, 150),
}
SETS = {
    "utm": ["utm-01", "utm-60"],
    "degrees": ["west", "east"],
    "to-183": ["to-183"],
    "0-to-360": ["0-to-360"],
    "half-a-pixel": ["half-a-pixel"],
    "mercator": ["mercator"],
    "pole": ["pole"],
    "beside-pole": ["beside-pole"],
    "cap": ["cap"],
    "south-pole": ["south-pole"],
    "polar-utm": [name for name in TILES if name.startswith("polar")],
}


@pytest.fixture(scope="module")
def tiles(tmp_path_factory):
    folder = tmp_path_factory.mktemp("globe")
    return {
        name: write_tile(
            folder / f"{name}.tif", crs, north_up(x, y, step), (rows, columns)
        )
        for name, (crs, x, y, step, rows, columns) in TILES.items()
    }


def read_by_blocks(source, cut):
    """Read as a run does: only blocks and items that the boxes let through."""
    height, width = map(int, source.geobox.shape)
    ys = np.unique(np.linspace(0, height, cut + 1).astype(int))
    xs = np.unique(np.linspace(0, width, 2 * cut + 1).astype(int))
    touched = source.covers_cells(ys, xs, 0)
    data = np.zeros((height, width), "float32")
    valid = np.zeros((height, width), bool)
    for i, j in zip(*np.nonzero(touched), strict=True):
        window = Window(*(int(v) for v in (ys[i], xs[j], ys[i + 1], xs[j + 1])))
        pixels = source.read(window, [0])
        where = window.within(Window(0, 0, height, width))
        data[where], valid[where] = pixels.data[0, 0], pixels.valid[0]
    return data, valid


@pytest.mark.parametrize("name", SETS)
def test_every_pixel_that_a_file_covers_is_there_and_right(name, tiles, proof):
    items = [tiles[one] for one in SETS[name]]
    compared = 0
    for grid, (crs, x, y, step, rows, columns) in GRIDS.items():
        transform, shape = north_up(x, y, step), (rows, columns)
        source = RasterSource(items, ["a"], GeoBox(shape, transform, crs))
        data, valid = read_by_blocks(source, 4)
        sure = covered(items, crs, transform, shape)
        lost = int((sure & ~valid).sum())
        assert not lost, f"{lost} of {sure.sum()} pixels are missing on {grid}"
        lon, lat = centres(crs, transform, shape)
        # next to a pole, degrees of longitude are shorter than any kernel
        firm = sure & (np.abs(lat) < 89)
        error = np.abs(data - value_at(lon, lat))[firm]
        assert error.max(initial=0) < 5, grid
        compared += int(firm.sum())
    assert compared > 1000, "the test compares something"
    proof(faults=len(GRIDS), compared=compared)


def test_files_a_turn_away_are_read_as_plain_windows(tiles):
    """Without a warp: the pixels are those of the file, to the bit."""
    box = GeoBox((50, 200), north_up(178, 62.5, 0.02), "EPSG:4326")
    source = RasterSource([tiles["west"], tiles["east"]], ["a"], box)
    before = COUNTS.warped_tiles
    pixels = source.read(Window(0, 0, 50, 200), [0])
    assert COUNTS.warped_tiles == before
    assert pixels.valid.all()
    assert pixels.data.dtype == np.float32
    lon, lat = centres("EPSG:4326", box.affine, (50, 200))
    np.testing.assert_allclose(pixels.data[0, 0], value_at(lon, lat), rtol=1e-6)


def test_items_at_the_antimeridian_are_not_taken_for_the_whole_globe(tiles):
    """Only those that cross it count along a whole row of a grid that is cut there."""
    grid = GeoBox((100, 3600), north_up(-180, 70, 0.1), "EPSG:4326")
    ys, xs = np.array([0, 40, 100]), np.arange(0, 3601, 100)
    beside = RasterSource([tiles["west"]], ["a"], grid).covers_cells(ys, xs, 0)
    assert beside.any(axis=0).nonzero()[0].tolist() == [0]
    across = RasterSource([tiles["utm-01"]], ["a"], grid).covers_cells(ys, xs, 0)
    assert across[1].all()
    assert not across[0].any()


@pytest.mark.parametrize("engine", ["odc", "stackstac"])
def test_lazy_stacks_lose_nothing_either(engine, tiles):
    edges = ("west-edge", "beyond-180")
    for names, grids in (
        (["utm-01", "utm-60"], edges),
        (["to-183"], (*edges, "pacific")),
    ):
        items = [tiles[name] for name in names]
        for grid in grids:
            crs, x, y, step, rows, columns = GRIDS[grid]
            box = GeoBox((rows, columns), north_up(x, y, step), crs)
            source = RasterSource(items, ["a"], box)
            data = lazy_stack(source, engine, chunks=64).values[0, 0]
            sure = covered(items, crs, box.affine, (rows, columns))
            assert sure.any()
            assert (data[sure] > 100).all(), (names, grid)


def test_a_pole_inside_a_file_is_matched_up_to_the_pole(tiles):
    grid = GeoBox((900, 1800), north_up(-180, 90, 0.2), "EPSG:4326")
    ys, xs = np.array([0, 2, 898, 900]), np.arange(0, 1801, 450)
    north = RasterSource([tiles["pole"]], ["a"], grid).covers_cells(ys, xs, 0)
    south = RasterSource([tiles["south-pole"]], ["a"], grid).covers_cells(ys, xs, 0)
    assert north[0].all()
    assert not north[2].any()
    assert south[2].all()
    assert not south[0].any()


def make(ring=(), crs=None, transform=None, shape=None):
    asset = Asset(href="x", crs=crs, transform=transform, shape=shape)
    item = Item(id="x", datetime=None, assets={"a": asset}, footprint=tuple(ring))
    return [item], [[asset]]


def test_boxes_are_cut_and_the_shorter_way_round_is_found():
    assert split_box((1, 2, 3, 4)) == [(1, 2, 3, 4)]
    both = shapely.MultiPolygon([shapely.box(*b) for b in split_box((179, 1, -178, 3))])
    assert find_box(both) == (179, 1, -178, 3)
    assert find_box(shapely.box(-180, -90, 180, 90)) == (-180, -90, 180, 90)
    far = shapely.MultiPolygon(
        [shapely.box(-100, 0, -90, 1), shapely.box(80, 0, 95, 1)]
    )
    assert find_box(far) == (80, 0, -90, 1)
    near = shapely.MultiPolygon(
        [shapely.box(-20, 0, -10, 1), shapely.box(80, 0, 95, 1)]
    )
    assert find_box(near) == (-20, 0, 95, 1)
    assert wrap(shapely.box(170, 0, 190, 1)).area == pytest.approx(20)
    assert find_box(wrap(shapely.box(-190, 0, -170, 1))) == (170, 0, -170, 1)


def test_a_ring_round_a_pole_is_filled_up_to_it():
    ring = [(-1e6, -1e6), (1e6, -1e6), (1e6, 1e6), (-1e6, 1e6)]
    ring = shapely.segmentize(shapely.LinearRing(ring), 1e5).coords
    north, south = to_lonlat(ring, "EPSG:3413"), to_lonlat(ring, "EPSG:3031")
    assert north.contains(shapely.Point(17, 89.9))
    assert south.contains(shapely.Point(-170, -89.9))
    assert north.bounds[::2] == pytest.approx((-180, 180))


def grid_of(items, layout, **grid):
    return choose_grid(items, layout, {"resolution": 0.1, **grid})


def test_a_bbox_across_the_antimeridian_gives_one_small_grid():
    box = (179, 50, -179, 51)
    degrees = grid_of([], [], crs="EPSG:4326", bbox=box)
    assert (degrees.shape, degrees.affine.c) == ((10, 20), 179)
    metres = grid_of([], [], crs="EPSG:32601", bbox=box, resolution=1000)
    assert metres.shape.x < 160
    polar = grid_of([], [], crs="EPSG:3413", bbox=box, resolution=1000)
    assert polar.shape.x < 300
    said = (
        r"crosses the antimeridian, where EPSG:3857 is cut; use grid.crs: utm.*"
        r"two jobs: \(179, 50, 180, 51\)"
    )
    with pytest.raises(SourceError, match=said):
        grid_of([], [], crs="EPSG:3857", bbox=box, resolution=1000)


@pytest.mark.parametrize("form", ["cut", "beyond"])
def test_an_area_across_the_antimeridian_is_whole(form):
    parts = [shapely.box(179, 50, 180, 51), shapely.box(-180, 50, -179.5, 51)]
    area = (
        shapely.MultiPolygon(parts)
        if form == "cut"
        else shapely.box(179, 50, 180.5, 51)
    )
    aoi = json.loads(shapely.to_geojson(area))
    for crs, resolution in (("EPSG:4326", 0.1), ("EPSG:32601", 5000)):
        grid = Grid(crs=crs, resolution=resolution, aoi=aoi)
        box = choose_grid([], [], grid)
        height, width = map(int, box.shape)
        found = find_aoi(grid, box)
        lon, lat = centres(crs, box.affine, (height, width))
        expected = (lat > 50) & (lat < 51) & ((lon % 360) > 179) & ((lon % 360) < 180.5)
        assert (found.mask(Window(0, 0, height, width)) == expected).all()
        assert expected.mean() > 0.7
        assert found.touches(np.array([0, height]), np.array([0, width])).all()


def test_an_edge_more_than_half_round_the_globe_is_refused():
    ring = [[179, 50], [-179, 50], [-179, 51], [179, 51], [179, 50]]
    aoi = {"type": "Polygon", "coordinates": [ring]}
    with pytest.raises(SourceError, match=r"more than half round the globe.*RFC 7946"):
        grid_of([], [], crs="EPSG:32601", aoi=aoi, resolution=1000)
    world = json.loads(shapely.to_geojson(shapely.box(-180, -80, 180, 80)))
    assert grid_of([], [], crs="EPSG:4326", aoi=world, resolution=1).shape == (160, 360)


def test_grids_end_where_the_globe_does():
    world = {"crs": "EPSG:4326", "bounds": (-180, -90, 180, 90)}
    odd = grid_of([], [], **world, resolution=0.7)
    lon, lat = (
        (odd.affine * (0.5, 0.5)),
        (odd.affine * (odd.shape.x - 0.5, odd.shape.y - 0.5)),
    )
    assert -180 <= lon[0] < -179.2
    assert 179.2 < lat[0] <= 180
    assert 89.2 < lon[1] <= 90
    assert -90 <= lat[1] < -89.2
    for bounds in ((-180, -90.5, 180, 90), (0, 0, 361, 10), (700, 0, 710, 10)):
        with pytest.raises(SourceError, match="beyond the edge of EPSG:4326"):
            grid_of([], [], crs="EPSG:4326", bounds=bounds)
    with pytest.raises(SourceError, match="beyond the edge of EPSG:3857"):
        grid_of([], [], crs="EPSG:3857", bounds=(2.0e7, 0, 2.1e7, 1e6), resolution=1000)


def test_the_grid_of_items_across_the_antimeridian_reaches_both_edges():
    corner = (2000.0, 0.0, 270_000.0, 0.0, -2000.0, 7.0e6)
    across = make(crs="EPSG:32601", transform=corner, shape=(75, 75))
    box = grid_of(*across, crs="EPSG:4326")
    assert (box.affine.c, box.shape.x) == (-180, 3600)
    box = grid_of(*across, crs="EPSG:3857", resolution=5000)
    assert box.boundingbox.left == pytest.approx(-20_037_508, abs=5000)
    assert box.boundingbox.right == pytest.approx(20_037_508, abs=5000)


def stac(geometry, bbox=None):
    return normalise_item(
        {
            "id": "x", "type": "Feature", "geometry": geometry, "bbox": bbox,
            "properties": {"datetime": "2024-06-01T00:00:00Z"},
            "assets": {"a": {"href": "/x.tif", "type": "image/tiff"}},
        },
    )  # fmt: skip


@pytest.mark.parametrize(
    "item",
    [
        stac(json.loads(shapely.to_geojson(shapely.MultiPolygon(
            [shapely.box(179, 50, 180, 51), shapely.box(-180, 50, -178, 51)]))),
             [-180, 50, 180, 51]),
        stac(None, [179, 50, -178, 51]),
        stac(json.loads(shapely.to_geojson(shapely.box(179, 50, 182, 51)))),
        stac({"type": "Polygon", "coordinates":
              [[[179, 50], [-178, 50], [-178, 51], [179, 51], [179, 50]]]}),
    ],
    ids=["cut", "bbox", "beyond", "jump"],
)  # fmt: skip
def test_footprints_without_projection_match_on_both_sides(item):
    """However a provider writes a footprint that crosses the line."""
    assert abs(find_middle(item)) == pytest.approx(179.5)
    for x in (179.5, -179.0):
        for crs, step in (("EPSG:4326", 0.01), ("EPSG:32601", 1000)):
            to_grid = Transformer.from_crs("EPSG:4326", crs, always_xy=True)
            box = GeoBox((4, 4), north_up(*to_grid.transform(x, 50.5), step), crs)
            source = RasterSource([item], ["a"], box)
            assert source.covers_cells(np.array([0, 4]), np.array([0, 4]), 0).all()

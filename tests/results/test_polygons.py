"""Polygons: what is cut and joined equals what was never cut."""

from __future__ import annotations

import json
import math

import geopandas
import numpy as np
import pyarrow.parquet as pq
import pytest
import rasterio.features
import shapely
from affine import Affine
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from odc.geo.geobox import GeoBox
from pyproj import Geod

import geoscale as gs
from geoscale.errors import JobError, OutputError
from geoscale.results import joining, layers, pieces
from geoscale.results.ground import Ground
from geoscale.results.settings import Asked, parse_area
from geoscale.template import OutputTemplate
from geoscale.types import Layer
from geoscale.windows import Window
from tests.evaluation.conftest import (
    CLASSES,
    DEGREES,
    NAMES,
    UTM,
    blobs,
    quantised,
    write_output,
)

FLAGS = (("flag_meanings", "unchanged changed"), ("flag_values", [0, 1]))
KINDS = (("flag_meanings", "land water bare_soil"), ("flag_values", [0, 1, 2]))


def categorical(name, flags):
    return Layer(name=name, dtype="uint8", fill_value=255, attrs=flags)


CHANGE = (
    categorical("change", FLAGS),
    quantised("probability"),
    categorical("from_class", KINDS),
    categorical("to_class", KINDS),
)


def opened_on(values, grid=None, **asked):
    """An output of one layer that lies in memory."""
    grid = grid or GeoBox(values.shape, UTM.affine, UTM.crs)
    template = OutputTemplate(
        geobox=grid,
        times=("2024-05-01T00:00:00",),
        block_px=64,
        chunk_px=64,
        layers=(categorical("classes", KINDS),),
    )
    layer = template.layers[0]
    return pieces.Opened(
        asked=Asked(output="", **asked),
        template=template,
        layer=layer,
        flags=layers.list_flags(template, layer),
        values=(0, 1, 2),
        has_pairs=False,
        pair_flags=(),
        sure=None,
        ground=Ground(grid),
        data={"classes": values[None]},
    )


def trace(values, height, width, **asked):
    """Every object of an array that is cut into blocks: (value, pixels, outline)."""
    opened, (rows, columns) = opened_on(values, **asked), values.shape
    blocks = [
        Window(y, x, y + height, x + width).clip((rows, columns))
        for y in range(0, rows, height)
        for x in range(0, columns, width)
    ]
    cuts = (pieces.cut(opened, (0, block)) for block in blocks)
    return [
        (int(key), int(pixels), outline)
        for found in joining.join_rows(opened, cuts)
        for (key, pixels, *_), outline in zip(
            found.objects, found.outlines, strict=True
        )
    ]


def at_once(values, connectivity):
    """The same by GDAL, from the whole array."""
    found = rasterio.features.shapes(
        values, mask=values != 255, connectivity=connectivity
    )
    return [
        # outlines that touch themselves are split into valid ones
        (int(value), shapely.union_all([shapely.geometry.shape(one).buffer(0)]))
        if connectivity == 4
        else (int(value), shapely.make_valid(shapely.geometry.shape(one)))
        for one, value in found
    ]


maps = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=14),
    elements=st.sampled_from([0, 0, 0, 1, 1, 2, 255]),
)


RINGS = np.ones((4, 7), np.uint8)
RINGS[1:3, 1] = RINGS[2, 3] = 0


@settings(max_examples=60, deadline=None)
@example(RINGS, 1, 1, 4)  # the order of holes
@given(maps, st.integers(1, 9), st.integers(1, 9), st.sampled_from([4, 8]))
def test_any_cut_gives_what_tracing_the_whole_map_gives(values, height, width, near):
    cut = trace(values, height, width, connectivity=near)
    # the same objects in the same order, the same corners in the same order
    assert [(v, n, shapely.to_wkb(s)) for v, n, s in cut] == [
        (v, n, shapely.to_wkb(s))
        for v, n, s in trace(values, *values.shape, connectivity=near)
    ]
    gdal = at_once(values, near)
    assert len(cut) == len(gdal)
    key = lambda one: (one[0], *one[-1].bounds, one[-1].area)  # noqa: E731
    for (value, pixels, ours), (other, theirs) in zip(
        sorted(cut, key=key), sorted(gdal, key=key), strict=True
    ):
        assert value == other
        assert ours.is_valid
        assert ours.area == pixels == pytest.approx(theirs.area, rel=1e-6)
        assert shapely.equals(ours, theirs)
        assert near == 8 or ours.geom_type == "Polygon"


def ring(size, hole):
    values = np.zeros((size, size), np.uint8)
    values[hole:-hole, hole:-hole] = 1
    return values


def test_a_ring_around_whole_blocks_has_one_hole():
    found = trace(ring(20, 3), 4, 4)
    assert [(value, pixels) for value, pixels, _ in found] == [(1, 196), (0, 204)]
    assert len(found[1][2].interiors) == 1
    assert len(found[1][2].exterior.coords) == 5  # no corner where blocks met


def test_diagonal_neighbours_over_the_corner_of_four_blocks():
    values = np.full((8, 8), 255, np.uint8)
    values[3, 3] = values[4, 4] = values[3, 5] = 1
    four, eight = (trace(values, 4, 4, connectivity=near) for near in (4, 8))
    assert [pixels for _, pixels, _ in four] == [1, 1, 1]
    assert [pixels for _, pixels, _ in eight] == [3]
    assert eight[0][2].geom_type == "MultiPolygon"
    assert eight[0][2].is_valid


def test_a_comb_is_joined_only_far_below():
    """Teeth over many blocks: nothing is done before the last row."""
    values = np.zeros((33, 40), np.uint8)
    values[:, ::2] = 1
    values[-1] = 1
    found = trace(values, 5, 7)
    assert sum(value == 1 for value, *_ in found) == 1
    assert found[-1][1] == 33 * 20 + 20


def test_only_what_goes_on_is_held():
    """Memory: after each row of blocks what ended is gone."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 3, (400, 16)).astype(np.uint8)
    opened = opened_on(values)
    joiner, most = joining.Joiner(opened), 0
    for y in range(0, 400, 8):
        joiner.add([pieces.cut(opened, (0, Window(y, 0, y + 8, 16)))])
        most = max(most, len(joiner._held.ids))
        assert joiner._held.outlines.shape[0] < 200
    assert 0 < most <= 16
    assert len(joiner._held.ids) == 0


@pytest.fixture(scope="module")
def change(tmp_path_factory):
    """A change map of two pairs of dates, with classes before and after."""
    before = np.stack([blobs((150, 210), 3, 1), blobs((150, 210), 3, 2)])
    after = np.stack([blobs((150, 210), 3, 2), blobs((150, 210), 3, 3, 7)])
    changed = (before != after).astype(np.uint8)
    changed[:, 40:44] = before[:, 40:44] = after[:, 40:44] = 255
    steps = np.random.default_rng(5).integers(0, 255, before.shape).astype(np.uint8)
    arrays = dict(
        zip(
            ("change", "probability", "from_class", "to_class"),
            (changed, steps, before, after),
            strict=True,
        )
    )
    url = tmp_path_factory.mktemp("change") / "change.zarr"
    write_output(url, arrays, UTM, kinds=CHANGE, block=64, times=2)
    return str(url), arrays


def read(path):
    return pq.read_table(path)


@pytest.mark.parametrize("options", [{"min_area": "12px"}, {"split": True}])
def test_files_do_not_depend_on_blocks_or_workers(change, tmp_path, options):
    from distributed import Client

    url, _ = change
    whole = gs.polygons(url, tmp_path / "whole.parquet", block_px=1000, **options)
    table = read(whole.path)
    assert table.num_rows == whole.count > 40
    found = gs.polygons(url, tmp_path / "cut.parquet", block_px=43, **options)
    assert read(found.path).equals(table)
    assert found.to_dict() == {**whole.to_dict(), "path": found.path}
    if "split" in options:
        with Client(processes=False, dashboard_address=None) as client:
            path = tmp_path / "c.parquet"
            gs.polygons(url, path, block_px=90, client=client, **options)
        assert read(path).equals(table)


def test_columns_say_what_changed_where_and_how_sure(change, tmp_path):
    url, arrays = change
    found = gs.polygons(url, tmp_path / "made.parquet").load()
    assert found.crs.to_epsg() == 32636
    assert list(found["id"]) == list(range(1, len(found) + 1))
    assert set(found["class"]) == {"changed"}
    assert found["date"].is_monotonic_increasing
    for number, (_, rows) in enumerate(found.groupby("date")):
        assert rows.pixels.sum() == (arrays["change"][number] == 1).sum()
        mask = rasterio.features.rasterize(
            [(shape, i) for i, shape in zip(rows.id, rows.geometry, strict=True)],
            UTM.shape,
            transform=UTM.affine,
        )
        assert ((mask > 0) == (arrays["change"][number] == 1)).all()
        for row in rows.sample(12, random_state=1).itertuples():
            inside = mask == row.id
            assert row.probability == pytest.approx(
                arrays["probability"][number][inside].mean() / 254, rel=1e-12
            )
            pairs = np.stack(
                [arrays[n][number][inside] for n in ("from_class", "to_class")]
            )
            kinds, counts = np.unique(pairs, axis=1, return_counts=True)
            best = kinds[:, counts.argmax()]
            assert (row.from_value, row.to_value) == tuple(best)
            assert row.from_class == NAMES[row.from_value]
            assert row.geometry.area == pytest.approx(100 * row.pixels)


def test_means_of_half_floats_are_exact_too(tmp_path):
    rng = np.random.default_rng(7)
    half = rng.random((1, 150, 210)).astype(np.float16)
    half[:, 30:50] = np.nan
    layer = Layer(name="probability", dtype="float16", fill_value=float("nan"))
    arrays = {"change": blobs((150, 210), 2, 3)[None], "probability": half}
    url = write_output(tmp_path / "map.zarr", arrays, UTM, kinds=(CHANGE[0], layer))
    one, other = (
        gs.polygons(url, tmp_path / "x.parquet", block_px=px).load() for px in (300, 41)
    )
    assert one.equals(other)
    mask = rasterio.features.rasterize(
        zip(one.geometry, one.id, strict=True), UTM.shape, transform=UTM.affine
    )
    means = [np.nanmean(half[0][mask == i].astype(float)) for i in one.id]
    assert one.probability.tolist() == pytest.approx(means, rel=1e-13)


def test_split_gives_each_pair_of_classes_its_own_polygons(change, tmp_path):
    url, arrays = change
    path = tmp_path / "made.parquet"
    found = gs.polygons(url, path, split=True, time="2024-05").load()
    sums = found.groupby(["from_value", "to_value"]).pixels.sum()
    ours = arrays["change"][0] == 1
    for (old, new), pixels in sums.items():
        pair = (arrays["from_class"][0] == old) & (arrays["to_class"][0] == new)
        assert pixels == (ours & pair).sum()
    assert sums.sum() == ours.sum()


@pytest.mark.parametrize("grid", [UTM, DEGREES], ids=["utm", "degrees"])
def test_areas_are_those_of_the_ellipsoid(grid, tmp_path):
    values = blobs((150, 210), 3, 4)[None]
    url = write_output(tmp_path / "map.zarr", {"classes": values}, grid, block=64)
    found = gs.polygons(url, tmp_path / "made.geojson").load()
    geod = Geod(ellps="WGS84")
    for row in found.sample(30, random_state=2).itertuples():
        # rings of pixels: their sides are short, so geodesics are close to them
        area, _ = geod.geometry_area_perimeter(row.geometry)
        assert area > 0  # counterclockwise, as RFC 7946 wants it
        assert row.area_m2 == pytest.approx(area, rel=2e-4)


def test_a_minimum_area_drops_what_is_smaller_and_counts_it(tmp_path):
    values = blobs((150, 210), 3, 6, 3)[None]
    url = write_output(tmp_path / "map.zarr", {"classes": values}, UTM, block=64)
    everything = gs.polygons(url, tmp_path / "all.parquet").load()
    made = gs.polygons(url, tmp_path / "some.parquet", min_area="0.2 ha", block_px=40)
    large = everything[everything.area_m2 >= 2000]
    assert made.count == len(large) < len(everything)
    assert made.dropped == len(everything) - len(large)
    some = made.load()
    assert some.geometry.to_wkb().tolist() == large.geometry.to_wkb().tolist()


@pytest.mark.parametrize("end", ["parquet", "geojson", "fgb", "gpkg"])
def test_every_format_holds_the_same(change, tmp_path, end):
    url, _ = change
    first = gs.polygons(url, tmp_path / "a.parquet", min_area="20px").load()
    made = gs.polygons(url, tmp_path / f"b.{end}", min_area="20px")
    found = made.load().sort_values("id", ignore_index=True)
    assert found.crs.to_epsg() == (4326 if end == "geojson" else 32636)
    for name in ("id", "class", "pixels", "area_m2", "probability", "from_class"):
        assert found[name].tolist() == pytest.approx(first[name].tolist())
    assert (found["date"] == first["date"]).all()
    there = found.to_crs(first.crs).geometry
    # seven decimals of a degree are 1 cm
    assert there.hausdorff_distance(first.geometry).max() < 0.02
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_geoparquet_1_1_with_a_box_for_each_row(change, tmp_path):
    url, _ = change
    made = gs.polygons(url, tmp_path / "made.parquet")
    geo = json.loads(pq.read_schema(made.path).metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    column = geo["columns"]["geometry"]
    assert column["covering"]["bbox"]["xmin"] == ["bbox", "xmin"]
    assert column["crs"]["id"]["code"] == 32636
    box = (302_000, 4_999_000, 302_050, 4_999_100)
    some = geopandas.read_parquet(made.path, bbox=box)
    bounds = shapely.STRtree(shapely.box(*made.load().bounds.to_numpy().T))
    assert sorted(some["id"] - 1) == sorted(bounds.query(shapely.box(*box)))


def test_geojson_is_cut_at_the_antimeridian(tmp_path):
    grid = GeoBox((40, 60), Affine(1000, 0, 802_000, 0, -1000, 120_000), "EPSG:32660")
    values = np.zeros((1, 40, 60), np.uint8)
    url = write_output(tmp_path / "map.zarr", {"classes": values}, grid, block=16)
    found = gs.polygons(url, tmp_path / "made.geojson").load()
    bounds = [part.bounds for part in found.geometry[0].geoms]
    assert len(bounds) == 2
    assert all(right - left < 1 for left, _, right, _ in bounds)
    assert {round(b[0]) for b in bounds} | {round(b[2]) for b in bounds} >= {180, -180}


def test_no_object_is_a_file_without_rows(tmp_path):
    layers_ = {"classes": np.full((1, 150, 210), 255, np.uint8)}
    url = write_output(tmp_path / "map.zarr", layers_, UTM)
    for end in ("parquet", "geojson", "fgb", "gpkg"):
        made = gs.polygons(url, tmp_path / f"made.{end}")
        assert made.count == len(made.load()) == 0


def test_simplified_outlines_stay_near_and_keep_the_area_of_their_pixels(tmp_path):
    rows, columns = np.ogrid[:150, :210]
    disc = (((rows - 70) ** 2 + (columns - 90) ** 2) < 50**2).astype(np.uint8)[None]
    url = write_output(tmp_path / "map.zarr", {"classes": disc}, UTM, block=64)
    exact, rough = (
        gs.polygons(url, tmp_path / "x.parquet", classes=["water"], simplify=px).load()
        for px in (0, 1)
    )
    assert rough.area_m2[0] == exact.area_m2[0]
    one, other = exact.geometry[0], rough.geometry[0]
    assert len(other.exterior.coords) < len(one.exterior.coords) / 3
    assert one.hausdorff_distance(other) <= 10 * 1.0001


def test_a_failed_run_leaves_the_old_file(change, tmp_path, monkeypatch):
    url, _ = change
    path = tmp_path / "made.gpkg"
    gs.polygons(url, path)
    old = path.read_bytes()
    from geoscale.results import polygons

    calls = []

    def fail(*args):
        calls.append(args)
        if len(calls) > 3:
            raise OutputError("made to fail")
        return pieces.cut(*args)

    monkeypatch.setattr(polygons, "cut", fail)
    with pytest.raises(OutputError, match="made to fail"):
        gs.polygons(url, path)
    assert path.read_bytes() == old
    assert [one.name for one in tmp_path.iterdir()] == ["made.gpkg"]


def test_outputs_and_files_by_url(tmp_path):
    values = blobs((150, 210), 3, 4)[None]
    url = write_output("memory://results/map.zarr", {"classes": values}, UTM)
    made = gs.polygons(url, "memory://results/made.parquet")
    there = gs.polygons(url, tmp_path / "made.parquet")
    import fsspec

    fs = fsspec.filesystem("memory")
    assert (
        fs.cat_file("/results/made.parquet") == (tmp_path / "made.parquet").read_bytes()
    )
    assert made.count == there.count
    fs.rm("/results", recursive=True)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"layer": "chnge"}, "no `chnge`.*did you mean"),
        ({"classes": ["watr"]}, "no class `watr`"),
        ({"classes": [7]}, "no class `7`"),
        ({"time": "2020"}, "no time step `2020`"),
        ({"min_area": "5 acres"}, "`5 acres` is no area"),
        ({"connectivity": 6}, "connectivity 6"),
        ({"simplify": -1}, "simplify -1 px"),
        ({"minarea": 3}, "`minarea` of polygons is not known"),
        ({"to": "made.shp"}, "polygons go to .parquet"),
        ({"block_px": 0}, "block_px 0"),
    ],
)
def test_wrong_options_are_refused(change, options, words):
    with pytest.raises(JobError, match=words):
        gs.polygons(change[0], **options)


def test_an_output_without_pairs_cannot_be_split(output, tmp_path):
    with pytest.raises(JobError, match="split needs the layers from_class"):
        gs.polygons(output, tmp_path / "x.parquet", split=True)


def test_an_unfinished_output_is_refused(tmp_path):
    with pytest.raises(OutputError, match="not there"):
        gs.polygons(tmp_path / "none.zarr")
    url = write_output(
        tmp_path / "map.zarr", {"classes": blobs((150, 210), 3, 1)[None]}, UTM
    )
    from geoscale.storage import Folder

    for name in Folder(url).find():
        if name.endswith("final.json"):
            Folder(url).delete(name)
    with pytest.raises(OutputError, match="not complete"):
        gs.polygons(url)


def test_areas_in_words():
    assert parse_area("1km2") == (1e6, False)
    assert parse_area(250) == (250.0, False)
    assert parse_area(None) == (0.0, False)
    assert math.isclose(parse_area("1.5e1 ha")[0], 150_000)


_ = CLASSES

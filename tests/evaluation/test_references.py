"""References as people have them: other grids, odd labels, polygons and points."""

from __future__ import annotations

import geopandas
import numpy as np
import pytest
import rasterio
import shapely
from affine import Affine
from odc.geo.geobox import GeoBox
from rasterio.features import geometry_mask
from rasterio.warp import Resampling, reproject

import geoscale as gs
from geoscale.errors import JobError, SourceError
from geoscale.sources.shapes import CONFLICT, NONE, Shapes, as_label, load_shapes
from geoscale.windows import Window
from tests.evaluation.conftest import NAMES, UTM, blobs, write_labels, write_shapes


def notes(found):
    return " ".join(found.notes)


def square(x0, y0, x1, y1):
    """Rectangle in pixels of the map, in its CRS."""
    a, _, c, _, e, f = tuple(UTM.affine)[:6]
    return shapely.box(a * x0 + c, e * y1 + f, a * x1 + c, e * y0 + f)


def table(labels, shapes, crs="EPSG:32636", **columns):
    made = {"kind": labels, **columns}
    return geopandas.GeoDataFrame(made, geometry=shapes, crs=crs)


def test_another_crs_is_reprojected_and_said(output, utm, tmp_path):
    """As GDAL's warper does it, nearest."""
    grid = UTM.to_crs("EPSG:3857")
    labels = blobs(grid.shape, 3, 12)
    path = write_labels(tmp_path / "labels.tif", labels, grid, nodata=9)
    found = gs.evaluate(output, path)
    want = np.full(UTM.shape, 9, np.uint8)
    reproject(
        labels, want, src_transform=grid.affine, src_crs="EPSG:3857",
        dst_transform=UTM.affine, dst_crs="EPSG:32636", dst_nodata=9, src_nodata=9,
        resampling=Resampling.nearest, tolerance=1e-3,
    )  # fmt: skip
    good = (want != 9) & ~utm.holes
    assert found.pixels == good.sum()
    expected = [
        [((utm.classes == i) & (want == j) & good).sum() for j in range(3)]
        for i in range(3)
    ]
    assert np.abs(np.array(found.matrix) - expected).sum() <= 6
    assert "(EPSG:3857) was brought to its CRS (EPSG:32636) by nearest" in notes(found)


def test_coarse_references_are_counted_and_said(output, tmp_path):
    grid = GeoBox((50, 70), UTM.affine * Affine.scale(3), "EPSG:32636")
    path = write_labels(tmp_path / "coarse.tif", blobs((50, 70), 3, 1), grid)
    found = gs.evaluate(output, path)
    assert found.source["pixel_in_map_px"] == 3
    assert "3 times as wide as the map's: each is counted about 9 times" in notes(found)
    assert "states no nodata value" in notes(found)


def test_fine_references_can_be_voted_on(output, utm, tmp_path):
    """Of each 3 x 3, eight pixels say the truth and the middle one says otherwise."""
    fine = np.kron(utm.truth, np.ones((3, 3), np.uint8))
    fine[1::3, 1::3] = (utm.truth + 1) % 3
    grid = GeoBox(fine.shape, UTM.affine * Affine.scale(1 / 3), "EPSG:32636")
    path = write_labels(tmp_path / "fine.tif", fine, grid)
    nearest = gs.evaluate(output, path)
    assert "resampling mode takes the most frequent" in notes(nearest)
    voted = gs.evaluate(output, path, resampling="mode")
    good = ~utm.holes
    assert voted.accuracy == pytest.approx((utm.classes == utm.truth)[good].mean())
    middle = (utm.classes == (utm.truth + 1) % 3)[good].mean()
    assert nearest.accuracy == pytest.approx(middle)
    assert "by mode: the most frequent label" in notes(voted)


def test_the_same_grid_is_said_to_be_the_same(output, reference):
    found = gs.evaluate(output, reference)
    assert found.source["resampling"] == "none: pixel for pixel"
    assert "brought" not in notes(found)


def test_unknown_labels_are_listed(output, utm, tmp_path):
    labels = utm.truth.astype(np.int16)
    labels[:2], labels[2] = -1, 77
    path = write_labels(tmp_path / "labels.tif", labels, UTM)
    with pytest.raises(SourceError) as error:
        gs.evaluate(output, path)
    said = str(error.value)
    assert "does not know: -1 (420 px), 77 (210 px)" in said
    assert "0 land, 1 water, 2 bare soil" in said
    assert "--map-labels -1:CLASS" in said
    found = gs.evaluate(output, path, ignore=[-1], map_labels={77: "bare soil"})
    assert found.ignored_px == 420
    assert found.labels["-1"] is None
    assert found.labels["77"] == "bare soil"
    assert found.pixels == (~utm.holes[2:]).sum()
    same = gs.evaluate(output, path, nodata=-1, map_labels={77: 2})
    assert same.matrix == found.matrix
    assert same.ignored_px == 0


def test_labels_for_classes_that_are_not_there(output, reference):
    with pytest.raises(JobError, match=r"no class `watr`; did you mean `water`"):
        gs.evaluate(output, reference, map_labels={"5": "watr"})
    with pytest.raises(JobError, match=r"merge: the map has no class `9`"):
        gs.evaluate(output, reference, merge={"9": "x"})


def test_nodata_can_be_named_or_denied(output, utm, tmp_path):
    path = write_labels(tmp_path / "labels.tif", utm.truth, UTM, nodata=0)
    assert gs.evaluate(output, path).score("land").reference_px == 0
    found = gs.evaluate(output, path, nodata="none")
    assert found.score("land").reference_px == ((utm.truth == 0) & ~utm.holes).sum()


def test_labels_may_be_whole_floats_but_no_others(output, utm, tmp_path):
    labels = utm.truth.astype(np.float32)
    want = gs.evaluate(output, write_labels(tmp_path / "a.tif", utm.truth, UTM))
    labels[0] = np.nan
    found = gs.evaluate(output, write_labels(tmp_path / "b.tif", labels, UTM))
    assert found.pixels == want.pixels - (~utm.holes[0]).sum()
    path = write_labels(tmp_path / "c.tif", labels + 0.25, UTM)
    with pytest.raises(SourceError, match=r"no raster of labels: it holds"):
        gs.evaluate(output, path)


def test_a_picture_is_no_reference(output, tmp_path):
    values = np.arange(150 * 210, dtype=np.int32).reshape(150, 210)
    path = write_labels(tmp_path / "dem.tif", values, UTM)
    with pytest.raises(SourceError, match="more than 1,000 different values"):
        gs.evaluate(output, path)


def test_the_band_of_labels_must_be_named(output, utm, tmp_path):
    both = np.stack([utm.truth * 0 + 9, utm.truth])
    path = write_labels(tmp_path / "two.tif", both, UTM)
    with pytest.raises(SourceError, match=r"has the bands B1, B2; name the one"):
        gs.evaluate(output, path)
    with pytest.raises(SourceError, match=r"none is `B3`"):
        gs.evaluate(output, path, band="B3")
    found = gs.evaluate(output, path, band="2")
    assert found.matrix == gs.evaluate(output, path, band="B2").matrix
    assert found.score("land").reference_px


def test_several_files_are_one_reference(output, utm, tmp_path):
    whole = gs.evaluate(output, write_labels(tmp_path / "whole.tif", utm.truth, UTM))
    write_labels(tmp_path / "part-a.tif", utm.truth[:, :100], UTM[:, :100])
    write_labels(tmp_path / "part-b.tif", utm.truth[:, 100:], UTM[:, 100:])
    assert gs.evaluate(output, tmp_path / "part-*.tif").matrix == whole.matrix


def test_a_reference_elsewhere_says_where_both_lie(output, utm, tmp_path):
    away = GeoBox(UTM.shape, UTM.affine * Affine.translation(9000, 0), "EPSG:32636")
    path = write_labels(tmp_path / "away.tif", utm.truth, away)
    with pytest.raises(SourceError, match="does not meet the map: it lies at 31"):
        gs.evaluate(output, path)
    write_shapes(tmp_path / "away.gpkg", away)
    with pytest.raises(SourceError, match="does not meet the map: it lies at 31"):
        gs.evaluate(output, tmp_path / "away.gpkg")


def test_a_reference_of_nodata_alone_is_refused(output, utm, tmp_path):
    path = write_labels(tmp_path / "no.tif", utm.truth * 0 + 9, UTM, nodata=9)
    with pytest.raises(SourceError, match="has no label in the map"):
        gs.evaluate(output, path)
    path = write_labels(tmp_path / "ignored.tif", utm.truth * 0 + 9, UTM)
    with pytest.raises(SourceError, match="no pixel can be compared: of 31,500"):
        gs.evaluate(output, path, ignore=[9])


def test_labels_only_where_the_map_is_nodata(output, utm, tmp_path):
    labels = np.where(utm.holes, 1, 9).astype(np.uint8)
    path = write_labels(tmp_path / "holes.tif", labels, UTM, nodata=9)
    with pytest.raises(SourceError, match="the map has no class at the others"):
        gs.evaluate(output, path)


@pytest.mark.parametrize("end", ["gpkg", "geojson", "parquet", "fgb", "shp"])
def test_polygons_label_the_pixels_whose_centre_they_hold(output, utm, tmp_path, end):
    """Against rasterio on the whole grid; where labels meet, there is none."""
    path = tmp_path / f"labels.{end}"
    shapes = write_shapes(path, UTM, seed=2, crs="EPSG:32636" if end != "geojson" else (
        "EPSG:4326"
    ))  # fmt: skip
    found = gs.evaluate(output, path)
    shapes = shapes.to_crs("EPSG:32636")
    masks = np.zeros((3, *UTM.shape), bool)
    for kind, shape in zip(shapes.kind, shapes.geometry, strict=True):
        masks[NAMES.index(kind)] |= geometry_mask(
            [shape], UTM.shape, UTM.affine, invert=True
        )
    conflict = masks.sum(axis=0) > 1
    masks[:, conflict] = False
    expected = [[((utm.classes == i) & m).sum() for m in masks] for i in range(3)]
    slack = 4 if end == "geojson" else 0
    assert np.abs(np.array(found.matrix) - expected).sum() <= slack
    assert abs(found.conflict_px - conflict.sum()) <= slack
    assert conflict.any()
    assert 50 < found.source["shapes"] <= 60  # some lie wholly beyond the edge
    assert "polygon that its centre lies in" in notes(found)


def test_polygons_of_another_crs_are_projected(output, utm, tmp_path):
    table(["land", "water"], [square(10, 20, 40, 60), square(60, 20, 90, 60)]).to_crs(
        "EPSG:3035"
    ).to_file(tmp_path / "labels.gpkg")
    found = gs.evaluate(output, tmp_path / "labels.gpkg")
    good = ~utm.holes[20:60, 10:40]
    assert found.score("land").reference_px == pytest.approx(good.sum(), abs=8)
    assert "(EPSG:3035) was projected" in notes(found)


def test_points_label_the_pixel_they_lie_in(output, utm, tmp_path):
    rng = np.random.default_rng(5)
    rows, columns = np.divmod(rng.choice(150 * 210, 400, replace=False), 210)
    x, y = (columns + rng.random(400), rows + rng.random(400))
    a, _, c, _, e, f = tuple(UTM.affine)[:6]
    points = shapely.points(a * x + c, e * y + f)
    table(utm.truth[rows, columns], points).to_file(tmp_path / "sample.gpkg")
    found = gs.evaluate(output, tmp_path / "sample.gpkg", sample=True)
    assert found.pixels + found.unmapped_px == 400
    ours, truth = utm.classes[rows, columns], utm.truth[rows, columns]
    assert np.trace(found.matrix) == (ours == truth).sum()
    assert "several are counted once" in notes(found)


def test_columns_are_chosen_by_name(output, tmp_path):
    made = table(
        ["water", None], [square(0, 0, 9, 9), square(20, 20, 30, 30)], id=[1, 2]
    )
    made.to_file(tmp_path / "labels.gpkg")
    with pytest.raises(SourceError, match=r"has the columns kind, id; name the one"):
        gs.evaluate(output, tmp_path / "labels.gpkg")
    with pytest.raises(SourceError, match=r"none is `kin`; did you mean `kind`"):
        gs.evaluate(output, tmp_path / "labels.gpkg", attribute="kin")
    found = gs.evaluate(output, tmp_path / "labels.gpkg", attribute="kind")
    assert found.labels == {"water": "water"}
    assert "1 shapes have no label" in notes(found)
    by_id = gs.evaluate(
        output, tmp_path / "labels.gpkg", attribute="id", map_labels={1: 1, 2: 2}
    )
    assert by_id.labels == {"1": "water", "2": "bare soil"}


def test_names_match_whatever_their_case(output, tmp_path):
    table(["Bare_Soil"], [square(0, 0, 9, 9)]).to_file(tmp_path / "labels.gpkg")
    found = gs.evaluate(output, tmp_path / "labels.gpkg")
    assert found.labels == {"Bare_Soil": "bare soil"}


def test_layers_are_chosen_by_name(output, tmp_path):
    path = tmp_path / "labels.gpkg"
    table(["water"], [square(0, 0, 9, 9)]).to_file(path, layer="a")
    table(["land"], [square(0, 0, 9, 9)]).to_file(path, layer="b")
    with pytest.raises(SourceError, match=r"has the layers a, b; name one"):
        gs.evaluate(output, path)
    assert gs.evaluate(output, path, band="b").labels == {"land": "land"}


def test_what_holds_no_labels_is_refused(output, reference, tmp_path):
    line = shapely.LineString([(300_010, 4_999_990), (300_500, 4_999_000)])
    table(["water"], [line]).to_file(tmp_path / "lines.gpkg")
    with pytest.raises(SourceError, match="holds LineString; labels need polygons"):
        gs.evaluate(output, tmp_path / "lines.gpkg")
    bare = table(["water"], [square(0, 0, 9, 9)], crs=None)
    bare.to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(SourceError, match="has no CRS"):
        gs.evaluate(output, tmp_path / "bare.parquet")
    with pytest.raises(SourceError, match="is no local file"):
        gs.evaluate(output, tmp_path / "nowhere.gpkg")
    (tmp_path / "torn.gpkg").write_bytes(b"SQLite format 3\0 and nothing more")
    with pytest.raises(SourceError, match="cannot read"):
        gs.evaluate(output, tmp_path / "torn.gpkg")
    table([0.5], [square(0, 0, 9, 9)]).to_file(tmp_path / "half.gpkg")
    with pytest.raises(SourceError, match=r"0.5 of column `kind` is no label"):
        gs.evaluate(output, tmp_path / "half.gpkg")
    with pytest.raises(JobError, match="is a raster, which has no attribute"):
        gs.evaluate(output, reference, attribute="kind")
    with pytest.raises(JobError, match="nodata is for rasters"):
        gs.evaluate(output, tmp_path / "half.gpkg", nodata=0)


def test_shapes_read_by_window_are_the_whole():
    rng = np.random.default_rng(0)
    corners = rng.random((40, 3, 2)) * 500
    shapes = Shapes(
        [shapely.Polygon(c) for c in corners], rng.integers(0, 3, 40), (600, 700)
    )
    whole = shapes.read(Window(0, 0, 600, 700))
    assert {NONE, CONFLICT, 0, 1, 2} == set(np.unique(whole))
    for window in (Window(3, 5, 401, 333), Window(255, 256, 258, 520)):
        part = whole[window.y0 : window.y1, window.x0 : window.x1]
        assert np.array_equal(shapes.read(window), part)
    assert len(shapes.read(Window(0, 0, 0, 9))) == 0
    assert not shapes.touches(Window(550, 600, 600, 700))


def test_edges_through_centres_do_not_depend_on_the_window():
    """Corners on centres, far from the origin: GDAL's rounding hangs on the window."""
    rng = np.random.default_rng(1)
    cells = np.stack(np.mgrid[:80, :8], axis=-1).reshape(-1, 1, 2) * 50 + 150_000
    corners = cells + rng.integers(0, 40, (640, 3, 2)) + 0.5
    corners += rng.integers(0, 3, (640, 3, 2)) / 3
    area = shapely.polygons(corners)
    shapes = Shapes(area, np.zeros(640, int), (200_000, 200_000))
    narrow = shapes.read(Window(150_000, 150_000, 150_400, 154_000))
    wide = shapes.read(Window(150_000, 130_000, 150_400, 154_000))[:, 20_000:]
    assert (narrow == 0).any()
    assert np.array_equal(narrow, wide)


def test_labels_are_text():
    assert [as_label(v) for v in (3, 3.0, np.int8(3), "3", True)] == ["3"] * 4 + ["1"]
    assert [as_label(v) for v in (None, float("nan"), " ")] == [None] * 3


def test_only_shapes_near_the_map_are_held(tmp_path):
    near, away = square(0, 0, 9, 9), square(5000, 0, 5009, 9)
    for end in ("gpkg", "parquet"):
        path = tmp_path / f"labels.{end}"
        made = table(["a", "b"], [near, away])
        made.to_parquet(path) if end == "parquet" else made.to_file(path)
        found = load_shapes(str(path), UTM)
        assert found.labels == ("a",)
        assert found.box[2] > 31  # of the whole file


def test_no_file_is_left_open_for_writing(output, reference):
    gs.evaluate(output, reference)
    with rasterio.open(reference, "r+") as file:
        assert file.nodata == 200

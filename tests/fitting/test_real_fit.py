"""Real labels on real imagery: land use of eo-learn's patch in Slovenia."""

import geopandas as gpd
import numpy as np
import pytest
import shapely

import geoscale as gs
from tests.support.cards import dynamic_world

pytest.importorskip("sklearn")
pytest.importorskip("spyndex")

# forest, grassland, shrubland, artificial surface; cultivated land has 11 px in all
CLASSES = (2, 3, 4, 8)


def draw_points(data_dir, to, per_class, seed=0):
    """Some pixels of each class as points, in degrees; and the raster."""
    import rasterio

    with rasterio.open(data_dir / "eolearn" / "LULC.tif") as file:
        truth, affine, crs = file.read(1), file.transform, file.crs
    rng = np.random.default_rng(seed)
    codes, places = [], []
    for code in CLASSES:
        ys, xs = np.nonzero(truth == code)
        for k in rng.permutation(len(ys))[:per_class]:
            codes.append(code)
            places.append(shapely.Point(*(affine * (xs[k] + 0.5, ys[k] + 0.5))))
    table = gpd.GeoDataFrame({"lulc": codes}, geometry=places, crs=crs)
    table.to_crs(4326).to_file(to)
    return to, truth


def open_date(data_dir):
    return gs.open_stack(
        data_dir / "eolearn" / "S2L1C_20150711T100008.tif",
        sensor="sentinel-2",
        scale=1e-4,
        source_nodata="none",
    )


@pytest.mark.parametrize("per_class", [pytest.param(10, marks=pytest.mark.slow), 50])
def test_dynamic_worlds_features_and_raw_bands_stand_side_by_side(
    data_dir, tmp_path, per_class
):
    labels, truth = draw_points(data_dir, tmp_path / "l.gpkg", per_class)
    stack = open_date(data_dir)
    found = gs.fit(
        labels, stack, dynamic_world(data_dir), tmp_path / "head",
        with_bands=True, folds=4, block_m=100, trust_code=True,
    )  # fmt: skip
    print(found)
    assert found.report["counts"] == [per_class] * len(CLASSES)
    held = {k: v["pooled"]["accuracy"] for k, v in found.report["features"].items()}
    assert set(held) == {"chosen", "bands", "indices"}
    assert all(accuracy > 0.35 for accuracy in held.values()), "chance is 0.25"
    text = (tmp_path / "head" / "report.md").read_text()
    assert all(f"{accuracy:.3f}" in text for accuracy in held.values())
    plan = gs.plan(stack, found.card, block_px=64)
    gs.run(plan, tmp_path / "map.zarr", trust_code=True)
    made = gs.open_output(str(tmp_path / "map.zarr")).classes.values[0]
    assert set(np.unique(made)) <= set(CLASSES)
    known = np.isin(truth, CLASSES)
    # labels are even, the land is not: the map's own accuracy is another figure
    assert (made == truth)[known].mean() > 0.4


def test_the_course_of_the_year_is_a_feature(data_dir, tmp_path):
    labels, truth = draw_points(data_dir, tmp_path / "l.gpkg", 50)
    clear = [f"S2L1C_{d}.tif" for d in ("20150711T100008", "20150830T100547")]
    stack = gs.open_stack(
        {"files": [str(data_dir / "eolearn" / name) for name in clear]},
        sensor="sentinel-2", scale=1e-4, source_nodata="none",
    )  # fmt: skip
    found = gs.fit(
        labels, stack, "features:bands", tmp_path / "head",
        dates="all", folds=4, block_m=100, sensor="sentinel-2",
    )  # fmt: skip
    print(found)
    assert found.report["features"]["chosen"]["count"] == 26
    gs.run(gs.plan(stack, found.card, block_px=64), tmp_path / "map.zarr")
    made = gs.open_output(str(tmp_path / "map.zarr")).classes.values
    assert made.shape == (1, *truth.shape)
    known = np.isin(truth, CLASSES)
    assert (made[0] == truth)[known].mean() > 0.4

"""Which dates make an image, which one gave a pixel, and how many could have."""

from __future__ import annotations

import json
import warnings

import numpy as np
import pytest

from geoscale.errors import SourceError
from geoscale.sources import open_source, reducing, source_from_spec
from tests.sources.test_composite import (
    DATES,
    HEIGHT,
    METHODS,
    WIDTH,
    expect,
    expect_of,
    open_composite,
    season,
    whole,
)

__all__ = ["season"]


@pytest.mark.parametrize("method", METHODS)
def test_counts_and_days_of_the_pixels(season, method, monkeypatch):
    items, data, scl = season
    monkeypatch.setattr(reducing, "COMPOSITE_BYTES", 1)
    names = ["observations"] + ["observed"] * (method not in ("median", "mean"))
    source = open_composite(items, method, layers=names)
    got = source.read(whole(source), [0])
    clear = np.isin(scl, [4, 5])
    assert set(got.layers) == set(names)
    assert got.layers["observations"].dtype == np.uint16
    assert (got.layers["observations"][0] == clear.sum(axis=0)).all()
    assert (got.shown[0] == (scl > 0).any(axis=0)).all()
    if "observed" in names:
        _, some, best = expect_of(data, clear, method)
        days = np.array([f"2024-0{k + 1}-10" for k in range(DATES)], "M8[D]")
        wanted = np.where(some, days.astype(int)[best], 65535)
        assert (got.layers["observed"][0] == wanted).all()
    plain = open_composite(items, method).read(whole(source), [0])
    assert plain.data.tobytes() == got.data.tobytes()
    again = source_from_spec(json.loads(json.dumps(source.spec())), source.tables())
    assert again.spec() == source.spec()
    for name, layer in again.read(whole(again), [0]).layers.items():
        assert (layer == got.layers[name]).all()


def test_where_there_is_no_imagery_nothing_is_counted(season):
    source = open_composite(season[0][:1], "first", layers=["observations"])
    got = source.read(whole(source), [0])
    count = got.layers["observations"][0]
    assert (count[60:] == 65535).all()
    assert set(np.unique(count[:60])) == {0, 1}
    assert not got.shown[0][60:].any()
    assert got.shown[0][:60].all()


def test_what_is_said_of_a_source_without_layers_is_what_it_was(season):
    """Plans that are there keep their names."""
    spec = open_composite(season[0]).spec()
    assert set(spec) == {
        "kind", "base", "grid", "reading", "remote", "periods", "method", "mask"
    }  # fmt: skip
    assert set(spec["mask"]) == {"asset", "keep", "drop", "bits", "names", "dilate"}


def test_near_says_which_date_is_wanted(season):
    one = open_composite(season[0], "nearest", near="2024-06-01")
    assert one._order(one.periods[0]) == (5, 4, 6, 3, 2, 1, 0)
    periods = {"a": "2024-01/2024-03", "b": "2024-04/2024-07"}
    near = {"b": "2024-04-01"}
    two = open_composite(season[0], "nearest", periods=periods, near=near)
    assert [two._order(p) for p in two.periods] == [(1, 2, 0), (3, 4, 5, 6)]
    assert two.periods[0].middle.startswith("2024-02-15")


def test_each_scene_is_a_period_of_its_own(season):
    items, data, scl = season
    source = open_composite(items, None, periods="each scene")
    assert source.times == tuple(f"2024-0{k + 1}-10T10:00:00" for k in range(DATES))
    got = source.read(whole(source), [0, 6])
    assert (got.valid == np.isin(scl[[0, 6]], [4, 5])).all()
    assert (got.data[1][:, got.valid[1]] == data[6][:, got.valid[1]]).all()


def test_a_list_of_dates_is_a_list_of_days(season):
    source = open_composite(season[0], periods=["2024-02-10", "2024-05-10"])
    assert [p.steps for p in source.periods] == [(1,), (4,)]


def test_best_takes_the_mean_over_the_items_of_a_date(season):
    items = season[0]
    other = {**items[5], "id": "beside"}
    other["properties"] = {**other["properties"], "eo:cloud_cover": 30.0}
    source = open_composite([*items, other], "best")
    assert source.recipe.cloud == (20.0, 5.0, 20.0, 60.0, 5.0, 15.75, 20.0)


def test_best_needs_to_know_the_cloud(season):
    items = [{**item, "properties": dict(item["properties"])} for item in season[0]]
    del items[2]["properties"]["eo:cloud_cover"]
    with pytest.raises(SourceError, match="1 of 7 items do not state"):
        open_composite(items, "best")


def test_masks_of_a_coarser_grid_are_read_by_the_nearest(season, write_tif):
    items, data, _ = season
    shape = (HEIGHT // 2, WIDTH // 2)
    rng = np.random.default_rng(5)
    coarse = rng.choice([4, 9], (DATES, *shape)).astype(np.uint8)
    grid = [20.0, 0.0, 600000.0, 0.0, -20.0, 5000000.0]
    changed = []
    for k, item in enumerate(items):
        path = write_tif(f"coarse{k}.tif", coarse[k], transform=grid)
        told = {"href": path, "proj:shape": list(shape), "proj:transform": grid}
        assets = {**item["assets"], "scl": item["assets"]["scl"] | told}
        changed.append({**item, "assets": assets})
    source = open_composite(changed, "first")
    assert source.geobox.shape == (HEIGHT, WIDTH)
    got = source.read(whole(source), [0])
    clear = np.kron(coarse == 4, np.ones((2, 2), bool))
    wanted, some, _ = expect_of(data, clear, "first")
    assert (got.valid[0] == some).all()
    assert (got.data[0] == wanted).all()


def test_dates_of_other_bands_are_refused(season):
    items = season[0]
    short = {k: v for k, v in items[3]["assets"].items() if k != "nir"}
    changed = [*items[:3], {**items[3], "assets": short}, *items[4:]]
    with pytest.raises(SourceError, match="1 of 7 items lack `nir`"):
        open_composite(changed)


def test_dates_of_other_offsets_are_of_one_scale(season):
    """Before 2022 Sentinel-2 had no offset, since then -1000 is to be added."""
    items, data, scl = season
    changed = []
    for k, item in enumerate(items):
        told = {"platform": "sentinel-2a"}
        told["s2:processing_baseline"] = "04.00" if k > 3 else "03.01"
        changed.append({**item, "properties": {**item["properties"], **told}})
    with pytest.raises(SourceError, match="their numbers are 1000 apart"):
        open_composite(changed)
    source = open_composite(changed, "median", harmonize="s2-boa")
    got = source.calibrated("reflectance", 10000).read(whole(source), [0])
    moved = data.astype(np.float32)
    moved[4:] -= 1000
    wanted, some = expect(moved, scl, "median")
    assert (got.valid[0] == some).all()
    np.testing.assert_allclose(got.data[0], wanted, atol=0.01)


def test_the_median_is_that_of_stackstac_and_xarray(season):
    """Another library's reading and another's median, of the same items."""
    import geoscale as gs

    items, _, _ = season
    source = open_composite(items, "median")
    got = source.read(whole(source), [0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        names = ["red", "nir", "scl"]
        stack = gs.open_stack(
            items, bands=names, engine="stackstac", resampling="nearest"
        )
        stack = stack.compute()
        clear = stack.sel(band="scl").isin([4, 5])
        wanted = stack.sel(band=["red", "nir"]).where(clear).median("time")
    assert (np.isfinite(wanted[0]).values == got.valid[0]).all()
    inside = got.valid[0]
    assert (wanted.values[:, inside].astype(np.float32) == got.data[0][:, inside]).all()


def test_a_source_of_scenes_is_needed_for_layers(tmp_path):
    with pytest.raises(SourceError, match="near and layers are for scenes"):
        open_source({"zarr": str(tmp_path), "layers": ["observations"]})

"""Overviews equal a slow reference, whatever the edge, and keep their place."""

from __future__ import annotations

import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the accessor)
import pytest
import xarray as xr
import zarr

from geoscale.errors import OutputError
from geoscale.sinks.layout import open_output
from geoscale.sinks.overviews import halve, reduce_mean, reduce_mode, write_overviews
from geoscale.sinks.zarr import ZarrSink


def slow_mode(data, fill):
    rows, columns = data.shape
    out = np.full((-(-rows // 2), -(-columns // 2)), fill, data.dtype)
    for y, x in np.ndindex(out.shape):
        quad = data[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        values = [v for v in quad.ravel() if v != fill]
        if values:
            out[y, x] = max(values, key=values.count)
    return out


def slow_mean(data, fill):
    rows, columns = data.shape
    out = np.full((-(-rows // 2), -(-columns // 2)), fill, data.dtype)
    for y, x in np.ndindex(out.shape):
        values = data[2 * y : 2 * y + 2, 2 * x : 2 * x + 2].ravel()
        values = values[~np.isnan(values) if np.isnan(fill) else values != fill]
        if len(values):
            out[y, x] = (
                np.rint(values.mean()) if data.dtype.kind == "u" else values.mean()
            )
    return out


@pytest.fixture(scope="module")
def pyramid(finished, tmp_path_factory):
    url = str(tmp_path_factory.mktemp("pyramid") / "out.zarr")
    shutil.copytree(finished, url)
    return url, write_overviews(url, smallest_px=60)


@pytest.mark.parametrize("shape", [(8, 6), (7, 9), (1, 1), (2, 1)])
def test_reductions_equal_the_slow_ones(shape):
    rng = np.random.default_rng(3)
    classes = rng.choice(np.array([0, 1, 7, 255], np.uint8), shape)
    np.testing.assert_array_equal(reduce_mode(classes, 255), slow_mode(classes, 255))
    np.testing.assert_array_equal(reduce_mean(classes, 255), slow_mean(classes, 255))
    floats = np.where(classes == 255, np.nan, classes / 3).astype(np.float32)
    np.testing.assert_allclose(reduce_mean(floats, np.nan), slow_mean(floats, np.nan))


def test_levels_equal_the_reductions_of_the_whole(kit, pyramid):
    url, _ = pyramid
    for time in (0, 1):
        full = kit.full(time)
        classes, confidence = full["classes"], full["confidence"]
        scores = full["scores"]
        for factor in (2, 4):
            classes = slow_mode(classes, 255)
            confidence = slow_mean(confidence, 255)
            scores = np.stack([reduce_mean(s, np.nan) for s in scores])
            ds = xr.open_zarr(
                url, group=f"overviews/{factor}", chunks=None, mask_and_scale=False
            ).isel(time=time)
            np.testing.assert_array_equal(ds.classes.values, classes)
            np.testing.assert_array_equal(ds.confidence.values, confidence)
            np.testing.assert_array_equal(ds.scores.values, scores)


def test_levels_keep_the_corner_and_double_the_pixel(kit, pyramid):
    url, _ = pyramid
    grid = kit.template().geobox
    ds = open_output(url, group="overviews/4")
    found = ds.odc.geobox
    assert found.shape == (38, 53)
    assert (found.transform.a, found.transform.e) == (40, -40)
    assert (found.transform.c, found.transform.f) == (
        grid.transform.c,
        grid.transform.f,
    )
    assert ds.odc.crs == grid.crs


def test_the_root_announces_the_levels_and_still_opens(kit, pyramid):
    url, _ = pyramid
    ds = open_output(url)
    layout = ds.attrs["multiscales"]["layout"]
    assert [e["asset"] for e in layout] == [".", "overviews/2", "overviews/4"]
    assert layout[2]["derived_from"] == "overviews/2"
    assert layout[2]["spatial:shape"] == [38, 53]
    assert ds.attrs["multiscales"]["resampling_method"] == "mode"
    assert ds.attrs["plan_hash"] == "abc"
    assert {c["name"] for c in ds.attrs["zarr_conventions"]} == {
        "multiscales",
        "proj",
        "spatial",
    }
    np.testing.assert_array_equal(ds.classes[0].values, kit.full(0)["classes"])
    assert zarr.open_group(url, mode="r")["overviews/4/classes"].shape == (2, 38, 53)


def test_a_damaged_map_gives_no_overview(finished, tmp_path):
    url = str(tmp_path / "out.zarr")
    shutil.copytree(finished, url)
    path = tmp_path / "out.zarr/classes/c/0/1/1"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(
        OutputError, match=r"`/classes` is damaged at .* `geoscale repair`"
    ):
        write_overviews(url, smallest_px=60)


def test_gathered_metadata_are_those_that_zarr_gathers(pyramid, tmp_path):
    url, _ = pyramid
    copy = tmp_path / "copy.zarr"
    shutil.copytree(url, copy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(copy), zarr_format=3)
    ours = json.loads((Path(url) / "zarr.json").read_text())
    assert json.loads((copy / "zarr.json").read_text()) == ours


def test_digests_are_those_of_the_store_and_of_a_second_run(kit, pyramid):
    url, digests = pyramid
    sink = ZarrSink(url, kit.template())
    assert len(digests) == 2 * 3 * (2 * 2 + 1)
    assert {k: sink.fetch_digest(k) for k in digests} == digests
    assert write_overviews(url, smallest_px=60) == digests


def test_a_small_map_needs_no_level(finished, tmp_path):
    url = str(tmp_path / "out.zarr")
    shutil.copytree(finished, url)
    assert write_overviews(url) == {}
    assert len(open_output(url).attrs["multiscales"]["layout"]) == 1


def test_halving_odd_sizes_keeps_every_pixel(kit):
    assert halve(kit.template()).shape == (75, 105)
    assert halve(halve(kit.template())).shape == (38, 53)


def test_no_output_no_overviews(tmp_path):
    with pytest.raises(OutputError, match="is not there"):
        write_overviews(str(tmp_path / "no.zarr"))

"""Several dates to one image: no cloud where there is a clear view."""

from __future__ import annotations

import json
import resource
import weakref
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geoscale.engine.failures import classify
from geoscale.errors import JobError, SourceError, StoppedError
from geoscale.sources import open_source, reducing, source_from_spec
from geoscale.sources.clear import Mask, grow
from geoscale.sources.gdal import COUNTS
from geoscale.sources.periods import find_periods, parse_period
from geoscale.sources.raster import RasterSource
from geoscale.sources.tiles import TILES
from geoscale.windows import Window

HEIGHT, WIDTH, DATES = 90, 70, 7
CLOUD = (20.0, 5.0, 20.0, 60.0, 5.0, 1.5, 20.0)
"""Percent of cloud as the items say, whatever the mask shows."""
BEST = [5, 4, 1, 2, 0, 6, 3]
"""Least cloud first; of equal ones the nearest to the middle, then the earlier."""


@pytest.fixture
def season(write_tif, tmp_path):
    """Seven dates of red, nir and scl; cloudy in other places each time."""
    rng = np.random.default_rng(11)
    data = rng.integers(1, 4000, (DATES, 2, HEIGHT, WIDTH)).astype(np.uint16)
    scl = rng.choice([4, 5, 8, 9, 3], (DATES, HEIGHT, WIDTH)).astype(np.uint8)
    scl[:, :6, :9] = 9  # never clear
    scl[0, 60:] = 0  # outside the scene
    items = []
    for k in range(DATES):
        red = write_tif(f"red{k}.tif", data[k, 0], nodata=0)
        nir = write_tif(f"nir{k}.tif", data[k, 1], nodata=0)
        told = write_tif(f"scl{k}.tif", scl[k], nodata=0)
        items.append(stac(k, {"red": red, "nir": nir, "scl": told}))
    return items, data, scl


def stac(k, files):
    grid = {
        "proj:code": "EPSG:32632",
        "proj:shape": [HEIGHT, WIDTH],
        "proj:transform": list(coordinates_transform()),
    }
    assets = {
        name: {
            "href": path, "type": "image/tiff; application=geotiff",
            "eo:bands": [{"name": name, "common_name": name}],
            "raster:bands": [{"data_type": "uint8" if name == "scl" else "uint16",
                              "nodata": 0, "scale": 0.0001}],
        }
        for name, path in files.items()
    }  # fmt: skip
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": f"day{k}",
        "properties": {
            "datetime": f"2024-0{k + 1}-10T10:00:00Z", "eo:cloud_cover": CLOUD[k],
            **grid,
        },
        "geometry": None, "assets": assets,
    }  # fmt: skip


def coordinates_transform():
    return (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)


def open_composite(items, method="median", **more):
    given = {"mask": {"asset": "scl", "keep": [4, 5]}} | more
    imagery = {"items": items, "composite": method, "allow_private": True, **given}
    return open_source(imagery, bands=["red", "nir"])


def whole(source):
    return Window(0, 0, *map(int, source.geobox.shape))


def expect(data, scl, method):
    return expect_of(data, np.isin(scl, [4, 5]), method)[:2]


def expect_of(data, clear, method):
    """Values, where any date is clear, and which date was taken."""
    values = np.where(clear[:, None], data, np.nan).astype(np.float32)
    some = clear.any(axis=0)
    values[:, :, ~some] = 0
    if method == "median":
        return np.nanmedian(values, axis=0), some, None
    if method == "mean":
        total = np.where(clear[:, None], data, 0).sum(axis=0, dtype=np.float64)
        mean = (total / np.maximum(clear.sum(axis=0), 1)).astype(np.float32)
        return mean, some, None
    if method == "max-ndvi":
        a, b = data[:, 1].astype(np.float32), data[:, 0].astype(np.float32)
        best = np.where(clear, (a - b) / (a + b), -np.inf).argmax(axis=0)
    else:
        order = {"first": range(DATES), "last": range(DATES - 1, -1, -1),
                 "nearest": [3, 4, 2, 1, 5, 0, 6], "best": BEST}[method]  # fmt: skip
        rank = np.full(DATES, 0)
        rank[list(order)] = range(DATES)
        best = np.where(clear, rank[:, None, None], 99).argmin(axis=0)
    picked = np.take_along_axis(data, best[None, None], 0)[0]
    return np.where(some, picked, 0), some, best


METHODS = ("median", "mean", "first", "last", "nearest", "best", "max-ndvi")


@pytest.mark.parametrize("method", METHODS)
def test_it_is_what_numpy_makes_of_the_clear_pixels(season, method, monkeypatch):
    items, data, scl = season
    source = open_composite(items, method)
    if method == "nearest":
        # the middle of all is a bit after the fourth date
        assert source.periods[0].middle.startswith("2024-04-10")
    monkeypatch.setattr(reducing, "COMPOSITE_BYTES", 1)  # one row at a time
    got = source.read(whole(source), [0])
    wanted, some = expect(data, scl, method)
    assert (got.valid[0] == some).all()
    assert not some[:6, :9].any()
    assert got.data.dtype == source.dtype
    assert (got.data[0] == wanted).all()


def test_dates_that_memory_does_not_hold_are_read_once(season, monkeypatch):
    """Whatever the number of strips of which the median is made."""
    read = []
    for most in (2**30, 1):
        monkeypatch.setattr(reducing, "COMPOSITE_BYTES", most)
        TILES.value.clear()
        before = COUNTS.tiles, COUNTS.reads
        source = open_composite(season[0], "median")
        got = source.read(whole(source), [0])
        read.append((COUNTS.tiles - before[0], COUNTS.reads - before[1], got))
    (tiles, reads, here), (again, more, spilled) = read
    assert (tiles, reads) == (again, more)
    assert here.data.tobytes() == spilled.data.tobytes()


def test_no_room_for_the_dates_of_a_median_says_where(season, monkeypatch):
    monkeypatch.setattr(reducing, "COMPOSITE_BYTES", 1)
    source = open_composite(season[0], "median")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, usual[1]))
    try:
        with pytest.raises(
            StoppedError, match=r"cannot be kept in .*set TMPDIR"
        ) as err:
            source.read(whole(source), [0])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert classify(err.value) == "run"


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 999))
def test_windows_are_parts_of_the_whole(tmp_path_factory, seed):
    rng = np.random.default_rng(seed)
    source, full = made(tmp_path_factory)
    y0, x0 = rng.integers(0, HEIGHT - 1), rng.integers(0, WIDTH - 1)
    y1, x1 = rng.integers(y0 + 1, HEIGHT + 1), rng.integers(x0 + 1, WIDTH + 1)
    window = Window(int(y0), int(x0), int(y1), int(x1))
    got, inner = source.read(window, [0]), window.within(whole(source))
    assert got.data[0].tobytes() == full.data[0][(slice(None), *inner)].tobytes()
    assert (got.valid[0] == full.valid[0][inner]).all()


_made = {}


def made(factory):
    if not _made:
        import rasterio
        from affine import Affine

        folder, rng = factory.mktemp("season"), np.random.default_rng(2)
        items = []
        for k in range(DATES):
            files = {}
            for name in ("red", "nir", "scl"):
                path = str(folder / f"{name}{k}.tif")
                scl = rng.random((HEIGHT, WIDTH)) < 0.03
                values = np.where(scl, 9, 4) if name == "scl" else rng.integers(
                    1, 999, (HEIGHT, WIDTH)
                )  # fmt: skip
                with rasterio.open(
                    path, "w", driver="GTiff", height=HEIGHT, width=WIDTH, count=1,
                    dtype="uint8" if name == "scl" else "uint16", nodata=0,
                    crs="EPSG:32632", transform=Affine(*coordinates_transform()),
                ) as file:  # fmt: skip
                    file.write(values.astype(file.dtypes[0]), 1)
                files[name] = path
            items.append(stac(k, files))
        mask = {"asset": "scl", "drop": ["cloud_high"], "dilate": 5}
        source = open_composite(items, "first", mask=mask)
        _made["is"] = source, source.read(whole(source), [0])
    return _made["is"]


def test_it_travels_as_its_spec(season):
    source = open_composite(season[0], periods={"a": "2024-01/2024-03", "b": "2024-05"})
    assert [p.steps for p in source.periods] == [(0, 1, 2), (4,)]
    assert source.times == ("2024-01-01T00:00:00", "2024-05-01T00:00:00")
    again = source_from_spec(json.loads(json.dumps(source.spec())), source.tables())
    both = [s.read(whole(s), [0, 1]) for s in (source, again)]
    assert both[0].data.tobytes() == both[1].data.tobytes()
    windows, items = source.match(np.array([[0, 0, 9, 9.0]]), 0)
    assert (windows.tolist(), items.tolist()) == ([0, 0, 0], [0, 1, 2])
    scaled = source.calibrated("reflectance", 10000).read(whole(source), [1])
    assert np.allclose(scaled.data, both[0].data[1:], atol=0.01)


def test_an_edge_of_a_scene_is_no_cloud(season):
    items, _, scl = season
    wide = open_composite(
        items[:1], mask={"asset": "scl", "drop": ["cloud_high"], "dilate": 3}
    )
    got = wide.read(whole(wide), [0])
    cloud = (scl[0] == 9)[:60]
    assert (got.valid[0][:60] == ~grow(np.pad(cloud, ((0, 30), (0, 0))), 3)[:60]).all()


def test_growing_is_a_square():
    from scipy import ndimage

    rng = np.random.default_rng(0)
    for by in (0, 1, 4, 60):
        seen = rng.random((40, 50)) < 0.01
        wanted = ndimage.binary_dilation(seen, np.ones((2 * by + 1, 2 * by + 1)))
        assert (grow(seen, by) == wanted).all()


@pytest.mark.parametrize(
    ("mask", "clear"),
    [
        ({"asset": "scl", "keep": ["vegetation", 5]}, [0, 0, 1, 1, 0]),
        ({"asset": "scl", "drop": [4]}, [1, 1, 0, 1, 1]),
        ({"asset": "qa_pixel", "bits": ["fill", "dilated_cloud"]}, [1, 0, 1, 0, 0]),
        ({"asset": "x", "bits": [2]}, [1, 1, 0, 0, 1]),
    ],
)
def test_rules_of_masks(mask, clear):
    values = np.array([[0, 1, 4, 5, 2]], np.float32)
    assert Mask(**mask).find_clear(values)[0].astype(int).tolist() == clear


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"mask": {"asset": "scl"}}, "exactly one of keep, drop, bits"),
        ({"mask": {"asset": "scl", "keep": ["vegetable"]}}, "did you mean"),
        ({"mask": {"asset": "qc", "drop": ["cloud"]}}, "whose classes `qc` has"),
        ({"mask": {"asset": "nope", "keep": [1]}}, "7 of 7 items lack `nope`"),
        ({"composite": "max-ndvi", "bands": ["red"]}, "needs the bands red and nir"),
        ({"periods": {"a": "2024-01", "b": "2024-01/2024-02"}}, "overlap"),
        ({"periods": {"a": "2023"}}, r"no scene; the nearest of 7 dates is 2024-01-10"),
        ({"periods": {"a": "2024-05/2024-02"}}, "ends before it begins"),
        ({"periods": {"a": "summer"}}, "`summer` is not an ISO 8601 date"),
        ({"composite": "medean"}, "composite"),
        ({"mask": {"asset": "scl", "model": "x", "keep": [4]}}, "not both"),
        ({"mask": {"keep": [4]}}, "either asset, a band, or model"),
        ({"mask": {"model": "x", "bits": [4]}}, "keep or drop, without names"),
        ({"mask": {"model": "x", "keep": [4]}}, "it serves jobs"),
        ({"near": "2024-05-01"}, "for composite nearest and best, not median"),
        ({"composite": "nearest", "near": "may"}, "`may` is not an ISO 8601 date"),
        ({"composite": "best", "near": {"al": "2024-05-01"}}, "did you mean `all`"),
        ({"composite": "mean", "layers": ["observed"]}, "is of no single date"),
        ({"composite": "vote", "layers": ["observations"]}, "not for composite vote"),
        ({"layers": ["observation"]}, "layers"),
    ],
)
def test_what_cannot_be_is_said(season, change, match):
    given = {"items": season[0], "mask": {"asset": "scl", "keep": [4]}} | change
    with pytest.raises((SourceError, JobError), match=match):
        open_source(given, bands=change.get("bands", ["red", "nir"]))


def test_arrays_are_left_to_xarray(tmp_path):
    with pytest.raises(SourceError, match="make the composite with xarray"):
        open_source({"zarr": str(tmp_path), "composite": "median"})


def test_periods_are_sorted_and_hold_their_last_day():
    times = [f"2024-{m:02d}-28T23:59:00" for m in range(1, 13)]
    found = find_periods({"late": "2024-11/2024-12-28", "early": "2024-01-28"}, times)
    assert [(p.name, p.steps) for p in found] == [("early", (0,)), ("late", (10, 11))]
    assert parse_period("2024")[1].year == 2025


NAMES = [
    "B1",
    "B2",
    "B3",
    "B4",
    "B5",
    "B6",
    "B7",
    "B8",
    "B8A",
    "B9",
    "B10",
    "B11",
    "B12",
]


@pytest.fixture
def bohinj(data_dir: Path, tmp_path: Path):
    """Five real dates, two of them under cloud; what is bright in blue is cloud."""
    import rasterio

    items, scenes, clouds = [], [], []
    for path in sorted((data_dir / "eolearn").glob("S2L1C_2015*.tif")):
        with rasterio.open(path) as file:
            scene, profile = file.read(), file.profile
        cloud = (scene[1] > 1000).astype(np.uint8)
        told = tmp_path / f"cloud-{path.name}"
        with rasterio.open(
            told, "w", **{**profile, "count": 1, "dtype": "uint8"}
        ) as file:
            file.write(cloud, 1)
        items.append(real_item(path, told, scene.shape[1:], profile))
        scenes.append(scene)
        clouds.append(cloud > 0)
    return items, np.stack(scenes), np.stack(clouds)


def real_item(path, told, shape, profile):
    day = path.name.split("_")[1]
    kind = "image/tiff; application=geotiff"
    bands = [{"name": name, "scale": 0.0001} for name in NAMES]
    return {
        "type": "Feature", "stac_version": "1.0.0", "id": day, "geometry": None,
        "properties": {
            "datetime": f"{day[:4]}-{day[4:6]}-{day[6:8]}T10:00:00Z",
            "platform": "sentinel-2a",
            "proj:code": str(profile["crs"]),
            "proj:shape": list(shape),
            "proj:transform": list(profile["transform"])[:6],
        },
        "assets": {
            "image": {"href": str(path), "type": kind, "bands": bands},
            "cloud": {"href": str(told), "type": kind},
        },
    }  # fmt: skip


def test_no_cloud_where_a_real_scene_was_ever_clear(bohinj) -> None:
    items, scenes, clouds = bohinj
    assert [round(float(c.mean())) for c in clouds].count(1) == 2, "two are cloudy"
    seen = ~clouds.all(axis=0)
    mask = {"asset": "cloud", "keep": [0]}
    source = open_source(
        {"items": items, "composite": "median", "mask": mask}, bands=["B2", "B4", "B8"]
    )
    got = source.read(whole(source), [0])
    assert (got.valid[0] == seen).all()
    assert got.data[0, 0][seen].max() <= 1000
    values = np.where(clouds[:, None] & seen, np.nan, scenes.astype(np.float32))
    wanted = np.nanmedian(values[:, [1, 3, 7]], axis=0)
    assert (got.data[0][:, seen] == wanted[:, seen]).all()


def test_a_job_maps_the_composite_as_if_it_were_one_scene(bohinj, tmp_path) -> None:
    import rasterio
    import xarray as xr

    import geoscale as gs

    items, scenes, clouds = bohinj
    (tmp_path / "items.json").write_text(json.dumps({"features": items}))
    job = tmp_path / "job.yaml"
    job.write_text(
        "imagery:\n  items: items.json\n  composite: first\n"
        "  mask: {asset: cloud, keep: [0]}\n"
        "model: s2-landcover-unet\ninference: {block: 64, patch: 120, stride: 64}\n"
        "output: map.zarr\n"
    )
    assert gs.run_job(job).complete
    best = clouds.argmin(axis=0)
    one = np.take_along_axis(scenes, best[None, None], 0)[0]
    with rasterio.open(items[0]["assets"]["image"]["href"]) as file:
        profile = {**file.profile, "nodata": 0}
    one[:, clouds.all(axis=0)] = 0
    with rasterio.open(tmp_path / "one.tif", "w", **profile) as file:
        file.write(one)
    job.write_text(
        f"imagery: {{files: one.tif, band_names: [{', '.join(NAMES)}], scale: 0.0001, "
        "sensor: sentinel-2}\n"
        "model: s2-landcover-unet\ninference: {block: 64, patch: 120, stride: 64}\n"
        "output: one.zarr\n"
    )
    assert gs.run_job(job).complete
    maps = [
        xr.open_zarr(tmp_path / name)["classes"].values
        for name in ("map.zarr", "one.zarr")
    ]
    assert (maps[0] == maps[1]).all()
    assert len(np.unique(maps[0])) > 2


def test_dates_are_let_go(season, monkeypatch) -> None:
    """However many dates, one is held beside the result; of a median, a strip."""
    items = season[0]
    many = [{**item, "id": f"{item['id']}-{k}"} for k in range(9) for item in items]
    held = {"now": 0, "most": 0}
    real = RasterSource.read

    def read(self, window, times):
        found = real(self, window, times)
        held["now"] += 1
        held["most"] = max(held["most"], held["now"])
        weakref.finalize(found.data, lambda: held.update(now=held["now"] - 1))
        return found

    monkeypatch.setattr(RasterSource, "read", read)
    given = {"groupby": "item", "mask": {"asset": "scl", "keep": [4, 5]}}
    for method in ("mean", "max-ndvi"):
        held["most"] = 0
        source = open_composite(many, method, **given)
        assert len(source.base.times) == 63
        source.read(whole(source), [0])
        assert held["most"] <= 2, method

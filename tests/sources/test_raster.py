from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoscale.errors import ReadError, SourceError, StackError
from geoscale.sources import RasterSource, open_source, source_from_spec
from geoscale.sources.gdal import COUNTS, close_handles
from geoscale.types import Pixels, Source
from geoscale.windows import Window
from tests.sources.conftest import coordinates, matched

_: type[Source] = RasterSource


def whole(source: Any) -> Window:
    return Window(0, 0, *map(int, source.geobox.shape))


def read_all(source: Any) -> Pixels:
    return source.read(whole(source), range(len(source.times)))


@pytest.fixture(scope="module")
def aligned(data_dir: Path) -> RasterSource:
    files = str(data_dir / "eolearn" / "S2L1C_201507*.tif")
    return open_source({"files": files}, bands=["red", "B8A", "nir"])


@pytest.fixture(scope="module", params=["nearest", "bilinear", "cubic"])
def warped(data_dir: Path, request: pytest.FixtureRequest) -> RasterSource:
    files = {
        band: str(data_dir / "bigearthnet_patch" / f"*_{band}.tif")
        for band in ("B02", "B05", "B01")
    }
    return open_source(
        {"files": files, "resampling": request.param},
        grid={"crs": "EPSG:32628", "resolution": 13},
    )


def test_native_grid_is_exact(aligned: RasterSource, data_dir: Path) -> None:
    got = read_all(aligned)
    with rasterio.open(data_dir / "eolearn" / "S2L1C_20150731T100009.tif") as file:
        assert tuple(aligned.geobox.affine) == pytest.approx(
            tuple(file.transform), abs=1e-9
        )
        assert (got.data[1] == file.read([4, 9, 8])).all()
    assert got.valid.all()
    assert got.data.dtype == aligned.dtype == np.uint16
    assert aligned.times == ("2015-07-11T10:00:08", "2015-07-31T10:00:09")


@settings(suppress_health_check=list(HealthCheck), max_examples=25)
@given(st.data())
def test_cuts_do_not_change_aligned_reads(
    aligned: RasterSource, data: st.DataObject
) -> None:
    check_any_window(aligned, data)


@settings(suppress_health_check=list(HealthCheck), max_examples=25)
@given(st.data())
def test_cuts_do_not_change_warped_reads(
    warped: RasterSource, data: st.DataObject
) -> None:
    check_any_window(warped, data)


@pytest.fixture(scope="module", params=["nearest", "bilinear", "lanczos", "average"])
def wide(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[RasterSource, Pixels]:
    """Warped to more than one of the blocks that GDAL warps at once."""
    path = tmp_path_factory.mktemp("wide") / "a.tif"
    image = np.random.default_rng(3).integers(0, 9000, (2, 500, 1300)).astype("uint16")
    with rasterio.open(
        path, "w", driver="GTiff", count=2, height=500, width=1300, dtype="uint16",
        crs="EPSG:32632", transform=Affine(10, 0, 900000, 0, -10, 5000000), nodata=0,
        tiled=True, blockxsize=256, blockysize=256,
    ) as file:  # fmt: skip
        file.write(image)
    imagery = {"files": str(path), "resampling": request.param}
    resolution = 23 if request.param == "average" else 9
    source = open_source(imagery, grid={"crs": "EPSG:32633", "resolution": resolution})
    return source, read_all(source)


@settings(suppress_health_check=list(HealthCheck), max_examples=15)
@given(st.data())
def test_cuts_do_not_change_wide_reads(
    wide: tuple[RasterSource, Pixels], data: st.DataObject
) -> None:
    source, expected = wide
    # as another worker would: nothing cached
    close_handles()
    check_any_window(source, data, expected)


def check_any_window(
    source: RasterSource, data: st.DataObject, expected: Pixels | None = None
) -> None:
    rows, columns = map(int, source.geobox.shape)
    y0, y1 = sorted(data.draw(st.lists(st.integers(0, rows), min_size=2, max_size=2)))
    x0, x1 = sorted(
        data.draw(st.lists(st.integers(0, columns), min_size=2, max_size=2))
    )
    window = Window(y0, x0, max(y1, y0 + 1), max(x1, x0 + 1)).clip((rows, columns))
    if window.is_empty:
        return
    expected = expected or read_all(source)
    part = window.within(whole(source))
    got = source.read(window, [0])
    assert got.data.tobytes() == expected.data[0:1, :, *part].tobytes()
    assert (got.valid == expected.valid[0:1, *part]).all()


def test_mixed_resolutions_repeat_coarse_pixels(data_dir: Path) -> None:
    folder = data_dir / "bigearthnet_patch"
    files = {b: str(folder / f"*_{b}.tif") for b in ("B02", "B05", "B01")}
    source = open_source({"files": files, "resampling": "nearest"})
    got = read_all(source)
    for k, (band, factor) in enumerate((("B02", 1), ("B05", 2), ("B01", 6))):
        with rasterio.open(next(folder.glob(f"*_{band}.tif"))) as file:
            expected = np.kron(file.read(1), np.ones((factor, factor), int))
        assert (got.data[0, k] == expected).all()
    assert got.valid.all()


def two_zones(write_tif: Any, data_dir: Path) -> list[str]:
    """Two scenes that overlap, in zones 32 and 33, from one real image."""
    from rasterio.warp import Resampling, reproject

    with rasterio.open(data_dir / "eolearn" / "S2L1C_20150711T100008.tif") as file:
        red, transform = file.read(4), file.transform
    names = []
    for zone, x0, y0 in ((32633, 465180, 5080260), (32632, 930900, 5095100)):
        grid = Affine(10, 0, x0, 0, -10, y0)
        out = np.zeros((140, 140), "uint16")
        reproject(
            red, out, src_transform=transform, src_crs="EPSG:32633",
            dst_transform=grid, dst_crs=f"EPSG:{zone}", src_nodata=None, dst_nodata=0,
            resampling=Resampling.nearest,
        )  # fmt: skip
        name = f"{zone}_20240501.tif"
        names.append(write_tif(name, out, crs=f"EPSG:{zone}", transform=grid, nodata=0))
    return names


def test_two_zones_need_a_crs_and_then_meet(write_tif: Any, data_dir: Path) -> None:
    files = two_zones(write_tif, data_dir)
    with pytest.raises(SourceError, match=r"EPSG:3263[23] \(1 items\).*\ngrid: \{crs:"):
        open_source({"files": files})
    grid = {"crs": "EPSG:32633", "resolution": 10}
    source = open_source({"files": files, "resampling": "nearest"}, grid=grid)
    assert len(source.times) == 1
    both = read_all(source)
    first = open_source(
        {"files": files[1], "resampling": "nearest"}, geobox=source.geobox
    )
    second = open_source(
        {"files": files[0], "resampling": "nearest"}, geobox=source.geobox
    )
    a, b = read_all(first), read_all(second)
    # EPSG:32632 sorts first by id, so it wins where both are valid
    assert (both.valid == (a.valid | b.valid)).all()
    expected = np.where(a.valid[:, None], a.data, b.data)
    assert (both.data == np.where(both.valid[:, None], expected, 0)).all()
    share = (a.valid & b.valid).sum()
    assert share > 5000


@pytest.mark.parametrize(
    ("dtype", "nodata", "holes"),
    [
        ("int16", -9999, [-9999]),
        ("uint16", 65535, [65535]),
        ("uint8", 0, [0]),
        ("float32", None, [np.nan]),
        ("float32", np.nan, [np.nan, np.inf]),
        ("float32", -1, [-1, np.nan]),
    ],
)
@pytest.mark.parametrize("grid", [{}, {"crs": "EPSG:32633", "resolution": 10}])
def test_nodata_is_never_data(
    write_tif: Any, dtype: str, nodata: Any, holes: list[float], grid: dict[str, Any]
) -> None:
    image = np.full((64, 70), 100, dtype)
    for k, hole in enumerate(holes):
        image[10 + 10 * k : 15 + 10 * k, 20:25] = hole
    name = write_tif("a.tif", image, nodata=nodata)
    source = open_source({"files": name, "resampling": "bilinear"}, grid=grid)
    got = read_all(source)
    assert (got.data[0, 0][got.valid[0]] == 100).all()
    assert got.data[0, 0][~got.valid[0]].max(initial=0) == 0
    if not grid:
        bad = ~np.isfinite(image) if dtype == "float32" else np.zeros(image.shape, bool)
        for hole in holes:
            bad |= image == hole
        assert (got.valid[0] == ~bad).all()


def test_without_nodata_the_file_is_valid_and_outside_is_not(write_tif: Any) -> None:
    name = write_tif("a.tif", np.zeros((64, 64), "uint8"))
    inside = read_all(open_source({"files": name}))
    assert inside.valid.all()
    around = open_source({"files": name}, grid={"crs": "EPSG:32633", "resolution": 10})
    got = read_all(around)
    assert 0.5 < got.valid.mean() < 0.99
    overridden = open_source({"files": name, "source_nodata": 0})
    assert not read_all(overridden).valid.any()


def test_nodata_none_overrides_the_file(write_tif: Any) -> None:
    name = write_tif("a.tif", np.zeros((64, 64), "uint8"), nodata=0)
    for grid in ({}, {"crs": "EPSG:32633", "resolution": 10}):
        assert not read_all(open_source({"files": name}, grid=grid)).valid.any()
        kept = open_source({"files": name, "source_nodata": "none"}, grid=grid)
        assert read_all(kept).valid.any()


def test_one_invalid_band_makes_the_pixel_invalid(write_tif: Any) -> None:
    image = np.full((2, 64, 64), 7, "uint16")
    image[1, 5, 6] = 0
    got = read_all(open_source({"files": write_tif("a.tif", image, nodata=0)}))
    assert not got.valid[0, 5, 6]
    assert got.valid.sum() == 64 * 64 - 1


def test_internal_mask_counts(tmp_path: Path, write_tif: Any) -> None:
    name = write_tif("a.tif", np.full((64, 64), 7, "uint16"))
    mask = np.full((64, 64), 255, "uint8")
    mask[:9] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(name, "r+") as file:
        file.write_mask(mask)
    got = read_all(open_source({"files": name}))
    assert (got.valid[0] == (mask > 0)).all()


def test_spec_round_trips_and_pickles(aligned: RasterSource) -> None:
    again = source_from_spec(json.loads(json.dumps(aligned.spec())), aligned.tables())
    assert again.spec() == aligned.spec()
    assert read_all(again).data.tobytes() == read_all(aligned).data.tobytes()
    copied = pickle.loads(pickle.dumps(aligned))
    assert (copied.bands, copied.times) == (aligned.bands, aligned.times)
    assert copied.spec() == aligned.spec()


def test_nothing_is_opened_before_the_first_read(aligned: RasterSource) -> None:
    before = COUNTS.opened, COUNTS.reads
    again = source_from_spec(aligned.spec(), aligned.tables()).calibrated(
        "reflectance", 10000
    )
    assert matched(again, whole(again)) == ["S2L1C_20150711T100008"]
    assert (COUNTS.opened, COUNTS.reads) == before


def test_identity_calibration_keeps_the_stored_dtype(aligned: RasterSource) -> None:
    # the files' own tags say scale 0.0001
    same = aligned.calibrated("reflectance", 10000)
    assert same.dtype == np.uint16
    assert (read_all(same).data == read_all(aligned).data).all()
    small = aligned.calibrated("reflectance")
    assert small.dtype == np.float32
    expected = read_all(aligned).data.astype("float32") * np.float32(1e-4)
    assert (read_all(small).data == expected).all()


def test_offset_is_applied_before_mosaicking(write_tif: Any) -> None:
    from geoscale.sources.items import normalise_item

    items = []
    for k, baseline in enumerate(("03.01", "05.10")):
        image = np.full((64, 64), 2000 + 1000 * k, "uint16")
        image[:, 40 * k : 40 * k + 24] = 0
        path = write_tif(f"{k}.tif", image, nodata=0)
        items.append({
            "id": f"S2_{k}", "collection": "sentinel-2-l2a",
            "properties": {
                "datetime": "2024-05-01T10:00:00Z", "proj:epsg": 32632,
                "s2:processing_baseline": baseline, "platform": "sentinel-2a",
            },
            "assets": {"B04": {
                "href": path, "type": "image/tiff", "proj:shape": [64, 64],
                "proj:transform": [10, 0, 600000, 0, -10, 5000000],
                "eo:bands": [{"common_name": "red"}],
            }},
        })  # fmt: skip
        assert normalise_item(items[-1]).baseline == baseline
    imagery = {"items": items, "harmonize": "s2-boa", "dtype": "uint16"}
    got = read_all(open_source(imagery, bands=["red"]))
    assert set(np.unique(got.data[got.valid[:, None]])) == {2000.0}
    with pytest.raises(SourceError, match="harmonize"):
        open_source({"items": items, "dtype": "uint16"}, bands=["red"])


def test_groups_of_time(write_tif: Any) -> None:
    names = [
        write_tif(f"s_{day}.tif", np.full((64, 64), k + 1, "uint8"))
        for k, day in enumerate(
            ("20240501T100000", "20240501T235900", "20240502T100000")
        )
    ]
    counts = {
        how: len(open_source({"files": names, "groupby": how}).times)
        for how in ("solar_day", "item", "all")
    }
    assert counts == {"solar_day": 2, "item": 3, "all": 1}
    first = read_all(open_source({"files": names, "groupby": "all"}))
    assert (first.data == 1).all()


def test_match_never_misses_what_is_valid(write_tif: Any) -> None:
    name = write_tif("a.tif", np.full((100, 90), 5, "uint8"))
    grid = {
        "crs": "EPSG:32633",
        "resolution": 30,
        "bounds": (100000, 4900000, 250000, 5050000),
    }
    source = open_source({"files": name}, grid=grid)
    valid = read_all(source).valid[0]
    assert valid.any()
    rows, columns = valid.shape
    for y in range(0, rows, 50):
        for x in range(0, columns, 50):
            window = Window(y, x, y + 50, x + 50).clip((rows, columns))
            if valid[window.within(whole(source))].any():
                assert matched(source, window)
    far = Window(0, 0, 50, 50)
    assert not matched(source, far)


def test_file_that_contradicts_its_item_is_refused(write_tif: Any) -> None:
    name = write_tif("a.tif", coordinates((64, 64)))
    item = {
        "id": "x",
        "properties": {"datetime": "2024-05-01T10:00:00Z", "proj:epsg": 32633},
        "assets": {
            "a": {
                "href": name,
                "type": "image/tiff",
                "proj:shape": [64, 64],
                "proj:transform": [10, 0, 600000, 0, -10, 5000000],
            }
        },
    }
    source = open_source({"items": item, "dtype": "uint16"})
    with pytest.raises(ReadError, match="file says EPSG:32632, STAC says EPSG:32633"):
        read_all(source)
    item["properties"]["proj:epsg"] = 32632
    item["assets"]["a"]["proj:transform"][2] = 600005
    with pytest.raises(ReadError, match=r"0\.5 pixels apart"):
        read_all(open_source({"items": item, "dtype": "uint16"}))
    item["assets"]["a"]["proj:shape"] = [60, 64]
    with pytest.raises(ReadError, match=r"file has \(64, 64\) pixels"):
        read_all(open_source({"items": item, "dtype": "uint16"}))


def test_missing_bands_are_a_table(write_tif: Any) -> None:
    names = [write_tif(f"{k}.tif", np.ones((1 + k, 64, 64), "uint8")) for k in range(3)]
    with pytest.raises(SourceError, match=r"1 of 3 items lack `B2`: 0\n"):
        open_source({"files": names}, bands=["B1", "B2"])


def test_dtype_that_does_not_fit_is_an_error(write_tif: Any) -> None:
    name = write_tif("a.tif", np.ones((64, 64), "int32"))
    source = open_source({"files": name, "dtype": "uint8"})
    with pytest.raises(ReadError, match=r"holds int32.*imagery\.dtype: int32"):
        read_all(source)


def test_unknown_resampling_is_suggested(write_tif: Any) -> None:
    name = write_tif("a.tif", np.ones((64, 64), "uint8"))
    with pytest.raises(SourceError, match="did you mean `bilinear`"):
        open_source({"files": name, "resampling": "billinear"})


def test_no_georeferencing_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "plain.tif"
    with (
        pytest.warns(rasterio.errors.NotGeoreferencedWarning),
        rasterio.open(
            path, "w", driver="GTiff", count=1, height=8, width=8, dtype="uint8"
        ) as file,
    ):
        file.write(np.ones((1, 8, 8), "uint8"))
    with pytest.raises(StackError, match="has no georeferencing"):
        open_source({"files": str(path)})


def test_files_in_one_block_are_warned_of(write_tif: Any) -> None:
    image = np.zeros((1500, 1500), "uint8")
    name = write_tif("a.tif", image, blockysize=1504, blockxsize=1504)
    with pytest.warns(UserWarning, match="one block of 1504 x 1504"):
        open_source({"files": name})


def test_envi_pair_opens(data_dir: Path) -> None:
    files = [str(data_dir / "taizhou" / f"{y}TM.HDR") for y in (2000, 2003)]
    times = ["2000-03-17", "2003-02-06"]
    source = open_source({"files": files, "times": times})
    assert source.geobox.crs.epsg == 32651
    assert source.times == ("2000-03-17T00:00:00", "2003-02-06T00:00:00")
    got = read_all(source)
    raw = np.fromfile(data_dir / "taizhou" / "2003TM", "uint8").reshape(6, 400, 400)
    assert (got.data[1] == raw).all()

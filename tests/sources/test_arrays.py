from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from geoscale.errors import SourceError, StackError
from geoscale.sources import (
    ArraySource,
    ZarrSource,
    lazy_stack,
    open_source,
    source_from_spec,
)
from geoscale.types import Pixels, Source
from geoscale.windows import Window
from tests.sources.conftest import matched

_a: type[Source] = ArraySource
_z: type[Source] = ZarrSource


def read_all(source: Any) -> Pixels:
    shape = map(int, source.geobox.shape)
    return source.read(Window(0, 0, *shape), range(len(source.times)))


def scene(**changes: Any) -> xr.DataArray:
    """(time, band, y, x) uint16, every pixel its own value."""
    shape = (2, 3, 20, 30)
    data = np.arange(1, 1 + np.prod(shape)).reshape(shape).astype("uint16")
    coords = {
        "time": np.array(["2024-01-01", "2024-02-01"], "datetime64[ns]"),
        "band": ["red", "green", "nir"],
        "y": 4999995.0 - 10 * np.arange(20),
        "x": 600005.0 + 10 * np.arange(30),
    }
    attrs = {"crs": "EPSG:32632", **changes}
    return xr.DataArray(data, dims=tuple(coords), coords=coords, attrs=attrs)


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a,
        lambda a: a.chunk({"x": 7, "y": 9}),
        lambda a: a.transpose("x", "y", "band", "time"),
        lambda a: a.isel(y=slice(None, None, -1)),
        lambda a: a.isel(x=slice(None, None, -1)),
        lambda a: a.isel(time=[1, 0]),
        lambda a: a.rename(time="t", band="bands", y="lat", x="lon"),
        lambda a: a.to_dataset("band").assign_attrs(a.attrs),
        lambda a: a.drop_attrs().assign_coords(
            spatial_ref=xr.DataArray(0, attrs={"crs_wkt": a.odc.crs.to_wkt()})
        ),
        lambda a: a.drop_attrs().assign_coords(epsg=32632),
        lambda a: a.assign_coords(x=a.x - 5, y=a.y + 5).assign_attrs(
            transform=(10, 0, 600000, 0, -10, 5000000)
        ),
    ],
)
def test_any_layout_is_the_same_source(change: Any) -> None:
    import odc.geo.xr  # noqa: F401

    expected = scene()
    source = open_source({"array": change(expected)})
    assert tuple(source.geobox.affine)[:6] == (10, 0, 600000, 0, -10, 5000000)
    assert source.geobox.crs.epsg == 32632
    assert source.times == ("2024-01-01T00:00:00", "2024-02-01T00:00:00")
    assert source.bands == ("red", "green", "nir")
    got = read_all(source)
    assert (got.data == expected.values).all()
    assert got.valid.all()
    part = source.read(Window(3, 4, 9, 11), [1])
    assert (part.data[0] == expected.values[1, :, 3:9, 4:11]).all()


def test_missing_dims_are_added() -> None:
    plane = scene().isel(time=0, band=0, drop=True)
    source = open_source({"array": plane})
    assert (source.times, source.bands) == (("1970-01-01T00:00:00",), ("B1",))
    assert read_all(source).data.shape == (1, 1, 20, 30)
    dated = open_source({"array": scene().isel(time=1)})
    assert dated.times == ("2024-02-01T00:00:00",)


@pytest.mark.parametrize(
    ("array", "match"),
    [
        (scene().drop_attrs(), "no CRS in the array.*imagery.crs"),
        (scene().rename(time="orbit"), "are not understood; rename"),
        (scene().isel(x=[0, 1, 3, 4]), "`x` is not evenly spaced"),
        (scene().drop_vars("y"), "`y` has no coordinate"),
        (
            scene().drop_vars(["y", "x"]).assign_coords(
                y=(("y", "x"), np.zeros((20, 30))), x=("x", np.arange(30.0))
            ),
            "rotated and curvilinear",
        ),
        (scene().isel(x=[0]), "has one pixel"),
        (np.zeros((3, 3)), "is no xarray"),
    ],
)  # fmt: skip
def test_what_does_not_serve_is_named(array: Any, match: str) -> None:
    with pytest.raises(StackError, match=match):
        open_source({"array": array})


@pytest.mark.parametrize("key", ["_FillValue", "nodata", "missing_value"])
def test_nodata_from_attributes(key: str) -> None:
    array = scene(**{key: 5})
    got = read_all(open_source({"array": array}))
    assert got.valid.sum() == got.valid.size - 1
    assert not got.valid[0, 0, 4]
    floats = scene().astype("float32").assign_attrs(crs="EPSG:32632")
    floats[0, 0, 0, 0] = np.nan
    got = read_all(open_source({"array": floats}))
    assert not got.valid[0, 0, 0]
    assert np.isfinite(got.data).all()


def test_calibration_of_arrays() -> None:
    source = open_source({"array": scene(scale_factor=1e-4, add_offset=-0.1)})
    got = source.calibrated("reflectance", 10000)
    assert got.dtype == np.float32
    assert (read_all(got).data == scene().values.astype("float32") - 1000).all()
    with pytest.raises(SourceError, match=r"no scale is known for `red`"):
        open_source({"array": scene()}).calibrated("reflectance")
    same = open_source({"array": scene(), "scale": 1e-4}).calibrated("reflectance", 1e4)
    assert same.dtype == np.uint16


def test_bounds_crop_and_may_reach_outside() -> None:
    grid = {"bounds": (600105, 4999700, 600400, 4999900)}
    source = open_source({"array": scene()}, grid=grid)
    assert tuple(source.geobox.affine)[:6] == (10, 0, 600100, 0, -10, 4999900)
    got = read_all(source)
    assert got.data.shape == (2, 3, 20, 30)
    assert (got.data[:, :, :10, :20] == scene().values[:, :, 10:, 10:]).all()
    assert got.valid.sum() == 2 * 10 * 20
    assert not matched(source, Window(12, 0, 20, 30))
    with pytest.raises(StackError, match="arrays are not warped"):
        open_source({"array": scene()}, grid={"crs": "EPSG:32633"})
    with pytest.raises(StackError, match="is not the array's"):
        open_source({"array": scene()}, grid={"resolution": 20})


def test_an_array_cannot_travel_by_spec() -> None:
    source = open_source({"array": scene()})
    again = open_source({"array": scene()})
    assert source.spec() == again.spec()
    with pytest.raises(SourceError, match=r"save it .*imagery\.zarr"):
        source_from_spec(source.spec())


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_of_both_versions(tmp_path: Path, version: int) -> None:
    path = str(tmp_path / "a.zarr")
    name = "stack"
    scene(nodata=5).to_dataset(name=name).to_zarr(
        path, zarr_format=version, consolidated=version == 2
    )
    source = open_source({"zarr": path}, bands=["nir", "red"])
    assert isinstance(source, ZarrSource)
    got = read_all(source)
    assert (got.data[got.valid[:, None].repeat(2, 1)].size) == 2 * (got.valid.sum())
    assert (got.data[:, 0][got.valid] == scene().values[:, 2][got.valid]).all()
    again = source_from_spec(json.loads(json.dumps(source.spec())))
    assert again.spec() == source.spec()
    assert read_all(again).data.tobytes() == got.data.tobytes()
    assert read_all(pickle.loads(pickle.dumps(source))).valid.sum() == got.valid.sum()
    lazy = lazy_stack(source, chunks=8).compute(scheduler="synchronous")
    assert (lazy.values == got.data).all()
    assert matched(source, Window(0, 0, 1, 1)) == [path]
    with pytest.raises(SourceError, match="band `swir` is not in the imagery"):
        open_source({"zarr": path}, bands=["swir"])


def test_missing_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot open Zarr store"):
        open_source({"zarr": str(tmp_path / "none.zarr")})


def test_real_cube_with_missing_months(data_dir: Path) -> None:
    path = data_dir / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    cube = xr.open_dataset(path, engine="h5netcdf", mask_and_scale=False)
    bands = ["S2-L2A-B02", "S2-L2A-B08"]
    source = open_source({"array": cube, "bands": bands, "source_nodata": 65535})
    assert source.dtype == np.uint16  # `_Unsigned` int16 in the file
    assert source.geobox.crs.epsg == 32631
    shares = read_all(source).valid.mean((1, 2))
    assert (shares == 0).sum() == 2
    assert len(source.times) == 12

"""Bands of files that name none: numbers are not taken for a sensor's names."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import rasterio
import rioxarray  # noqa: F401  the accessor
import xarray as xr
from rasterio.transform import from_origin

from geoscale.bands import SENSORS
from geoscale.errors import SourceError
from geoscale.sources.opening import open_source

ORDER = list(SENSORS["sentinel-2"])


def write(path, count, names=(), **more):
    """A file whose band n holds n everywhere."""
    data = np.broadcast_to(np.arange(1, count + 1)[:, None, None], (count, 8, 8))
    with rasterio.open(
        path, "w", driver="GTiff", width=8, height=8, count=count, dtype="uint16",
        crs="EPSG:32633", transform=from_origin(500_000, 4_650_000, 10, 10),
        **more,
    ) as file:  # fmt: skip
        file.write(data.astype(np.uint16))
        if names:
            file.descriptions = tuple(names)
    return str(path)


def read(imagery, bands, sensor=None):
    """What the bands hold."""
    found = open_source(imagery, bands=bands, sensor=sensor)
    height, width = found.geobox.shape
    from geoscale.windows import Window

    window = Window(0, 0, height, width)
    return [int(v) for v in found.read(window, [0]).data[0, :, 0, 0]]


# the middle of a name that tells the sensor, as archives write it
@pytest.mark.parametrize("name", ["scene.tif", "S2A_MSIL2A_20240615T100031_x.tif"])
def test_numbers_are_no_names_of_a_sensor(tmp_path, name):
    path = write(tmp_path / name, 4)
    for bands in (["B2", "B3", "B4", "B8"], ["B2", "B3"]):
        with pytest.raises(SourceError, match="names none of its 4 bands") as info:
            read({"files": path}, bands, "sentinel-2")
        assert "imagery.band_names" in str(info.value)
    with pytest.raises(SourceError, match="items lack `red`"):
        read({"files": path}, ["red"])
    with pytest.raises(SourceError, match="sentinel-2 has 13; say in their order"):
        read({"files": path, "sensor": "sentinel-2"}, ["B2"], "sentinel-2")
    named = {"files": path, "band_names": ["B2", "B3", "B4", "B8"]}
    assert read(named, ["B8", "B2"], "sentinel-2") == [4, 1]


def test_all_bands_of_a_sensor_are_taken_in_its_order_and_that_is_said(
    tmp_path, caplog
):
    path = write(tmp_path / "all.tif", 13)
    imagery = {"files": path, "sensor": "sentinel-2"}
    with caplog.at_level(logging.WARNING):
        found = read(imagery, ["B8", "B8A", "B9", "B12", "red"], "sentinel-2")
    assert found == [8, 9, 10, 13, 4]
    assert "taken for all of sentinel-2 in order" in caplog.text
    with pytest.raises(SourceError, match="names none of its 13 bands"):
        read({"files": path}, ["B9"], "sentinel-2")
    names = [n for n in ORDER if n != "B10"] + ["B10"]
    own = write(tmp_path / "own.tif", 13, names)
    assert read({"files": own}, ["B10", "B9"], "sentinel-2") == [13, 10]


def test_bands_are_chosen_by_number_where_no_sensor_is_meant(tmp_path):
    path = write(tmp_path / "S2B_MSIL1C_20240615T100031_x.tif", 5)
    assert read({"files": path, "bands": ["B4", "B2"]}, ["nir", "red"]) == [4, 2]
    assert read({"files": path}, ["B5", "B1"]) == [5, 1]


@pytest.mark.parametrize("sensor", [None, "sentinel-2"])
def test_a_file_that_says_its_colours_is_believed(tmp_path, sensor):
    path = write(tmp_path / "rgb.tif", 4, photometric="RGB")
    assert read({"files": path}, ["blue", "red"], sensor) == [3, 1]
    assert read({"files": path, "bands": ["B4", "B1"]}, ["blue", "red"]) == [4, 1]
    with pytest.raises(SourceError, match=r"lack `nir`|names none of its 4"):
        read({"files": path}, ["blue", "nir"], sensor)
    if sensor:
        # by what it shows, not by its number
        assert read({"files": path}, ["B2", "B4"], sensor) == [3, 1]


def array(count, **attrs):
    """An array whose band n holds n everywhere, counted as rioxarray does."""
    data = np.broadcast_to(np.arange(1, count + 1)[:, None, None], (count, 8, 8))
    coords = {"band": np.arange(1, count + 1), "y": 10.0 * np.arange(8, 0, -1) - 5,
              "x": 10.0 * np.arange(8) + 5}  # fmt: skip
    found = xr.DataArray(data.astype("uint16"), coords, ("band", "y", "x"), attrs=attrs)
    return found.rio.write_crs("EPSG:32633")


def test_arrays_that_count_their_bands_do_not_name_them(caplog):
    plain = {"array": array(4)}
    with pytest.raises(SourceError, match="counts its 4 bands and does not name them"):
        read(plain, ["B2", "B4"], "sentinel-2")
    with pytest.raises(SourceError, match="band `red` is not in the imagery"):
        read(plain, ["red"])
    assert read(plain, ["B4", "B1"]) == [4, 1]
    assert read({**plain, "bands": ["B4", "B1"]}, ["nir", "red"], "sentinel-2") == [
        4,
        1,
    ]
    given = {**plain, "band_names": ["B2", "B3", "B4", "B8"]}
    assert read(given, ["B8", "B4"], "sentinel-2") == [4, 3]
    told = array(3, long_name=("B04", "B8A", "B11"))
    assert read({"array": told}, ["B8A", "B4"], "sentinel-2") == [2, 1]
    labelled = array(4).assign_coords(band=["B2", "B3", "B4", "B8"])
    assert read({"array": labelled}, ["B8", "B2"], "sentinel-2") == [4, 1]
    with caplog.at_level(logging.WARNING):
        whole = {"array": array(13), "sensor": "sentinel-2"}
        assert read(whole, ["B8A", "B12"], "sentinel-2") == [9, 13]
    assert "taken for all of sentinel-2" in caplog.text

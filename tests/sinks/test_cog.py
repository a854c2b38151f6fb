"""COGs: valid, in place, the same pixels, colours and names."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import rasterio

from geoscale.errors import JobError, OutputError
from geoscale.sinks.cog import export_cog
from geoscale.sinks.zarr import ZarrSink
from geoscale.windows import Window


@pytest.fixture(scope="module")
def cogs(finished, tmp_path_factory):
    return export_cog(finished, tmp_path_factory.mktemp("cogs"), name="a map/2")


def test_names_are_plain_and_nothing_else_is_left(cogs):
    assert [p.name for p in cogs] == [
        "a-map-2_20240501_classes.tif",
        "a-map-2_20240601T102030_classes.tif",
    ]
    names = {p.name for p in cogs} | {f"{p.name}.aux.xml" for p in cogs}
    assert {p.name for p in cogs[0].parent.iterdir()} == names


def test_pixels_and_place_are_those_of_the_map(kit, cogs):
    for time, path in enumerate(cogs):
        with rasterio.open(path) as file:
            np.testing.assert_array_equal(file.read(1), kit.full(time)["classes"])
            found, wanted = file.transform, kit.template().geobox.transform
            assert tuple(found) == pytest.approx(tuple(wanted), abs=1e-9)
            assert file.crs.to_epsg() == 32636
            assert file.nodata == 255
            assert file.dtypes == ("uint8",)


def test_it_is_a_valid_cog(cogs):
    validate = pytest.importorskip("rio_cogeo.cogeo").cog_validate
    assert validate(str(cogs[0]), strict=True)[0]


def test_colours_names_and_time_travel(cogs):
    with rasterio.open(cogs[1]) as file:
        colors = file.colormap(1)
        tags = file.tags()
        names = json.loads(file.tags(1)["classes"])
        assert file.descriptions == ("classes",)
    assert colors[0] == (0xAA, 0xBB, 0xCC, 255)
    assert colors[1] == (0, 0, 255, 255)
    assert colors[7] == (0x00, 0x9E, 0x73, 255)
    assert colors[255][3] == 0
    assert names == {"0": "bare land", "1": "water", "7": "cloud"}
    assert tags["time"] == "2024-06-01T10:20:30"
    assert tags["TIFFTAG_DATETIME"] == "2024:06:01 10:20:30"
    text = cogs[1].with_name(f"{cogs[1].name}.aux.xml").read_text()
    assert text.count("<Category>") == 8
    assert text.index("bare land") < text.index("water") < text.index("cloud")


def test_export_again_gives_the_same_bytes(finished, cogs, tmp_path):
    again = export_cog(finished, tmp_path, name="a map/2", times=[1])
    assert len(again) == 1
    assert again[0].read_bytes() == cogs[1].read_bytes()


def test_quantised_scores_keep_scale_and_nodata(kit, finished, tmp_path):
    (path,) = export_cog(finished, tmp_path, "confidence", times=[0])
    assert path.name == "out_20240501_confidence.tif"
    with rasterio.open(path) as file:
        assert file.scales == (1 / 254,)
        np.testing.assert_array_equal(file.read(1), kit.full(0)["confidence"])
    assert not path.with_name(f"{path.name}.aux.xml").exists()


def test_a_class_axis_becomes_bands(kit, tmp_path):
    from geoscale.types import Layer

    layer = Layer(name="scores", dtype="float32", fill_value=float("nan"), classes=3)
    sink = ZarrSink(
        str(tmp_path / "out.zarr"), kit.template(layers=(layer,), times=("2024-05-01",))
    )
    sink.create()
    full = Window(0, 0, *kit.shape)
    data = np.random.default_rng(0).random((3, *kit.shape)).astype(np.float32)
    sink.write(0, full, {"scores": data})
    (path,) = export_cog(sink.url, tmp_path / "cogs", "scores")
    with rasterio.open(path) as file:
        assert file.descriptions == ("bare land", "water", "cloud")
        np.testing.assert_array_equal(file.read(), data)
        assert np.isnan(file.nodata)


def test_overviews_of_classes_hold_only_classes(kit, tmp_path):
    from affine import Affine
    from odc.geo.geobox import GeoBox

    grid = GeoBox((700, 1100), Affine(10, 0, 0, 0, -10, 0), "EPSG:32636")
    template = kit.template(
        geobox=grid,
        times=("2024-05-01",),
        layers=kit.template().layers[:1],
        block_px=512,
        chunk_px=256,
    )
    sink = ZarrSink(str(tmp_path / "big.zarr"), template)
    sink.create()
    rng = np.random.default_rng(1)
    data = rng.choice(np.array([0, 1, 7, 255], np.uint8), (700, 1100))
    sink.write(0, Window(0, 0, 700, 1100), {"classes": data})
    (path,) = export_cog(sink.url, tmp_path)
    with rasterio.open(path) as file:
        assert file.overviews(1) == [2, 4]
        np.testing.assert_array_equal(file.read(1), data)
    with rasterio.open(path, overview_level=0) as file:
        assert set(np.unique(file.read(1))) <= {0, 1, 7, 255}
    validate = pytest.importorskip("rio_cogeo.cogeo").cog_validate
    assert validate(str(path), strict=True)[0]


def test_a_damaged_map_gives_no_cog(finished, tmp_path):
    url = str(tmp_path / "out.zarr")
    shutil.copytree(finished, url)
    path = tmp_path / "out.zarr/classes/c/0/2/0"
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(OutputError, match=r"is damaged at .* `geoscale repair`"):
        export_cog(url, tmp_path / "cogs")
    assert not list((tmp_path / "cogs").iterdir())


def test_what_is_not_there_is_refused(finished, tmp_path):
    with pytest.raises(JobError, match="no layer `class`; it has `classes`"):
        export_cog(finished, tmp_path, "class")
    with pytest.raises(OutputError, match="is not there or is no map"):
        export_cog(str(tmp_path / "no.zarr"), tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="is a file; give a folder"):
        export_cog(finished, tmp_path / "file")

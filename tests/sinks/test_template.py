"""The template: plain and back, refusals, and an honest upper bound."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

from geoscale.card import OutputClass
from geoscale.errors import JobError
from geoscale.needs import project_output_bytes
from geoscale.sinks.zarr import ZarrSink
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Layer
from geoscale.windows import Window


def grid(transform, crs="EPSG:32636", shape=(40, 50)):
    return GeoBox(shape, transform, crs)


def test_json_round_trip_keeps_every_bit(kit):
    odd = grid(Affine(10 / 3, 0, 1e5 / 7, 0, -10 / 3, 5e6 / 3))
    for template in (kit.template(), kit.template(geobox=odd)):
        text = json.dumps(template.to_dict(), allow_nan=False)
        back = OutputTemplate.from_dict(json.loads(text))
        assert back.geobox == template.geobox
        assert back.to_dict() == template.to_dict()
        assert back.attrs == template.attrs
        assert pickle.loads(pickle.dumps(template)).to_dict() == template.to_dict()


def test_a_crs_without_a_code_travels_as_wkt(kit):
    laea = "+proj=laea +lat_0=50 +lon_0=10 +datum=WGS84 +units=m +no_defs"
    template = kit.template(geobox=grid(Affine(10, 0, 0, 0, -10, 0), laea))
    assert OutputTemplate.from_dict(template.to_dict()).geobox == template.geobox
    attrs = template.root_attrs()
    assert "proj:code" not in attrs
    assert attrs["proj:wkt2"].startswith("PROJCRS")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"block_px": 100}, "block_px 100 is no whole number of chunk_px 32; .* 96"),
        ({"block_px": 16}, "block_px 16 is no whole number"),
        ({"chunk_px": 0}, "is no whole number of chunk_px 0"),
        ({"times": ()}, "times must be one or more and ascend"),
        ({"times": ("2024-05-02", "2024-05-01")}, "times must be one or more"),
        ({"times": ("2024-05-01", "2024-05-01")}, "times must be one or more"),
        ({"times": ("May",)}, "are not ISO 8601"),
        ({"layers": ()}, "layers of different names"),
        (
            {"layers": (Layer(name="x", dtype="uint8", fill_value=0),)},
            "layer name `x` cannot be used",
        ),
        (
            {"layers": (Layer(name="../a", dtype="uint8", fill_value=0),)},
            r"layer name `../a` cannot be used",
        ),
        (
            {"layers": (Layer(name="classes", dtype="uint8", fill_value=1),)},
            "is class `water`; nodata must be no class",
        ),
        (
            {"layers": (Layer(name="a", dtype="uint8", fill_value=256),)},
            "fill value 256 of layer `a` does not fit uint8",
        ),
        (
            {"layers": (Layer(name="a", dtype="int16", fill_value=float("nan")),)},
            "fill value nan of layer `a` does not fit int16",
        ),
        (
            {"geobox": grid(Affine.rotation(5) @ Affine.scale(10, -10))},
            "output grid is rotated",
        ),
        ({"geobox": grid(Affine(10, 0, 0, 0, -10, 0), None)}, "has no CRS"),
        (
            {"geobox": grid(Affine(10, 0, 0, 0, -10, 0), shape=(0, 5))},
            "output grid is empty",
        ),
    ],
)
def test_what_cannot_be_stored_is_refused(kit, changes, words):
    with pytest.raises(JobError, match=words):
        kit.template(**changes)


def test_a_torn_plan_is_refused(kit):
    data = kit.template().to_dict()
    del data["times"]
    with pytest.raises(JobError, match="lacks 'times'"):
        OutputTemplate.from_dict(data)


def test_layers_are_found_by_name(kit):
    template = kit.template()
    assert template.layer("scores").classes == 3
    assert template.array_shape(template.layer("scores")) == (2, 3, 150, 210)
    with pytest.raises(JobError, match="has no layer `score`; it has `classes`"):
        template.layer("score")
    assert [is_categorical(x) for x in template.layers] == [True, False, False]


def test_geographic_grids_have_latitudes_and_longitudes(kit):
    box = grid(Affine(0.25, 0, 10, 0, -0.25, 50), "EPSG:4326")
    coords = kit.template(geobox=box).coords()
    values, dims, attrs = coords["y"]
    assert dims == ("y",)
    assert attrs["units"] == "degrees_north"
    assert (values[0], values[-1]) == (49.875, 40.125)
    assert coords["x"][2]["standard_name"] == "longitude"


def test_times_keep_fractions_of_seconds(kit):
    whole, _, attrs = kit.template().coords()["time"]
    assert attrs["units"] == "seconds since 1970-01-01"
    assert whole.dtype == np.int64
    label = "2024-05-01T10:20:31.024000"
    values, _, attrs = kit.template(times=(label,)).coords()["time"]
    assert attrs["units"] == "microseconds since 1970-01-01"
    assert str(values.astype("datetime64[us]")[0]) == label


def test_no_signed_url_reaches_an_attribute(kit):
    sources = [{"href": "https://u:p@x.org/a.tif?sig=secret"}]
    attrs = kit.template(attrs={"sources": sources}).root_attrs()
    assert "secret" not in json.dumps(attrs)
    assert "u:p" not in json.dumps(attrs)


def test_classes_without_colours_get_some(kit):
    many = tuple(OutputClass(value=i, name=f"c{i}") for i in range(12))
    assert len(kit.template(classes=many).class_colors) == 12


def test_the_projected_bytes_and_files_are_an_upper_bound(kit, tmp_path):
    template = kit.template()
    sink = ZarrSink(str(tmp_path / "out.zarr"), template)
    sink.create()
    rng = np.random.default_rng(0)
    full = Window(0, 0, *kit.shape)
    for time in (0, 1):
        noise = {
            layer.name: rng.integers(
                0,
                256,
                (*layer.block_shape(full.shape), np.dtype(layer.dtype).itemsize),
                np.uint8,
            ).view(layer.dtype)[..., 0]
            for layer in template.layers
        }
        sink.write(time, full, noise)
    files = [p for p in Path(sink.url).rglob("*") if p.is_file()]
    size, count = project_output_bytes(template)
    assert sum(p.stat().st_size for p in files) <= size
    assert len(files) <= count <= len(files) + 1

"""STAC: readable by pystac, in the right place, with its origin and no secrets."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pystac
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox

import geoscale.sinks
from geoscale.card import ModelCard
from geoscale.errors import JobError, OutputError
from geoscale.sinks.cog import export_cog
from geoscale.sinks.footprint import footprint
from geoscale.sinks.stac import EXTENSIONS, export_stac
from geoscale.sinks.zarr import ZarrSink
from tests.support.stac_rules import check_item

CARD = ModelCard.from_dict(
    {
        "name": "toy-water",
        "architecture": "torchgeo.models:FCN",
        "license": "MIT",
        "weights": {"href": "toy.safetensors", "sha256": "ab" * 32},
        "input": {"bands": ["red", "nir"]},
        "output": {
            "classes": [{"value": 0, "name": "land"}, {"value": 1, "name": "water"}]
        },
    }
)
PROVENANCE = {
    "plan_hash": "f" * 64,
    "model_sha256": "ab" * 32,
    "versions": {"geoscale": "0.1.0", "torch": "2.14.1"},
    "precision": "float32",
    "device": "cpu",
    "batch": [8, 2, 256, 256],
    "sources": [
        {"id": "S2A_1", "href": "https://me:pw@stac.example/items/S2A_1?sig=secret"},
        "S2A_2",
        "https://stac.example/items/S2A_3?token=secret",
    ],
}


@pytest.fixture(scope="module")
def exported(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("stac")
    cogs = {
        name: export_cog(finished, out / "cogs", name)
        for name in ("classes", "confidence")
    }
    return export_stac(out, finished, cogs, PROVENANCE, CARD), cogs


def items(path):
    return list(pystac.Catalog.from_file(str(path)).get_items())


def test_pystac_reads_one_item_per_time_step(exported):
    path, _ = exported
    found = items(path)
    assert [i.id for i in found] == ["out_20240501", "out_20240601T102030"]
    assert [i.datetime.isoformat() for i in found] == [
        "2024-05-01T00:00:00+00:00",
        "2024-06-01T10:20:30+00:00",
    ]
    assert json.loads(path.read_text())["stac_version"] == "1.1.0"
    assert all(i.get_root().id == "out" for i in found)


def test_items_are_valid_by_core_and_the_extensions_they_declare(exported):
    pytest.importorskip("jsonschema")
    from pystac.validation.local_validator import LocalValidator

    path, _ = exported
    catalog = pystac.Catalog.from_file(str(path))
    check = LocalValidator()
    assert not list(check.catalog_validator().iter_errors(catalog.to_dict()))
    for item in items(path):
        check_item(item.to_dict())


def test_projection_fields_and_footprint(kit, exported):
    path, _ = exported
    item = items(path)[0]
    assert item.ext.proj.code == "EPSG:32636"
    assert item.ext.proj.shape == [150, 210]
    assert item.ext.proj.transform == list(kit.template().transform)
    west, south, east, north = item.bbox
    grid = kit.template().geobox.geographic_extent.boundingbox
    assert (west, south, east, north) == pytest.approx(tuple(grid.bbox), abs=1e-4)
    assert item.geometry["type"] == "Polygon"


def test_assets_are_relative_and_their_bytes_are_known(exported):
    path, cogs = exported
    item = items(path)[1]
    assert set(item.assets) == {"classes", "confidence", "zarr"}
    asset = item.assets["classes"]
    assert asset.href == "./cogs/out_20240601T102030_classes.tif"
    assert item.assets["zarr"].href.startswith("../")
    data = cogs["classes"][1].read_bytes()
    assert asset.extra_fields["file:size"] == len(data)
    wanted = "1220" + hashlib.sha256(data).hexdigest()
    assert asset.extra_fields["file:checksum"] == wanted
    assert item.assets["confidence"].extra_fields["raster:scale"] == 1 / 254
    assert set(item.stac_extensions) == set(EXTENSIONS.values())


def test_classes_with_colours_and_nodata(exported):
    path, _ = exported
    item = items(path)[0]
    for name in ("classes", "zarr"):
        found = item.assets[name].extra_fields["classification:classes"]
        assert [c["value"] for c in found] == [0, 1, 7, 255]
        assert found[0]["name"] == "bare_land"
        assert found[0]["title"] == "bare land"
        assert found[1]["color_hint"] == "0000FF"
        assert found[3]["nodata"] is True


def test_origin_is_stated_and_no_secret_leaves(exported):
    path, _ = exported
    item = items(path)[0]
    got = item.properties
    assert got["geoscale:plan_hash"] == "f" * 64
    assert got["geoscale:batch"] == [8, 2, 256, 256]
    assert got["geoscale:sources"][1] == "S2A_2"
    assert got["geoscale:model_license"] == "MIT"
    assert got["processing:software"] == {"geoscale": "0.1.0", "torch": "2.14.1"}
    assert got["processing:lineage"].startswith("segmentation of red, nir with model")
    assert got["mlm:name"] == "toy-water"
    assert got["mlm:tasks"] == ["semantic-segmentation"]
    assert got["mlm:architecture"] == "FCN"
    assert got["mlm:framework"] == "PyTorch"
    links = [x for x in item.links if x.rel == "derived_from"]
    assert [x.href for x in links] == [
        "https://stac.example/items/S2A_1",
        "https://stac.example/items/S2A_3",
    ]
    for file in path.parent.glob("*.json"):
        assert "secret" not in file.read_text()
        assert "pw@" not in file.read_text()


def test_exporting_again_gives_the_same_bytes(finished, exported, tmp_path):
    path, _ = exported
    before = {p.name: p.read_bytes() for p in path.parent.glob("*.json")}
    cogs = {"classes": exported[1]["classes"], "confidence": exported[1]["confidence"]}
    export_stac(path.parent, finished, cogs, PROVENANCE, CARD)
    assert {p.name: p.read_bytes() for p in path.parent.glob("*.json")} == before


def test_the_store_alone_is_enough(finished, tmp_path):
    path = export_stac(tmp_path, finished, name="my map")
    item = items(path)[0]
    assert item.id == "my-map_20240501"
    assert set(item.assets) == {"zarr"}
    assert item.properties["processing:lineage"] == "made by geoscale"
    assert EXTENSIONS["file"] not in item.stac_extensions


def test_what_does_not_fit_is_refused(finished, exported, tmp_path):
    _, cogs = exported
    with pytest.raises(OutputError, match="has 1 COGs, the output has 2 time steps"):
        export_stac(tmp_path, finished, {"classes": cogs["classes"][:1]})
    with pytest.raises(OutputError, match="is not there; export it first"):
        export_stac(tmp_path, finished, {"classes": ["a.tif", "b.tif"]})
    with pytest.raises(JobError, match="no layer `water`"):
        export_stac(tmp_path, finished, {"water": cogs["classes"]})
    with pytest.raises(OutputError, match="is not there or is no map"):
        export_stac(tmp_path, str(tmp_path / "no.zarr"))
    assert not list(tmp_path.iterdir())


def test_a_grid_without_a_code_states_its_wkt(kit, tmp_path):
    laea = "+proj=laea +lat_0=50 +lon_0=10 +datum=WGS84 +units=m +no_defs"
    grid = GeoBox((64, 64), Affine(100, 0, 0, 0, -100, 0), laea)
    sink = ZarrSink(str(tmp_path / "o.zarr"), kit.template(geobox=grid))
    sink.create()
    item = items(export_stac(tmp_path / "stac", sink.url))[0]
    assert item.properties["proj:code"] is None
    assert "Lambert Azimuthal" in item.properties["proj:wkt2"]


def test_across_the_antimeridian_the_footprint_is_cut():
    for crs, left, size in (("EPSG:32601", 50_000.0, 1000), ("EPSG:4326", 179, 0.01)):
        top = 2_000_000.0 if crs == "EPSG:32601" else 10.0
        grid = GeoBox((200, 200), Affine(size, 0, left, 0, -size, top), crs)
        geometry, (west, _, east, _) = footprint(grid)
        assert geometry["type"] == "MultiPolygon"
        assert west > 170
        assert east < -170
        lons = [p[0] for ring in geometry["coordinates"] for p in ring[0]]
        assert all(-180 <= x <= 180 for x in lons)


def test_round_a_pole_and_round_the_globe():
    grid = GeoBox((100, 100), Affine(1e4, 0, -5e5, 0, -1e4, 5e5), "EPSG:3413")
    geometry, bbox = footprint(grid)
    assert geometry["type"] == "Polygon"
    assert bbox[0] == -180
    assert bbox[2:] == [180, 90]
    assert 80 < bbox[1] < 88
    south = GeoBox((100, 100), Affine(1e4, 0, -5e5, 0, -1e4, 5e5), "EPSG:3031")
    assert footprint(south)[1][:2] == [-180, -90]
    globe = GeoBox((180, 360), Affine(1, 0, -180, 0, -1, 90), "EPSG:4326")
    assert footprint(globe)[1] == [-180, -90, 180, 90]


def test_a_footprint_is_counterclockwise():
    grid = GeoBox((10, 10), Affine(0.1, 0, 5, 0, -0.1, 50), "EPSG:4326")
    ring = np.array(footprint(grid)[0]["coordinates"][0])
    x, y = ring.T
    assert (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0


def test_a_grid_off_the_globe_is_refused():
    ortho = GeoBox((9, 9), Affine(1e7, 0, -5e7, 0, -1e7, 5e7), "+proj=ortho")
    with pytest.raises(ValueError, match="leaves the globe"):
        footprint(ortho)


def test_public_names_are_those_that_exist():
    for name in geoscale.sinks.__all__:
        assert callable(getattr(geoscale.sinks, name))
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        geoscale.sinks.nothing  # noqa: B018

from __future__ import annotations

import dataclasses
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from geoscale.errors import GeoscaleError, SourceError
from geoscale.sources.calibration import Calibration, find_gains, scale_and_offset
from geoscale.sources.items import Item, normalise_item, sort_items
from geoscale.sources.search import load_items

ROOT = Path(__file__).resolve().parents[3]
FOLDER = (
    Path(os.environ.get("GEOSCALE_TEST_DATA", ROOT / "shared" / "data")) / "stac_items"
)
FILES = sorted(FOLDER.glob("*/*json")) if FOLDER.is_dir() else []


def load(source: Any) -> list[Item]:
    return list(load_items(source))


def item(**changes: Any) -> dict[str, Any]:
    plain = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_1",
        "collection": "sentinel-2-l2a",
        "bbox": [9.0, 45.0, 10.0, 46.0],
        "properties": {"datetime": "2024-05-01T10:00:00Z", "platform": "sentinel-2a"},
        "assets": {
            "B04": {
                "href": "B04.tif",
                "type": "image/tiff; application=geotiff",
                "eo:bands": [{"name": "B04", "common_name": "red"}],
            }
        },
    }
    plain["properties"] = {**plain["properties"], **changes.pop("properties", {})}
    plain["assets"]["B04"].update(changes.pop("asset", {}))
    return {**plain, **changes}


def find(part: str) -> list[Path]:
    found = [path for path in FILES if part in path.name]
    if not found:
        pytest.skip("no STAC items; set GEOSCALE_TEST_DATA")
    return found


@pytest.mark.skipif(not FILES, reason="no STAC items; set GEOSCALE_TEST_DATA")
@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name[-60:])
def test_every_real_item_normalises_or_says_why(path: Path) -> None:
    if "example-with-version-1.2" in path.name:
        with pytest.raises(GeoscaleError, match=r"EPSG:32613.*EPSG:32614"):
            load(path)
        return
    items = load(path)
    for one in items:
        assert one.assets
        # how cloudy it was is asked once, and decides nothing that is stored
        kept = dataclasses.replace(one, cloud_cover=None)
        assert Item.from_json(json.loads(json.dumps(one.to_json()))) == kept
        assert one.datetime is None or one.datetime.endswith("+00:00")


@pytest.mark.parametrize(
    ("part", "band", "expected"),
    [
        ("sentinel-2-l2a__S2B_24MUV", "red", (1e-4, 0.0)),
        ("sentinel-2-c1-l2a", "red", (1e-4, -0.1)),
        ("sentinel-2-l1c__S2B_24MVV", "red", (1e-4, -0.1)),
        ("LC09_L2SR", "red", (2.75e-5, -0.2)),
        ("S2A_MSIL2A_20190101", "B04", (None, 0.0)),
    ],
)
def test_offsets_of_providers(part: str, band: str, expected: Any) -> None:
    one = load(find(part)[0])[0]
    assert scale_and_offset(one, one.assets[band], Calibration()) == expected


def test_planetary_computer_offsets_follow_the_baseline() -> None:
    wanted = Calibration(units="reflectance", multiply=10000, harmonize="s2-boa")
    for baseline, offset in (("02.12", 0.0), ("04.00", -1000.0), ("05.11", -1000.0)):
        one = normalise_item(item(properties={"s2:processing_baseline": baseline}))
        gains = find_gains([one], [[one.assets["B04"]]], ["red"], wanted)
        assert gains == [[(1.0, offset)]]


def test_mixed_baselines_are_refused() -> None:
    ids = ("a", "03.01"), ("b", "05.00"), ("c", "05.00")
    items = [
        normalise_item(item(id=i, properties={"s2:processing_baseline": b}))
        for i, b in ids
    ]
    layout = [[one.assets["B04"]] for one in items]
    with pytest.raises(SourceError, match=r"2 items have baseline >= 04\.00.*1 have"):
        find_gains(items, layout, ["red"], Calibration())
    wanted = Calibration(units="reflectance", scale=1e-4)
    with pytest.raises(SourceError, match=r"item b has baseline 05\.00.*harmonize"):
        find_gains(items, layout, ["red"], wanted)
    harmonised = Calibration(harmonize="s2-boa")
    assert [row[0] for row in find_gains(items, layout, ["red"], harmonised)] == [
        (1.0, 0.0), (1.0, -1000.0), (1.0, -1000.0),
    ]  # fmt: skip


def test_missing_scale_says_what_to_set() -> None:
    one = normalise_item(item())
    with pytest.raises(
        SourceError, match=r"no scale is known for `red`.*imagery\.scale"
    ):
        find_gains(
            [one], [[one.assets["B04"]]], ["red"], Calibration(units="reflectance")
        )


def test_search_order_and_duplicates_never_matter() -> None:
    items = [
        normalise_item(
            item(id=f"i{k}", properties={"datetime": f"2024-05-0{d}T00:00Z"})
        )
        for k, d in enumerate((3, 1, 2, 1))
    ]
    expected = sort_items(items)
    shuffled = items * 2
    random.Random(1).shuffle(shuffled)
    assert sort_items(shuffled) == expected
    assert [one.id for one in expected] == ["i1", "i3", "i2", "i0"]


def test_duplicates_that_differ_are_refused() -> None:
    pair = [normalise_item(item()), normalise_item(item(asset={"href": "other.tif"}))]
    with pytest.raises(SourceError, match="S2A_1 appears twice"):
        sort_items(pair)


def test_contradicting_crs_names_both() -> None:
    raw = item(properties={"proj:epsg": 32614, "proj:code": "EPSG:32613"})
    with pytest.raises(SourceError, match=r"S2A_1: proj:code=EPSG:32613 and proj:epsg"):
        normalise_item(raw)


@pytest.mark.parametrize(
    "fields",
    [
        {"proj:epsg": 32632},
        {"proj:code": "EPSG:32632"},
        {"proj:epsg": 32632, "proj:code": "EPSG:32632"},
        {"proj:epsg": None, "proj:wkt2": "utm"},
    ],
)
def test_crs_in_any_spelling(fields: dict[str, Any]) -> None:
    from pyproj import CRS

    if "proj:wkt2" in fields:
        fields = {**fields, "proj:wkt2": CRS.from_epsg(32632).to_wkt()}
    assert normalise_item(item(properties=fields)).assets["B04"].crs == "EPSG:32632"
    assert normalise_item(item(asset=fields)).assets["B04"].crs == "EPSG:32632"


def test_relative_hrefs_start_at_the_items_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "item.json"
    path.parent.mkdir()
    path.write_text(json.dumps(item(asset={"href": "./bands/../B04.tif"})))
    assert load(path)[0].assets["B04"].href == str(path.parent / "B04.tif")
    far = normalise_item(item(), "https://x.org/c/item.json")
    assert far.assets["B04"].href == "https://x.org/c/B04.tif"


def test_modern_bands_and_shared_fields() -> None:
    asset = {
        "eo:bands": None,
        "data_type": "uint16",
        "nodata": 0,
        "bands": [
            {"name": "b1", "eo:common_name": "red", "raster:scale": 0.01},
            {"name": "b2", "eo:common_name": "nir", "nodata": "nan"},
        ],
    }
    found = normalise_item(item(asset=asset)).assets
    assert list(found) == ["b1", "b2"]
    assert (found["b1"].scale, found["b1"].nodata, found["b1"].dtype) == (
        0.01, 0.0, "uint16",
    )  # fmt: skip
    assert found["b2"].band_index == 2
    assert str(found["b2"].nodata) == "nan"


def test_pictures_do_not_shadow_bands() -> None:
    one = load(find("sentinel-2-c1-l2a")[0])[0]
    assert one.offered()[0].name == "red"
    assert not one.assets["visual.1"].spectral


def test_expired_signature_is_named_and_never_shown() -> None:
    href = "https://x.org/a.tif?se=2020-09-23T19%3A22Z&sig=SECRET"
    with pytest.raises(SourceError, match="expired 2020-09-23T19:22Z") as caught:
        normalise_item(item(asset={"href": href}))
    assert "SECRET" not in str(caught.value)


def test_live_signature_is_not_stored() -> None:
    href = "https://x.org/a.tif?se=2999-01-01T00%3A00Z&sig=SECRET&v=2"
    assert normalise_item(item(asset={"href": href})).assets["B04"].href == (
        "https://x.org/a.tif?v=2"
    )


@pytest.mark.parametrize(
    ("raw", "match"),
    [
        ({"id": "x"}, "is not a STAC item"),
        (item(id=""), "has no `id`"),
        (item(properties={"datetime": "yesterday"}), "not an ISO 8601 date"),
        (item(asset={"proj:transform": [1, 2]}), "is not 6 or 9 numbers"),
        (item(asset={"proj:transform": [0] * 6}), "has no area"),
        (item(asset={"proj:shape": [0, 5]}), "is not \\(rows, columns\\)"),
        (item(properties={"proj:epsg": 999999}), "is not a CRS that PROJ knows"),
        (item(properties={"platform": 2}), "S2A_1: `properties.platform`: .*string"),
        (item(properties={"proj:epsg": "x" * 99}), "`properties.proj:epsg`"),
        (item(bbox=[9.0, float("nan"), 10.0, 46.0]), "`bbox.1`.*finite"),
        (item(collection=["a"]), "`collection`: .*string"),
        (item(geometry={"type": "Polygon", "coordinates": [[["x", 1]]]}), "coordin"),
        (item(asset={"raster:bands": [{"scale": 0}]}), "scale of 0 would make"),
        (item(asset={"raster:bands": [{"offset": float("inf")}]}), "finite"),
        (item(asset={"roles": 5}), "asset `B04`: `roles`: .*list"),
        (item(asset={"href": None}), "`href`"),
        (item(id="a" * 999), "`id.*at most 512"),
        (item(properties={"datetime": "0001-01-01T00:00:00+14:00"}), "not an ISO"),
        (item(asset={"nodata": 10**400}), "nodata 1000.*… is not a number"),
        (item(asset={"proj:shape": [float("inf"), 1]}), r"is not \(rows, columns\)"),
        (item(asset={"href": "http://[?sig=1"}), "is refused: it is not a URL"),
    ],
)
def test_wrong_items_are_named(raw: dict[str, Any], match: str) -> None:
    with pytest.raises(SourceError, match=match):
        normalise_item(raw)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "is not STAC JSON"),
        ("<!DOCTYPE html>", "is not STAC JSON; it starts with b'<!DOCTYPE"),
        ('{"features": [', "is not JSON.*cut short"),
        ('{"features": []}', "0 items in"),
        ('{"a": 1}', "no STAC item or collection"),
    ],
)
def test_wrong_items_files_are_named(tmp_path: Path, text: str, match: str) -> None:
    path = tmp_path / "items.json"
    path.write_text(text)
    with pytest.raises(SourceError, match=match):
        load(path)


def test_items_come_from_pystac_and_lists() -> None:
    import pystac

    one = pystac.Item.from_dict(item())
    assert load([one])[0].id == "S2A_1"
    assert load(pystac.ItemCollection([one]))[0].id == "S2A_1"
    assert load([item(), item(id="b")])[1].id == "b"


def test_items_come_from_stac_geoparquet(tmp_path: Path) -> None:
    pytest.importorskip("stac_geoparquet")
    import pyarrow.parquet as pq
    from stac_geoparquet import arrow

    raw = item(
        geometry={
            "type": "Polygon",
            "coordinates": [[[9, 45], [10, 45], [10, 46], [9, 46], [9, 45]]],
        },
        links=[],
    )
    table = arrow.parse_stac_items_to_arrow([raw]).read_all()
    pq.write_table(table, tmp_path / "items.parquet")
    found = load(tmp_path / "items.parquet")[0]
    assert (found.id, list(found.assets)) == ("S2A_1", ["B04"])

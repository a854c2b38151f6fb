from __future__ import annotations

import json
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

from geoscale.errors import JobError, SourceError
from geoscale.sources import Grid, Imagery, choose_grid, find_aoi, open_source
from geoscale.sources.items import Asset, Item
from geoscale.sources.search import check_bbox, search_items
from geoscale.windows import Window


def make(*transforms: Any, crs: str = "EPSG:32632", shape: Any = (100, 120)) -> Any:
    layout = [
        [Asset(href=f"{k}", crs=crs, transform=t, shape=shape)]
        for k, t in enumerate(transforms)
    ]
    items = [
        Item(id=f"{k}", datetime=None, assets={"a": row[0]})
        for k, row in enumerate(layout)
    ]
    return items, layout


ODD = (9.99479222007154, 0.0, 465181.0522318204, 0.0, -9.997448467363668, 5080254.6)


def test_native_grid_is_kept_to_the_last_bit() -> None:
    box = choose_grid(*make(ODD))
    assert tuple(box.affine)[:6] == ODD
    assert tuple(box.shape) == (100, 120)


def test_native_grid_is_the_union_of_the_items() -> None:
    a = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)
    b = (10.0, 0.0, 600500.0, 0.0, -10.0, 5000300.0)
    box = choose_grid(*make(a, b))
    assert tuple(box.affine)[:6] == (10, 0, 600000, 0, -10, 5000300)
    assert tuple(box.shape) == (130, 170)


def test_bounds_are_grown_to_whole_native_pixels() -> None:
    a = (10.0, 0.0, 600005.0, 0.0, -10.0, 5000000.0)
    box = choose_grid(*make(a), {"bounds": (600107, 4999500, 600200, 4999799)})
    assert tuple(box.affine)[:6] == (10, 0, 600105, 0, -10, 4999800)
    assert tuple(box.shape) == (30, 10)


def test_other_grids_are_multiples_of_the_resolution() -> None:
    box = choose_grid(*make(ODD), {"crs": "EPSG:32632", "resolution": 20})
    a, _, c, _, e, f = tuple(box.affine)[:6]
    assert (a, e, c % 20, f % 20) == (20, -20, 0, 0)
    lonlat = choose_grid(*make(ODD), {"crs": "EPSG:4326", "resolution": 0.0001})
    assert lonlat.crs.epsg == 4326


@pytest.mark.parametrize(
    ("grid", "match"),
    [
        ({"crs": "EPSG:4326"}, "grid.resolution is needed"),
        ({"crs": "EPSG:999999"}, "grid.crs `EPSG:999999` is not known"),
        ({"bounds": (5, 5, 5, 9)}, "grid.bounds .* is empty"),
        ({"bbox": (5, 95, 6, 96)}, r"looks like lat,lon|exceeds"),
        ({"crs": "EPSG:32632", "resolution": 1e-9}, "pixels; check that"),
    ],
)
def test_wrong_grids_are_named(grid: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        choose_grid(*make(ODD), grid)


def test_several_crs_list_counts_and_a_snippet() -> None:
    a = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)
    items, layout = make(a, a, a)
    more, rows = make(a, crs="EPSG:32633")
    with pytest.raises(
        SourceError,
        match=r"EPSG:32632 \(3 items\), EPSG:32633 \(1 items\).*\n"
        r"grid: \{crs: EPSG:32632, resolution: 10\}",
    ):
        choose_grid(items + more, layout + rows)


@pytest.mark.parametrize(
    ("box", "match"),
    [
        ((48.1, 120.0, 48.2, 121.0), r"looks like lat,lon.*\(120, 48.1, 121, 48.2\)"),
        ((500000, 5e6, 510000, 5.1e6), "exceeds ±180/±90"),
        ((4, 53, 5, 52), "south >= north"),
        ((4, 52, 4, 53), "has no width"),
    ],
)
def test_boxes_are_checked(box: Any, match: str) -> None:
    with pytest.raises(SourceError, match=match):
        check_bbox(box)


TRIANGLE = {
    "type": "Polygon",
    "coordinates": [[[9.0, 45.0], [9.1, 45.0], [9.0, 45.1], [9.0, 45.0]]],
}


def write_gpkg(path: Path) -> None:
    shape = shapely.from_geojson(json.dumps(TRIANGLE))
    header = b"GP\x00\x03" + struct.pack("<i4d", 4326, 9.0, 9.1, 45.0, 45.1)
    with sqlite3.connect(path) as base:
        base.execute(
            "CREATE TABLE gpkg_geometry_columns (table_name, column_name, srs_id)"
        )
        base.execute("INSERT INTO gpkg_geometry_columns VALUES ('areas', 'geom', 4326)")
        base.execute(
            "CREATE TABLE gpkg_spatial_ref_sys "
            "(srs_id, organization, organization_coordsys_id, definition)"
        )
        base.execute("INSERT INTO gpkg_spatial_ref_sys VALUES (4326, 'EPSG', 4326, '')")
        base.execute("CREATE TABLE areas (geom BLOB)")
        base.execute("INSERT INTO areas VALUES (?)", (header + shapely.to_wkb(shape),))


def test_area_from_any_file_marks_windows(tmp_path: Path) -> None:
    (tmp_path / "a.geojson").write_text(json.dumps(
        {"type": "FeatureCollection",
         "features": [{"type": "Feature", "geometry": TRIANGLE, "properties": {}}]}
    ))  # fmt: skip
    write_gpkg(tmp_path / "a.gpkg")
    boxes = []
    for aoi in (TRIANGLE, str(tmp_path / "a.geojson"), str(tmp_path / "a.gpkg")):
        grid = Grid(crs="EPSG:32632", resolution=10, aoi=aoi)
        box = choose_grid([], [], grid)
        area = find_aoi(grid, box)
        assert area is not None
        rows, columns = map(int, box.shape)
        edges = np.array([0, 50, rows]), np.array([0, columns - 50, columns])
        touched = area.touches(*edges)
        assert touched.shape == (2, 2)
        assert touched[1].any()
        assert not touched[0, 1], "the corner that the triangle leaves out"
        inside = area.mask(Window(0, 0, rows, columns))
        assert 0.45 < inside.mean() < 0.55
        part = Window(300, 100, 420, 333)
        whole = Window(0, 0, rows, columns)
        assert (area.mask(part) == inside[part.within(whole)]).all()
        boxes.append(box)
    assert boxes[0] == boxes[1] == boxes[2]
    assert find_aoi(Grid(), boxes[0]) is None


@pytest.mark.parametrize(
    ("aoi", "match"),
    [
        (shapely.box(5e5, 5e6, 5.1e5, 5.1e6), "exceed ±180/±90.*aoi_crs"),
        (shapely.Polygon([(0, 0), (1, 1), (1, 0), (0, 1)]), "polygon 0 is not valid"),
        (shapely.Point(0, 0), "holds Point; it must hold polygons"),
    ],
)
def test_wrong_areas_are_named(aoi: Any, match: str) -> None:
    plain = json.loads(shapely.to_geojson(aoi))
    with pytest.raises(SourceError, match=match):
        choose_grid([], [], {"crs": "EPSG:32632", "resolution": 10, "aoi": plain})


def test_an_area_may_have_a_crs_or_be_repaired() -> None:
    plain = json.loads(shapely.to_geojson(shapely.box(5e5, 5e6, 5.1e5, 5.1e6)))
    grid = {"crs": "EPSG:32632", "resolution": 100, "aoi": plain}
    box = choose_grid([], [], {**grid, "aoi_crs": "EPSG:32632"})
    assert tuple(box.shape) == (1000, 100)
    bow = shapely.Polygon([(9, 45), (9.1, 45.1), (9.1, 45), (9, 45.1)])
    fixed = {**grid, "aoi": json.loads(shapely.to_geojson(bow)), "fix_geometry": True}
    assert min(choose_grid([], [], fixed).shape) > 10


@pytest.mark.parametrize(
    ("imagery", "match"),
    [
        ({}, "exactly one of items, api, zarr, files, array; got none"),
        ({"files": "a", "zarr": "b"}, "got zarr, files"),
        ({"file": "a"}, "imagery.file: .*did you mean `files`"),
        ({"files": "a", "groupby": "day"}, "imagery.groupby"),
    ],
)
def test_wrong_settings_are_named(imagery: Any, match: str) -> None:
    with pytest.raises(JobError, match=match):
        open_source(imagery)


def test_api_errors_are_plain() -> None:
    api = {"api": "http://127.0.0.1:9/stac", "collections": ["c"], "bbox": (1, 2, 3, 4)}
    with pytest.raises(SourceError, match="private network"):
        list(search_items(Imagery(**api)))
    with pytest.raises(SourceError, match=r"STAC API http://127\.0\.0\.1:9/.* failed"):
        list(search_items(Imagery(**api, allow_private=True)))
    with pytest.raises(SourceError, match=r"needs imagery\.collections"):
        list(search_items(Imagery(**{**api, "collections": []}, allow_private=True)))
    with pytest.raises(SourceError, match="needs a place"):
        list(search_items(Imagery(**{**api, "bbox": None}, allow_private=True)))
    with pytest.raises(SourceError, match="is not an http"):
        list(search_items(Imagery(api="file:///etc", collections=["c"])))


def test_importing_sources_is_light() -> None:
    code = (
        "import sys, geoscale.sources;"
        "heavy = {'rasterio', 'xarray', 'dask', 'odc', 'stackstac', 'pystac', 'torch'};"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_loads() -> None:
    import geoscale.sources as room

    assert all(hasattr(room, name) for name in room.__all__)
    assert np.all([name in room._WHERE for name in room.__all__])
    with pytest.raises(AttributeError, match="no attribute"):
        room.nothing  # noqa: B018

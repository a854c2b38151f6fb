"""Detectors over the borders of UTM zones: no object is lost there, and none twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely

import geoscale as gs
from geoscale.borders import _Strip, decide
from geoscale.cli import main
from geoscale.detecting import Detection
from geoscale.job import parse_job
from geoscale.report import write_report
from geoscale.results.objects import export_objects
from geoscale.sources.aoi import Area
from geoscale.sources.utm import Zone
from geoscale.windows import Window
from tests.support.detectors import SIDE, save_program, squares_card, squares_network
from tests.support.globe import centres, north_up
from tests.support.stac_rules import check_item

pytest.importorskip("torch")
gpd = pytest.importorskip("geopandas")

STEP, HALF_M = 10.0, 1100.0
DEGREE = 111_320.0


def list_places() -> list[tuple[float, float]]:
    """Metres east of 36 degrees and north of the equator, most near these borders."""
    found = [(float(np.linspace(-4, 4, 12)[i]), y) for i, y in enumerate(
        [*range(-1000, -100, 150), *range(120, 1020, 150)])]  # fmt: skip
    found += [(x, float(np.linspace(4, -4, 12)[i])) for i, x in enumerate(
        [*range(-1000, -100, 150), *range(120, 1020, 150)])]  # fmt: skip
    # one in the corner of four zones, and some far from all
    return [*found, (3.0, -2.0), (500.0, 600.0), (-700.0, 400.0), (600.0, -700.0)]


PLACES = list_places()


def write_scene(path: Path, crs: str) -> None:
    """Squares on the ground, as a file of one zone shows them, on both sides."""
    import rasterio
    from pyproj import Transformer

    x, _ = Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform(36, 0)
    transform = north_up(round(x, -1) - 1700 + 3.3, 1700 + 4.1, STEP)
    lon, lat = centres(crs, transform, (340, 340))
    east, north = (lon - 36) * DEGREE, lat * DEGREE
    half = SIDE * STEP / 2
    image = np.zeros(lon.shape, np.float32)
    for u, v in PLACES:
        image[(abs(east - u) < half) & (abs(north - v) < half)] = 1
    with rasterio.open(
        path, "w", driver="GTiff", dtype="float32", count=1, height=340, width=340,
        crs=crs, transform=transform,
    ) as file:  # fmt: skip
        file.write(image, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: Any) -> Path:
    made: Path = tmp_path_factory.mktemp("borders")
    write_scene(made / "a36_20240601.tif", "EPSG:32636")
    write_scene(made / "b37_20240601.tif", "EPSG:32637")
    network = squares_network(jitter=1.4)
    save_program(made / "net.torchscript", network, (1, 1, 96, 96))
    return made


def make_job(folder: Path, to: str, *, block: int = 64, **detection: Any) -> Any:
    reach = HALF_M / DEGREE
    card = squares_card(**{"suppression": {"iou": 0.3}, **detection}).to_dict()
    href = str(folder / "net.torchscript")
    card["weights"] = {"href": href, "format": "torchscript"}
    card["input"] = {"bands": ["b1"], "units": "raw", "patch": {"size": 96}}
    fields = {
        "imagery": {"files": str(folder / "*.tif"), "bands": ["b1"], "groupby": "all"},
        "grid": {"crs": "utm", "bbox": (36 - reach, -reach, 36 + reach, reach)},
        "model": card,
        "inference": {"block": block},
        "output": {"to": str(folder / to)},
    }
    return parse_job(fields, where="job", base=folder)


@pytest.fixture(scope="module")
def out(folder: Path) -> Path:
    report = gs.run_job(make_job(folder, "out"), trust_code=True)
    assert report.complete
    assert report.computed == report.blocks
    assert not any(zone.waits for zone in report.zones.values())
    return folder / "out"


def read_all(out: Path) -> dict[str, np.ndarray]:
    """Middles of all objects by zone, (n, 2), in metres from where borders meet."""
    found = {}
    for place in sorted(out.glob("utm-*")):
        table = gpd.read_parquet(place / "detections.parquet")
        middle = table.geometry.centroid.to_crs("EPSG:4326")
        found[place.name] = np.stack(
            [(middle.x - 36) * DEGREE, middle.y * DEGREE], axis=1
        )
    return found


def test_every_object_is_found_once_in_all_zones_together(out: Path) -> None:
    found = read_all(out)
    assert set(found) == {"utm-36n", "utm-36s", "utm-37n", "utm-37s"}
    every = np.concatenate(list(found.values()))
    for place in PLACES:
        near = np.abs(every - place).max(axis=1) < 4 * STEP
        assert near.sum() == 1, place
    assert len(every) == len(PLACES)


def test_an_object_is_in_the_table_of_the_zone_of_its_middle(out: Path) -> None:
    slack = squares_card().output.detection.slack * STEP
    beyond = 0
    for name, middles in read_all(out).items():
        east, north = middles.T
        outside = east if name.startswith("utm-36") else -east
        outside = np.maximum(outside, -north if name.endswith("n") else north)
        assert (outside < slack).all()
        beyond += int((outside > 0).sum())
    # only what both zones saw on the other side
    assert beyond <= 3


def test_blocks_and_resumes_do_not_change_a_table(out: Path, folder: Path) -> None:
    plans = gs.plan_job(make_job(folder, "again", block=100))
    parts = [gs.run(plans, folder / "again", shard=(i, 2), trust_code=True)
             for i in (1, 0)]  # fmt: skip
    assert not parts[0].complete
    if not parts[1].complete:
        assert gs.run(plans, folder / "again", trust_code=True).complete
    for place in out.glob("utm-*"):
        other = folder / "again" / place.name / "detections.parquet"
        assert other.read_bytes() == (place / "detections.parquet").read_bytes()


def test_what_is_damaged_in_one_zone_is_mended_with_its_neighbours(
    out: Path, folder: Path
) -> None:
    import shutil

    copy = shutil.copytree(out, folder / "copy")
    first = {p: p.read_bytes() for p in copy.glob("utm-*/detections.parquet")}
    for part in (copy / "utm-37n" / "parts").glob("*"):
        part.unlink()
    (copy / "utm-36n" / "detections.parquet").write_bytes(b"no table")
    assert not gs.verify(copy).is_sound
    report = gs.repair(copy, trust_code=True)
    assert report.complete
    assert gs.verify(copy).is_sound
    assert {p: p.read_bytes() for p in first} == first


def test_a_zone_waits_for_the_one_beside_it(folder: Path) -> None:
    plans = gs.plan_job(make_job(folder, "alone"))
    gs.run(plans, folder / "alone", shard=(1, 2), trust_code=True)
    # all blocks of one zone, and half of the others'
    name = "utm-36n"
    report = gs.run(plans[name], folder / "alone" / name, trust_code=True)
    assert (report.complete, report.missing, report.waits) == (False, 0, True)
    assert "waits for a UTM zone beside it" in str(report)
    assert not (folder / "alone" / name / "detections.parquet").exists()


def test_the_page_counts_the_objects_of_all_zones(out: Path) -> None:
    page = write_report(out).read_text()
    assert f"<dt>objects</dt><dd>{len(PLACES)}</dd>" in page
    assert "Objects of all zones" in page
    assert out.with_name("out-utm-37s.html").is_file()


@pytest.mark.parametrize("end", ["parquet", "gpkg"])
def test_all_zones_are_in_one_file_in_degrees(
    out: Path, tmp_path: Path, end: str, capsys: Any
) -> None:
    path = tmp_path / f"all.{end}"
    assert main(["export", str(out), "--to", str(path)]) == 0
    table = gpd.read_parquet(path) if end == "parquet" else gpd.read_file(path)
    assert (len(table), table.crs) == (len(PLACES), "EPSG:4326")
    counts = {name: len(rows) for name, rows in read_all(out).items()}
    assert table.zone.value_counts().to_dict() == counts
    middle = shapely.get_coordinates(shapely.centroid(table.geometry.to_numpy()))
    every = (middle - (36, 0)) * DEGREE
    for place in PLACES:
        assert (np.abs(every - place).max(axis=1) < 4 * STEP).sum() == 1
    if end == "parquet":
        import pyarrow.parquet as pq

        box = [one["xmin"] for one in pq.read_table(path)["bbox"].to_pylist()]
        np.testing.assert_allclose(box, table.geometry.bounds.minx)


def test_a_folder_of_zones_has_an_item_for_each(out: Path, tmp_path: Path) -> None:
    paths = export_objects(out, tmp_path / "folder", min_score=0.5)
    assert len(paths) == 8
    for item in (tmp_path / "folder").glob("utm-*/detections.json"):
        check_item(json.loads(item.read_text()))


def strip(name: str, *rows: tuple[float, float, bool]) -> _Strip:
    """Squares of 10 m at an easting of its zone, with score, own or not."""
    zone = Zone.parse(name)
    assert zone is not None
    x = np.array([row[0] for row in rows])
    sides = np.array([(-5, 5), (5, 5), (5, -5), (-5, -5)], float)
    return _Strip(
        zone,
        np.arange(len(rows)),
        np.array([row[2] for row in rows], bool),
        np.full(len(rows), np.datetime64("2024-06-01", "D")),
        np.full(len(rows), 7, np.int16),
        np.array([row[1] for row in rows], np.float32),
        np.stack([x, np.full(len(x), 100.0)], 1)[:, None] + sides,
    )


@pytest.mark.parametrize(
    ("north", "south", "kept"),
    [
        # both say that it is theirs: the better one counts, or the first
        ((0.8, True), (0.9, True), [False, True]),
        ((0.9, True), (0.9, True), [False, True]),
        # one of them owns it
        ((0.7, True), (0.9, False), [True, False]),
        # both say that it is the other's
        ((0.8, False), (0.7, False), [True, False]),
    ],
)
def test_two_zones_come_to_the_same_end(
    north: tuple[float, bool], south: tuple[float, bool], kept: list[bool]
) -> None:
    spec = Detection(form="yolov8", max_object_px=9)
    one = strip("utm-36n", (5e5, *north))
    two = strip("utm-36s", (5e5, *south))
    two.corners[..., 1] += 1e7  # false northing of the south
    assert decide([one, two], spec).tolist() == kept
    assert decide([two, one], spec).tolist() == kept[::-1]


def test_what_only_one_zone_saw_beyond_its_border_is_the_others_to_know() -> None:
    spec = Detection(form="yolov8", max_object_px=9)
    one, two = strip("utm-36n", (5e5, 0.9, False)), strip("utm-36s")
    assert decide([one, two], spec).tolist() == [False]
    keep = Detection(form="yolov8", max_object_px=9, suppression={"method": "none"})
    both = [strip("utm-36n", (5e5, 0.9, True)), strip("utm-36n", (5e5, 0.9, True))]
    assert decide(both, keep).tolist() == [True, True]


def test_pixels_a_little_beyond_a_border_are_told_to_the_edge_of_the_grid() -> None:
    from odc.geo.geobox import GeoBox
    from pyproj import Transformer

    zone = Zone.parse("utm-36n")
    assert zone is not None
    x, y = Transformer.from_crs("EPSG:4326", zone.crs, always_xy=True).transform(36, 10)
    box = GeoBox((50, 60), north_up(round(x) - 300, round(y) + 250, STEP), zone.crs)
    west = shapely.box(x - 1e5, y - 1e5, x + 1, y + 1e5)
    area, window = Area(west, box, zone), Window(0, 0, 50, 60)
    own, beyond = area.mask(window), area.beyond(window, 4)
    assert not (own & beyond).any()
    np.testing.assert_array_equal(own.sum(axis=1), 30)
    np.testing.assert_array_equal(beyond.sum(axis=1), 4)
    assert not Area(west, box).beyond(window, 4).any()

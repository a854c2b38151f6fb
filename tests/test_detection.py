"""Detectors: blocks are an accident here too; each object is there, and once."""

from __future__ import annotations

import json
import threading
from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
import shapely
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import geoscale as gs
from geoscale.assemble import make_vector_sink
from geoscale.borders import gather
from geoscale.card import ModelCard
from geoscale.engine.block import Kernel, run_block
from geoscale.errors import CardError, OutputError, PlanError
from geoscale.job import Job
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.results.objects import export_objects
from geoscale.tasks.objects import Objects
from geoscale.testing import scene
from tests.support.detectors import (
    SIDE,
    bright_squares,
    seeded_dict,
    squares_card,
    squares_detector,
    yolox_dict,
)
from tests.support.stac_rules import check_item

SHAPE = (150, 170)
RUNS: dict[str, int] = {}
"""Patches that blocks ran, by the hash of a plan."""


def squares_source(places, shape=SHAPE, hole=None):
    source = scene(shape, bands=1, nodata=0.0, seed=1)
    source.data[:] = bright_squares(shape, places)
    source.valid[:] = True
    if hole is not None:
        source.valid[:, hole[0] : hole[1], hole[2] : hole[3]] = False
    return source


def run_squares(source, to, *, jitter=0.0, batch=3, card=None, mask=None, **inference):
    card = card or squares_card()
    plan = make_plan(
        source,
        card,
        weights_sha256="0",
        inference=Inference(**inference),
    )
    sink = make_vector_sink(plan, str(to))
    sink.create()
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card),
        predictor=squares_detector(card, batch=batch, jitter=jitter),
        task=Objects(),
        device_lock=threading.Lock(),
        sink=sink,
        mask=mask,
    )
    ran = 0
    for number in plan.numbers():
        outcome = run_block(kernel, int(number))
        assert outcome.ok, outcome.error
        ran += outcome.stats["lattice_patches"]
    gather(plan, sink)
    RUNS[plan.hash] = ran
    return plan, to / "detections.parquet"


def middles(plan, table):
    shapes = shapely.from_wkb(pq.read_table(table)["geometry"].to_numpy())
    points = shapely.get_coordinates(shapely.centroid(shapes))
    a, _, c, _, e, f = tuple(plan.geobox.affine)[:6]
    return sorted((float((y - f) / e), float((x - c) / a)) for x, y in points.tolist())


def some_places(seed, shape=SHAPE, gap=SIDE + 8):
    """Middles of squares that do not touch, near borders as well as anywhere."""
    rng, found = np.random.default_rng(seed), []
    for _ in range(300):
        y, x = rng.integers(SIDE // 2, np.array(shape) - SIDE // 2).tolist()
        if all(max(abs(y - v), abs(x - u)) >= gap for v, u in found):
            found.append((y, x))
    return sorted(found)


@settings(max_examples=10)
@given(
    st.integers(0, 99),
    st.lists(st.integers(9, 180), min_size=2, max_size=2, unique=True),
    st.sampled_from([None, 17, 22]),
    st.integers(1, 4),
)
def test_blocks_do_not_change_a_byte_of_the_table(
    tmp_path_factory, seed, blocks, stride, batch
):
    hole = (0, 40, 0, 70) if seed % 2 else None
    source = squares_source(some_places(seed), hole=hole)
    tables = [
        run_squares(
            source,
            tmp_path_factory.mktemp("out"),
            jitter=0.7,
            batch=size,
            block=block,
            stride=stride,
        )[1].read_bytes()
        for block, size in zip(blocks, (batch, 2), strict=True)
    ]
    assert tables[0] == tables[1]


@settings(max_examples=10)
@given(st.integers(0, 99), st.integers(20, 180))
def test_every_object_is_found_once(tmp_path_factory, seed, block):
    places = some_places(seed)
    plan, table = run_squares(
        squares_source(places), tmp_path_factory.mktemp("out"), jitter=0.7, block=block
    )
    found = middles(plan, table)
    assert len(found) == len(places)
    for y, x in places:
        near = [1 for v, u in found if abs(v - y - 0.5) < 2 and abs(u - x - 0.5) < 2]
        assert near == [1], (y, x)


def test_a_row_of_objects_along_every_border_is_found_once(tmp_path):
    # squares whose middles lie on, before and behind borders of patches and blocks
    places = [(y, x) for y in (17, 34, 51, 68) for x in range(10, 160, 17)]
    plan, table = run_squares(
        squares_source(places), tmp_path, jitter=0.7, block=34, stride=17
    )
    assert len(middles(plan, table)) == len(places)


def test_what_has_its_middle_outside_the_area_is_left_out(tmp_path):
    places = [(40, 40), (40, 120), (100, 40)]
    source = squares_source(places, hole=(80, 150, 0, 170))
    plan, table = run_squares(source, tmp_path, block=64)
    assert middles(plan, table) == [(40.5, 40.5), (40.5, 120.5)]
    assert not list(tmp_path.glob("parts/0-2-*"))


def test_what_has_its_middle_outside_the_area_of_interest_is_left_out(tmp_path):
    places = [(40, 40), (40, 70), (40, 84), (80, 78)]
    source = squares_source(places)

    def mask(window):
        # the third square lies in a patch that owns pixels on both sides; the last
        # one is cut, its middle is inside
        kept = np.arange(window.x0, window.x1) < 80
        return np.broadcast_to(kept, window.shape)

    for block in (64, 170):
        plan, table = run_squares(source, tmp_path / f"{block}", mask=mask, block=block)
        assert middles(plan, table) == [(40.5, 40.5), (40.5, 70.5), (80.5, 78.5)]


def test_each_patch_is_run_by_one_block(tmp_path):
    plan, _ = run_squares(squares_source([]), tmp_path, block=20)
    assert RUNS[plan.hash] == len(plan.lattice)


def test_no_object_gives_an_empty_valid_file(tmp_path):
    import geopandas

    plan, table = run_squares(squares_source([]), tmp_path, block=64)
    read = geopandas.read_parquet(table)
    assert len(read) == 0
    assert read.crs == str(plan.geobox.crs)
    assert not list(tmp_path.glob("parts/*"))


def test_rows_name_class_score_date_and_place(tmp_path):
    import geopandas

    _, table = run_squares(squares_source([(40, 40)]), tmp_path, block=64)
    (row,) = geopandas.read_parquet(table).to_dict("records")
    assert row["class"] == "square"
    assert row["value"] == 7
    assert row["score"] == pytest.approx(1.0)
    assert len(row["id"]) == 16
    assert row["geometry"].area == pytest.approx(SIDE**2 * abs(_step(table)) ** 2)
    # outer rings run counterclockwise, as the metadata say
    assert row["geometry"].exterior.is_ccw


def _step(table):
    import json

    layout = json.loads((table.parent / "detections.json").read_text())["layout"]
    return layout["transform"][0]


def test_an_object_keeps_its_id_whatever_is_beside_it(tmp_path):
    ids = []
    for i, places in enumerate(([(40, 40)], [(40, 40), (100, 100)])):
        _, table = run_squares(squares_source(places), tmp_path / str(i), block=64)
        ids.append(set(pq.read_table(table)["id"].to_pylist()))
    assert ids[0] < ids[1]


def test_patches_overlap_by_the_largest_object(tmp_path):
    plan, _ = run_squares(squares_source([(40, 40)]), tmp_path)
    spec = plan.card.output.detection
    assert plan.inference.merge == "crop"
    assert plan.lattice.margin >= SIDE / 2 + 2 * spec.slack
    assert not plan.notes
    tight, _ = run_squares(squares_source([(40, 40)]), tmp_path / "b", stride=47)
    assert any("choose inference.stride <= " in note for note in tight.notes)


@pytest.mark.parametrize(
    ("inference", "says"),
    [
        ({"merge": "blend"}, "no scores to be blended"),
        ({"runtime": "auto"}, "leave `inference.runtime`"),
        ({"precision": "bfloat16"}, "leave `inference.runtime`"),
        ({"patch": 16}, "leave nothing of a patch"),
    ],
)
def test_what_a_detector_cannot_do_is_refused(inference, says):
    with pytest.raises(PlanError, match=says):
        make_plan(
            squares_source([]),
            squares_card(),
            weights_sha256="0",
            inference=Inference(**inference),
        )


def test_layers_of_a_map_are_refused():
    with pytest.raises(PlanError, match="stored as a table"):
        make_plan(
            squares_source([]),
            squares_card(),
            weights_sha256="0",
            output=Output(layers=("classes",)),
        )


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"form": "yolov9"}, "form"),
        ({"max_object_px": 0}, "max_object_px"),
        ({"mask_threshold": 0.5}, "has no masks"),
        ({"form": "yolov8-obb", "suppression": {"method": "wbf"}}, "upright boxes"),
    ],
)
def test_a_wrong_card_says_what_is_wrong(change, says):
    with pytest.raises(CardError, match=says):
        squares_card(**change)


def test_a_detector_is_no_model_of_a_map_and_the_other_way_round():
    plain = squares_card().to_dict()
    del plain["output"]["detection"]
    plain["output"]["classes"].append({"value": 8, "name": "other"})
    with pytest.raises(CardError, match=r"output\.detection"):
        ModelCard.from_dict(plain)
    with pytest.raises(CardError, match="gives objects, not pixels"):
        gs.plan(None, squares_card(), task="segmentation")
    card = gs.load_model("s2-landcover-unet")
    with pytest.raises(CardError, match="needs a detector"):
        gs.plan(None, card, task="detection")


def test_a_card_survives_being_written_and_read():
    card = squares_card(suppression={"method": "wbf", "iou": 0.4})
    again = ModelCard.from_dict(card.to_dict())
    assert again == card
    assert again.hash() == card.hash()


# --- whole jobs, of files


@pytest.fixture
def yolox_job(tmp_path, data_dir):
    pytest.importorskip("onnxruntime")
    image = data_dir / "fair_buildings" / "kampala_A.tif"
    if not image.is_file():
        pytest.skip("no Kampala mosaic")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(yolox_dict(data_dir)))
    job = {
        "imagery": {"files": str(image), "bands": ["red", "green", "blue"]},
        "model": str(tmp_path / "card.yaml"),
        "inference": {"block": 700},
        "output": {"to": str(tmp_path / "out")},
    }
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(job))
    return path


def test_a_job_is_run_verified_damaged_repaired_and_exported(yolox_job, tmp_path):
    import geopandas

    out = tmp_path / "out"
    assert gs.run_job(yolox_job).complete
    first = (out / "detections.parquet").read_bytes()
    assert gs.verify(out).is_sound
    assert gs.run_job(yolox_job).computed == 0
    assert (out / "detections.parquet").read_bytes() == first
    # a part that changed, and one that is gone
    parts = sorted(out.glob("parts/*.parquet"))
    parts[0].write_bytes(parts[0].read_bytes()[:-5])
    parts[1].unlink()
    found = gs.verify(out)
    assert Counter(d.reason for d in found.damaged) == {"changed": 1, "missing": 1}
    assert gs.repair(out).computed == 2
    assert gs.verify(out).is_sound
    assert (out / "detections.parquet").read_bytes() == first
    # the table itself
    (out / "detections.parquet").write_bytes(b"no table")
    assert [d.key for d in gs.verify(out).damaged] == ["detections.parquet"]
    gs.repair(out)
    assert (out / "detections.parquet").read_bytes() == first

    count = len(geopandas.read_parquet(out / "detections.parquet"))
    assert count > 10
    for name in ("a.gpkg", "a.geojson", "a.fgb", "a.parquet"):
        (path,) = export_objects(out, tmp_path / name)
        read = (
            geopandas.read_parquet if name.endswith("parquet") else geopandas.read_file
        )
        assert len(read(path)) == count
    table, item = export_objects(out, tmp_path / "folder")
    assert table.read_bytes()
    said = json.loads(item.read_text())
    check_item(said)
    assert said["properties"]["table:row_count"] == count
    assert said["properties"]["mlm:tasks"] == ["object-detection"]
    assert said["properties"]["processing:lineage"].startswith("detection of red, ")
    asset = said["assets"]["objects"]
    assert asset["file:size"] == table.stat().st_size
    assert asset["classification:classes"][79]["name"] == "coco79"
    columns = [one["name"] for one in said["properties"]["table:columns"]]
    assert columns == pq.read_schema(table).names
    sure = export_objects(out, tmp_path / "sure.gpkg", min_score=0.3)[0]
    assert 0 < len(geopandas.read_file(sure)) < count


def test_verbs_of_maps_say_that_it_is_a_table(yolox_job, tmp_path):
    gs.run_job(yolox_job)
    out = tmp_path / "out"
    for verb in (
        lambda: gs.open_output(str(out)),
        lambda: gs.export(out, tmp_path / "cogs"),
        lambda: gs.polygons(out),
    ):
        with pytest.raises(OutputError, match="geoscale export OUT"):
            verb()


def test_another_jobs_output_is_left_alone(yolox_job, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "precious.txt").write_text("mine")
    with pytest.raises(OutputError, match="something else"):
        gs.run_job(yolox_job)
    assert [p.name for p in out.iterdir()] == ["precious.txt"]


def test_an_unfinished_output_is_not_exported(yolox_job, tmp_path):
    plan = gs.plan_job(yolox_job)
    gs.run(plan, tmp_path / "out", shard=(0, 2))
    with pytest.raises(OutputError, match="not complete"):
        export_objects(tmp_path / "out", tmp_path / "a.gpkg")
    gs.run(plan, tmp_path / "out", shard=(1, 2))
    assert export_objects(tmp_path / "out", tmp_path / "a.gpkg")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["yolox", "faster-rcnn", "mask-rcnn"])
def test_real_detections_are_the_same_for_every_cut_and_number_of_workers(
    kind, tmp_path, data_dir
):
    from distributed import Client, LocalCluster

    card = yolox_dict(data_dir)
    if kind != "yolox":
        masks = {"mask_threshold": 0.5} if kind == "mask-rcnn" else {}
        card = seeded_dict(tmp_path, kind, **masks)
    image = data_dir / "fair_buildings" / "kampala_A.tif"

    def run(block, client=None):
        job = {
            "imagery": {"files": str(image), "bands": ["red", "green", "blue"]},
            "model": card,
            "inference": {"block": block},
            "output": {"to": str(tmp_path / f"{block}-{client is None}")},
        }
        report = gs.run_job(Job.model_validate(job), client=client)
        assert report.complete
        return tmp_path / f"{block}-{client is None}" / "detections.parquet"

    whole = run(1536)  # one block: one pass over the whole lattice
    tables = [run(block) for block in (416, 700, 1024)]
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            worker_dashboard_address=None,
        ) as cluster,
        Client(cluster) as client,
    ):
        tables.append(run(416, client))
    assert len(pq.read_table(whole)) > 20
    for table in tables:
        assert table.read_bytes() == whole.read_bytes()

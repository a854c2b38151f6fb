"""Whole evaluations: equal to scikit-learn's, whatever the cut, and said clearly."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from affine import Affine
from odc.geo.geobox import GeoBox
from PIL import Image
from sklearn import metrics

import geoscale as gs
from geoscale.errors import JobError, OutputError, SourceError
from geoscale.evaluation.result import DIFFERENT, NO_LABEL, OUTSIDE, SAME
from geoscale.report.areas import measure_areas
from geoscale.report.levels import open_levels
from geoscale.spread import limit_threads
from tests.evaluation.conftest import (
    CLASSES,
    NAMES,
    UTM,
    blobs,
    quantised,
    write_labels,
    write_output,
    write_shapes,
)


def everything(found):
    return found.to_dict(), found.picture.tobytes()


def test_figures_equal_scikit_learns_on_the_same_pixels(utm, output, reference):
    found = gs.evaluate(output, reference)
    known = np.zeros(utm.truth.shape, bool)
    known[30:] = True
    both = known & ~utm.holes
    truth, ours = utm.truth[both], utm.classes[both]
    assert found.pixels == both.sum()
    assert found.mapped_px == (~utm.holes).sum()
    assert found.unmapped_px == (known & utm.holes).sum()
    table = metrics.confusion_matrix(truth, ours)
    assert np.array_equal(np.array(found.matrix).T, table)
    assert found.accuracy == pytest.approx(metrics.accuracy_score(truth, ours))
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(truth, ours))
    for name, score in (
        ("iou", metrics.jaccard_score),
        ("f1", metrics.f1_score),
        ("users", metrics.precision_score),
        ("producers", metrics.recall_score),
    ):
        values = [getattr(one, name) for one in found.classes]
        assert values == pytest.approx(score(truth, ours, average=None))
    assert found.mean_iou == pytest.approx(
        metrics.jaccard_score(truth, ours, average="macro")
    )
    for number, one in enumerate(found.classes):
        scores = utm.scores[number][both]
        assert one.auc == pytest.approx(
            metrics.roc_auc_score(truth == number, scores), abs=1e-14
        )
    assert [one.name for one in found.classes] == list(NAMES)


@pytest.mark.parametrize("place", ["utm", "degrees"])
def test_areas_are_those_of_the_report(place, request, tmp_path):
    made = request.getfixturevalue(place)
    url = made.write(tmp_path / "map.zarr")
    path = write_labels(tmp_path / "labels.tif", made.truth, made.geobox)
    found = gs.evaluate(url, path)
    areas = measure_areas(open_levels(url)[0], "classes", 0, 255)
    for one in found.classes:
        assert one.mapped_m2 == pytest.approx(areas.m2[one.value], rel=1e-12)
    # all that is mapped has a label, so the areas of the truth are known
    assert found.design == "census"
    assert sum(one.area_m2.value for one in found.classes) == pytest.approx(areas.total)


@pytest.fixture
def threads():
    """Set the number of threads; back to what the machine has at the end."""
    from geoscale import spread

    yield limit_threads
    spread._limit.clear()


@pytest.mark.parametrize(
    ("place", "source"),
    [("utm", "same"), ("utm", "other"), ("utm", "shapes"), ("degrees", "same")],
)
def test_the_cut_decides_nothing(place, source, request, tmp_path, threads):
    """Not even the last bit: blocks of any size, one thread or several."""
    made = request.getfixturevalue(place)
    url = made.write(tmp_path / "map.zarr")
    path = tmp_path / ("labels.gpkg" if source == "shapes" else "labels.tif")
    if source == "shapes":
        write_shapes(path, made.geobox, seed=4, count=200)
    elif source == "same":
        write_labels(path, made.truth, made.geobox)
    else:
        # another grid: turned against the map's, and coarser
        box = made.geobox.geographic_extent.boundingbox
        step = (box.right - box.left) / 90
        grid = GeoBox(
            (80, 90), Affine(step, 0, box.left, 0, -step, box.top), "EPSG:4326"
        )
        write_labels(path, blobs((80, 90), 3, 5, 6), grid)
    results = []
    for block, count in ((None, 2), (37, 3), (50, 1), (1000, 2)):
        threads(count)
        results.append(everything(gs.evaluate(url, path, block_px=block)))
    assert results[0][0]["pixels"] > 2000
    assert all(one == results[0] for one in results)


def test_memory_does_not_grow_with_the_map(tmp_path, threads, monkeypatch):
    """Sixteen times the pixels: less than a byte more for each."""
    import tracemalloc

    monkeypatch.setattr("geoscale.evaluation.counting.PICTURE_PX", 10_000)
    threads(1)
    peaks = {}
    for side in (512, 2048):
        grid = GeoBox((side, side), UTM.affine, UTM.crs)
        layers = {"classes": blobs((side, side), 3, 1)[None]}
        url = write_output(tmp_path / f"{side}.zarr", layers, grid, block=256)
        path = write_labels(
            tmp_path / f"{side}.tif", blobs((side, side), 3, 2), grid, tiled=True
        )
        gs.evaluate(url, path)  # what is imported and cached once
        tracemalloc.start()
        gs.evaluate(url, path)
        peaks[side] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peaks[2048] - peaks[512] < 2048**2 - 512**2


def test_workers_count_the_same(output, reference):
    from distributed import Client

    here = everything(gs.evaluate(output, reference, block_px=50))
    with Client(processes=False, dashboard_address=None) as client:
        there = gs.evaluate(output, reference, client=client, block_px=50)
    assert everything(there) == here


@pytest.mark.slow
def test_worker_processes_count_the_same(output, reference):
    here = everything(gs.evaluate(output, reference, block_px=50))
    with gs.connect(2) as client:
        there = gs.evaluate(output, reference, client=client, block_px=64)
    assert everything(there) == here


def test_a_whole_map_needs_no_interval(output, utm, tmp_path):
    path = write_labels(tmp_path / "all.tif", utm.truth, utm.geobox)
    found = gs.evaluate(output, path)
    assert found.design == "census"
    assert found.overall.value == pytest.approx(found.accuracy, abs=1e-6)
    assert found.overall.standard_error == 0
    assert "census, no sample" in found.to_markdown()
    assert "±" not in found.to_markdown()


def test_a_part_of_a_map_is_no_sample_unless_said(output, reference):
    found = gs.evaluate(output, reference)
    assert found.design == "unknown"
    assert "chosen at random" in found.to_markdown()
    said = gs.evaluate(output, reference, sample=True)
    assert said.design == "sample"
    assert said.overall == found.overall
    assert "±" in said.to_markdown()


def test_areas_are_estimated_from_a_sample(output, utm, tmp_path):
    """A random sample of 4 % gives the areas of the truth within its intervals."""
    rng = np.random.default_rng(11)
    labels = np.where(rng.random(utm.truth.shape) < 0.04, utm.truth, 255)
    path = write_labels(
        tmp_path / "sample.tif", labels.astype(np.uint8), utm.geobox, nodata=255
    )
    found = gs.evaluate(output, path, sample=True)
    for number, one in enumerate(found.classes):
        truth = ((utm.truth == number) & ~utm.holes).sum() * 100 / 0.9996**2
        assert abs(one.area_m2.value - truth) < 1.5 * one.area_m2.margin
        assert abs(one.mapped_m2 - truth) > 0
    assert abs(found.overall.value - (utm.classes == utm.truth)[~utm.holes].mean()) < (
        1.5 * found.overall.margin
    )


def test_a_class_without_labels_stops_estimates_not_figures(output, utm, tmp_path):
    labels = np.where(utm.classes == 2, 255, utm.truth).astype(np.uint8)
    path = write_labels(tmp_path / "two.tif", labels, utm.geobox, nodata=255)
    found = gs.evaluate(output, path)
    assert found.overall is None
    assert "too few labelled pixels in bare soil (0 px" in found.to_markdown()
    assert found.score("water").iou > 0
    assert found.score("water").area_m2 is None


def test_the_picture_shows_where_they_differ(output, utm, reference):
    found = gs.evaluate(output, reference)
    want = np.where(utm.classes == utm.truth, SAME, DIFFERENT)
    want[:30] = NO_LABEL
    want[utm.holes] = OUTSIDE
    assert found.step == 1
    assert np.array_equal(found.picture, want)


def test_a_large_picture_is_thinned(monkeypatch, output, utm, reference):
    monkeypatch.setattr("geoscale.evaluation.counting.PICTURE_PX", 4000)
    whole = gs.evaluate(output, reference, block_px=1000)
    parts = gs.evaluate(output, reference, block_px=50)
    assert whole.step == 3
    assert np.array_equal(whole.picture, parts.picture)
    wrong = (utm.classes != utm.truth) & ~utm.holes
    wrong[:30] = False
    assert np.array_equal(whole.picture == DIFFERENT, wrong[::3, ::3])


def test_files_are_written(output, reference, tmp_path):
    found = gs.evaluate(output, reference)
    paths = {path.name: path for path in found.write(tmp_path / "deep" / "er")}
    said = json.loads(paths["evaluation.json"].read_text())
    assert said["matrix"] == [list(row) for row in found.matrix]
    assert said["classes"][1]["name"] == "water"
    low, high = (said["overall"][k] for k in ("low", "high"))
    assert low < said["overall"]["value"] < high
    page = paths["evaluation.md"].read_text()
    assert "| bare soil |" in page
    for name in ("confusion.svg", "roc.svg"):
        assert name in page
        assert ET.fromstring(paths[name].read_text()).tag.endswith("svg")
    assert Image.open(paths["agreement.png"]).size == (210, 150)
    with pytest.raises(OutputError, match="is a file; name a folder"):
        found.write(paths["evaluation.md"])


def test_a_change_map_has_its_curve(tmp_path):
    rng = np.random.default_rng(1)
    truth = blobs(UTM.shape, 2, 8)
    chance = np.clip(rng.normal(80 + 70 * truth, 50), 0, 254).astype(np.uint8)
    layers = {"change": (chance > 127)[None].astype(np.uint8)}
    layers["change_probability"] = chance[None]
    flags = (("flag_meanings", "no_change change"), ("flag_values", [0, 1]))
    change = CLASSES.__class__(
        name="change", dtype="uint8", fill_value=255, attrs=flags
    )
    url = write_output(
        tmp_path / "change.zarr",
        layers,
        UTM,
        names=(),
        kinds=(change, quantised("change_probability")),
    )
    path = write_labels(tmp_path / "labels.tif", truth, UTM)
    found = gs.evaluate(url, path)
    assert found.layer == "change"
    assert found.score("change").auc == pytest.approx(
        metrics.roc_auc_score(truth.ravel(), chance.ravel()), abs=1e-14
    )
    assert found.score("no_change").auc is None


def test_float16_scores_have_exact_curves(utm, tmp_path):
    half = (utm.scores / 300).astype(np.float16)
    half[:, utm.holes] = np.nan
    kind = CLASSES.__class__(
        name="scores", dtype="float16", fill_value=float("nan"), classes=3
    )
    layers = {"classes": utm.classes[None], "scores": half[None]}
    url = write_output(tmp_path / "m.zarr", layers, UTM, kinds=(CLASSES, kind))
    path = write_labels(tmp_path / "labels.tif", utm.truth, UTM)
    found, good = gs.evaluate(url, path), ~utm.holes
    for number, one in enumerate(found.classes):
        assert one.auc == pytest.approx(
            metrics.roc_auc_score(utm.truth[good] == number, half[number][good]),
            abs=1e-14,
        )


def test_scores_of_merged_classes_are_added(utm, output, tmp_path):
    path = write_labels(tmp_path / "labels.tif", utm.truth, utm.geobox)
    merge = {"water": "wet", "*": "dry"}
    labels = {"0": "dry", "1": "wet", "2": "dry"}
    found = gs.evaluate(output, path, merge=merge, map_labels=labels)
    assert [(c.name, c.value, c.members) for c in found.classes] == [
        ("dry", 0, (0, 2)),
        ("wet", 1, (1,)),
    ]
    good = ~utm.holes
    dry = utm.scores[[0, 2]].astype(int).sum(axis=0)[good]
    truth = utm.truth[good] != 1
    assert found.score("dry").auc == pytest.approx(metrics.roc_auc_score(truth, dry))
    table = metrics.confusion_matrix(truth, utm.classes[good] != 1, labels=[1, 0])
    assert np.array_equal(np.array(found.matrix).T, table)


def test_two_geotiffs_can_be_compared(utm, tmp_path):
    ours = write_labels(tmp_path / "map.tif", utm.classes, UTM, nodata=255)
    labels = np.where(utm.truth == 0, 7, utm.truth).astype(np.int16)
    path = write_labels(tmp_path / "labels.tif", labels, UTM)
    found = gs.evaluate(ours, path, map_labels={7: 0}, block_px=64)
    good = ~utm.holes
    table = metrics.confusion_matrix(utm.truth[good], utm.classes[good])
    assert np.array_equal(np.array(found.matrix).T, table)
    assert found.classes[0].auc is None
    with pytest.raises(JobError, match="is a raster, which has no merge"):
        gs.evaluate(ours, path, merge={"0": "x"})


def test_an_unfinished_map_is_refused(utm, reference, tmp_path):
    url = utm.write(tmp_path / "map.zarr")
    (tmp_path / "map.zarr" / ".geoscale" / "final.json").unlink()
    with pytest.raises(OutputError, match="is not complete: run its job to the end"):
        gs.evaluate(url, reference)
    with pytest.raises(OutputError, match="is not there"):
        gs.evaluate(tmp_path / "no.zarr", reference)


def test_one_of_several_dates_must_be_named(utm, reference, tmp_path):
    layers = {"classes": np.stack([utm.classes, utm.truth])}
    url = write_output(tmp_path / "map.zarr", layers, UTM, times=2)
    with pytest.raises(JobError, match=r"several time steps; name one.*2024-06-01"):
        gs.evaluate(url, reference)
    with pytest.raises(JobError, match="no time step `2023`"):
        gs.evaluate(url, reference, time="2023")
    assert gs.evaluate(url, reference, time="2024-06").accuracy == 1
    assert gs.evaluate(url, reference, time="2024-05").accuracy < 1


def test_options_are_checked(output, reference):
    with pytest.raises(JobError, match="did you mean `ignore`"):
        gs.evaluate(output, reference, ignored=[1])
    with pytest.raises(JobError, match="labels that nobody gave"):
        gs.evaluate(output, reference, resampling="bilinear")
    with pytest.raises(JobError, match="both mapped and ignored"):
        gs.evaluate(output, reference, ignore=[1], map_labels={1: 2})
    with pytest.raises(JobError, match="no `klasses`"):
        gs.evaluate(output, reference, layer="klasses")
    with pytest.raises(JobError, match="no scores `confidence`; it has scores"):
        gs.evaluate(output, reference, scores="confidence")
    with pytest.raises(JobError, match="block_px 0: must be 1 or more"):
        gs.evaluate(output, reference, block_px=0)
    with pytest.raises(SourceError, match="no file matches"):
        gs.evaluate(output, "nothing-here.tif")

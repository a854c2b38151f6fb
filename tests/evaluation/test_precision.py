"""Average precision equals pycocotools', on real and on random boxes."""

from __future__ import annotations

import contextlib
import io
import json

import numpy as np
import pandas as pd
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from geoscale.errors import SourceError
from geoscale.evaluation.objects import evaluate_objects
from geoscale.evaluation.precision import LIMITS, average_precision
from tests.test_detection import run_squares, squares_source


def coco(truth, found, scores):
    """Precision by limit, AP and recall by limit, as pycocotools gives them."""
    tools = pytest.importorskip("pycocotools.coco")
    from pycocotools.cocoeval import COCOeval

    def row(number, box):
        x0, y0, x1, y1 = (float(v) for v in box)
        size = [x1 - x0, y1 - y0]
        return {"id": number, "image_id": 1, "category_id": 1, "iscrowd": 0,
                "bbox": [x0, y0, *size], "area": size[0] * size[1]}  # fmt: skip

    with contextlib.redirect_stdout(io.StringIO()):
        known = tools.COCO()
        known.dataset = {
            "images": [{"id": 1}],
            "categories": [{"id": 1, "name": "a"}],
            "annotations": [row(i + 1, box) for i, box in enumerate(truth)],
        }
        known.createIndex()
        told = [
            row(i + 1, box) | {"score": float(s)}
            for i, (box, s) in enumerate(zip(found, scores, strict=True))
        ]
        run = COCOeval(known, known.loadRes(told), "bbox")
        run.params.maxDets = [1, 10, 100_000]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, 0, 0, -1]
    return precision.mean(1), run.eval["recall"][:, 0, 0, -1]


def check(truth, found, scores):
    precision, recall = coco(truth, found, scores)
    ours = average_precision(
        "a", shapely.box(*np.array(truth).T), shapely.box(*np.array(found).T), scores
    )
    np.testing.assert_allclose(ours.precision, precision, atol=1e-9)
    np.testing.assert_allclose(ours.recall, recall, atol=1e-9)
    assert ours.mean == pytest.approx(precision.mean(), abs=1e-9)
    return ours


def test_real_trees_and_real_predictions(data_dir):
    folder = data_dir / "deepforest"
    name = "2018_SJER_3_252000_4107000_image_477"
    columns = ["xmin", "ymin", "xmax", "ymax"]
    truth = pd.read_csv(folder / f"{name}_truth.csv")[columns].to_numpy(float)
    table = pd.read_csv(folder / f"{name}.csv")
    ours = check(truth, table[columns].to_numpy(float), table["scores"].to_numpy())
    assert 0.05 < ours.mean < ours.at(0.5) < 1
    assert LIMITS[0] == 0.5


@settings(max_examples=20)
@given(st.integers(0, 9999), st.integers(1, 30), st.integers(1, 60))
def test_random_boxes(seed, there, count):
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 80, (there, 2))
    truth = np.concatenate([low, low + rng.uniform(4, 20, (there, 2))], 1)
    found = truth[rng.integers(0, there, count)] + rng.normal(0, 1.5, (count, 4))
    found[:, 2:] = np.maximum(found[:, 2:], found[:, :2] + 0.5)
    check(truth, found, np.round(rng.uniform(0, 1, count), 1))


def squares_output(tmp_path, places):
    plan, table = run_squares(squares_source(places), tmp_path, block=64)
    return plan, table.parent


def labels(plan, places, path, **columns):
    import geopandas

    a, _, c, _, e, f = tuple(plan.geobox.affine)[:6]
    boxes = [
        shapely.box(c + a * (x - 4), f + e * (y + 5), c + a * (x + 5), f + e * (y - 4))
        for y, x in places
    ]
    frame = geopandas.GeoDataFrame(columns, geometry=boxes, crs=str(plan.geobox.crs))
    frame.to_file(path)
    return path


@pytest.fixture
def finished(tmp_path, monkeypatch):
    """An output of squares that says it is complete."""
    places = [(40, 40), (40, 120), (100, 40)]
    plan, out = squares_output(tmp_path / "out", places)
    state = out / ".geoscale"
    state.mkdir(exist_ok=True)
    (state / "final.json").write_text(json.dumps({"plan_hash": plan.hash}))
    return plan, out, places


def test_an_output_is_held_against_labels_in_another_crs(finished, tmp_path):
    plan, out, places = finished
    path = labels(plan, [*places, (120, 120), (400, 400)], tmp_path / "a.gpkg")
    found = evaluate_objects(out, path)
    (one,) = found.classes
    assert (one.truth, one.found, found.outside) == (4, 3, 1)
    # three of four, each exactly: recalls up to 0.75 have precision 1
    assert found.mean == pytest.approx(76 / 101)
    assert one.recall[0] == 0.75
    files = found.write(tmp_path / "told")
    assert json.loads(files[0].read_text())["AP"] == pytest.approx(76 / 101, abs=1e-6)
    assert "| square |" in files[1].read_text()
    assert "AP50 0.752" in str(found)


def test_labels_that_do_not_fit_are_named(finished, tmp_path):
    plan, out, places = finished
    path = labels(plan, places, tmp_path / "a.gpkg", kind=["square", "square", "hut"])
    with pytest.raises(SourceError, match="label `hut`, which is no class"):
        evaluate_objects(out, path, attribute="kind")
    found = evaluate_objects(out, path, attribute="kind", ignore=["hut"])
    assert found.classes[0].truth == 2
    found = evaluate_objects(out, path, attribute="kind", map_labels={"hut": "square"})
    assert found.mean == 1
    with pytest.raises(SourceError, match="no column `knd`"):
        evaluate_objects(out, path, attribute="knd")
    far = labels(plan, [(4000, 4000)], tmp_path / "far.gpkg")
    with pytest.raises(SourceError, match="no object inside the imagery"):
        evaluate_objects(out, far)
    with pytest.raises(SourceError, match="cannot be read"):
        evaluate_objects(out, tmp_path / "none.gpkg")

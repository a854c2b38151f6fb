"""What `auto` chooses: measured on the job's pixels, recorded, kept by a resume."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

import geoscale as gs
from geoscale.demo.scenes import load_pixels
from geoscale.engine.journal import Journal
from geoscale.errors import PlanError, StoppedError
from geoscale.models import trial as trials
from geoscale.testing import FakeSource, scene
from geoscale.tune import LOOKS, settle, take_sample, wait_for_plan

CARD = "s2-landcover-unet"
QUICK = {"patch_px": 184, "batch": 2, "device": "cpu"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Answers are remembered between processes: not between tests."""
    monkeypatch.setenv("GEOSCALE_CACHE", str(tmp_path / "cache"))
    # one call each tells enough here: nothing below asserts a speed
    monkeypatch.setattr(trials, "SECONDS", 0.0)
    monkeypatch.setattr(trials, "CALLS", 1)


def textured(side=600, **kind):
    """Real imagery as a source: noise would be one class, whatever is computed."""
    pytest.importorskip("spyndex")
    source = scene((side, side), bands=4, **kind)
    source.data[0] = load_pixels(side) / np.float32(10_000)
    return source


def answers(tmp_path) -> list[Path]:
    return sorted((tmp_path / "cache" / "tuning").glob("*.json"))


def test_auto_is_measured_when_planned_and_recorded(tmp_path):
    source = textured()
    plan = gs.plan(source, CARD, runtime="auto", patch_px=184, device="cpu")
    assert 0 < source.reads <= LOOKS
    assert plan.is_settled
    assert plan.inference.runtime in ("torch", "openvino", "onnx", "compile")
    assert isinstance(plan.inference.batch, int)
    told = plan.tuning
    assert told["reference"] == "torch float32"
    assert told["choice"]["mpx_s"] > 0
    first = told["rows"][0]
    assert (first["runtime"], first["agreement"]) == ("torch", 1.0)
    used = [r for r in told["rows"] if not r["said"] and r["precision"] == "float32"]
    assert all(r["agreement"] is None or r["agreement"] >= 0.9999 for r in used)
    lowered = [r for r in told["rows"] if r["precision"] != "float32"]
    assert all(r["said"] == "precision is float32" for r in lowered)
    assert "useful Mpx/s" in str(plan)
    assert len(answers(tmp_path)) == 1


def test_nothing_is_read_before_the_run_where_measuring_is_put_off():
    source = textured(300)
    refusing = FakeSource(source.data, source.valid, refuse=True)
    plan = gs.plan(refusing, CARD, runtime="auto", measure=False)
    assert refusing.reads == 0
    assert not plan.is_settled
    assert "measured where the blocks run" in str(plan)


def test_the_second_time_it_is_remembered(tmp_path):
    gs.plan(textured(300), CARD, runtime="auto", **QUICK)
    source = textured(300)
    plan = gs.plan(source, CARD, runtime="auto", **QUICK)
    assert plan.tuning["remembered"]
    assert source.reads == 0


def test_a_run_that_goes_on_keeps_its_choice(tmp_path):
    options = {"runtime": "auto", "measure": False, **QUICK}
    out = tmp_path / "out.zarr"
    assert gs.run(gs.plan(textured(300), CARD, **options), out).complete
    begun = Journal(str(out)).load_plan()
    # the same question, answered otherwise: by another machine, or on a busy day
    (kept,) = answers(tmp_path)
    told = json.loads(kept.read_text())
    told["choice"]["batch"] += 1
    kept.write_text(json.dumps(told))
    plan = gs.plan(textured(300), CARD, **options)
    assert settle(plan).hash != begun.hash
    report = gs.run(plan, out)
    assert report.complete
    assert report.computed == 0
    assert Journal(str(out)).load_plan().hash == begun.hash


def test_another_question_is_another_plan(tmp_path):
    options = QUICK
    out = tmp_path / "out.zarr"
    assert gs.run(gs.plan(textured(300), CARD, runtime="auto", **options), out).complete
    other = gs.plan(
        textured(300), CARD, runtime="auto", output={"layers": ["classes"]}, **options
    )
    with pytest.raises(gs.GeoscaleError, match="choose"):
        gs.run(other, out)


def test_lower_precision_is_taken_only_where_labels_agree(tmp_path):
    options = {"precision": "auto", **QUICK}
    strict = gs.plan(textured(400), CARD, min_agreement=1.0, **options)
    assert strict.inference.precision == "float32"
    refused = [r for r in strict.tuning["rows"] if "labels agree" in r["said"]]
    assert refused
    assert all(r["precision"] != "float32" for r in refused)
    loose = gs.plan(textured(400), CARD, min_agreement=0.5, **options)
    lower = [r for r in loose.tuning["rows"] if r["precision"] == "bfloat16"]
    assert any(r["agreement"] >= 0.5 and not r["said"] for r in lower)


def test_what_nothing_here_can_run_is_refused(tmp_path):
    with pytest.raises(PlanError, match=r"nothing here runs .* precision: float32"):
        gs.plan(textured(300), CARD, runtime="auto", precision="float16", device="cpu")


def test_a_job_without_a_valid_pixel_cannot_be_measured():
    source = textured(300)
    source.valid[:] = False
    with pytest.raises(PlanError, match="has a valid pixel"):
        gs.plan(source, CARD, runtime="auto")


def test_samples_come_from_all_over_the_job_and_are_valid():
    source = textured(900)
    source.valid[:, :450] = False
    plan = gs.plan(source, CARD, patch_px=184, block_px=256)
    sample = take_sample(plan, source)
    assert sample.shape[1:] == (4, 184, 184)
    assert 2 <= len(sample) <= 8
    assert np.isfinite(sample).all()
    assert len({patch.tobytes() for patch in sample}) == len(sample)


def test_seamless_models_choose_their_patch_and_keep_their_answer(tmp_path):
    source = textured(700)
    plan = gs.plan(source, CARD, runtime="auto", device="cpu")
    sizes = {row["patch"] for row in plan.tuning["rows"]}
    assert len(sizes) > 1
    native = gs.plan(textured(700), CARD)
    assert gs.run(plan, tmp_path / "auto.zarr").complete
    assert gs.run(native, tmp_path / "native.zarr").complete
    a = gs.open_output(str(tmp_path / "auto.zarr")).classes.values
    b = gs.open_output(str(tmp_path / "native.zarr")).classes.values
    assert (a == b).mean() >= 0.9999


def test_parts_wait_for_the_first_ones_choice(tmp_path):
    with pytest.raises(StoppedError, match=r"shard 0\) began nothing"):
        wait_for_plan(str(tmp_path / "none.zarr"), patience_s=0.1)

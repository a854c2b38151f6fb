"""Blocks are an accident: no cut, order or thread changes a bit of the result."""

from __future__ import annotations

import threading

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from geoscale.engine.block import Kernel, infer_block
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import FakePredictor, scene, toy_card


def run_all(source, card, predictor, **inference):
    output = Output(layers=("classes", "confidence", "entropy", "margin", "scores"))
    plan = make_plan(
        source,
        card,
        weights_sha256="0",
        inference=Inference(**inference),
        output=output,
    )
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card),
        predictor=predictor,
        task=Segmentation(card, output.layers),
        device_lock=threading.Lock(),
    )
    shape, classes = plan.shape, len(card.output.classes)
    whole = {
        "classes": np.zeros(shape, np.uint8),
        "confidence": np.zeros(shape, np.uint8),
        "entropy": np.zeros(shape, np.uint8),
        "margin": np.zeros(shape, np.uint8),
        "scores": np.zeros((classes, *shape), np.uint8),
    }
    counters = []
    for task in plan.iter_tasks():
        layers, counts = infer_block(kernel, task)
        counters.append(counts)
        for name, array in layers.items():
            rows, columns = task.core.within(task.core.__class__(0, 0, *shape))
            whole[name][..., rows, columns] = array
    return plan, whole, counters


@st.composite
def jobs(draw):
    alignment = draw(st.sampled_from([1, 1, 2, 4]))
    radius = draw(st.integers(0, 3))
    merge = draw(st.sampled_from(["crop", "blend"]))
    patch = alignment * draw(st.integers(-(-(2 * radius + 1) // alignment) + 2, 10))
    ring = -(-radius // alignment) * alignment
    top = patch - 2 * ring if merge == "crop" else patch
    stride = alignment * draw(st.integers(1, max(1, top // alignment)))
    fixed = draw(st.booleans())
    card = toy_card(
        bands=draw(st.integers(1, 2)),
        patch={
            "size": patch,
            "halo": radius,
            "alignment": alignment,
            "multiple_of": alignment,
            "fixed": fixed,
        },
    )
    source = scene(
        (draw(st.integers(1, 45)), draw(st.integers(1, 45))),
        bands=len(card.input.bands),
        nodata=draw(st.sampled_from([0.0, 0.1, 0.95])),
        seed=draw(st.integers(0, 99)),
    )
    kind = {"radius": radius, "alignment": alignment}
    blocks = draw(st.lists(st.integers(1, 60), min_size=2, max_size=2, unique=True))
    return source, card, kind, {"merge": merge, "stride": stride}, blocks


@given(jobs())
def test_blocks_do_not_change_a_bit_of_the_result(job):
    source, card, kind, inference, blocks = job
    results = [
        run_all(source, card, FakePredictor(**kind), block=block, **inference)[1]
        for block in blocks
    ]
    for name, array in results[0].items():
        np.testing.assert_array_equal(array, results[1][name])


@given(jobs(), st.integers(1, 5))
def test_the_whole_image_in_one_pass_is_the_oracle(job, batch):
    source, card, kind, inference, blocks = job
    alignment = kind["alignment"]
    shape = source.data.shape[2:]
    if inference["merge"] != "crop" or any(n % alignment for n in shape):
        return
    if card.input.patch.fixed and min(shape) < card.input.patch.size:
        return
    _, whole, _ = run_all(
        source, card, FakePredictor(batch=batch, **kind), block=blocks[0], **inference
    )
    filled = np.where(source.valid[0], source.data[0], 0).astype(np.float32)
    scores = FakePredictor(**kind).predict(filled[None])[0]
    want = np.where(source.valid[0], scores.argmax(0), 255)
    np.testing.assert_array_equal(whole["classes"], want)


def test_invalid_pixels_stay_nodata_and_their_patches_are_not_run():
    source = scene((64, 64))
    source.valid[:, :32, :] = False
    plan, whole, counters = run_all(
        source, toy_card(), FakePredictor(), block=16, merge="crop"
    )
    assert (whole["classes"][:32] == 255).all()
    assert (whole["classes"][32:] < 3).all()
    ran = sum(c["patches"] for c in counters)
    listed = sum(c["lattice_patches"] for c in counters)
    assert 0 < ran < listed
    assert listed == plan.count_patches()


def test_one_nan_costs_one_pixel():
    source = scene((40, 40))
    clean = run_all(source, toy_card(), FakePredictor(radius=0), block=16)[1]
    source.data[0, 0, 20, 20] = np.nan
    whole = run_all(source, toy_card(), FakePredictor(radius=0), block=16)[1]
    changed = np.argwhere(whole["classes"] != clean["classes"])
    assert changed.tolist() == [[20, 20]]
    assert whole["classes"][20, 20] == 255

"""Blocks in flight take turns on the device; patches of nothing are not run."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from geoscale.blend import Accumulator, make_weights
from geoscale.engine.block import Kernel, Timer, infer_block
from geoscale.planner import make_plan
from geoscale.plans import Inference, Output
from geoscale.preprocess import Preprocessor
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import FakePredictor, FakeSource, scene, toy_card
from geoscale.types import Float
from geoscale.windows import Window


class Slow(FakePredictor):
    """Notes which thread runs each batch."""

    def __init__(self) -> None:
        super().__init__(batch=1)
        self.by: list[int] = []

    def predict(self, patches: Float) -> Float:
        self.by.append(threading.get_ident())
        time.sleep(0.002)
        return super().predict(patches)


def make_kernel(source: FakeSource, predictor: FakePredictor) -> Kernel:
    card = toy_card()
    plan = make_plan(
        source,
        card,
        weights_sha256="0",
        inference=Inference(block=36, stride=12),
        output=Output(),
    )
    return Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card),
        predictor=predictor,
        task=Segmentation(card),
        device_lock=threading.Lock(),
    )


def test_a_block_holds_the_device_from_its_first_batch_to_its_last() -> None:
    predictor = Slow()
    kernel = make_kernel(scene((72, 108)), predictor)
    tasks, timers = list(kernel.plan.iter_tasks()), []

    def run(task: object) -> dict[str, int | float]:
        timers.append(Timer())
        return infer_block(kernel, task, timers[-1])[1]  # type: ignore[arg-type]

    with ThreadPoolExecutor(3) as pool:
        counters = list(pool.map(run, tasks))
    assert len(tasks) == 6
    per_block = counters[0]["patches"]
    assert per_block > 3
    assert all(c["patches"] == per_block for c in counters)
    for start in range(0, len(predictor.by), int(per_block)):
        assert len(set(predictor.by[start : start + int(per_block)])) == 1
    # somebody waited, and that is not counted as inference
    assert max(t.seconds["wait"] for t in timers) > 0.002 * (per_block - 1)


def test_a_block_of_nothing_does_not_wait_for_the_device() -> None:
    source = scene((72, 108))
    source.valid[:] = False
    predictor = FakePredictor()
    kernel = make_kernel(source, predictor)
    with kernel.device_lock:
        layers, counters = infer_block(kernel, kernel.plan.task(0))
    assert (layers["classes"] == 255).all()
    assert (counters["patches"], predictor.calls) == (0, 0)
    assert counters["lattice_patches"] > 0


@pytest.mark.parametrize("dtype", ["uint8", "float16"])
@pytest.mark.parametrize("classes", [2, 9])
def test_finishing_in_strips_equals_argmax(dtype: str, classes: int) -> None:
    rng = np.random.default_rng(2)
    # whole steps, so that many classes tie; larger than one strip
    scores = (rng.integers(0, 5, (classes, 300, 411)) / 4).astype(np.float32)
    valid = rng.random((300, 411)) > 0.2
    card = toy_card(classes=classes)
    task = Segmentation(card, ("classes", "confidence", "scores"), dtype)
    done = task.finish(scores.copy(), valid)
    best = scores.argmax(0)
    np.testing.assert_array_equal(done["classes"], np.where(valid, best, 255))
    top = np.rint(np.clip(scores.max(0), 0, 1) * np.float32(254))
    np.testing.assert_array_equal(done["confidence"], np.where(valid, top, 255))
    want = np.where(valid, np.rint(scores * np.float32(254)), 255)
    if dtype == "float16":
        want = np.where(valid, scores, np.nan).astype(np.float16)
    np.testing.assert_array_equal(done["scores"], want)
    assert done["scores"].dtype == dtype


def test_blending_class_by_class_equals_the_formula() -> None:
    rng = np.random.default_rng(0)
    core, weights = Window(0, 0, 20, 20), make_weights((16, 16))
    mixed = Accumulator(3, core)
    total, weight = np.zeros((3, 20, 20), np.float32), np.zeros((20, 20), np.float32)
    for y, x in ((-2, -2), (-2, 6), (6, -2), (6, 6)):
        scores = rng.random((3, 16, 16), dtype=np.float32)
        window = Window(y, x, y + 16, x + 16)
        gives = window & core
        inside, here = gives.within(window), gives.within(core)
        mixed.add(scores, weights, window, gives)
        part = weights[inside]
        total[(slice(None), *here)] += scores[(slice(None), *inside)] * part
        weight[here] += part
    np.testing.assert_array_equal(mixed.finish(), total / weight)

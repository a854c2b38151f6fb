"""Passes of a block: dates that the network sees one after the other."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from geoscale.engine.block import Kernel, infer_block
from geoscale.engine.shared import SharedScores
from geoscale.options import Change, Inference
from geoscale.passes import pair_neighbours, take_turns
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.testing import FakePredictor, scene, toy_card
from geoscale.types import Layer


class Difference:
    """The second date's scores less the first's, where both are usable."""

    layers = (Layer(name="difference", dtype="float32", fill_value=-9.0),)

    def begin(self, shape):
        return Between(shape)


class Between:
    def __init__(self, shape):
        self.sum, self.valid = np.zeros(shape, np.float32), np.ones(shape, bool)

    def add(self, number, scores, usable):
        self.sum += (2 * number - 1) * scores[0]
        self.valid &= usable

    def finish(self):
        return {"difference": np.where(self.valid, self.sum, -9)}, self.valid


def plan_pairs(source, **inference):
    """A plan of two passes a block, whatever becomes of them."""
    return make_plan(
        source,
        toy_card(),
        weights_sha256="0",
        inference=Inference(**inference),
        change=Change(method="classes"),
    )


def run_pairs(source, shared=None, **inference):
    plan = plan_pairs(source, **inference)
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(plan.card),
        predictor=FakePredictor(),
        task=Difference(),
        device_lock=threading.Lock(),
        **({} if shared is None else {"shared": shared}),
    )
    whole = np.zeros((len(plan.times), *plan.shape), np.float32)
    counters = []
    for task in plan.iter_tasks():
        layers, told = infer_block(kernel, task)
        whole[
            (task.time, *task.core.within(task.core.__class__(0, 0, *plan.shape)))
        ] = layers["difference"]
        counters.append(told)
    return plan, whole, counters


@pytest.mark.parametrize("block", [16, 23, 64])
def test_each_date_goes_through_the_network_and_only_then_they_meet(block):
    source = scene((50, 41), times=3, nodata=0.1, seed=3)
    plan, whole, counters = run_pairs(source, block=block, merge="crop")
    filled = np.where(source.valid, source.data[:, 0], 0).astype(np.float32)
    scores = FakePredictor().predict(filled[:, None])[:, 0]
    want = np.where(source.valid[1:] & source.valid[:-1], scores[1:] - scores[:-1], -9)
    np.testing.assert_array_equal(whole, want.astype(np.float32))
    assert plan.times == source.times[1:]
    assert sum(c["valid_px"] for c in counters) == (want != -9).sum()
    assert sum(c["lattice_patches"] for c in counters) == plan.count_patches()


def test_scores_kept_for_neighbours_are_those_of_their_own_date():
    source = scene((60, 60), times=3)
    options = {"block": 20, "merge": "blend", "stride": 12}
    _, whole, told = run_pairs(source, **options)
    _, apart, _ = run_pairs(source, shared=SharedScores(limit=0), **options)
    assert sum(c["shared_patches"] for c in told) > 0
    np.testing.assert_array_equal(whole, apart)


def test_the_next_date_is_read_when_the_last_one_is_done():
    source, log = scene((30, 30), times=2), []

    class Telling(FakePredictor):
        def predict(self, patches):
            log.append("predict")
            return super().predict(patches)

    plan = plan_pairs(source, block=32)
    read = source.read

    def tell(window, times):
        log.append(tuple(times))
        return read(window, times)

    source.read = tell
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(plan.card),
        predictor=Telling(batch=64),
        task=Difference(),
        device_lock=threading.Lock(),
    )
    infer_block(kernel, plan.task(0))
    assert log == [(0,), "predict", (1,), "predict"]


def test_turns_and_pairs():
    assert take_turns(3, 1) == (((0,),), ((1,),), ((2,),))
    assert pair_neighbours(3, together=True) == (((0, 1),), ((1, 2),))

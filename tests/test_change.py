"""Change between two dates: one schema, whatever the network or the cut."""

from __future__ import annotations

import threading

import numpy as np
import pytest

import geoscale as gs
from geoscale.assemble import make_task
from geoscale.card import ModelCard
from geoscale.changes import resolve_change
from geoscale.engine.block import Kernel, infer_block
from geoscale.errors import CardError, JobError, PlanError
from geoscale.models import ModelSettings, get_predictor
from geoscale.options import Change, Inference, Output
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.tasks.change import ClassChange, NetworkChange, change_probability
from geoscale.testing import FakePredictor, scene, toy_card
from geoscale.windows import Window
from tests.support.pairs import SIAMESE, images, seeded

SHAPE = (264, 224)


def run_blocks(source, card, predictor, change, output=None, **inference):
    """Every block of a plan, put together: layers as (time, y, x)."""
    plan = make_plan(
        source,
        card,
        weights_sha256="0",
        inference=Inference(**inference),
        output=output,
        change=resolve_change("change", change, card),
    )
    kernel = Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card),
        predictor=predictor,
        task=make_task(plan),
        device_lock=threading.Lock(),
    )
    whole = {
        layer.name: np.zeros((len(plan.times), *plan.shape), layer.dtype)
        for layer in kernel.task.layers
    }
    for task in plan.iter_tasks():
        layers, _ = infer_block(kernel, task)
        assert set(layers) == set(whole)
        here = (task.time, *task.core.within(Window(0, 0, *plan.shape)))
        for name, array in layers.items():
            assert array.dtype == whole[name].dtype
            whole[name][here] = array
    return plan, whole


@pytest.fixture(scope="module")
def siamese(tmp_path_factory):
    return seeded(tmp_path_factory.mktemp("siamese"), SIAMESE)


@pytest.fixture(scope="module")
def one_pass(siamese):
    """Probability of change of the whole pair at once, and where both are valid."""
    source = images(SHAPE)
    valid = source.valid.all(axis=0)
    x = np.where(valid, source.data.reshape(6, *SHAPE), 0).astype(np.float32)
    predictor = get_predictor(siamese, ModelSettings(batch=1, patch=SHAPE))
    return predictor.predict(x[None])[0, 1], valid


@pytest.mark.parametrize("block", [264, 100, 61])
def test_a_siamese_network_equals_one_pass_over_the_pair(siamese, one_pass, block):
    output = Output(layers=("change", "probability"), scores_dtype="float16")
    predictor = get_predictor(siamese, ModelSettings(batch=2, patch=(192, 192)))
    source = images(SHAPE)
    _, found = run_blocks(
        source, siamese, predictor, None, output, block=block, patch=192
    )
    probability, valid = one_pass
    want = np.where(valid, probability, np.nan).astype(np.float16)
    np.testing.assert_allclose(found["probability"][0], want, atol=1e-3)
    near = np.abs(probability - 0.5) < 1e-5
    wanted = np.where(valid, probability >= 0.5, 255)
    assert (found["change"][0] == wanted)[~near].all()
    assert set(np.unique(found["change"])) == {0, 1, 255}
    again = run_blocks(source, siamese, predictor, None, output, block=264, patch=192)[
        1
    ]
    for name, array in found.items():
        np.testing.assert_array_equal(array, again[name], strict=True)


class Pairwise(FakePredictor):
    """Two classes of two dates: tells which date is which."""

    def predict(self, patches):
        first, second = np.split(patches, 2, axis=1)
        return super().predict(first - 2 * second)


def pair_card(**spec):
    data = toy_card(bands=2, frames=2, classes=2).to_dict()
    data["input"] |= {"pair": "channels", **spec}
    del data["output"]
    return ModelCard.from_dict({**data, "task": "change"})


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_three_dates_give_two_changes_whatever_the_cut(merge):
    source = scene((50, 41), times=3, bands=2, nodata=0.1)
    network = Pairwise(classes=2)
    options = {"merge": merge, "stride": 3 if merge == "crop" else 10}
    plan, found = run_blocks(source, pair_card(), network, None, block=17, **options)
    assert plan.times == source.times[1:]
    passes = [task.passes for task in plan.iter_tasks()]
    assert (passes[0], passes[-1]) == (((0, 1),), ((1, 2),))
    _, other = run_blocks(source, pair_card(), network, None, block=60, **options)
    for name in found:
        np.testing.assert_array_equal(found[name], other[name])
    both = source.valid[1:] & source.valid[:-1]
    np.testing.assert_array_equal(found["change"] == 255, ~both)
    np.testing.assert_array_equal(found["probability"] == 255, ~both)
    if merge == "crop":
        # in one pass; at the edges some patches lie on each other, and are run once
        pairs = np.concatenate([source.data[:-1], source.data[1:]], axis=1)
        filled = np.where(both[:, None], pairs, 0)
        want = np.rint(network.predict(filled)[:, 1] * np.float32(254))
        np.testing.assert_array_equal(found["probability"], np.where(both, want, 255))


def test_each_pair_goes_through_the_network_oldest_first_or_as_the_card_says():
    source = scene((30, 30), times=2, bands=2)
    scores = [Pairwise(classes=2).predict(d.reshape(1, 4, 30, 30))[0, 1]
              for d in (source.data, source.data[::-1])]  # fmt: skip
    for order, want in zip(("oldest-first", "newest-first"), scores, strict=True):
        card = pair_card(frame_order=order)
        output = Output(scores_dtype="float16")
        _, found = run_blocks(
            source, card, Pairwise(classes=2), None, output, block=32, patch=32,
            stride=28,
        )  # fmt: skip
        np.testing.assert_array_equal(found["probability"][0], want.astype("float16"))


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_classes_of_both_dates_are_compared_whatever_the_cut(merge):
    source = scene((50, 41), times=3, nodata=0.1, seed=4)
    options = {"merge": merge, "stride": 10}
    chosen = Change(threshold=0.4, min_confidence=0.2)
    plan, found = run_blocks(
        source, toy_card(), FakePredictor(), chosen, block=17, **options
    )
    _, other = run_blocks(
        source, toy_card(), FakePredictor(), chosen, block=60, **options
    )
    for name in found:
        np.testing.assert_array_equal(found[name], other[name])
    assert plan.layers == ("change", "probability", "from_class", "to_class")
    both = source.valid[1:] & source.valid[:-1]
    np.testing.assert_array_equal(found["from_class"] == 255, ~both)
    changed = found["change"] == 1
    assert 0 < changed.sum() < both.sum()
    assert (found["from_class"] != found["to_class"])[changed].all()


def test_post_classification_is_that_of_two_maps():
    source = scene((40, 40), times=2)
    _, found = run_blocks(
        source, toy_card(), FakePredictor(), Change(threshold=0.5), block=40,
        patch=48, stride=44, output=Output(
            layers=("change", "probability", "from_class", "to_class"),
            scores_dtype="float16",
        ),
    )  # fmt: skip
    before, after = FakePredictor().predict(source.data)
    want = change_probability(before, after)
    np.testing.assert_array_equal(found["probability"][0], want.astype(np.float16))
    np.testing.assert_array_equal(found["from_class"][0], before.argmax(0))
    np.testing.assert_array_equal(found["to_class"][0], after.argmax(0))
    differ = before.argmax(0) != after.argmax(0)
    np.testing.assert_array_equal(found["change"][0], differ & (want >= 0.5))
    assert (differ & (want < 0.5)).any()


def test_both_dates_must_be_sure_where_that_is_asked():
    source, layers = scene((40, 40), times=2), ("change", "from_class", "to_class")
    before, after = (d.max(0) for d in FakePredictor().predict(source.data))
    found = [
        run_blocks(
            source, toy_card(), FakePredictor(), Change(threshold=0.1, **more),
            block=40, patch=48, stride=44, output=Output(layers=layers),
        )[1]
        for more in ({}, {"min_confidence": 0.45})
    ]  # fmt: skip
    every, some = (one["change"][0] == 1 for one in found)
    np.testing.assert_array_equal(some, every & (np.minimum(before, after) >= 0.45))
    assert 0 < some.sum() < every.sum()


def test_probability_of_change_is_bayes_rule():
    rng = np.random.default_rng(1)
    before, after = rng.dirichlet(np.ones(5), (2, 30)).transpose(0, 2, 1)[..., None]
    agree = (before * after).sum(0)
    for prior in (0.1, 0.5):
        want = prior * (1 - agree) / (prior * (1 - agree) + (1 - prior) * 4 * agree)
        found = change_probability(*np.float32([before, after]), prior)
        np.testing.assert_allclose(found, want, rtol=1e-5)
    # with change as likely as chance has it, it is that two draws differ
    found = change_probability(*np.float32([before, after]), 4 / 5)
    np.testing.assert_allclose(found, 1 - agree, rtol=1e-5)
    # scores that do not sum to one are shares
    found = change_probability(*np.float32([3 * before, 2 * after]), 4 / 5)
    np.testing.assert_allclose(found, 1 - agree, rtol=1e-5)


def test_flicker_at_the_border_of_two_classes_is_no_change():
    """Both dates hesitate between the same two of nine classes; the best one flips."""
    torn = np.full((9, 1, 1), 0.01, np.float32)
    torn[:2, 0, 0] = 0.49, 0.44
    flipped = torn[[1, 0, *range(2, 9)]]
    sure = np.full((9, 1, 1), 0.05, np.float32)
    sure[0] = 0.6
    turned = sure[[1, 0, *range(2, 9)]]
    task = ClassChange(toy_card(classes=9))
    for first, second, want in ((torn, flipped, 0), (sure, turned, 1)):
        fold = task.begin((1, 1))
        fold.add(0, first, np.ones((1, 1), bool))
        fold.add(1, second, np.ones((1, 1), bool))
        layers, _ = fold.finish()
        assert layers["from_class"] != layers["to_class"]
        assert layers["change"] == want


def test_what_is_stored_says_what_it_is_and_which_dates_were_compared(
    tmp_path, siamese
):
    source = images(SHAPE, times=3)
    plan = gs.plan(source, siamese, block_px=64)
    assert plan.change == Change(method="network")
    assert "2024-06-01 → 2024-06-02" in str(plan)
    assert gs.run(plan, tmp_path / "change.zarr").complete
    found = gs.open_output(str(tmp_path / "change.zarr"))
    assert found.change.attrs["flag_meanings"] == "unchanged changed"
    assert found.change.attrs["flag_values"] == [0, 1]
    assert found.change.dtype == np.uint8
    assert float(np.nanmax(found.probability)) <= 1
    assert found.attrs["compared_dates"] == [
        {"from": source.times[0], "to": source.times[1]},
        {"from": source.times[1], "to": source.times[2]},
    ]
    assert [str(t)[:10] for t in found.time.values] == ["2024-06-02", "2024-06-03"]


def test_a_stored_plan_of_change_is_the_same_plan(siamese):
    from geoscale.plan_store import load_plan, plan_json, states_parquet

    made = gs.plan(images(SHAPE), siamese, change={"threshold": 0.3})
    again = load_plan(plan_json(made), states_parquet(made))
    assert again.hash == made.hash
    assert again.change == Change(method="network", threshold=0.3)
    other = gs.plan(images(SHAPE), siamese, change={"threshold": 0.4})
    assert other.hash != made.hash


def test_memory_counts_the_scores_of_the_first_date():
    source, card = scene((64, 64), times=2), toy_card(classes=5)
    plans = [
        make_plan(source, card, weights_sha256="0", change=change)
        for change in (None, Change(method="classes"))
    ]
    plain, compared = (plan.memory() for plan in plans)
    core = plans[0].grid.core(0).size
    assert compared.merged - plain.merged == 2 * 5 * core * 4
    assert plans[1].count_patches() == plans[0].count_patches()


@pytest.mark.parametrize(
    ("times", "card", "change", "says"),
    [
        (1, pair_card(), None, r"between two dates, the stack has 1 \(2024-06-01"),
        (2, toy_card(frames=2), None, "takes 2 at once"),
        (2, toy_card(), {"method": "network"}, "needs a card of `task: change`"),
        (2, pair_card(), {"method": "classes"}, "classifies one date"),
    ],
)
def test_what_cannot_be_compared_is_refused(times, card, change, says):
    source = scene((20, 20), times=times, bands=len(card.input.bands))
    asked = None if change is None else Change(**change)
    with pytest.raises(CardError, match=says):
        make_plan(
            source, card, weights_sha256="0",
            change=resolve_change("change", asked, card),
        )  # fmt: skip


def test_what_is_said_of_change_where_none_is_looked_for_is_refused():
    with pytest.raises(JobError, match="say `task: change`"):
        resolve_change(None, Change(), toy_card())
    with pytest.raises(CardError, match="say `task: change`"):
        resolve_change("segmentation", None, pair_card())
    with pytest.raises(JobError, match="`chnge` is not known; did you mean `change`"):
        gs.plan(scene((9, 9), times=2), toy_card(), task="chnge")
    with pytest.raises(JobError, match="unknown key `treshold`"):
        gs.plan(scene((9, 9)), toy_card(), task="change", change={"treshold": 0.4})


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ({"frames": 2, "pair": None}, "needs `input.frames: 2` and `input.pair"),
        ({"frames": 1, "pair": "two"}, "it has frames 1 and pair two"),
    ],
)
def test_a_card_of_change_says_how_it_takes_its_pair(spec, says):
    with pytest.raises(CardError, match=says):
        pair_card(**spec)


def test_cards_that_contradict_themselves_are_refused():
    plain = toy_card().to_dict()
    plain["input"]["pair"] = "two"
    with pytest.raises(CardError, match=r"`input.pair` is for cards of `task: change`"):
        ModelCard.from_dict(plain)
    data = pair_card().to_dict()
    with pytest.raises(CardError, match="has two classes, 0 unchanged and 1 changed"):
        ModelCard.from_dict({**data, "output": toy_card().to_dict()["output"]})
    with pytest.raises(CardError, match="by activation sigmoid"):
        ModelCard.from_dict({**data, "output": {"single": True}})


def test_layers_that_a_method_does_not_have_are_refused():
    with pytest.raises(JobError, match="needs the classes of both dates"):
        NetworkChange(pair_card(), ["change", "to_class"])
    with pytest.raises(JobError, match="did you mean `probability`"):
        ClassChange(toy_card(), ["probabilty"])
    with pytest.raises(PlanError, match="`classes` of change is not known"):
        make_task(
            make_plan(
                scene((20, 20), times=2), toy_card(), weights_sha256="0",
                output=Output(layers=("classes",)), change=Change(method="classes"),
            )
        )  # fmt: skip


def test_cards_that_know_nothing_of_pairs_keep_their_hash():
    """As the release before this one wrote it."""
    dumped = toy_card().model_dump(mode="json")
    assert "pair" not in dumped["input"]
    assert not {"single", "take"} & set(dumped["output"])

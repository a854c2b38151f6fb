"""Networks without weights of their own: their scores, and whose numbers they take."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from torch.nn import functional

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.contrast.cards import (
    close_card,
    comparison_card,
    feature_card,
    is_open,
    method_of,
)
from geoscale.contrast.irmad import fit_irmad
from geoscale.contrast.pairs import Pair
from geoscale.contrast.vectors import fit_vectors
from geoscale.errors import CardError, WeightsError
from geoscale.models import ModelSettings, get_predictor, resolve_weights
from geoscale.models.build import build_module
from geoscale.windows import Window
from tests.support.held import Held

BANDS = ("red", "nir", "swir16")
UNET = "s2-landcover-unet"


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(1)
    before = rng.normal(900, 200, (3, 80, 70)).astype(np.float32)
    after = (before * 0.7 + rng.normal(100, 90, before.shape)).astype(np.float32)
    after[:, 20:40, 30:60] += 900
    return before, after


def run(card, pair):
    network = build_module(card, resolve_weights(card)[0])
    with torch.inference_mode():
        return network(torch.from_numpy(np.concatenate(pair)[None]))[0].numpy()


@pytest.mark.parametrize(
    ("method", "fit"), [("cva", fit_vectors), ("irmad", fit_irmad)]
)
def test_scores_are_the_magnitude_over_itself_and_the_threshold(pair, method, fit):
    found = fit(Held(*pair), BANDS)
    shape = pair[0].shape[1:]
    m = found(Pair(Window(0, 0, *shape), *pair, np.ones(shape, bool))).reshape(shape)
    open_one = comparison_card(method, BANDS)
    card = close_card(open_one, {**found.numbers(), "threshold": 2.5})
    assert (is_open(open_one), is_open(card), method_of(card)) == (True, False, method)
    assert card.hash() != open_one.hash()
    again = ModelCard.from_dict(json.loads(json.dumps(card.to_dict())))
    scores = run(again, pair)
    np.testing.assert_allclose(scores[1], m / (m + 2.5), atol=2e-6)
    np.testing.assert_allclose(scores.sum(0), 1, atol=1e-6)
    assert ((scores[1] > 0.5) == (m > 2.5)).mean() > 0.9999


@pytest.mark.parametrize("method", ["cva", "irmad"])
def test_neither_batch_nor_place_in_it_changes_a_bit(pair, method):
    fit = {"cva": fit_vectors, "irmad": fit_irmad}[method](Held(*pair), BANDS)
    card = close_card(
        comparison_card(method, BANDS), {**fit.numbers(), "threshold": 1.0}
    )
    x = np.concatenate(pair)
    expected = None
    for batch, side in ((1, 64), (3, 64), (5, 48)):
        settings = ModelSettings(device="cpu", batch=batch, patch=(side, side))
        predictor = get_predictor(card, settings)
        patch = np.repeat(x[None, :, :side, :side], batch, axis=0)
        scores = predictor.predict(np.ascontiguousarray(patch))[-1, :, :40, :40]
        expected = scores if expected is None else expected
        np.testing.assert_array_equal(scores, expected)


def bottom_of(network, x):
    """What the network's own code hands to `bottom`, done by hand."""
    x = network.encode1(x)
    x = network.encode2(functional.max_pool2d(x, 2))
    return network.bottom(functional.max_pool2d(x, 2))


def test_features_are_those_of_the_named_layer():
    model = gs.load_model(UNET)
    card = close_card(feature_card(model, "bottom"), {"threshold": 0.25})
    rng = np.random.default_rng(0)
    x = rng.normal(0, 1, (2, 1, 4, 96, 64)).astype(np.float32)
    scores = run(card, x[:, 0])
    network = build_module(model, resolve_weights(model)[0])
    with torch.inference_mode():
        seen = [bottom_of(network, torch.from_numpy(date)) for date in x]
        far = 1 - functional.cosine_similarity(*seen, dim=1)[None]
        far = functional.interpolate(far, size=(96, 64), mode="bilinear")[0, 0].numpy()
    assert seen[0].shape[-1] == 16
    np.testing.assert_allclose(scores[1], far / (far + 0.25), atol=1e-5)
    same = run(card, np.stack([x[0, 0], x[0, 0]]))
    assert same[1].max() < 1e-5


def test_a_card_of_features_takes_each_date_as_the_model_does():
    model = gs.load_model(UNET)
    card = feature_card(model, "bottom")
    assert card.input.channels == 2 * model.input.channels
    assert card.input.normalization.mean == model.input.normalization.mean * 2
    assert (card.input.frames, card.task, card.input.patch.halo) == (2, "change", None)
    assert is_open(card)
    assert resolve_weights(card)[1] == resolve_weights(model)[1]


def test_a_layer_that_is_not_there_is_named_with_those_that_are():
    card = close_card(feature_card(gs.load_model(UNET), "layer9"), {"threshold": 1})
    with pytest.raises(CardError, match="no layer `layer9`; its parts are encode1, "):
        build_module(card, resolve_weights(card)[0])


def test_code_of_others_cannot_hide_in_a_card_of_features():
    args = {"architecture": "os:system", "architecture_args": {}, "layer": "a"}
    card = feature_card(gs.load_model(UNET), "bottom")
    card = card.model_copy(update={"architecture_args": {**args, "threshold": 1}})
    with pytest.raises(CardError, match="`os:system` is Python code outside"):
        build_module(card, resolve_weights(card)[0], trust_code=True)


def test_models_whose_features_cannot_be_compared_are_refused():
    model = gs.load_model(UNET)
    with pytest.raises(CardError, match="features needs a card with `architecture`"):
        feature_card(model.model_copy(update={"architecture": None}), "x")


def test_a_network_with_weights_needs_more_than_the_empty_file():
    card = gs.load_model(UNET)
    empty, _ = resolve_weights(comparison_card("cva", BANDS))
    with pytest.raises(WeightsError, match="missing"):
        build_module(card, empty)

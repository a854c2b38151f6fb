"""Networks of two dates: torchgeo's, in every runtime, whatever they take and give."""

from __future__ import annotations

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models import ModelSettings, get_predictor
from geoscale.models.cache import clear
from tests.support.pairs import SIAMESE, seeded

NETWORKS = {
    "FCSiamConc": SIAMESE | {"architecture": "torchgeo.models:FCSiamConc"},
    "FCSiamDiff": SIAMESE,
    "ChangeStar": {
        "architecture": "torchgeo.models:ChangeStarFarSeg",
        "architecture_args": {"backbone": "resnet18", "backbone_pretrained": False},
        "input": {"pair": "time-axis", "patch": {"size": 64}},
        "output": {"single": True, "activation": "none", "take": "change_prob"},
    },
    "ChangeViT": {
        "architecture": "torchgeo.models:ChangeViT",
        "architecture_args": {"backbone": "vit_small_patch16_224", "img_size": 64},
        "input": {"pair": "time-axis", "patch": {"size": 64, "fixed": True}},
        "output": {"single": True, "activation": "sigmoid"},
    },
    "BTC": {
        "architecture": "torchgeo.models:BTC",
        "architecture_args": {"backbone": "swin_tiny", "classes": 2},
        "input": {"pair": "channels", "patch": {"size": 64, "multiple_of": 32}},
    },
}


def noise(shape=(2, 6, 64, 64), seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def run(card, patches, **settings):
    clear()
    shape = patches.shape[2:]
    chosen = ModelSettings(batch=len(patches), patch=shape, **settings)
    return get_predictor(card, chosen).predict(patches)


def by_hand(card, patches):
    """The network called as its authors call it."""
    import torch

    from geoscale.models.build import build_module
    from geoscale.models.weights import resolve_weights

    module = build_module(card, resolve_weights(card)[0])
    x = torch.from_numpy(patches)
    if card.input.pair == "time-axis":
        x = x.unflatten(1, (2, 3))
    with torch.inference_mode():
        out = module(x)
        out = out["change_prob"] if card.output.take else out
        if card.output.activation == "sigmoid":
            out = out.sigmoid()
        if not card.output.single:
            out = out.softmax(1)[:, 1:]
    return out.numpy()[:, 0]


@pytest.mark.parametrize(
    "name",
    ["FCSiamDiff", *(pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS
                     if n != "FCSiamDiff")],
)  # fmt: skip
def test_networks_of_torchgeo_give_probabilities_of_change(name, tmp_path):
    card, patches = seeded(tmp_path, NETWORKS[name]), noise()
    scores = run(card, patches)
    assert scores.shape == (2, 2, 64, 64)
    np.testing.assert_allclose(scores[:, 1], by_hand(card, patches), atol=1e-5)
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-6)
    # which date is which, and that both are seen
    swapped = run(card, np.concatenate([patches[:, 3:], patches[:, :3]], axis=1))
    assert np.abs(swapped - scores).max() > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "runtime"),
    [(name, kind) for name in ("FCSiamDiff", "ChangeStar")
     for kind in ("onnx", "openvino")] + [("FCSiamDiff", "compile")],
)  # fmt: skip
def test_every_runtime_takes_a_pair(name, runtime, tmp_path):
    for library in {"onnx": ("onnxruntime", "onnxscript")}.get(runtime, (runtime,)):
        if runtime != "compile":
            pytest.importorskip(library)
    card, patches = seeded(tmp_path, NETWORKS[name]), noise()
    want = run(card, patches)
    found = run(card, patches, runtime=runtime)
    np.testing.assert_allclose(found, want, atol=2e-5)


def onnx_card(tmp_path, pair="channels", **output):
    """A file that gives one logit: the second date's sum less the first's."""
    onnx = pytest.importorskip("onnx")
    from onnx import TensorProto, helper

    shape = ["n", 2, "y", "x"]
    ends = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, ["n", 1, "y", "x"])
    weights = helper.make_tensor("w", TensorProto.FLOAT, [1, 2, 1, 1], [-1.0, 1.0])
    node = helper.make_node("Conv", ["x", "w"], ["out"])
    graph = helper.make_graph([node], "pair", [ends], [out], [weights])
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "pair.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)
    return ModelCard.from_dict(
        {
            "name": "pair",
            "task": "change",
            "weights": {"href": str(path)},
            "input": {"bands": ["b0"], "frames": 2, "pair": pair, "units": "raw"},
            "output": {"activation": "sigmoid", **output},
        }
    )


@pytest.mark.parametrize("runtime", ["onnx", "openvino"])
def test_a_file_of_one_channel_tells_two_classes_apart(runtime, tmp_path):
    pytest.importorskip("onnxruntime" if runtime == "onnx" else runtime)
    patches = noise((3, 2, 16, 16))
    found = run(onnx_card(tmp_path, single=True), patches, runtime=runtime)
    want = 1 / (1 + np.exp(patches[:, 0] - patches[:, 1]))
    np.testing.assert_allclose(found[:, 1], want, atol=1e-6)
    np.testing.assert_allclose(found[:, 0], 1 - want, atol=1e-6)


def test_a_file_that_is_not_what_its_card_says_is_refused(tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(CardError, match=r"gives .* but the card lists 2"):
        run(onnx_card(tmp_path), noise((1, 2, 16, 16)))
    with pytest.raises(CardError, match="all dates stacked as channels"):
        run(onnx_card(tmp_path, pair="two", single=True), noise((1, 2, 16, 16)))


def test_a_card_that_names_no_output_of_the_network_is_refused(tmp_path):
    spec = SIAMESE | {"output": SIAMESE["output"] | {"take": "change"}}
    with pytest.raises(CardError, match=r"`output.take: change`.*gave Tensor"):
        run(seeded(tmp_path, spec), noise())
    two = SIAMESE | {"output": {}}
    with pytest.raises(CardError, match=r"gave shape \(\d, 1, .*expected \(\d, 2"):
        run(seeded(tmp_path, two), noise())
    one = NETWORKS["BTC"] | {"output": {"single": True, "activation": "sigmoid"}}
    one = SIAMESE | {
        "architecture_args": SIAMESE["architecture_args"] | {"classes": 2},
        "output": one["output"],
    }
    with pytest.raises(CardError, match=r"its card says `output.single`, one channel"):
        run(seeded(tmp_path, one), noise())

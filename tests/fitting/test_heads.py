"""A head in torch says what scikit-learn says."""

import numpy as np
import pytest
import torch

from geoscale.card import ModelCard
from geoscale.errors import CardError, WeightsError
from geoscale.fitting.heads import fit_head, from_forest, from_linear
from geoscale.fitting.scoring import softmax
from geoscale.models.heads import (
    Bands,
    Features,
    ForestHead,
    Indices,
    LinearHead,
    add_head,
    give_body,
)

ensemble = pytest.importorskip("sklearn.ensemble")
linear = pytest.importorskip("sklearn.linear_model")


def blobs(classes, n=60, features=5):
    rng = np.random.default_rng(classes)
    codes = np.arange(n) % classes
    x = rng.normal(size=(n, features)) * 3 + codes[:, None] * [1, 2, 0, -1, 0.5] + 40
    return x.astype(np.float32), codes


def run(made, classes, x, heat=1.0):
    """The torch head over pixels, as probabilities."""
    spec = made.spec()
    head = (
        LinearHead(spec.inputs, classes)
        if spec.kind == "linear"
        else ForestHead(classes, spec.trees, spec.nodes, spec.depth)
    )
    state = {k: torch.from_numpy(np.array(v)) for k, v in made.tensors(heat).items()}
    head.load_state_dict(state, strict=True)
    patch = torch.from_numpy(x.T.reshape(1, x.shape[1], 1, -1))
    with torch.inference_mode():
        return head(patch)[0, :, 0].softmax(0).numpy().T


@pytest.mark.parametrize("classes", [2, 4])
def test_logistic_regression_is_scikit_learns(classes):
    x, codes = blobs(classes)
    mean, std = x.astype(float).mean(0), x.astype(float).std(0)
    theirs = linear.LogisticRegression(max_iter=5000).fit((x - mean) / std, codes)
    want = theirs.predict_proba((x - mean) / std)
    found = run(from_linear(theirs, mean, std, classes), classes, x)
    assert np.abs(found - want).max() < 1e-5
    assert (
        np.abs(run(fit_head("logistic", x, codes, classes), classes, x) - want).max()
        < 1e-4
    )


@pytest.mark.parametrize("classes", [2, 4])
def test_a_forest_is_scikit_learns(classes):
    x, codes = blobs(classes)
    theirs = ensemble.RandomForestClassifier(20, random_state=0).fit(x, codes)
    want = theirs.predict_proba(x)
    made = from_forest(theirs, classes)
    assert np.abs(run(made, classes, x) - want).max() < 1e-5
    assert np.abs(softmax(made.logits(x)) - want).max() < 1e-5


@pytest.mark.parametrize("classes", [2, 4])
def test_ridge_takes_scikit_learns_classes(classes):
    x, codes = blobs(classes)
    mean, std = x.astype(float).mean(0), x.astype(float).std(0)
    theirs = linear.RidgeClassifier().fit((x - mean) / std, codes)
    found = run(fit_head("ridge", x, codes, classes), classes, x)
    assert (found.argmax(1) == theirs.predict((x - mean) / std)).all()


@pytest.mark.parametrize("kind", ["logistic", "ridge", "forest"])
def test_a_temperature_makes_less_sure_and_changes_no_class(kind):
    x, codes = blobs(3)
    made = fit_head(kind, x, codes, 3)
    plain, warm = run(made, 3, x), run(made, 3, x, heat=4.0)
    assert (plain.argmax(1) == warm.argmax(1)).mean() > 0.99
    assert warm.max(1).mean() < plain.max(1).mean() - 0.05


@pytest.mark.parametrize("kind", ["logistic", "ridge", "forest"])
def test_a_class_without_a_pixel_gets_nothing(kind):
    x, codes = blobs(2)
    found = run(fit_head(kind, x, codes * 2, 3), 3, x)
    assert found[:, 1].max() < 1e-5
    assert found[:, 0].max() > 0.5
    alone = run(fit_head(kind, x, codes * 0 + 2, 3), 3, x)
    assert alone[:, 2].min() > 0.999


def test_indices_are_spyndexs():
    spyndex = pytest.importorskip("spyndex")
    from geoscale.fitting.inputs import INDEX_NAMES, indices_of, open_input

    bands = [
        "blue",
        "green",
        "red",
        "rededge071",
        "rededge078",
        "nir",
        "swir16",
        "swir22",
    ]
    card = indices_of(open_input("features:bands", bands))
    names = card.title.split(", ")
    assert {"NDVI", "EVI", "MNDWI", "CIRE"} <= set(names) < set(INDEX_NAMES)
    assert "PSRI" not in names, "which needs a band that is not there"
    args = card.architecture_args
    x = np.random.default_rng(0).uniform(0.02, 0.6, (len(bands), 3, 4))
    with torch.inference_mode():
        found = Indices(**args)(torch.from_numpy(x)[None])[0].numpy()
    known = {n: x[i] for i, n in enumerate(args["names"]) if n}
    known |= {k: v.default for k, v in spyndex.constants.items() if v.default}
    for i, name in enumerate(names):
        with_all = spyndex.computeIndex(name, params=known)
        np.testing.assert_allclose(found[i], with_all, rtol=1e-6, err_msg=name)


@pytest.mark.parametrize("text", ["__import__('os')", "R.real", "R if N else R", "[R]"])
def test_a_formula_is_arithmetic_and_nothing_else(text):
    with pytest.raises(CardError, match="formula"):
        Indices(["R", "N"], [text])
    with pytest.raises(CardError, match="names `B`; known are R, N"):
        Indices(["R", "N"], ["B - R"])


def test_coarse_features_lie_where_their_pixels_are():
    coarse = torch.arange(4.0).reshape(1, 1, 1, 4).expand(1, 1, 4, 4)

    class Net(torch.nn.Module):
        def forward(self, x):
            return {"deep": coarse}

    made = Features(Net(), "deep", with_bands=True)(torch.ones(1, 2, 16, 16))
    assert made.shape == (1, 3, 16, 16)
    # the middle of place 1 is the border of pixels 5 and 6
    assert made[0, 0, 8, 5:7].mean() == pytest.approx(1.0)
    assert (made[0, 1:] == 1).all()


def card_of(**head):
    return ModelCard.from_dict(
        {
            "name": "t",
            "architecture": "geoscale.models.heads:Bands",
            "weights": {"href": "x.safetensors"},
            "input": {"bands": ["red", "nir"]},
            "output": {
                "classes": [{"value": i, "name": str(i)} for i in range(2)],
                "head": {"kind": "linear", "inputs": 2, **head},
            },
        }
    )


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = {
        f"head.{k}": torch.zeros(s) for k, s in (("mean", 2), ("std", 2), ("bias", 2))
    }
    with pytest.raises(WeightsError, match=r"1 missing .weight."):
        add_head(Bands(), card_of(), state, tmp_path / "x")
    with pytest.raises(WeightsError, match="belongs neither to the network"):
        add_head(Bands(), card_of(), {"conv.weight": torch.zeros(1)}, tmp_path / "x")


def test_cards_without_a_head_keep_their_hash():
    data = card_of().to_dict()
    assert data["output"]["head"] == {"kind": "linear", "inputs": 2}
    del data["output"]["head"]
    plain = ModelCard.from_dict(data)
    assert "head" not in plain.model_dump()["output"]
    assert plain.hash() != card_of().hash()


@pytest.mark.parametrize("name", ["resnet18", "vit_small_patch16_224"])
@pytest.mark.parametrize("without_norm", [False, True])
def test_a_backbones_weights_come_back_from_the_heads_file(
    tmp_path, name, without_norm
):
    from geoscale.models.backbones import Backbone

    torch.manual_seed(0)
    first = Backbone(name, 2, size=32)
    state = first.body.state_dict()
    if without_norm:  # as some of torchgeo's files are
        state = {k: v for k, v in state.items() if not k.startswith("norm.")}
    first.take(state, tmp_path / "x")
    made = add_head(
        Backbone(name, 2, size=32),
        card_of(inputs=512 if name == "resnet18" else 384),
        give_body(first) | some_head(512 if name == "resnet18" else 384),
        tmp_path / "x",
    ).eval()
    x = torch.randn(1, 2, 32, 32)
    with torch.inference_mode():
        want = Features(first.eval())(x)
        assert torch.equal(made.features(x), want)
        assert made(x).shape == (1, 2, 32, 32)


def some_head(inputs):
    return {f"head.{k}": v for k, v in LinearHead(inputs, 2).state_dict().items()}

"""What lies inside a network, as embeddings: by its places, by pixels, any cut."""

from __future__ import annotations

import numpy as np
import pytest

import geoscale
from geoscale.card import ModelCard
from geoscale.errors import CardError, JobError
from geoscale.looking import choose_features
from geoscale.options import Embedding
from geoscale.sinks.layout import open_output
from tests.support.coarse import build, classes, imagery, make_card

torch = pytest.importorskip("torch")
functional = torch.nn.functional


def deep(folder, size=16, **patch):
    said = {"classes": classes()}
    return make_card(folder, "Deep", "segmentation", said, size=size, **patch)


def run(card, to, source=None, **options):
    source = imagery((61, 45), holes=0) if source is None else source
    plan = geoscale.plan(source, card, task="embedding", trust_code=True, **options)
    assert geoscale.run(plan, to, trust_code=True).complete
    return plan, open_output(str(to))


@pytest.mark.parametrize(
    ("how", "features"),
    [
        ({"layer": "encoder.cells"}, 6),
        ({"layer": "encoder.cells", "per": "pixel"}, 6),
        ({"layer": "fine", "components": 2}, 2),
        ({"layer": "encoder.cells", "per": "patch"}, 6),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_blocks_do_not_change_them(tmp_path, how, features, dtype):
    card, found = deep(tmp_path), []
    for block in (32, 64):
        _, data = run(
            card, tmp_path / f"{block}.zarr", embedding=how, block_px=block, batch=2,
            output={"dtype": dtype, "overviews": False},
        )  # fmt: skip
        found.append(data["embedding"].values)
    np.testing.assert_array_equal(*found)
    assert found[0].shape[1] == features


def test_they_are_what_the_layer_gives_for_the_whole_image(tmp_path):
    card, source = deep(tmp_path), imagery((64, 48), holes=0)
    source.valid[:] = True
    net = build(card)
    with torch.inference_mode():
        x = torch.from_numpy(source.data[[0]])
        cells, fine = net.encoder["cells"](x), net.fine(x)
        enlarged = functional.interpolate(cells, size=x.shape[-2:], mode="bilinear")
    for layer, per, want in (
        ("encoder.cells", "cell", cells),
        ("encoder.cells", "pixel", enlarged),
        ("fine", "cell", fine),
    ):
        plan, data = run(
            card, tmp_path / f"{layer}-{per}.zarr", source, output={"dtype": "float32"},
            embedding={"layer": layer, "per": per},
        )  # fmt: skip
        found = data["embedding"].values[0]
        np.testing.assert_allclose(found, want[0].numpy(), atol=1e-5)
        assert data["embedding"].attrs["long_name"].endswith(f"toy-deep:{layer}")
    assert plan.goal == "embedding"


def test_backbones_too_are_enlarged_to_pixels(tmp_path):
    said = {"features": 8, "reduction": 4, "activation": "none"}
    card = make_card(tmp_path, "Backbone", "backbone", said, size=16, multiple_of=4)
    plan, data = run(card, tmp_path / "out.zarr", embedding={"per": "pixel"})
    assert plan.cell == 1
    assert plan.card.input.patch.alignment == 4
    assert data["embedding"].shape == (1, 8, 61, 45)
    lazy = geoscale.predict(
        imagery((61, 45), holes=0), card, layer="embedding", trust_code=True,
        embedding={"per": "pixel"},
    )  # fmt: skip
    np.testing.assert_array_equal(lazy.values, data["embedding"].values)


def test_a_run_goes_on_where_it_was_cut_off(tmp_path):
    card, how = deep(tmp_path), {"layer": "fine", "components": 2}
    plan, data = run(card, tmp_path / "whole.zarr", embedding=how, block_px=32)
    to = tmp_path / "cut.zarr"
    assert not geoscale.run(plan, to, trust_code=True, shard=(0, 2)).complete
    assert geoscale.run(plan, to, trust_code=True).complete
    np.testing.assert_array_equal(open_output(str(to)).embedding, data.embedding)


def test_a_card_may_name_the_layer_itself(tmp_path):
    data = deep(tmp_path).to_dict()
    data |= {"name": "mine", "task": "backbone"}
    data["output"] = {"features": 6, "reduction": 4, "layer": "encoder.cells",
                      "activation": "none"}  # fmt: skip
    _, mine = run(ModelCard.from_dict(data), tmp_path / "mine.zarr")
    how = {"layer": "encoder.cells"}
    _, theirs = run(deep(tmp_path), tmp_path / "theirs.zarr", embedding=how)
    assert mine.embedding.shape == theirs.embedding.shape
    with pytest.raises(CardError, match="are for `features` of a backbone"):
        ModelCard.from_dict({**deep(tmp_path).to_dict(), "output": {
            "classes": classes(), "layer": "fine"}})  # fmt: skip


def test_code_is_not_built_without_trust(tmp_path):
    with pytest.raises(CardError, match="trust"):
        geoscale.plan(
            imagery(), deep(tmp_path), task="embedding", embedding={"layer": "fine"}
        )


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (
            {"layer": "encoder.cell"},
            r"no layer `encoder.cell`; its parts .*did you mean `encoder.cells`",
        ),
        ({"layer": "decoder"}, r"no layer `decoder`.*its parts are encoder, up, fine"),
        ({"layer": "encoder"}, r"gives None, no \(n, feature, y, x\)"),
        ({"per": "pixel"}, r"gives segmentation, no features: name a layer"),
        ({}, r"name a layer of its network as `embedding.layer`"),
    ],
)
def test_layers_that_are_not_there_are_refused(tmp_path, how, said):
    with pytest.raises(CardError, match=said):
        geoscale.plan(
            imagery(), deep(tmp_path), task="embedding", embedding=how, trust_code=True
        )


def test_what_cannot_be_looked_into_is_refused(tmp_path):
    card, how = deep(tmp_path), Embedding(layer="fine")
    with pytest.raises(CardError, match="its file holds the network itself"):
        choose_features(
            card.model_copy(update={"architecture": None}), how, "embedding"
        )
    ragged = make_card(
        tmp_path, "Ragged", "segmentation", {"classes": classes()}, size=18
    )
    for net, layer, told in (
        (
            ragged,
            "cells",
            "4 x 4 places for a patch of 18 x 18 px: these are no squares",
        ),
        (deep(tmp_path, size=18), "fine", r"failed on float32 \(1, 2, 18, 18\)"),
    ):
        with pytest.raises(CardError, match=told):
            choose_features(net, Embedding(layer=layer), "embedding", trust_code=True)
    with pytest.raises(JobError, match="say `task: embedding`"):
        geoscale.plan(imagery(), card, embedding=how, trust_code=True)


def test_other_cards_are_what_they_were(tmp_path):
    card = deep(tmp_path)
    assert "layer" not in card.model_dump()["output"]
    assert "enlarge" not in card.model_dump()["output"]
    assert choose_features(card, None, "segmentation") is card
    assert choose_features(card, Embedding(), "embedding") is card


def test_of_a_part_that_is_run_twice_the_last_time_counts():
    from geoscale.models.hidden import Hidden

    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.add = torch.nn.Conv2d(1, 1, 1)
            torch.nn.init.ones_(self.add.weight)
            torch.nn.init.ones_(self.add.bias)

        def forward(self, x):
            return self.add(self.add(x)) * 10

    listening, x = Hidden(Twice(), "add"), torch.zeros(2, 1, 3, 3)
    for _ in range(2):
        assert (listening(x) == 2).all()

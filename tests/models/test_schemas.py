"""Class schemas: complete, distinct, and in the order that their data sets have."""

from __future__ import annotations

import pytest

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models.scores import check_output
from geoscale.schemas import list_schemas, load_schema
from geoscale.types import Json

COUNTS = {
    "bigearthnet-19": 19, "bigearthnet-43": 43, "corine": 44, "dynamic-world": 9,
    "earthnet": 4, "esa-worldcover": 11, "eurosat": 10, "ftw-2": 2, "ftw-3": 3,
    "spacenet-buildings": 2, "xview": 60, "xview2": 5,
}  # fmt: skip


def _card(output: Json, **args: int) -> ModelCard:
    return ModelCard.from_dict(
        {
            "name": "toy",
            "architecture": "torchgeo.models:FCN",
            "architecture_args": args,
            "weights": {"href": "toy.safetensors"},
            "input": {"bands": ["red", "nir"]},
            "output": output,
        }
    )


def test_all_schemas_are_there() -> None:
    assert {name: len(load_schema(name).classes) for name in list_schemas()} == COUNTS


@pytest.mark.parametrize("name", COUNTS)
def test_classes_of_a_schema_can_be_told_apart(name: str) -> None:
    schema, card = load_schema(name), _card({"classes": f"schema:{name}"})
    assert card.class_names == tuple(c["name"] for c in schema.classes)
    for key in ("value", "name", "title", "color"):
        assert len({c[key] for c in schema.classes}) == len(schema.classes), key
    assert "http" in schema.source
    assert schema.colors


@pytest.mark.parametrize(
    ("name", "size"), [("bigearthnet-19", 19), ("bigearthnet-43", 43)]
)
def test_bigearthnet_is_in_the_order_of_torchgeo(name: str, size: int) -> None:
    torchgeo = pytest.importorskip("torchgeo.datasets")
    titles = [c["title"] for c in load_schema(name).classes]
    assert titles == list(torchgeo.BigEarthNet.class_sets[size])


def test_values_that_maps_have() -> None:
    cover = {c["name"]: c["value"] for c in load_schema("esa-worldcover").classes}
    assert (cover["tree_cover"], cover["mangroves"], cover["moss_and_lichen"]) == (
        10, 95, 100,
    )  # fmt: skip
    corine = {c["title"]: c["value"] for c in load_schema("corine").classes}
    assert corine["111 Continuous urban fabric"] == 1
    assert corine["523 Sea and ocean"] == 44
    xview = {c["name"]: c["value"] for c in load_schema("xview").classes}
    assert (xview["fixed_wing_aircraft"], xview["building"], xview["tower"]) == (
        11, 73, 94,
    )  # fmt: skip


def test_a_schema_is_the_same_card_as_its_classes_in_full() -> None:
    named = _card({"classes": "schema:eurosat"})
    full = _card({"classes": [c.model_dump() for c in named.output.classes]})
    assert named.hash() == full.hash()
    assert ModelCard.from_dict(named.to_dict()) == named


@pytest.mark.parametrize(
    ("classes", "said"),
    [("schema:eurosta", "did you mean `eurosat`"), ("eurosat", "classes: schema:NAME")],
)
def test_a_schema_that_is_none_is_refused(classes: str, said: str) -> None:
    with pytest.raises(CardError, match=said):
        _card({"classes": classes})


def test_another_number_of_channels_is_refused_with_both() -> None:
    with pytest.raises(
        CardError, match=r"10 classes, but .*num_classes` makes .* 9 ch"
    ):
        _card({"classes": "schema:eurosat"}, num_classes=9)
    one = {"classes": "schema:ftw-2", "single": True, "activation": "sigmoid"}
    assert _card(one, classes=1).output.channels == 1
    card = _card({"classes": "schema:eurosat"})
    with pytest.raises(CardError, match="has 10 classes, the network gives 9"):
        check_output((1, 9, 8, 8), (1, 2, 8, 8), card)

"""Cards as STAC MLM Items: ours come back whole, others' as far as they go."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models import find_card
from geoscale.models.mlm import read_item, write_item
from tests.support import cards

pytest.importorskip("pystac.extensions.mlm")

# as the U-Net of the extension's own examples is written, in few words
THEIRS: dict[str, Any] = {
    "type": "Feature",
    "stac_version": "1.0.0",
    "stac_extensions": ["https://stac-extensions.github.io/mlm/v1.4.0/schema.json"],
    "id": "unet",
    "geometry": None,
    "properties": {
        "datetime": None,
        "mlm:name": "U-Net_efficientnet-b3",
        "mlm:architecture": "segmentation_models_pytorch.decoders.unet.model.Unet",
        "mlm:framework": "pytorch",
        "mlm:tasks": ["semantic-segmentation"],
        "mlm:input": [
            {
                "name": "model_input",
                "bands": ["B4", "B3", "B2", "B8A"] * 2,
                "input": {
                    "shape": [1, 8, 3, 3],
                    "dim_order": ["batch", "channel", "height", "width"],
                    "data_type": "float32",
                },
                "value_scaling": [{"type": "z-score", "mean": 0, "stddev": 3000}],
            }
        ],
        "mlm:output": [
            {
                "name": "model_output",
                "tasks": ["semantic-segmentation"],
                "result": {"shape": [1, 2], "dim_order": ["batch", "classes"]},
                "classification:classes": [
                    {"value": 0, "name": "not a field"},
                    {"value": 1, "name": "field", "color_hint": "FDD835"},
                ],
            }
        ],
    },
    "links": [],
    "assets": {
        "model": {
            "href": "https://example.org/unet.pth",
            "roles": ["mlm:model", "mlm:weights"],
            "mlm:artifact_type": "torch.save",
        }
    },
}


@pytest.mark.parametrize(
    "name",
    ["s2-landcover-unet", "torchgeo:Unet_Weights.SENTINEL2_3CLASS_FTW",
     "torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO"],
)  # fmt: skip
def test_a_card_comes_back_whole(name: str) -> None:
    card = find_card(name)
    item = json.loads(json.dumps(write_item(card)))
    assert read_item(item, "item") == card.model_copy(update={"base": None})


def check_by_rules(item: dict[str, Any]) -> None:
    """Hold an Item against what json-schema/schema.json of MLM 1.4 asks of one.

    No installed package carries that file, so its rules are repeated: needed fields,
    names, dimensions, bands that are described, one model asset with its artifact.
    """
    said = item["properties"]
    needed = ("mlm:name", "mlm:architecture", "mlm:tasks", "mlm:input", "mlm:output")
    assert all(said.get(key) for key in needed)
    assert re.fullmatch(r"[a-zA-Z][a-zA-Z0-9_.\-\s]+[a-zA-Z0-9]", said["mlm:name"])
    assert not {"mlm:artifact_type", "mlm:compile_method"} & set(said)
    known = {band["name"] for band in said["bands"]}
    for one in said["mlm:input"]:
        assert set(one["bands"]) <= known
        assert "bands" in one["input"]["dim_order"]
        assert len(one["input"]["shape"]) == len(one["input"]["dim_order"])
        assert one["value_scaling"] is None or one["value_scaling"]
    for one in said["mlm:output"]:
        assert "bands" not in one["result"]["dim_order"]
        assert set(one["tasks"]) <= set(said["mlm:tasks"])
    if "mlm:hyperparameters" in said:
        assert said["mlm:hyperparameters"]
    models = [a for a in item["assets"].values() if "mlm:model" in a["roles"]]
    assert len(models) == 1
    assert models[0]["mlm:artifact_type"]


@pytest.mark.parametrize(
    "name", ["s2-landcover-unet", "torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO"]
)
def test_an_item_of_ours_is_valid(name: str) -> None:
    import pystac
    from pystac.extensions.mlm import MLMExtension

    schema = pytest.importorskip("stac_model.schema")
    item = write_item(find_card(name))
    check_by_rules(item)
    # the specification's own library, and pystac
    schema.MLModelProperties.model_validate(
        {k: v for k, v in item["properties"].items() if k.startswith("mlm:")}
    )
    read = MLMExtension.ext(pystac.Item.from_dict(item))
    assert read.input[0].input.data_type == "float32"


def test_a_strangers_item_gives_a_card() -> None:
    card = read_item(THEIRS, "item")
    assert (card.input.bands, card.input.frames) == (("B4", "B3", "B2", "B8A"), 2)
    assert card.input.sensor == "sentinel-2"
    assert card.architecture == "segmentation_models_pytorch.decoders.unet.model:Unet"
    assert card.input.normalization.std == (3000.0,) * 8
    assert card.class_names == ("not_a_field", "field")
    assert card.output.classes[1].color == "FDD835"
    assert card.weights.href == "https://example.org/unet.pth"
    assert "states no units" in (card.notes or "")


def change(path: str, value: Any) -> dict[str, Any]:
    item = copy.deepcopy(THEIRS)
    *folders, last = path.split("/")
    place: Any = item
    for name in folders:
        place = place[int(name) if name.isdigit() else name]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return item


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("properties", [], "STAC Item without properties"),
        ("properties", {"datetime": None}, "not of a model: it has no `mlm:` fields"),
        ("properties/mlm:input", [], "`mlm:input` has 0 entries"),
        ("properties/mlm:input", [{}, {}], "`mlm:input` has 2 entries"),
        ("properties/mlm:input/0/bands", ["B4"], "lists 1 bands, but .* 8 channels"),
        ("properties/mlm:input/0/bands", [], "names no bands of its input"),
        ("properties/mlm:output/0/tasks", ["super-resolution"],
         "model for super-resolution; tasks that end in a map"),
        ("assets", {}, "no asset of role mlm:weights"),
        ("properties/mlm:output/0/classification:classes", None, "two classes or more"),
    ],
)  # fmt: skip
def test_an_item_that_says_too_little_is_refused(
    path: str, value: Any, match: str
) -> None:
    with pytest.raises(CardError, match=match):
        read_item(change(path, value), "item")


def test_what_is_not_read_is_said() -> None:
    odd = change("properties/mlm:input/0/value_scaling", [{"type": "clip-min"}])
    assert "scaling (clip-min) is left out" in (read_item(odd, "x").notes or "")
    odd = change("properties/mlm:architecture", "U-Net")
    card = read_item(odd, "x")
    assert card.architecture is None
    assert "architecture is a name, not code" in (card.notes or "")
    odd = change("properties/mlm:input/0/pre_processing_function",
                 {"format": "python", "expression": "a:b"})  # fmt: skip
    assert "which is not run" in (read_item(odd, "x").notes or "")


def test_an_item_is_a_model_by_path_and_by_url(server: Any, tmp_path: Path) -> None:
    fields = {
        "name": "mine",
        "architecture": "torchgeo.models:FCN",
        "weights": {"href": "w.safetensors"},
        "input": {"bands": ["red", "nir"]},
        "output": {"classes": cards.classes("land", "water")},
    }
    text = json.dumps(write_item(ModelCard.from_dict(fields)))
    (tmp_path / "item.json").write_text(text)
    assert find_card(tmp_path / "item.json").base == str(tmp_path)
    (tmp_path / "www" / "item.json").write_text(text)
    card = find_card(f"{server.url}/item.json")
    assert card.weights.href == f"{server.url}/w.safetensors"
    # what reaches into this machine is refused here too
    hostile = text.replace("torchgeo.models:FCN", "net.py:FCN")
    (tmp_path / "www" / "item.json").write_text(hostile)
    with pytest.raises(CardError, match="names a local file"):
        find_card(f"{server.url}/item.json")

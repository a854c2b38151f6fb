"""ONNX files that carry their card: read, written, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.cli import main
from geoscale.errors import CardError, WeightsError
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.models.onnx_card import KEY, write_onnx_card

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

FIELDS: dict[str, Any] = {
    "name": "smooth",
    "weights": {"href": "net.onnx"},
    "input": {"bands": ["red", "nir"], "patch": {"size": 32}},
    "output": {"classes": "schema:ftw-2"},
    "license": "CC-BY-4.0",
}


@pytest.fixture
def plain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A convolution of 5 x 5 px from 2 bands to 2 classes, with its card beside it."""
    import yaml

    monkeypatch.setenv("GEOSCALE_MODELS", str(tmp_path / "shelf"))
    weights = np.random.default_rng(0).normal(size=(2, 2, 5, 5)).astype(np.float32)
    shape = ["n", 2, "y", "x"]
    made = onnx.helper.make_model(
        onnx.helper.make_graph(
            [onnx.helper.make_node("Conv", ["x", "w"], ["s"], pads=[2, 2, 2, 2])],
            "g",
            [onnx.helper.make_tensor_value_info("x", 1, shape)],
            [onnx.helper.make_tensor_value_info("s", 1, shape)],
            [onnx.numpy_helper.from_array(weights, "w")],
        ),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.helper.set_model_props(made, {"author": "me"})
    onnx.save(made, tmp_path / "net.onnx")
    (tmp_path / "card.yaml").write_text(yaml.safe_dump(FIELDS))
    return tmp_path


def test_a_file_with_its_card_needs_nothing_beside_it(plain: Path, capsys: Any) -> None:
    packed = plain / "alone" / "own.onnx"
    packed.parent.mkdir()
    assert main(["models", "pack", str(plain / "card.yaml"), "--to", str(packed)]) == 0
    card, before = find_card(str(packed)), find_card(str(plain / "card.yaml"))
    assert card.output == before.output
    assert card.input == before.input
    props = {p.key: p.value for p in onnx.load(packed).metadata_props}
    assert props["author"] == "me"
    x = np.random.default_rng(1).normal(size=(1, 2, 32, 32)).astype(np.float32)
    settings = ModelSettings(device="cpu", batch=1)
    np.testing.assert_array_equal(
        get_predictor(card, settings).predict(x),
        get_predictor(before, settings).predict(x),
    )
    assert main(["models", "add", str(packed), "--name", "mine"]) == 0
    assert main(["models", "check", "mine", "--no-measure"]) == 0
    assert "one patch" in capsys.readouterr().out


def test_check_writes_halo_and_alignment_into_the_file(plain: Path) -> None:
    packed = plain / "own.onnx"
    write_onnx_card(find_card(str(plain / "card.yaml")), plain / "net.onnx", packed)
    assert find_card(str(packed)).input.patch.halo is None
    assert main(["models", "check", str(packed), "--write"]) == 0
    patch = find_card(str(packed)).input.patch
    assert (patch.halo, patch.alignment) == (2, 1)


def test_a_file_without_a_card_says_what_to_do(plain: Path) -> None:
    with pytest.raises(CardError, match=r"carries no card.*geoscale models pack"):
        find_card(str(plain / "net.onnx"))


def test_a_file_on_the_web_is_to_be_downloaded() -> None:
    with pytest.raises(CardError, match="download it"):
        find_card("https://example.invalid/net.onnx?key=1")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1, 2]", "holds list, not fields"),
        ('{"name": "x"}', "`input` is missing"),
        ("{", "not plain YAML"),
    ],
)
def test_a_wrong_card_is_named_with_its_file(plain: Path, text: str, said: str) -> None:
    made = onnx.load(plain / "net.onnx")
    onnx.helper.set_model_props(made, {KEY: text})
    onnx.save(made, plain / "bad.onnx")
    with pytest.raises(CardError, match=rf"bad\.onnx.*{said}"):
        find_card(str(plain / "bad.onnx"))


def test_a_card_inside_cannot_name_other_weights(plain: Path) -> None:
    made = onnx.load(plain / "net.onnx")
    other = {**FIELDS, "weights": {"href": "/etc/passwd", "sha256": "0" * 64}}
    onnx.helper.set_model_props(made, {KEY: json.dumps(other)})
    onnx.save(made, plain / "own.onnx")
    weights = find_card(str(plain / "own.onnx")).weights
    assert (weights.href, weights.sha256) == ("own.onnx", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"<html>no</html>", "is HTML"), (b"PK\x03\x04 not onnx", "is no ONNX network")],
)
def test_what_is_no_onnx_is_refused(plain: Path, content: bytes, said: str) -> None:
    (plain / "bad.onnx").write_bytes(content)
    with pytest.raises(WeightsError, match=said):
        find_card(str(plain / "bad.onnx"))

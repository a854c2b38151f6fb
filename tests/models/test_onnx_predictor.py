from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, PlanError, WeightsError
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.models.onnx_predictor import OnnxPredictor
from geoscale.models.scores import activate
from tests.support import cards

pytest.importorskip("onnxruntime")


def field(number: int, value: int | str | bytes) -> bytes:
    """One field of a protobuf message."""
    if isinstance(value, int):
        return bytes([number << 3, value])
    value = value.encode() if isinstance(value, str) else value
    size = bytes([len(value) & 127 | 128, len(value) >> 7])
    return bytes([number << 3 | 2]) + size + value


def tensor(name: str, shape: tuple[int | str, ...]) -> bytes:
    dims = b"".join(
        field(1, field(1, d) if isinstance(d, int) else field(2, d)) for d in shape
    )
    kind = field(1, field(1, 1) + field(2, dims))
    return field(1, name) + field(2, kind)


def write_onnx(path: Path, *shape: int | str, op: str = "Neg") -> Path:
    """Write a network of one operator that keeps the shape."""
    node = field(1, "x") + field(2, "y") + field(4, op)
    graph = field(1, node) + field(2, "g")
    graph += field(11, tensor("x", shape)) + field(12, tensor("y", shape))
    opset = field(8, field(1, "") + field(2, 13))
    path.write_bytes(field(1, 8) + field(7, graph) + opset)
    return path


def card_of(path: Path, *, bands: int = 3, activation: str = "none") -> ModelCard:
    return ModelCard.from_dict(
        {
            "name": "neg",
            "weights": {"href": str(path)},
            "input": {
                "bands": ["red", "green", "blue", "nir"][:bands],
                "patch": {"size": 8},
            },
            "output": {
                "classes": cards.classes("a", "b", "c"),
                "activation": activation,
            },
        }
    )


def batch(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 3, 8, 8)).astype(np.float32)


def test_a_free_batch_takes_what_is_asked_and_pads(tmp_path: Path) -> None:
    card = card_of(write_onnx(tmp_path / "n.onnx", "n", 3, "h", "w"))
    predictor = get_predictor(card, ModelSettings(device="cpu", batch=4))
    assert predictor.batch == 4
    for n in (1, 4, 6):
        np.testing.assert_array_equal(predictor.predict(batch(n)), -batch(n))


def test_a_fixed_batch_rules(tmp_path: Path) -> None:
    card = card_of(write_onnx(tmp_path / "n.onnx", 2, 3, 8, 8))
    predictor = get_predictor(card, ModelSettings(device="cpu", batch=16))
    assert predictor.batch == 2
    np.testing.assert_array_equal(predictor.predict(batch(5)), -batch(5))


@pytest.mark.parametrize(
    ("shape", "bands", "match"),
    [
        (("n", 4, 8, 8), 3, r"takes tensor\(float\) \['n', 4, 8, 8\].*\(n, 3, 8, 8\)"),
        (("n", 3, 16, 16), 3, r"the card says float32 \(n, 3, 8, 8\)"),
        (("n", 3, 8), 3, "mend `input.bands`"),
        (("n", 4, 8, 8), 4, r"gives \['n', 4, 8, 8\], but the card lists 3 channels"),
    ],
)
def test_a_file_that_is_not_the_cards_is_refused(
    tmp_path: Path, shape: tuple[Any, ...], bands: int, match: str
) -> None:
    card = card_of(write_onnx(tmp_path / "n.onnx", *shape), bands=bands)
    with pytest.raises(CardError, match=match):
        get_predictor(card, ModelSettings(device="cpu"))


def test_a_detector_is_no_segmentation_network(data_dir: Path) -> None:
    card = ModelCard.from_dict(
        {
            "name": "yolox",
            "weights": {"href": str(data_dir / "yolox_nano" / "yolox_nano.onnx")},
            "input": {"bands": ["blue", "green", "red"], "patch": {"size": 416}},
            "output": {"classes": cards.classes("a", "b")},
        }
    )
    with pytest.raises(CardError, match=r"gives \[1, 3549, 85\]"):
        get_predictor(card, ModelSettings(device="cpu"))


def test_a_file_that_is_no_onnx_is_refused(tmp_path: Path) -> None:
    (tmp_path / "n.onnx").write_bytes(b"no protobuf at all")
    with pytest.raises(WeightsError, match="is no ONNX network that ONNX Runtime"):
        get_predictor(card_of(tmp_path / "n.onnx"), ModelSettings(device="cpu"))


def test_nan_is_never_handed_on(tmp_path: Path) -> None:
    card = card_of(write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8, op="Log"))
    predictor = OnnxPredictor(tmp_path / "n.onnx", card, batch=1)
    with pytest.raises(BlockError, match="its input is finite"):
        predictor.predict(-np.ones((1, 3, 8, 8), np.float32))
    with pytest.raises(CardError, match="card `neg` does not fit"):
        predictor.probe()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"precision": "bfloat16"}, r"runtime: openvino \(on a CPU\)"),
        ({"runtime": "torch"}, "`torch` cannot run an ONNX file; say runtime: onnx"),
        ({"device": "cuda:1"}, "this onnxruntime has .*; install onnxruntime-gpu"),
        ({"device": "tpu"}, "runs on cpu or cuda here, not `tpu`"),
        ({"batch": 0}, "batch 0 is below 1"),
    ],
)
def test_what_the_runtime_cannot_do_is_refused(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    card = card_of(write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8))
    with pytest.raises(PlanError, match=match):
        get_predictor(card, ModelSettings(**{"device": "cpu", **change}))


def test_threads_may_change_and_results_do_not(tmp_path: Path) -> None:
    card = card_of(write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8))
    predictor = get_predictor(card, ModelSettings(device="cpu", threads=1))
    before = predictor.predict(batch(1))
    predictor.set_threads(2)
    assert predictor.describe()["threads"] == 2
    np.testing.assert_array_equal(predictor.predict(batch(1)), before)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "none"])
def test_activations_neither_overflow_nor_leave_float32(activation: str) -> None:
    logits = np.array([1e4, -1e4, 0.5, -0.5], np.float32).reshape(1, 4, 1, 1)
    with np.errstate(all="raise", under="ignore"):
        out = activate(logits, activation)
    assert out.dtype == np.float32
    wide = logits.astype(np.float64)
    want = {
        "softmax": np.array([1.0, 0, 0, 0]).reshape(1, 4, 1, 1),
        "sigmoid": 1 / (1 + np.exp(-np.clip(wide, -700, 700))),
        "none": wide,
    }[activation]
    np.testing.assert_allclose(out, want, rtol=1e-6, atol=1e-30)


def test_only_the_cards_patch_is_run_where_it_is_fixed() -> None:
    pytest.importorskip("ukis_csmask")
    with pytest.raises(CardError, match="takes patches of 256 px only, not 512 px"):
        get_predictor(find_card("ukis-csmask-4b-l1c"), ModelSettings(patch=512))

"""Runtimes by name: what is offered, what is refused, and that all give one map."""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, MissingDependencyError, PlanError
from geoscale.models import (
    Candidate,
    ModelSettings,
    find_card,
    get_predictor,
    list_candidates,
)
from geoscale.models.onnx_predictor import OnnxPredictor
from geoscale.models.openvino_predictor import OpenvinoPredictor, check_precision
from geoscale.models.parts import is_out_of_memory
from geoscale.preprocess import Preprocessor
from tests.models.test_build import write_card
from tests.models.test_onnx_predictor import batch, card_of, write_onnx
from tests.support import cards

torch = pytest.importorskip("torch")

NAMES = {"openvino": ["openvino"], "onnx": ["onnx", "onnxscript", "onnxruntime"]}


def need(runtime: str) -> None:
    for name in NAMES.get(runtime, []):
        pytest.importorskip(name)


def settings(runtime: str, **more: Any) -> ModelSettings:
    fields = {"device": "cpu", "runtime": runtime, "trust_code": True, "batch": 1}
    return ModelSettings(**(fields | more))


def real_chip(card: ModelCard, pixels: np.ndarray) -> np.ndarray:
    """The network's input of one patch of real imagery."""
    valid = np.ones((1, *pixels.shape[-2:]), bool)
    return Preprocessor.from_card(card).prepare(pixels[None], valid)[0][None]


def share_of_equal_labels(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.argmax(1) == b.argmax(1)).mean())


@pytest.fixture(scope="module")
def chips(data_dir: Path, spain: np.ndarray) -> dict[str, tuple[ModelCard, np.ndarray]]:
    """Real networks, each with a real patch, from three origins."""
    simple = cards.simplecnn(data_dir)
    land = find_card("s2-landcover-unet")
    four = [cards.S2_BANDS.index(b) for b in ("B2", "B3", "B4", "B8")]
    found = {
        "simplecnn": (simple, real_chip(simple, spain[:, :128, :128])),
        "landcover": (land, real_chip(land, spain[four, :128, :128] / 10000)),
    }
    if importlib.util.find_spec("ukis_csmask"):
        ukis = cards.ukis(6, "l1c")
        with np.load(data_dir / "ukis_csmask" / "sentinel2.npz") as file:
            image = np.moveaxis(file["img"], -1, 0)[:, :256, 256:]
        found["ukis"] = (ukis, real_chip(ukis, image))
    return found


@pytest.mark.parametrize(
    ("network", "runtime", "precision", "least"),
    [
        ("simplecnn", "openvino", "float32", 0.9999),
        ("simplecnn", "onnx", "float32", 0.9999),
        ("simplecnn", "openvino", "bfloat16", 0.99),
        ("simplecnn", "torch", "bfloat16", 0.99),
        ("landcover", "openvino", "float32", 0.9999),
        ("landcover", "onnx", "float32", 0.9999),
        ("landcover", "openvino", "bfloat16", 0.99),
        ("landcover", "torch", "bfloat16", 0.99),
        ("ukis", "openvino", "float32", 0.9999),
        ("ukis", "openvino", "bfloat16", 0.99),
        pytest.param("simplecnn", "compile", "float32", 0.9999, marks=pytest.mark.slow),
        pytest.param("landcover", "compile", "float32", 0.9999, marks=pytest.mark.slow),
        pytest.param("landcover", "compile", "bfloat16", 0.99, marks=pytest.mark.slow),
    ],
)
def test_every_runtime_gives_the_same_map(
    chips: dict[str, Any], network: str, runtime: str, precision: str, least: float
) -> None:
    need(runtime)
    if network not in chips:
        pytest.skip("ukis_csmask is not installed")
    card, x = chips[network]
    patch = x.shape[2]
    want = get_predictor(card, settings("native", patch=patch)).predict(x)
    try:
        predictor = get_predictor(
            card, settings(runtime, precision=precision, patch=patch)
        )
    except PlanError as err:
        if "no BF16 arithmetic" not in str(err):
            raise
        pytest.skip(str(err))
    got = predictor.predict(x)
    assert got.dtype == np.float32
    assert got.flags.c_contiguous
    assert share_of_equal_labels(got, want) >= least
    if precision == "float32":
        np.testing.assert_allclose(got, want, atol=2e-3)
    np.testing.assert_array_equal(predictor.predict(x), got)
    told = predictor.describe()
    assert (told["runtime"], told["precision"]) == (runtime, precision)
    assert {"version", "device", "batch", "threads"} <= set(told)


@pytest.mark.parametrize("runtime", ["torch", "openvino", "onnx"])
def test_a_batch_of_any_length_gives_the_same_scores(
    tmp_path: Path, runtime: str
) -> None:
    need(runtime)
    card = write_card(tmp_path)
    x = np.random.default_rng(0).normal(size=(5, 2, 16, 16)).astype(np.float32)
    want = get_predictor(card, settings("torch", patch=16)).predict(x)
    predictor = get_predictor(card, settings(runtime, patch=16, batch=2, threads=1))
    np.testing.assert_allclose(predictor.predict(x), want, atol=1e-5)
    assert predictor.describe()["threads"] == 1
    predictor.set_threads(2)
    np.testing.assert_allclose(predictor.predict(x[:1]), want[:1], atol=1e-5)
    torch.set_num_threads(2)


@pytest.mark.slow
def test_a_compiled_network_compiles_in_its_probe(tmp_path: Path) -> None:
    if not shutil.which("g++"):
        pytest.skip("no g++")
    card = write_card(tmp_path)
    predictor = get_predictor(card, settings("compile", patch=16, batch=2))
    counters = torch._dynamo.utils.counters
    before = counters["stats"]["unique_graphs"]
    assert before
    x = np.random.default_rng(0).normal(size=(3, 2, 16, 16)).astype(np.float32)
    want = get_predictor(card, settings("torch", patch=16, batch=2)).predict(x)
    np.testing.assert_allclose(predictor.predict(x), want, atol=1e-5)
    assert counters["stats"]["unique_graphs"] == before
    assert predictor.describe()["runtime"] == "compile"


def test_without_a_compiler_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = write_card(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PlanError, match=r"needs a C\+\+ compiler; none of no-such"):
        get_predictor(card, settings("compile"))
    found = list_candidates(card, tmp_path / "w.safetensors", "cpu")
    reason = next(c.reason for c in found if c.runtime == "compile")
    assert "install g++ or set CXX, or say runtime: torch or openvino" in reason


def test_candidates_of_a_torch_network(tmp_path: Path) -> None:
    found = list_candidates(write_card(tmp_path), tmp_path / "w.safetensors", "cpu")
    names = {(c.runtime, c.precision) for c in found}
    assert names == {
        ("torch", "float32"),
        ("torch", "bfloat16"),
        ("compile", "float32"),
        ("compile", "bfloat16"),
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
        ("onnx", "float32"),
    }
    assert Candidate(runtime="torch", precision="float32") in found


def test_candidates_of_an_onnx_file(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8)
    found = list_candidates(card_of(path), path, "cpu")
    assert {(c.runtime, c.precision) for c in found} == {
        ("openvino", "float32"),
        ("openvino", "bfloat16"),
        ("onnx", "float32"),
    }


def test_a_runtime_that_is_not_installed_says_how(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def lacks(name: str, package: str | None = None) -> Any:
        return None if name in ("openvino", "onnxscript") else find(name, package)

    card = write_card(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lacks)
    found = list_candidates(card, tmp_path / "w.safetensors", "cpu")
    reasons = {c.runtime: c.reason for c in found}
    assert reasons["openvino"] == (
        "openvino is not installed: pip install 'geoscale[openvino]'"
    )
    assert reasons["onnx"] == (
        "onnxscript is not installed: pip install 'geoscale[onnx]'"
    )
    for runtime in ("openvino", "onnx"):
        with pytest.raises(MissingDependencyError, match="is not installed: pip"):
            get_predictor(card, settings(runtime))


@pytest.mark.parametrize(
    ("runtime", "more", "match"),
    [
        ("onnx", {"precision": "bfloat16"}, "computes in float32; say precision: flo"),
        ("openvino", {"precision": "float16"}, "OpenVINO has no FP16 arithmetic on th"),
    ],
)
def test_precisions_that_cannot_work_are_refused(
    tmp_path: Path, runtime: str, more: dict[str, Any], match: str
) -> None:
    need(runtime)
    with pytest.raises(PlanError, match=match):
        get_predictor(write_card(tmp_path), settings(runtime, **more))


class Tells:
    """What a core tells of a CPU."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)

    def get_property(self, device: str, name: str) -> list[str]:
        return self.words


def test_a_cpu_without_bfloat16_is_told_what_works() -> None:
    check_precision(Tells("FP32"), "float32")
    check_precision(Tells("FP32", "BF16"), "bfloat16")
    with pytest.raises(PlanError, match=r"no BF16 arithmetic.*say precision: float32$"):
        check_precision(Tells("FP32"), "bfloat16")
    with pytest.raises(PlanError, match="say precision: float32 or bfloat16"):
        check_precision(Tells("FP32", "BF16"), "float16")


def test_openvino_is_for_cpus(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8)
    from geoscale.models.runtimes import _check_choice

    with pytest.raises(PlanError, match="runs on cpu here, not `cuda`; say device: cp"):
        _check_choice("openvino", "float32", "cuda", True)
    need("openvino")
    predictor = get_predictor(card_of(path), settings("openvino", device="auto"))
    np.testing.assert_array_equal(predictor.predict(batch(1)), -batch(1))


def test_openvino_refuses_a_file_that_is_not_the_cards(tmp_path: Path) -> None:
    need("openvino")
    path = write_onnx(tmp_path / "n.onnx", "n", 4, 8, 8)
    with pytest.raises(CardError, match=r"takes f32 \[None, 4, 8, 8\].*\(n, 3, 8, 8\)"):
        OpenvinoPredictor(path, card_of(path), batch=1)
    path = write_onnx(tmp_path / "m.onnx", 2, 3, 8, 8)
    predictor = OpenvinoPredictor(path, card_of(path), batch=7)
    assert predictor.batch == 2
    np.testing.assert_array_equal(predictor.predict(batch(5)), -batch(5))
    path = write_onnx(tmp_path / "l.onnx", "n", 3, 8, 8, op="Log")
    with pytest.raises(BlockError, match="its input is finite"):
        OpenvinoPredictor(path, card_of(path), batch=1).predict(-np.abs(batch(1)))


def test_openvino_activates_a_file_in_its_graph(tmp_path: Path) -> None:
    need("openvino")
    path = write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8)
    for activation in ("softmax", "sigmoid"):
        card = card_of(path, activation=activation)
        want = get_predictor(card, settings("native")).predict(batch(1))
        got = get_predictor(card, settings("openvino")).predict(batch(1))
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_openvino_tells_nobody() -> None:
    need("openvino")
    import subprocess
    import sys

    code = (
        "from geoscale.models.openvino_predictor import import_openvino\n"
        "import_openvino()\n"
        "import openvino.tools.ovc.telemetry_utils as t\n"
        "print(t.tm.__name__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "openvino.tools.ovc.telemetry_stub"


def test_a_network_that_cannot_be_converted_says_what_to_do(tmp_path: Path) -> None:
    need("openvino")

    class Odd(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("boom")

    predictor = OpenvinoPredictor(Odd(), card_of(tmp_path / "none"), batch=1)
    before = logging.getLogger().level
    with pytest.raises(
        PlanError, match=r"cannot convert this network.*say runtime: to"
    ):
        predictor.probe()
    assert logging.getLogger().level == before, "others still have their warnings"


class Session:
    """An ONNX Runtime session of a small device: negates, and has a budget."""

    def __init__(self, real: Any, budget: int, seen: list[int], message: str) -> None:
        self._real, self._budget, self._seen = real, budget, seen
        self._message = message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def run(self, names: Any, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        (x,) = feed.values()
        self._seen.append(len(x))
        if len(x) > self._budget:
            raise RuntimeError(self._message)
        return [-x]


MESSAGES = [
    "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer of",
    "CUDA failure 2: out of memory ; GPU=0",
    "std::bad_alloc",
]


@pytest.mark.parametrize("message", MESSAGES)
def test_onnx_runtime_out_of_memory_halves_for_good(
    tmp_path: Path, message: str
) -> None:
    ort = pytest.importorskip("onnxruntime")
    path, seen = write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8), []

    def small(*args: Any, **more: Any) -> Session:
        return Session(ort.InferenceSession(*args, **more), 3, seen, message)

    predictor = OnnxPredictor(path, card_of(path), batch=8, open_session=small)
    np.testing.assert_array_equal(predictor.predict(batch(8)), -batch(8))
    assert seen == [8, 4, 2, 2, 2, 2]
    assert (predictor.batch, predictor.part) == (8, 2)
    assert predictor.describe()["part"] == 2


def test_a_file_that_fixes_its_batch_says_what_to_do(tmp_path: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    path, seen = write_onnx(tmp_path / "n.onnx", 4, 3, 8, 8), []

    def small(*args: Any, **more: Any) -> Session:
        return Session(ort.InferenceSession(*args, **more), 3, seen, MESSAGES[0])

    predictor = OnnxPredictor(path, card_of(path), batch=8, open_session=small)
    with pytest.raises(BlockError, match=r"batch of 4 patches that .* fixes does not"):
        predictor.predict(batch(4))


def test_an_exported_network_is_exported_again_for_fewer_patches(
    tmp_path: Path,
) -> None:
    ort = pytest.importorskip("onnxruntime")
    seen: list[int] = []
    card = card_of(tmp_path / "none.onnx")

    def export(part: int) -> bytes:
        seen.append(part)
        return write_onnx(tmp_path / "n.onnx", part, 3, 8, 8).read_bytes()

    def small(*args: Any, **more: Any) -> Session:
        return Session(ort.InferenceSession(*args, **more), 2, [], MESSAGES[0])

    predictor = OnnxPredictor(export, card, batch=4, open_session=small)
    np.testing.assert_array_equal(predictor.predict(batch(4)), -batch(4))
    assert seen == [4, 2]


def test_openvino_out_of_memory_halves_for_good(tmp_path: Path) -> None:
    need("openvino")
    import openvino

    class Core:
        def __init__(self) -> None:
            self.real, self.seen = openvino.Core(), []

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        def compile_model(self, model: Any, *args: Any) -> Any:
            self.seen.append(int(model.input(0).shape[0]))
            if self.seen[-1] > 2:
                raise RuntimeError("Exception from src/plugin.cpp: std::bad_alloc")
            return self.real.compile_model(model, *args)

    core, path = Core(), write_onnx(tmp_path / "n.onnx", "n", 3, 8, 8)
    predictor = OpenvinoPredictor(path, card_of(path), batch=8, core=core)
    np.testing.assert_array_equal(predictor.predict(batch(8)), -batch(8))
    assert core.seen == [8, 4, 2]
    assert predictor.part == 2


def test_what_counts_as_out_of_memory() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("any"))
    assert is_out_of_memory(MemoryError())
    no_workspace = "GET was unable to find an engine to execute this computation"
    assert is_out_of_memory(RuntimeError(no_workspace))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))

"""A block on the device gives what the host gives; here the device is the CPU."""

from __future__ import annotations

import dataclasses
import logging
import threading
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.engine.block import Kernel, infer_block
from geoscale.errors import BlockError
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.models.device_steps import as_plain, prepare
from geoscale.models.onnx_predictor import OnnxPredictor
from geoscale.models.torch_predictor import TorchPredictor
from geoscale.planner import make_plan
from geoscale.plans import Inference, Output
from geoscale.preprocess import Preprocessor
from geoscale.tasks.change import NetworkChange
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import FakeSource, scene
from tests.models.test_onnx_predictor import write_onnx
from tests.support import cards

torch = pytest.importorskip("torch")
nn = torch.nn

LAYERS = ("classes", "confidence", "entropy", "margin", "scores")


def make_card(**more: Any) -> ModelCard:
    fields: dict[str, Any] = {
        "name": "toy",
        "weights": {"href": "toy.pt"},
        "input": {
            "bands": ["b0", "b1"],
            "units": "raw",
            "patch": {"size": 16, "halo": 1, "multiple_of": 1},
            "normalization": {"type": "mean-std", "mean": [3e3, 4e3], "std": [3, 7e3]},
        },
        "output": {
            "classes": [{"value": v, "name": f"c{v}"} for v in (0, 7, 3)],
            "activation": "softmax",
        },
    }
    fields["input"] |= more
    return ModelCard.from_dict(fields)


def make_net(budget: int = 1000, fail_first: int = 0) -> Any:
    torch.manual_seed(5)

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 3, padding=1)
            self.seen: list[int] = []

        def forward(self, x: Any) -> Any:
            self.seen.append(len(x))
            if len(x) > budget or len(self.seen) <= fail_first:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
            return self.conv(x)

    return Net()


def make_source(dtype: str = "float32", frames: int = 1) -> FakeSource:
    source = scene((45, 39), times=frames, bands=2, nodata=0.1, seed=3)
    source.data = (source.data * 7 % 65521).astype(dtype)
    source.valid[:, :20, :20] = False
    if dtype == "float32":
        source.data[0, 1, 30, 30] = np.nan
    return source


def make_kernel(
    predictor: Any,
    card: ModelCard,
    source: FakeSource,
    scores: str,
    task: Any = None,
    **inference: Any,
) -> Kernel:
    output = Output(layers=LAYERS, scores_dtype=scores)
    plan = make_plan(
        source,
        card,
        weights_sha256="0",
        inference=Inference(**inference),
        output=output,
    )
    return Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(card, trust_code=True),
        predictor=predictor,
        task=task or Segmentation(card, LAYERS, scores),
        device_lock=threading.Lock(),
    )


def run_both(
    predictor: Any,
    card: ModelCard,
    source: FakeSource,
    scores: str = "uint8",
    **inference: Any,
) -> list[dict[str, Any]]:
    """Run every block on the host and on the device; compare; give the counters."""
    kernel = make_kernel(predictor, card, source, scores, **inference)
    told = []
    for task in kernel.plan.iter_tasks():
        predictor.offers_canvas = False
        kernel.shared.clear()  # a canvas shares nothing between blocks
        want, counted = infer_block(kernel, task)
        predictor.offers_canvas = True
        got, counters = infer_block(kernel, task)
        assert set(got) == {layer.name for layer in kernel.task.layers}
        assert {k: counters[k] for k in counted} == counted
        for name, layer in want.items():
            assert got[name].dtype == layer.dtype
            np.testing.assert_array_equal(got[name], layer)
        told.append(counters)
    assert any((layer != 255).any() for layer in want.values())
    return told


@pytest.mark.parametrize("merge", ["crop", "blend"])
@pytest.mark.parametrize("stored", ["uint8", "float16"])
def test_the_device_tells_change_as_the_host_does(merge: str, stored: str) -> None:
    """Of three classes, of which the second stands for change."""
    card = make_card()
    predictor = TorchPredictor(make_net(), card, batch=4)
    for names in (("change",), ("change", "probability")):
        task = NetworkChange(card, names, stored, threshold=0.4)
        told = run_both(
            predictor, card, make_source(), task=task, merge=merge, block=20, stride=10
        )
        assert all(t["canvas"] == 1 for t in told)


@pytest.mark.parametrize("merge", ["crop", "blend"])
@pytest.mark.parametrize("dtype", ["uint16", "float32", "int16", "uint32", "float64"])
def test_the_device_gives_the_hosts_layers(merge: str, dtype: str) -> None:
    card = make_card()
    predictor = TorchPredictor(make_net(), card, batch=4)
    source = make_source(dtype)
    told = run_both(predictor, card, source, merge=merge, block=20, stride=10)
    assert all(t["canvas"] == 1 for t in told)
    assert any(t["patches"] < t["lattice_patches"] for t in told)


def test_half_floats_dates_and_fill() -> None:
    card = make_card(
        frames=2, frame_order="newest-first", bands=["b0"], fill=[5.0, 6.0]
    )
    source = make_source("uint16", frames=2)
    source.data, source.valid = source.data[:, :1], source.valid
    predictor = TorchPredictor(make_net(), card, batch=3)
    run_both(predictor, card, source, scores="float16", block=32, merge="blend")


def test_a_models_own_function_stays_on_the_host() -> None:
    card = make_card(
        normalization={
            "type": "callable",
            "callable": "tests.models.test_device_path:half",
        }
    )
    predictor = TorchPredictor(make_net(), card, batch=4)
    assert Preprocessor.from_card(card, trust_code=True).on_device is None
    run_both(predictor, card, make_source("uint16"), block=32)


def half(x: np.ndarray) -> np.ndarray:
    return x / 20000


def test_low_precision_and_sigmoid_agree_too() -> None:
    card = make_card()
    output = card.output.model_copy(update={"activation": "sigmoid"})
    card = card.model_copy(update={"output": output})
    predictor = TorchPredictor(make_net(), card, batch=4, precision="bfloat16")
    run_both(predictor, card, make_source(), block=32, merge="blend")


def test_an_onnx_network_is_bound_to_the_device(tmp_path: Any) -> None:
    pytest.importorskip("onnxruntime")
    card = make_card(bands=["b0", "b1"])
    classes = cards.classes("a", "b")
    output = card.output.model_copy(update={"classes": card.output.classes[:2]})
    card = card.model_copy(update={"output": output})
    assert len(classes) == 2
    path = write_onnx(tmp_path / "n.onnx", "n", 2, "h", "w")
    predictor = OnnxPredictor(path, card, batch=4)
    told = run_both(predictor, card, make_source("uint16"), block=20)
    assert all(t["canvas"] == 1 for t in told)


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_a_real_network_on_real_imagery(spain: np.ndarray, merge: str) -> None:
    card = find_card("s2-landcover-unet")
    four = [cards.S2_BANDS.index(b) for b in ("B2", "B3", "B4", "B8")]
    pixels = spain[None, four, :130, :170] / np.float32(10000)
    source = FakeSource(pixels, np.ones((1, 130, 170), bool))
    settings = ModelSettings(device="cpu", batch=2, patch=128, canvas=True)
    predictor = get_predictor(card, settings)
    assert predictor.describe()["canvas"] is True
    run_both(predictor, card, source, merge=merge, patch=128, block=120, stride=64)


def test_out_of_memory_halves_the_batch_and_goes_on() -> None:
    card, net = make_card(), make_net(budget=3)
    predictor = TorchPredictor(net, card, batch=8)
    predictor.offers_canvas = True
    kernel = make_kernel(
        predictor, card, make_source(), "uint8", block=64, merge="blend"
    )
    layers, counters = infer_block(kernel, kernel.plan.task(0))
    assert net.seen[:4] == [8, 4, 2, 2]
    assert set(net.seen[3:]) == {2}
    assert (predictor.part, counters["canvas"]) == (2, 1)
    want = infer_block(
        dataclasses.replace(
            kernel, predictor=TorchPredictor(make_net(), card, batch=2)
        ),
        kernel.plan.task(0),
    )[0]
    for name, layer in want.items():
        np.testing.assert_array_equal(layers[name], layer)


def test_a_canvas_that_does_not_fit_is_merged_on_the_host_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Not one patch fits beside the canvas; once it is gone, one does."""
    card = make_card()
    kernel = make_kernel(
        TorchPredictor(make_net(), card, batch=1), card, make_source(), "uint8"
    )
    want = infer_block(kernel, kernel.plan.task(0))[0]
    predictor = TorchPredictor(make_net(fail_first=1), card, batch=1)
    predictor.offers_canvas = True
    kernel = dataclasses.replace(kernel, predictor=predictor)
    with caplog.at_level(logging.WARNING):
        layers, counters = infer_block(kernel, kernel.plan.task(0))
    assert counters["canvas_fallback"] == 1
    assert "canvas" not in counters
    assert "does not fit into the memory of cpu" in caplog.text
    assert "choose a smaller `block`" in caplog.text
    for name, layer in want.items():
        np.testing.assert_array_equal(layers[name], layer)


def test_nan_on_the_device_is_never_handed_on() -> None:
    card, net = make_card(), make_net()
    with torch.no_grad():
        net.conv.weight.fill_(torch.inf)
    predictor = TorchPredictor(net, card, batch=4)
    predictor.offers_canvas = True
    kernel = make_kernel(predictor, card, make_source(), "uint8", block=64)
    with pytest.raises(
        BlockError, match="its input is finite: the weights are damaged"
    ):
        infer_block(kernel, kernel.plan.task(0))


def test_any_other_failure_is_a_block_error_with_the_shape() -> None:
    card, net = make_card(), make_net()
    predictor = TorchPredictor(net, card, batch=4)
    predictor.offers_canvas = True
    net.forward = lambda x: 1 / 0
    kernel = make_kernel(predictor, card, make_source(), "uint8", block=64)
    with pytest.raises(BlockError, match="division by zero"):
        infer_block(kernel, kernel.plan.task(0))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", ">i2", "float64", "uint8"])
def test_preparing_on_the_device_equals_the_host_bit_for_bit(dtype: str) -> None:
    card = make_card()
    host = Preprocessor.from_card(card)
    rng = np.random.default_rng(1)
    data = rng.integers(0, 250, (1, 2, 9, 9)).astype(dtype)
    data[0, 0] = np.iinfo(np.uint16).max if dtype == "uint16" else 99
    valid = rng.random((1, 9, 9)) > 0.2
    want, usable = host.prepare(data, valid)
    plain, unsigned = as_plain(data)
    got, ok = prepare(
        torch.from_numpy(plain), torch.from_numpy(valid), host.on_device, unsigned
    )
    np.testing.assert_array_equal(got.numpy(), want)
    np.testing.assert_array_equal(ok.numpy(), usable)


@pytest.mark.gpu
@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_cuda_gives_the_hosts_layers(merge: str) -> None:
    card = make_card()
    on_cuda = TorchPredictor(make_net(), card, batch=4, device="cuda")
    assert on_cuda.offers_canvas
    source = make_source("uint16")
    kernel = make_kernel(on_cuda, card, source, "uint8", merge=merge, block=20)
    for task in kernel.plan.iter_tasks():
        on_cuda.offers_canvas = False
        want = infer_block(kernel, task)[0]
        on_cuda.offers_canvas = True
        got, counters = infer_block(kernel, task)
        assert counters["canvas"] == 1
        np.testing.assert_array_equal(got["classes"], want["classes"])
        for name in ("confidence", "scores"):
            step = got[name].astype(int) - want[name].astype(int)
            assert np.abs(step).max() <= 1


@pytest.mark.gpu
def test_blocks_on_cuda_may_overlap() -> None:
    from concurrent.futures import ThreadPoolExecutor

    card = make_card()
    predictor = TorchPredictor(make_net(), card, batch=4, device="cuda")
    kernel = make_kernel(predictor, card, make_source("uint16"), "uint8", block=10)
    tasks = list(kernel.plan.iter_tasks())
    want = [infer_block(kernel, task)[0] for task in tasks]
    with ThreadPoolExecutor(4) as pool:
        got = list(pool.map(lambda task: infer_block(kernel, task)[0], tasks))
    for a, b in zip(got, want, strict=True):
        for name in LAYERS:
            np.testing.assert_array_equal(a[name], b[name])

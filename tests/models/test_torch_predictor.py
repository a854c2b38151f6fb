from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, PlanError
from geoscale.models.device import DeviceLostError, make_cuda_repeatable, uses_tf32
from geoscale.models.torch_predictor import TorchPredictor, pick_layout
from geoscale.types import Predictor

torch = pytest.importorskip("torch")
nn = torch.nn


class Pointwise(nn.Module):
    """Two bands → three logits, exactly; records batches, may run out of memory."""

    def __init__(self, budget: int = 1000, wrap: Any = None) -> None:
        super().__init__()
        self.budget, self.wrap = budget, wrap or (lambda out: out)
        self.seen: list[int] = []

    def forward(self, x: Any) -> Any:
        self.seen.append(len(x))
        if len(x) > self.budget:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        a, b = x[:, :1], x[:, 1:]
        return self.wrap(torch.cat([a, b, a - b], 1))


def batch(n: int) -> np.ndarray:
    return np.random.default_rng(n).normal(size=(n, 2, 8, 8)).astype(np.float32)


def softmax(x: np.ndarray) -> np.ndarray:
    logits = np.concatenate([x, x[:, :1] - x[:, 1:]], 1).astype(np.float64)
    e = np.exp(logits - logits.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def with_output(card: ModelCard, **change: Any) -> ModelCard:
    return card.model_copy(update={"output": card.output.model_copy(update=change)})


def test_it_is_a_predictor_and_gives_softmax(tiny_card: ModelCard) -> None:
    predictor: Predictor = TorchPredictor(Pointwise(), tiny_card, batch=4, model_id="h")
    x = batch(4)
    out = predictor.predict(x)
    assert (predictor.batch, predictor.model_id) == (4, "h")
    assert out.dtype == np.float32
    assert out.flags.c_contiguous
    np.testing.assert_allclose(out, softmax(x), rtol=1e-5, atol=1e-7)


class Flat(nn.Module):
    """Ends as networks of scenes do: by `view`, which needs planes in order."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.last = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 * 64, 3)

    def forward(self, x: Any) -> Any:
        x = self.conv(x)
        return self.last(x.view(len(x), -1))


@pytest.mark.parametrize(
    "compiled", [False, pytest.param(True, marks=pytest.mark.slow)]
)
def test_a_network_that_flattens_by_view_runs(
    tiny_card: ModelCard, compiled: bool
) -> None:
    card, x = with_output(tiny_card, reduction="patch"), batch(2)
    torch.manual_seed(0)
    network = Flat().eval()
    with torch.inference_mode():
        want = network(torch.from_numpy(x)).softmax(1)[..., None, None].numpy()
    predictor = TorchPredictor(network, card, batch=2, compiled=compiled)
    predictor.probe(8)
    assert predictor.describe()["channels_last"] is False
    np.testing.assert_allclose(predictor.predict(x), want, atol=1e-6)
    plain = TorchPredictor(Pointwise(), tiny_card, batch=2)
    plain.probe(8)
    assert plain.describe()["channels_last"] is True


def test_sigmoid_and_none(tiny_card: ModelCard) -> None:
    x = batch(2)
    card = with_output(tiny_card, activation="none")
    raw = TorchPredictor(Pointwise(), card, batch=2).predict(x)
    np.testing.assert_array_equal(raw[:, :2], x)
    card = with_output(tiny_card, activation="sigmoid")
    out = TorchPredictor(Pointwise(), card, batch=2).predict(x)
    np.testing.assert_allclose(out, 1 / (1 + np.exp(-raw)), rtol=1e-5)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda out: {"aux": out[:, :1], "out": out},
        lambda out: (out, None),
        lambda out: [out],
    ],
)
def test_dicts_and_tuples_of_libraries_are_understood(
    tiny_card: ModelCard, wrap: Any
) -> None:
    x = batch(2)
    out = TorchPredictor(Pointwise(wrap=wrap), tiny_card, batch=2).predict(x)
    np.testing.assert_allclose(out, softmax(x), rtol=1e-5, atol=1e-7)


def test_a_short_batch_is_padded_to_the_same_shape(tiny_card: ModelCard) -> None:
    module = Pointwise()
    out = TorchPredictor(module, tiny_card, batch=4).predict(batch(3))
    assert out.shape == (3, 3, 8, 8)
    assert module.seen == [4]


def test_out_of_memory_halves_once_and_for_good(tiny_card: ModelCard) -> None:
    small, large = Pointwise(budget=9), Pointwise()
    x = batch(32)
    want = TorchPredictor(large, tiny_card, batch=32).predict(x)
    predictor = TorchPredictor(small, tiny_card, batch=32)
    np.testing.assert_array_equal(predictor.predict(x), want)
    assert small.seen == [32, 16, 8, 8, 8, 8]
    assert (predictor.batch, predictor.part) == (32, 8)
    small.seen.clear()
    np.testing.assert_array_equal(predictor.predict(x), want)
    assert small.seen == [8, 8, 8, 8]
    assert predictor.describe()["part"] == 8


def test_parts_of_an_odd_batch_keep_one_shape(tiny_card: ModelCard) -> None:
    module, x = Pointwise(budget=3), batch(5)
    out = TorchPredictor(module, tiny_card, batch=5).predict(x)
    assert module.seen == [5, 3, 3]
    np.testing.assert_allclose(out, softmax(x), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "message",
    [
        "[enforce fail at alloc_cpu.cpp:117] err == 0",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    ],
)
def test_other_allocators_that_ran_out_count_too(
    tiny_card: ModelCard, message: str
) -> None:
    class Other(Pointwise):
        def forward(self, x: Any) -> Any:
            if len(x) > 1:
                raise RuntimeError(message)
            return super().forward(x)

    predictor = TorchPredictor(Other(), tiny_card, batch=2)
    predictor.predict(batch(2))
    assert predictor.part == 1


def test_one_patch_too_large_is_said_with_its_size(tiny_card: ModelCard) -> None:
    predictor = TorchPredictor(Pointwise(budget=0), tiny_card, batch=4)
    with pytest.raises(BlockError, match=r"one patch of \(2, 8, 8\).*Tried to alloc"):
        predictor.predict(batch(4))


@pytest.mark.parametrize("kind", [torch.AcceleratorError, RuntimeError])
def test_a_lost_device_asks_for_another_process(
    tiny_card: ModelCard, kind: type[Exception]
) -> None:
    def fail(out: Any) -> Any:
        raise kind("CUDA error: unspecified launch failure")

    predictor = TorchPredictor(Pointwise(wrap=fail), tiny_card, batch=1)
    with pytest.raises(DeviceLostError, match="must be replaced") as info:
        predictor.predict(batch(1))
    assert info.value.kind == "process"


def test_any_other_failure_is_a_block_error_with_the_shape(
    tiny_card: ModelCard,
) -> None:
    def fail(out: Any) -> Any:
        raise ValueError("boom")

    predictor = TorchPredictor(Pointwise(wrap=fail), tiny_card, batch=1)
    with pytest.raises(BlockError, match=r"float32 \(1, 2, 8, 8\).*boom") as info:
        predictor.predict(batch(1))
    assert info.value.phase == "predict"


@pytest.mark.parametrize(
    ("patches", "match"),
    [
        (np.zeros((1, 3, 8, 8), np.float32), r"expects float32 \(n, 2, y, x\), got"),
        (np.zeros((1, 2, 8, 8), np.float64), "got float64"),
        (np.zeros((2, 8, 8), np.float32), r"got float32 \(2, 8, 8\)"),
        (np.zeros((0, 2, 8, 8), np.float32), r"got float32 \(0, 2, 8, 8\)"),
    ],
)
def test_wrong_patches_are_refused(
    tiny_card: ModelCard, patches: np.ndarray, match: str
) -> None:
    with pytest.raises(CardError, match=match):
        TorchPredictor(Pointwise(), tiny_card, batch=1).predict(patches)


@pytest.mark.parametrize(
    ("wrap", "match"),
    [
        (lambda out: out[:, :2], r"gave shape \(1, 2, 8, 8\).*expected \(1, 3, 8, 8\)"),
        (lambda out: out[..., 1:], r"keeps height and width"),
        (lambda out: "text", "gave str, not a tensor"),
        (lambda out: {}, "gave NoneType, not a tensor"),
    ],
)
def test_wrong_outputs_are_refused(tiny_card: ModelCard, wrap: Any, match: str) -> None:
    predictor = TorchPredictor(Pointwise(wrap=wrap), tiny_card, batch=1)
    with pytest.raises(CardError, match=match):
        predictor.predict(batch(1))
    with pytest.raises(CardError, match=match):
        predictor.probe()


def test_nan_is_never_handed_on(tiny_card: ModelCard) -> None:
    bad = TorchPredictor(Pointwise(wrap=lambda o: o * torch.nan), tiny_card, batch=1)
    with pytest.raises(BlockError, match="input is finite: the weights are damaged"):
        bad.predict(batch(1))
    x = batch(1)
    x[0, 0, 0, 0] = np.nan
    with pytest.raises(BlockError, match="its input holds NaN"):
        TorchPredictor(Pointwise(), tiny_card, batch=1).predict(x)


def test_low_precision_runs_and_overflow_names_the_way_out(
    tiny_card: ModelCard,
) -> None:
    class Conv(nn.Module):
        def __init__(self, scale: float) -> None:
            super().__init__()
            self.conv = nn.Conv2d(2, 3, 1, bias=False)
            nn.init.constant_(self.conv.weight, scale)

        def forward(self, x: Any) -> Any:
            return self.conv(x)

    x = np.full((1, 2, 8, 8), 100, np.float32)
    out = TorchPredictor(Conv(0.5), tiny_card, batch=1, precision="bfloat16").predict(x)
    np.testing.assert_allclose(out, 1 / 3, rtol=1e-2)
    assert out.dtype == np.float32
    with pytest.raises(BlockError, match="float16 overflows; use precision: float32"):
        TorchPredictor(Conv(1e4), tiny_card, batch=1, precision="float16").predict(x)


def test_the_same_batch_gives_the_same_bytes(tiny_card: ModelCard) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 8, 3, padding=1), nn.Dropout(), nn.Conv2d(8, 3, 1))
    predictor, x = TorchPredictor(net, tiny_card, batch=4), batch(4)
    np.testing.assert_array_equal(predictor.predict(x), predictor.predict(x))


def test_threads_and_provenance(tiny_card: ModelCard) -> None:
    before = torch.get_num_threads()
    try:
        predictor = TorchPredictor(Pointwise(), tiny_card, batch=2)
        predictor.set_threads(1)
        told = predictor.describe()
        assert told["threads"] == 1
        assert {"runtime", "version", "device", "precision", "batch"} <= set(told)
    finally:
        torch.set_num_threads(before)


def test_a_batch_below_one_is_refused(tiny_card: ModelCard) -> None:
    with pytest.raises(PlanError, match="batch 0 is below 1"):
        TorchPredictor(Pointwise(), tiny_card, batch=0)


def test_float32_on_cuda_lies_in_planes_and_all_else_pixel_by_pixel() -> None:
    assert pick_layout("cuda", "float32") == torch.contiguous_format
    for device, precision in (("cuda", "bfloat16"), ("cpu", "float32")):
        assert pick_layout(device, precision) == torch.channels_last


def test_torchs_old_switches_still_answer_once_tf32_is_off() -> None:
    """Inductor reads them; after the new ones alone torch refuses to tell them."""
    try:
        torch.backends.cuda.matmul.fp32_precision = "tf32"
        torch.backends.cudnn.conv.fp32_precision = "tf32"
        assert uses_tf32()
        make_cuda_repeatable()
        assert not uses_tf32()
        assert torch.get_float32_matmul_precision() == "highest"
        assert torch.backends.cuda.matmul.allow_tf32 is False
        assert torch.backends.cudnn.allow_tf32 is False
    finally:
        torch.backends.cudnn.deterministic = False

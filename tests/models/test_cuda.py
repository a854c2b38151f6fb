"""Networks on a CUDA device: memory that really runs out, arithmetic, runtimes."""

from __future__ import annotations

import dataclasses
import logging
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.engine.block import infer_block
from geoscale.errors import PlanError
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.models.detector import load_detector, open_torch
from geoscale.models.device import make_cuda_repeatable, uses_tf32
from geoscale.models.onnx_predictor import pick_providers
from geoscale.models.torch_predictor import TorchPredictor
from geoscale.testing import scene
from tests.models.test_device_path import make_card, make_kernel, make_net
from tests.support.detectors import seeded_dict

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.gpu

MB = 10**6


@contextmanager
def limited(size: int) -> Iterator[None]:
    """Let torch have so many bytes of the device, beside what it holds already."""
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    held = torch.cuda.memory_reserved(0)
    torch.cuda.set_per_process_memory_fraction((held + size) / total, 0)
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0, 0)
        torch.cuda.empty_cache()


class Wide(nn.Module):
    """Two bands to three classes by way of many channels, which take the memory."""

    def __init__(self, channels: int = 64) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.into = nn.Conv2d(2, channels, 3, padding=1)
        self.out = nn.Conv2d(channels, 3, 1)
        self.seen: list[int] = []

    def forward(self, x: Any) -> Any:
        self.seen.append(len(x))
        return self.out(self.into(x).relu())


def test_memory_that_runs_out_halves_the_batch_and_the_map_stays() -> None:
    card, net = make_card(), Wide()
    source = scene((300, 290), bands=2, nodata=0.1, seed=2)
    options = {"block": 128, "patch": 128, "merge": "blend"}
    predictor = TorchPredictor(net, card, batch=64, device="cuda")
    kernel = make_kernel(predictor, card, source, "uint8", **options)
    # 64 patches of 64 channels: 268 MB for one activation
    with limited(150 * MB):
        layers, counters = infer_block(kernel, kernel.plan.task(4))
    assert net.seen[0] == 64
    assert 1 <= predictor.part < 64
    assert net.seen[-1] == predictor.part
    assert counters["canvas"] == 1
    fresh = TorchPredictor(Wide(), card, batch=predictor.part, device="cuda")
    other = dataclasses.replace(kernel, predictor=fresh)
    want, _ = infer_block(other, kernel.plan.task(4))
    for name, layer in want.items():
        np.testing.assert_array_equal(layers[name], layer)


def test_on_the_host_memory_that_runs_out_halves_the_batch_too() -> None:
    card = make_card()
    predictor = TorchPredictor(Wide(), card, batch=64, device="cuda")
    patches = np.random.default_rng(1).normal(size=(64, 2, 128, 128))
    patches = patches.astype(np.float32)
    with limited(150 * MB):
        scores = predictor.predict(patches)
    assert predictor.part < 64
    fresh = TorchPredictor(Wide(), card, batch=predictor.part, device="cuda")
    np.testing.assert_array_equal(scores, fresh.predict(patches))


def test_a_block_that_does_not_fit_is_merged_on_the_host(
    caplog: pytest.LogCaptureFixture,
) -> None:
    card = make_card()
    source = scene((1500, 1500), bands=2, nodata=0.1, seed=2)
    predictor = TorchPredictor(make_net(), card, batch=2, device="cuda")
    kernel = make_kernel(
        predictor, card, source, "uint8", block=1500, patch=128, merge="blend"
    )
    task = kernel.plan.task(0)
    want, counters = infer_block(kernel, task)
    assert counters["canvas"] == 1
    # 18 MB of pixels and 36 MB of scores
    with limited(40 * MB), caplog.at_level(logging.WARNING):
        got, counters = infer_block(kernel, task)
    assert counters["canvas_fallback"] == 1
    assert "choose a smaller `block`" in caplog.text
    _almost_the_same(got, want)


def _almost_the_same(got: Any, want: Any) -> None:
    """Equal classes; what is stored in steps differs by one at most."""
    np.testing.assert_array_equal(got["classes"], want["classes"])
    for name in ("confidence", "scores", "margin"):
        assert np.abs(got[name].astype(int) - want[name].astype(int)).max() <= 1


def test_float32_is_float32_whatever_was_set_before() -> None:
    """TF32 keeps ten bits of a factor: an error of some 1e-4, not of 1e-7."""
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.allow_tf32 = True
    assert uses_tf32()
    make_cuda_repeatable()
    assert not uses_tf32()
    # what torch's own compiler reads, and could not read after the new switches alone
    assert torch.get_float32_matmul_precision() == "highest"
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32
    torch.manual_seed(1)
    x, layer = torch.randn(2, 64, 64, 64), nn.Conv2d(64, 64, 3)
    with torch.inference_mode():
        want = layer.double()(x.double())
        got = layer.float().cuda()(x.cuda()).cpu().double()
        flat = x.reshape(128, -1)
        square = flat.cuda() @ flat.cuda().T
        exact = flat.double() @ flat.double().T
    assert (got - want).norm() / want.norm() < 1e-6
    assert (square.cpu().double() - exact).norm() / exact.norm() < 1e-6


@pytest.fixture(scope="module")
def patches() -> np.ndarray:
    """Real imagery as the landcover network takes it, (n, 4, 184, 184)."""
    pytest.importorskip("spyndex")
    from geoscale.demo.scenes import load_pixels
    from geoscale.preprocess import Preprocessor

    pixels = load_pixels(552)[None] / np.float32(10_000)
    prepare = Preprocessor.from_card(find_card("s2-landcover-unet"))
    channels, _ = prepare.prepare(pixels, np.ones((1, 552, 552), bool))
    rows = [channels[:, y : y + 184, :] for y in range(0, 552, 184)]
    found = [row[..., x : x + 184] for row in rows for x in range(0, 552, 184)]
    return np.stack(found).astype(np.float32)


def labels_of(patches: np.ndarray, **settings: Any) -> np.ndarray:
    settings = {"device": "cuda", "batch": 9, "patch": 184} | settings
    predictor = get_predictor(find_card("s2-landcover-unet"), ModelSettings(**settings))
    scores = predictor.predict(patches)
    again = predictor.predict(patches)
    np.testing.assert_array_equal(scores, again)
    return scores.argmax(1)


def test_cuda_gives_the_cpus_labels(patches: np.ndarray) -> None:
    on_cuda, on_cpu = labels_of(patches), labels_of(patches, device="cpu")
    assert len(np.unique(on_cpu)) > 2
    assert (on_cuda == on_cpu).mean() >= 0.9999


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_moves_few_labels(patches: np.ndarray, precision: Any) -> None:
    want, got = labels_of(patches), labels_of(patches, precision=precision)
    assert (want == got).mean() > 0.98
    settings = ModelSettings(device="cuda", precision=precision, patch=184, batch=9)
    told = get_predictor(find_card("s2-landcover-unet"), settings).describe()
    assert (told["precision"], told["tf32"]) == (precision, False)


def test_a_compiled_network_agrees() -> None:
    pytest.importorskip("triton")
    card = make_card()
    x = np.random.default_rng(4).normal(size=(4, 2, 64, 64)).astype(np.float32)
    plain = TorchPredictor(Wide(), card, batch=4, device="cuda")
    made = TorchPredictor(Wide(), card, batch=4, device="cuda", compiled=True)
    assert made.describe()["runtime"] == "compile"
    want, got = plain.predict(x), made.predict(x)
    np.testing.assert_allclose(got, want, atol=1e-5)
    np.testing.assert_array_equal(got, made.predict(x))
    assert (want.argmax(1) == got.argmax(1)).mean() >= 0.9999


def test_onnx_runs_on_cuda_or_says_what_to_install(patches: np.ndarray) -> None:
    ort = pytest.importorskip("onnxruntime")
    if "CUDAExecutionProvider" not in ort.get_available_providers():
        with pytest.raises(PlanError, match="install onnxruntime-gpu"):
            pick_providers("cuda")
        with pytest.raises(PlanError, match="install onnxruntime-gpu"):
            labels_of(patches, runtime="onnx")
        return
    same = labels_of(patches) == labels_of(patches, runtime="onnx")
    assert same.mean() >= 0.9999


LOST = """
import numpy as np, torch
from geoscale.models.device import DeviceLostError
from geoscale.models.torch_predictor import TorchPredictor
from tests.models.test_cuda import Wide
from tests.models.test_device_path import make_card

class Bad(Wide):
    def forward(self, x):
        at = torch.full((1,), 10**6, device=x.device)
        return super().forward(x) + torch.zeros(3, device=x.device)[at]

predictor = TorchPredictor(Bad(), make_card(), batch=1, device="cuda")
for _ in range(2):
    try:
        predictor.predict(np.zeros((1, 2, 8, 8), np.float32))
    except DeviceLostError as err:
        print("lost:", err.kind, err)
"""


def test_a_device_that_failed_is_said_to_be_lost() -> None:
    """The kernel asserts: no later call of the process works, whatever it runs."""
    done = subprocess.run(
        [sys.executable, "-c", LOST], capture_output=True, text=True, check=False
    )
    said = [x for x in done.stdout.splitlines() if x.startswith("lost: process cuda")]
    assert len(said) == 2, done.stdout + done.stderr[-2000:]
    assert "must be replaced" in said[1]


def test_a_detector_finds_on_cuda_what_it_finds_on_a_cpu(tmp_path: Path) -> None:
    card = ModelCard.from_dict(seeded_dict(tmp_path, "faster-rcnn"))
    rng = np.random.default_rng(7)
    coarse = rng.normal(size=(2, 3, 16, 16)).astype(np.float32)
    patches = np.kron(coarse, np.ones((16, 16), np.float32))
    found = {}
    for device in ("cpu", "cuda"):
        held = load_detector(card, ModelSettings(device=device))
        found[device], again = held.detect(patches), held.detect(patches)
        for one, two in zip(found[device], again, strict=True):
            np.testing.assert_array_equal(one.corners, two.corners)
    near = total = 0
    for here, there in zip(found["cpu"], found["cuda"], strict=True):
        total += len(here.scores)
        for corners in here.corners:
            off = np.abs(there.corners - corners).max(axis=1)
            near += bool(len(off)) and off.min() < 0.5
    assert total > 10
    assert near / total > 0.95


def test_a_detector_that_needs_too_much_runs_fewer_patches() -> None:
    """One of YOLOv8's form: a tensor for the whole batch."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(2)
            self.into, self.out = nn.Conv2d(1, 64, 3, padding=1), nn.Conv2d(64, 5, 1)
            self.seen: list[int] = []

        def forward(self, x: Any) -> Any:
            self.seen.append(len(x))
            return self.out(self.into(x).relu())[..., ::8, ::8].flatten(2).sigmoid()

    from tests.support.detectors import squares_card

    card, net = squares_card(score_threshold=0.4), Net().eval()
    make = {"device": "cuda", "model_id": "0", "threads": None}
    held = open_torch(net, card, batch=64, **make)
    x = np.random.default_rng(3).normal(size=(64, 1, 128, 128)).astype(np.float32)
    with limited(150 * MB):
        found = held.detect(x)
    assert net.seen[0] == 64
    assert held.part < 64
    assert held.describe()["part"] == held.part
    want = open_torch(net, card, batch=held.part, **make).detect(x)
    assert sum(len(one.scores) for one in found) > 0
    for one, two in zip(found, want, strict=True):
        np.testing.assert_array_equal(one.corners, two.corners)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_a_real_network_on_the_device_equals_the_host(
    merge: str, precision: Any
) -> None:
    """On a canvas or merged by the host; batches may hold other patches there."""
    pytest.importorskip("spyndex")
    from geoscale.demo.scenes import load_pixels

    card = find_card("s2-landcover-unet")
    source = scene((500, 470), bands=4)
    source.data[0] = load_pixels(500)[..., :470] / np.float32(10_000)
    source.valid[:, :50, :60] = False
    settings = ModelSettings(device="cuda", batch=4, patch=184, precision=precision)
    predictor: Any = get_predictor(card, settings)
    options = {"merge": merge, "patch": 184, "block": 256}
    kernel = make_kernel(predictor, card, source, "uint8", **options)
    for task in kernel.plan.iter_tasks():
        predictor.offers_canvas = False
        kernel.shared.clear()
        want, counters = infer_block(kernel, task)
        assert "canvas" not in counters
        predictor.offers_canvas = True
        got, counters = infer_block(kernel, task)
        assert counters["canvas"] == 1
        _almost_the_same(got, want)

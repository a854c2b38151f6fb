from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import CardError, PlanError, WeightsError
from geoscale.models import ModelSettings, get_predictor
from geoscale.models.build import build_module, freeze
from tests.support import cards

torch = pytest.importorskip("torch")
nn = torch.nn

USER_FILE = """
import torch
class Net(torch.nn.Module):
    def __init__(self, in_channels, classes=2, weights="mine"):
        super().__init__()
        assert weights == "mine"
        self.conv = torch.nn.Conv2d(in_channels, classes, 1)
    def forward(self, x):
        return self.conv(x)
class Half(Net):
    def forward(self, x):
        return self.conv(x)[:, :, ::2]
def a_number():
    return 3
def broken():
    raise RuntimeError("no such layer")
"""


def write_card(tmp_path: Path, **change: Any) -> ModelCard:
    """A user's own network beside its card, in a folder of its own."""
    (tmp_path / "net.py").write_text(USER_FILE)
    from safetensors.torch import save_file

    torch.manual_seed(1)
    conv = nn.Conv2d(2, 2, 1)
    state = {f"conv.{k}": v for k, v in conv.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    fields = {
        "name": "own",
        "architecture": "net.py:Net",
        "architecture_args": {"in_channels": 2},
        "weights": {"href": "w.safetensors"},
        "input": {"bands": ["red", "nir"], "patch": {"size": 16}},
        "output": {"classes": cards.classes("a", "b")},
        **change,
    }
    card = ModelCard.from_dict(fields)
    return card.model_copy(update={"base": str(tmp_path)})


CPU = ModelSettings(device="cpu", trust_code=True, batch=2)


def test_a_users_file_beside_its_card_runs(tmp_path: Path) -> None:
    predictor = get_predictor(write_card(tmp_path), CPU)
    out = predictor.predict(np.ones((2, 2, 16, 16), np.float32))
    assert out.shape == (2, 2, 16, 16)
    np.testing.assert_allclose(out.sum(1), 1, rtol=1e-6)


def test_a_users_file_needs_trust(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"`net\.py:Net` is Python code.*--trust-code"):
        get_predictor(write_card(tmp_path), ModelSettings(device="cpu"))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"architecture": None}, "names no `architecture`"),
        ({"architecture": "net.py:Nett"}, "has no `Nett`; did you mean `Net`"),
        ({"architecture": "gone.py:Net"}, r"gone\.py does not exist"),
        ({"architecture": "net.py"}, "names no object"),
        ({"architecture": "no.such.module:Net"}, "cannot be imported"),
        ({"architecture_args": {"in_chanels": 2}}, "it takes in_channels, classes"),
        ({"architecture_args": {}}, "refused `architecture_args`"),
        (
            {"architecture": "net.py:a_number", "architecture_args": {}},
            r"gave int, not a torch\.nn\.Module",
        ),
        (
            {"architecture": "net.py:broken", "architecture_args": {}},
            "no such layer",
        ),
        ({"architecture": "net.py:Half"}, r"gave shape \(1, 2, 8, 16\)"),
        (
            {"output": {"classes": cards.classes("a", "b", "c")}},
            r"gave shape \(1, 2, 16, 16\).*expected \(1, 3, 16, 16\)",
        ),
        (
            {"input": {"bands": ["red", "nir", "blue"], "patch": {"size": 16}}},
            r"does not fit: the network failed on float32 \(1, 3, 16, 16\)",
        ),
    ],
)
def test_a_wrong_card_is_refused_before_any_pixel(
    tmp_path: Path, change: dict[str, Any], match: str
) -> None:
    with pytest.raises(CardError, match=match):
        get_predictor(write_card(tmp_path, **change), CPU)


@pytest.mark.parametrize(
    ("sensor", "said"),
    [("sentinel2", "did you mean `sentinel-2`"), ("spot", "by their common names")],
)
def test_an_unknown_sensor_is_named(tmp_path: Path, sensor: str, said: str) -> None:
    spec = {"bands": ["B4", "B8"], "sensor": sensor, "patch": {"size": 16}}
    with pytest.raises(CardError, match=rf"sensor `{sensor}` is not known.*{said}"):
        write_card(tmp_path, input=spec)


def test_wrong_channels_of_the_network_are_named(tmp_path: Path) -> None:
    card = write_card(tmp_path, architecture_args={"in_channels": 5})
    with pytest.raises(WeightsError, match=r"`conv\.weight` is \(2, 2, 1, 1\) in the"):
        get_predictor(card, CPU)


class Stubborn(nn.Module):
    """Keeps its dropout on, as Monte Carlo dropout networks do."""

    def __init__(self) -> None:
        super().__init__()
        self.drop = nn.Dropout()

    def train(self, mode: bool = True) -> Stubborn:
        super().train(mode)
        self.drop.training = True
        return self


def test_dropout_left_in_training_is_refused() -> None:
    with pytest.raises(CardError, match="part `drop` of the network stays in training"):
        freeze(Stubborn())


def test_a_built_network_cannot_learn(tmp_path: Path) -> None:
    module = build_module(
        write_card(tmp_path), tmp_path / "w.safetensors", trust_code=True
    )
    assert not any(p.requires_grad for p in module.parameters())
    assert not any(m.training for m in module.modules())


@pytest.mark.parametrize(
    ("architecture", "args"),
    [
        (
            "segmentation_models_pytorch:Unet",
            {"encoder_name": "resnet18", "in_channels": 2, "classes": 2},
        ),
        (
            "segmentation_models_pytorch:create_model",
            {
                "arch": "unet",
                "encoder_name": "resnet18",
                "encoder_weights": "imagenet",
                "in_channels": 2,
                "classes": 2,
            },
        ),
        ("torchgeo.models:FCN", {"in_channels": 2, "classes": 2, "num_filters": 4}),
    ],
)
def test_known_libraries_build_without_trust_and_without_downloads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    args: dict[str, Any],
) -> None:
    # any attempt to fetch goes to a closed port of this machine
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    from safetensors.torch import save_model

    from geoscale.imports import load_object

    quiet = {**args, "encoder_weights": None} if "segm" in architecture else args
    torch.manual_seed(2)
    save_model(load_object(architecture)(**quiet), tmp_path / "lib.safetensors")
    card = write_card(
        tmp_path,
        architecture=architecture,
        architecture_args=args,
        weights={"href": "lib.safetensors"},
        input={"bands": ["red", "nir"], "patch": {"size": 64, "multiple_of": 32}},
    )
    assert not card.needs_trust
    out = get_predictor(card, ModelSettings(device="cpu", batch=1)).predict(
        np.zeros((1, 2, 64, 64), np.float32)
    )
    assert out.shape == (1, 2, 64, 64)


def test_absent_cuda_is_an_error_and_never_the_cpu(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    settings = ModelSettings(device="cuda", trust_code=True)
    with pytest.raises(PlanError, match=r"`cuda` is not there.*0 CUDA device"):
        get_predictor(write_card(tmp_path), settings)


def test_an_unknown_device_is_named(tmp_path: Path) -> None:
    settings = ModelSettings(device="gpu", trust_code=True)
    with pytest.raises(PlanError, match="`gpu` is unknown; use cpu, cuda"):
        get_predictor(write_card(tmp_path), settings)

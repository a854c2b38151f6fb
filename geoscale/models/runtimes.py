"""Runtimes by name: what can run a model here, and loading it that way."""

from __future__ import annotations

import importlib.util
import logging
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from geoscale.card import ModelCard
from geoscale.errors import CardError, MissingDependencyError, PlanError
from geoscale.models.build import build_module
from geoscale.models.device import name_kind, pick_device
from geoscale.models.dropping import open_dropout
from geoscale.models.held import Precision
from geoscale.models.onnx_predictor import OnnxPredictor
from geoscale.models.openvino_predictor import (
    OpenvinoPredictor,
    check_precision,
    import_openvino,
)
from geoscale.models.own_thread import call
from geoscale.models.torch_predictor import TorchPredictor
from geoscale.models.weights import resolve_weights

if TYPE_CHECKING:
    from torch import nn

_LOG = logging.getLogger(__name__)

Runtime = Literal["torch", "compile", "openvino", "onnx"]
AnyPredictor = TorchPredictor | OnnxPredictor | OpenvinoPredictor

_MAX_BATCH = 64
_BATCH_PX = {"cpu": 2 * 256 * 256, "cuda": 2 * 2048 * 2048, "mps": 1024 * 1024}


# package → extra of geoscale, by runtime; torch is always there
_NEEDS: dict[str, tuple[tuple[str, str], ...]] = {
    "openvino": (("openvino", "openvino"),),
    "onnx": (("onnxruntime", "onnx"),),
}
_EXPORT_NEEDS = (("onnx", "onnx"), ("onnxscript", "onnx"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How a model is run in this process."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``auto``."""
    precision: Precision = "float32"
    """Lower ones are opt-in: they move a few pixels to another class."""
    runtime: Literal["native", "auto", "torch", "compile", "openvino", "onnx"] = (
        "native"
    )
    """``native``: ONNX Runtime for ONNX files, else torch; ``auto`` means the same."""
    batch: int | Literal["auto"] = "auto"
    """Patches per call."""
    per_block: int | None = None
    """Patches of a usual block: ``auto`` batches share them evenly, since the last
    batch of a block is filled up."""
    patch: int | tuple[int, int] | None = None
    """Patch size that will be run, in px, or (y, x); default: the card's."""
    threads: int | None = None
    """CPU threads of the runtime; default: its own."""
    canvas: bool | None = None
    """Whether blocks are kept on the device; default: on CUDA. On a CPU it is good for
    tests only; OpenVINO has none."""
    drops: bool = False
    """Whether parts of the network can be left out: Monte Carlo dropout."""
    trust_code: bool = False
    """Allow Python code that the card names outside known packages."""
    expected_sha256: str | None = None
    """Of the weights, as the plan recorded."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One way to run a model."""

    runtime: Runtime
    """Name, as in `ModelSettings`."""
    precision: Precision
    """Arithmetic."""
    reason: str = ""
    """Why it cannot be used here, and what to do; empty: it can."""


def list_candidates(
    card: ModelCard, weights_path: Path, device: str = "auto"
) -> list[Candidate]:
    """List every runtime and precision that makes sense for a model and a device.

    Parameters
    ----------
    card : ModelCard
        Card of the model.
    weights_path : Path
        Its weights; only the kind of file counts.
    device : str
        As in `ModelSettings`.

    Returns
    -------
    list of Candidate
        Also those that something is missing for, which say what. Nothing is
        loaded: a network may still turn out not to fit a runtime.

    Raises
    ------
    PlanError
        If the device is absent.
    """
    kind = name_kind(device)
    found = []
    for runtime in get_args(Runtime):
        for precision in get_args(Precision):
            if not _makes_sense(runtime, precision, kind, is_onnx(card, weights_path)):
                continue
            try:
                _check_choice(runtime, precision, kind, is_onnx(card, weights_path))
                reason = ""
            except (PlanError, MissingDependencyError) as err:
                reason = str(err)
            found.append(Candidate(runtime=runtime, precision=precision, reason=reason))
    return found


def _makes_sense(runtime: str, precision: str, kind: str, onnx: bool) -> bool:
    """Whether to think of a combination at all, whatever is installed."""
    if onnx and runtime in ("torch", "compile"):
        return False
    if runtime == "onnx":
        return precision == "float32" and kind != "mps"
    if runtime == "openvino":
        return kind == "cpu" and precision != "float16"
    # float16 on a CPU is emulated: slower than float32, and it overflows
    return precision != "float16" or kind != "cpu"


def pick_batch(patch: int, device: str) -> int:
    """Choose a batch by patch size alone, so that every worker chooses alike.

    Parameters
    ----------
    patch : int
        Height and width in px.
    device : str
        ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.

    Returns
    -------
    int
        A power of two, 1 to 64.

    Examples
    --------
    >>> pick_batch(256, "cpu"), pick_batch(512, "cpu"), pick_batch(256, "cuda")
    (2, 1, 64)
    """
    pixels = _BATCH_PX.get(device.partition(":")[0], _BATCH_PX["cpu"])
    fits = pixels // (patch * patch)
    return int(min(_MAX_BATCH, 2 ** max(0, fits.bit_length() - 1)))


def load_predictor(card: ModelCard, settings: ModelSettings) -> AnyPredictor:
    """Load a model as asked and run zeros through it.

    Parameters
    ----------
    card : ModelCard
        Card of the model.
    settings : ModelSettings
        How to run it.

    Returns
    -------
    TorchPredictor, OnnxPredictor or OpenvinoPredictor
        Probed; see `geoscale.models.get_predictor`, which keeps them.

    Raises
    ------
    CardError
        If the card does not fit the network.
    PlanError
        If the device is absent, or the runtime cannot do what is asked.
    """
    # building a network computes too, and a team of threads once made stays
    return call(_load_predictor, card, settings)


def _load_predictor(card: ModelCard, settings: ModelSettings) -> AnyPredictor:
    _refuse_detector(card)
    patch = check_patch(card, settings)
    path, sha256 = resolve_weights(card, expected_sha256=settings.expected_sha256)
    onnx = is_onnx(card, path)
    runtime = settings.runtime
    if runtime in ("native", "auto"):
        runtime = "onnx" if onnx else "torch"
    # the device first: an absent GPU is known in a second, weights take longer
    device = settings.device
    if not onnx or runtime == "openvino":
        device = str(pick_device(device))
        if settings.device == "auto" and runtime == "openvino":
            device = "cpu"
    _check_choice(runtime, settings.precision, device.partition(":")[0], onnx)
    batch = settings.batch
    if batch == "auto":
        batch = _even_batch(settings, max(patch), "cpu" if device == "auto" else device)
    network: Path | nn.Module = path
    if not onnx:
        network = build_module(card, path, trust_code=settings.trust_code)
    more: dict[str, Any] = {"batch": batch, "model_id": sha256}
    predictor: AnyPredictor
    if runtime == "openvino":
        more |= {"precision": settings.precision, "threads": settings.threads}
        predictor = OpenvinoPredictor(network, card, **more)
    elif runtime == "onnx":
        more |= {"device": device, "threads": settings.threads}
        predictor = _open_onnx(network, card, patch, more)
    else:
        assert not isinstance(network, Path)
        more |= {"device": device, "precision": settings.precision}
        predictor = _open_torch(network, card, settings, runtime, more)
        if settings.threads is not None:
            predictor.set_threads(settings.threads)
    if settings.canvas is not None and not isinstance(predictor, OpenvinoPredictor):
        predictor.offers_canvas = settings.canvas
    predictor.probe(patch)
    _LOG.info("loaded %s: %s", card.name, predictor.describe())
    return predictor


def _open_torch(
    network: nn.Module,
    card: ModelCard,
    settings: ModelSettings,
    runtime: str,
    more: dict[str, Any],
) -> TorchPredictor:
    from geoscale.models.programs import pick_fixed_batch

    masks = open_dropout(network, card.name) if settings.drops else None
    more |= {"batch": pick_fixed_batch(network, more["batch"])}
    made = TorchPredictor(network, card, compiled=runtime == "compile", **more)
    made.masks = masks
    return made


def _refuse_detector(card: ModelCard) -> None:
    if card.task == "detection":
        raise CardError(
            f"`{card.name}` is a detector, which gives objects, no scores of pixels: "
            "use it in a job of `task: detection`"
        )


def check_patch(card: ModelCard, settings: ModelSettings) -> tuple[int, int]:
    """Give height and width of the patches that will be run, in px.

    Raises
    ------
    CardError
        If the model takes another size only.
    """
    size, asked = card.input.patch.size, settings.patch
    patch = asked if isinstance(asked, tuple) else (asked or size,) * 2
    if card.input.patch.fixed and patch != (size, size):
        shown = patch[0] if patch[0] == patch[1] else patch
        raise CardError(
            f"model `{card.name}` takes patches of {size} px only, not {shown} px"
        )
    return patch


def _open_onnx(
    network: Path | nn.Module,
    card: ModelCard,
    patch: tuple[int, int],
    more: dict[str, Any],
) -> OnnxPredictor:
    if isinstance(network, Path):
        return OnnxPredictor(network, card, **more)
    from geoscale.models.graph import Scores, export_onnx

    # the activation goes into the file: softmax outside would be on one thread
    whole, channels = Scores(network, card).eval(), card.input.channels
    return OnnxPredictor(
        lambda part: export_onnx(whole, (part, channels, *patch)), card, **more
    )


def _check_choice(runtime: str, precision: str, kind: str, onnx: bool) -> None:
    """Refuse what cannot work, naming what would; what is missing comes last."""
    if onnx and runtime in ("torch", "compile"):
        raise PlanError(
            f"runtime `{runtime}` cannot run an ONNX file; say runtime: onnx, openvino "
            "or native"
        )
    if runtime == "onnx" and precision != "float32":
        ways = "runtime: openvino (on a CPU)" if onnx else "runtime: torch"
        raise PlanError(
            f"precision {precision}: runtime `onnx` computes in float32; say "
            f"precision: float32, or {ways}"
        )
    if runtime == "openvino" and kind != "cpu":
        raise PlanError(
            f"runtime `openvino` runs on cpu here, not `{kind}`; say device: cpu, or "
            "runtime: native"
        )
    needs = _NEEDS.get(runtime, ())
    if runtime == "onnx" and not onnx:
        needs += _EXPORT_NEEDS
    for name, extra in needs:
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(
                f"{name} is not installed: pip install 'geoscale[{extra}]'"
            )
    if runtime == "openvino":
        check_precision(import_openvino().Core(), precision)
    if runtime == "compile":
        _check_compiler(kind)


def _check_compiler(kind: str) -> None:
    if kind == "cuda":
        if importlib.util.find_spec("triton") is None:
            raise PlanError(
                "runtime `compile` needs triton on CUDA: pip install triton, or say "
                "runtime: torch"
            )
        return
    names = [os.environ.get("CXX", "g++"), "g++", "clang++"]
    if not any(shutil.which(name) for name in names):
        raise PlanError(
            f"runtime `compile` needs a C++ compiler; none of {', '.join(names)} is "
            "there: install g++ or set CXX, or say runtime: torch or openvino"
        )


def _even_batch(settings: ModelSettings, patch: int, device: str) -> int:
    """Largest batch that fits, lowered so that a block's last one is full too."""
    most = pick_batch(patch, device)
    if settings.per_block is None:
        return most
    return -(-settings.per_block // -(-settings.per_block // most))


def is_onnx(card: ModelCard, path: Path) -> bool:
    """Whether a model's file is one of ONNX."""
    return (card.weights.format or path.suffix.lstrip(".").lower()) == "onnx"

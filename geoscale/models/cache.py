"""One predictor per process, device and model, however many blocks ask.

Weights never travel with a block: each process loads them once, from a file
whose sha256 the plan recorded.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import platform
import sys
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from geoscale import __version__
from geoscale.card import ModelCard
from geoscale.errors import CardError, PlanError
from geoscale.models.build import build_module
from geoscale.models.device import pick_device
from geoscale.models.onnx_predictor import OnnxPredictor
from geoscale.models.torch_predictor import Precision, TorchPredictor
from geoscale.models.weights import resolve_weights
from geoscale.types import Json

_LOG = logging.getLogger(__name__)

# two plans may interleave in one process; more models would fill a GPU
_KEEP = 2
_MAX_BATCH = 64
_BATCH_PX = {"cpu": 512 * 512, "cuda": 2048 * 2048, "mps": 1024 * 1024}

_PACKAGES = (
    "dask", "distributed", "numpy", "odc-stac", "onnxruntime", "pyproj", "rasterio",
    "safetensors", "segmentation-models-pytorch", "stackstac", "torch", "torchgeo",
    "torchvision", "xarray", "zarr",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSettings:
    """How a model is run in this process."""

    device: str = "auto"
    """``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``auto``."""
    precision: Precision = "float32"
    """Lower ones are opt-in: they move a few pixels to another class."""
    runtime: Literal["auto", "torch", "onnx"] = "auto"
    """``auto``: ONNX Runtime for ONNX files, else torch."""
    batch: int | Literal["auto"] = "auto"
    """Patches per call."""
    per_block: int | None = None
    """Patches of a usual block: ``auto`` batches share them evenly, since the last
    batch of a block is filled up."""
    patch: int | None = None
    """Patch size that will be run, in px; default: the card's."""
    threads: int | None = None
    """CPU threads of the runtime; default: its own."""
    trust_code: bool = False
    """Allow Python code that the card names outside known packages."""
    expected_sha256: str | None = None
    """Of the weights, as the plan recorded."""


_Key = tuple[int, str, str | None, ModelSettings]

_cache: OrderedDict[_Key, TorchPredictor | OnnxPredictor] = OrderedDict()
_loading = threading.RLock()
_device_locks: dict[str, threading.Lock] = {}
_loads = 0


def get_predictor(
    card: ModelCard, settings: ModelSettings | None = None
) -> TorchPredictor | OnnxPredictor:
    """Give this process's predictor of a model, loading it at the first call.

    Parameters
    ----------
    card : ModelCard
        Card of the model.
    settings : ModelSettings, optional
        How to run it.

    Returns
    -------
    TorchPredictor or OnnxPredictor
        Probed with zeros; the same object at every call with equal arguments.

    Raises
    ------
    CardError
        If the card does not fit the network.
    WeightsError
        If the weights are missing, changed, unsafe or do not fit.
    PlanError
        If the device is absent.
    """
    global _loads
    settings = settings or ModelSettings()
    # the process id: a fork must not use its parent's CUDA context or threads
    key = (os.getpid(), card.hash(), card.base, settings)
    with _loading:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        predictor = _load(card, settings)
        _loads += 1
        _cache[key] = predictor
        while len(_cache) > _KEEP:
            _cache.popitem(last=False)
        return predictor


def loads() -> int:
    """How often this process loaded a model since `clear`; for tests."""
    return _loads


def clear() -> None:
    """Forget every model of this process and count loads from 0 again."""
    global _loads
    with _loading:
        _cache.clear()
        _loads = 0


def device_lock(device: str) -> threading.Lock:
    """Lock under which one inference at a time runs on a device.

    Parameters
    ----------
    device : str
        As in `ModelSettings`; ``cuda`` and ``cuda:0`` share one.

    Returns
    -------
    threading.Lock
        The same object for the same device.
    """
    name = "cuda:0" if device == "cuda" else device
    with _loading:
        return _device_locks.setdefault(name, threading.Lock())


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
    (4, 1, 64)
    """
    pixels = _BATCH_PX.get(device.partition(":")[0], _BATCH_PX["cpu"])
    fits = pixels // (patch * patch)
    return int(min(_MAX_BATCH, 2 ** max(0, fits.bit_length() - 1)))


def _even_batch(settings: ModelSettings, patch: int, device: str) -> int:
    """Largest batch that fits, lowered so that a block's last one is full too."""
    most = pick_batch(patch, device)
    if settings.per_block is None:
        return most
    return -(-settings.per_block // -(-settings.per_block // most))


def handshake() -> Json:
    """Versions that must agree between the driver and its workers.

    Returns
    -------
    dict
        Package → version, or None where it is not installed. GDAL is named only
        where rasterio is loaded already.
    """
    versions: Json = {"geoscale": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    rasterio = sys.modules.get("rasterio")
    versions["gdal"] = getattr(rasterio, "__gdal_version__", None)
    return versions


def _load(card: ModelCard, settings: ModelSettings) -> TorchPredictor | OnnxPredictor:
    path, sha256 = resolve_weights(card, expected_sha256=settings.expected_sha256)
    patch = settings.patch or card.input.patch.size
    if card.input.patch.fixed and patch != card.input.patch.size:
        raise CardError(
            f"model `{card.name}` takes patches of {card.input.patch.size} px only, "
            f"not {patch} px"
        )
    runtime = settings.runtime
    if runtime == "auto":
        runtime = "onnx" if _is_onnx(card, path) else "torch"
    predictor: TorchPredictor | OnnxPredictor
    if runtime == "onnx":
        predictor = _load_onnx(card, settings, path, sha256)
    else:
        predictor = _load_torch(card, settings, path, sha256)
    predictor.probe(patch)
    _LOG.info("loaded %s: %s", card.name, predictor.describe())
    return predictor


def _load_torch(
    card: ModelCard, settings: ModelSettings, path: Path, sha256: str
) -> TorchPredictor:
    if _is_onnx(card, path):
        raise PlanError(
            f"runtime `torch` cannot run {path.name}, which is ONNX; say runtime: auto"
        )
    # the device first: an absent GPU is known in a second, weights take longer
    device = str(pick_device(settings.device))
    patch = settings.patch or card.input.patch.size
    batch = settings.batch
    predictor = TorchPredictor(
        build_module(card, path, trust_code=settings.trust_code),
        card,
        batch=_even_batch(settings, patch, device) if batch == "auto" else batch,
        device=device,
        precision=settings.precision,
        model_id=sha256,
    )
    if settings.threads is not None:
        predictor.set_threads(settings.threads)
    return predictor


def _load_onnx(
    card: ModelCard, settings: ModelSettings, path: Path, sha256: str
) -> OnnxPredictor:
    if not _is_onnx(card, path):
        raise PlanError(
            f"runtime `onnx` cannot run {path.name}; export the network to ONNX, or "
            "say runtime: auto"
        )
    if settings.precision != "float32":
        raise PlanError(
            f"precision {settings.precision} needs the torch runtime; {path.name} is "
            "ONNX: say precision: float32"
        )
    batch = settings.batch
    device = "cpu" if settings.device == "auto" else settings.device
    return OnnxPredictor(
        path,
        card,
        batch=_even_batch(settings, card.input.patch.size, device)
        if batch == "auto"
        else batch,
        device=settings.device,
        threads=settings.threads,
        model_id=sha256,
    )


def _is_onnx(card: ModelCard, path: Path) -> bool:
    return (card.weights.format or path.suffix.lstrip(".").lower()) == "onnx"

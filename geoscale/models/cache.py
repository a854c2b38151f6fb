"""One predictor per process, device and model, however many blocks ask.

Weights never travel with a block: each process loads them once, from a file
whose sha256 the plan recorded.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from geoscale.card import ModelCard
from geoscale.models.detector import load_detector
from geoscale.models.held_detector import HeldDetector
from geoscale.models.runtimes import AnyPredictor, ModelSettings, load_predictor

# two plans may interleave in one process; more models would fill a GPU
_KEEP = 2
_Key = tuple[int, str, str | None, ModelSettings]

_cache: OrderedDict[_Key, Any] = OrderedDict()
_loading = threading.RLock()
_device_locks: dict[str, threading.Lock] = {}
_loads = 0


def get_predictor(
    card: ModelCard, settings: ModelSettings | None = None
) -> AnyPredictor:
    """Give this process's predictor of a model, loading it at the first call.

    Parameters
    ----------
    card : ModelCard
        Card of the model.
    settings : ModelSettings, optional
        How to run it.

    Returns
    -------
    TorchPredictor, OnnxPredictor or OpenvinoPredictor
        Probed with zeros; the same object at every call with equal arguments.

    Raises
    ------
    CardError
        If the card does not fit the network.
    WeightsError
        If the weights are missing, changed, unsafe or do not fit.
    PlanError
        If the device is absent, or the runtime cannot do what is asked.
    MissingDependencyError
        If the runtime is not installed.
    """
    found: AnyPredictor = _get(card, settings or ModelSettings(), load_predictor)
    return found


def get_detector(card: ModelCard, settings: ModelSettings) -> HeldDetector:
    """Give this process's detector of a model, loading it at the first call.

    Parameters
    ----------
    card : ModelCard
        Of task detection.
    settings : ModelSettings
        How to run it.

    Returns
    -------
    HeldDetector
        As `get_predictor` gives the model of a map, with its errors.
    """
    found: HeldDetector = _get(card, settings, load_detector)
    return found


def _get(
    card: ModelCard,
    settings: ModelSettings,
    load: Callable[[ModelCard, ModelSettings], Any],
) -> Any:
    global _loads
    # the process id: a fork must not use its parent's CUDA context or threads
    key = (os.getpid(), card.hash(), card.base, settings)
    with _loading:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        predictor = load(card, settings)
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

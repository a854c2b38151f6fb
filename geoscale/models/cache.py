"""One predictor per process, device and model, however many blocks ask.

Weights never travel with a block: each process loads them once, from a file
whose sha256 the plan recorded.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import sys
import threading
from collections import OrderedDict

from geoscale import __version__
from geoscale.card import ModelCard
from geoscale.models.runtimes import AnyPredictor, ModelSettings, load_predictor
from geoscale.types import Json

# two plans may interleave in one process; more models would fill a GPU
_KEEP = 2
_PACKAGES = (
    "dask", "distributed", "numpy", "odc-stac", "onnxruntime", "openvino", "pyproj",
    "rasterio", "safetensors", "segmentation-models-pytorch", "stackstac", "torch",
    "torchgeo", "torchvision", "xarray", "zarr",
)  # fmt: skip


_Key = tuple[int, str, str | None, ModelSettings]

_cache: OrderedDict[_Key, AnyPredictor] = OrderedDict()
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
    global _loads
    settings = settings or ModelSettings()
    # the process id: a fork must not use its parent's CUDA context or threads
    key = (os.getpid(), card.hash(), card.base, settings)
    with _loading:
        if key in _cache:
            _cache.move_to_end(key)
            return _cache[key]
        predictor = load_predictor(card, settings)
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

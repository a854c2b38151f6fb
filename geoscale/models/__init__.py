"""Models: cards to predictors; the only door to torch, ONNX Runtime and OpenVINO.

Importing this room imports none of them: they come with the first predictor.
"""

from geoscale.models.cache import (
    clear,
    device_lock,
    get_detector,
    get_predictor,
    loads,
)
from geoscale.models.catalog import CatalogEntry, find_card, list_models
from geoscale.models.device import name_kind, name_processor, pick_device
from geoscale.models.opening import load_model
from geoscale.models.runtimes import Candidate, ModelSettings, list_candidates
from geoscale.models.versions import find_differences, handshake
from geoscale.models.weights import resolve_weights

__all__ = [
    "Candidate",
    "CatalogEntry",
    "ModelSettings",
    "clear",
    "device_lock",
    "find_card",
    "find_differences",
    "get_detector",
    "get_predictor",
    "handshake",
    "list_candidates",
    "list_models",
    "load_model",
    "loads",
    "name_kind",
    "name_processor",
    "pick_device",
    "resolve_weights",
]

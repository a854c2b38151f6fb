"""Models: cards to predictors; the only door to torch and ONNX Runtime.

Importing this room imports neither: they come with the first predictor.
"""

from geoscale.models.cache import (
    ModelSettings,
    clear,
    device_lock,
    get_predictor,
    handshake,
    loads,
)
from geoscale.models.catalog import CatalogEntry, find_card, list_models
from geoscale.models.weights import resolve_weights

__all__ = [
    "CatalogEntry",
    "ModelSettings",
    "clear",
    "device_lock",
    "find_card",
    "get_predictor",
    "handshake",
    "list_models",
    "loads",
    "resolve_weights",
]

"""Models: cards to predictors; the only door to torch, ONNX Runtime and OpenVINO.

Importing this room imports none of them: they come with the first predictor.
"""

import os

# Large activations are mapped anew for every layer, a page at a time: on a CPU that
# is a third to a half of a U-Net's time (0.26 and 0.15 s for 568 px with and without
# huge pages). But memory then creeps up, by some 40 to 70 kB a block, so it is opt-in,
# as in `geoscale.memory.keep_freed_memory`. torch reads this at its first allocation.
if os.environ.get("GEOSCALE_MALLOC") == "keep":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

from geoscale.models.cache import (
    clear,
    device_lock,
    get_predictor,
    handshake,
    loads,
)
from geoscale.models.catalog import CatalogEntry, find_card, list_models
from geoscale.models.device import pick_device
from geoscale.models.runtimes import Candidate, ModelSettings, list_candidates
from geoscale.models.weights import resolve_weights

__all__ = [
    "Candidate",
    "CatalogEntry",
    "ModelSettings",
    "clear",
    "device_lock",
    "find_card",
    "get_predictor",
    "handshake",
    "list_candidates",
    "list_models",
    "loads",
    "pick_device",
    "resolve_weights",
]

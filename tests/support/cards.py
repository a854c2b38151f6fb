"""Cards of real models, built over the test data; shared by many tests.

Each function takes the data folder and gives a `ModelCard`. Cards that name a
Python file need ``trust_code=True``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from geoscale.card import ModelCard

SUPPORT = Path(__file__).resolve().parent

# in the order of the sen1floods11 files
S2_BANDS = [f"B{n}" for n in (*range(1, 9), "8A", *range(9, 13))]

WORLDFLOODS_MEAN = (
    3787.0604973, 3758.07467509, 3238.08248208, 3418.90147615, 3450.23315812,
    4030.94700446, 4164.17468251, 3981.96268494, 4226.74862547, 1868.29658114,
    399.3878948, 2391.66101119, 1790.32497137,
)  # fmt: skip
WORLDFLOODS_STD = (
    2634.44474043, 2794.09579088, 2549.4940614, 2811.78109878, 2776.93269704,
    2632.13814197, 2657.43035126, 2500.47885249, 2589.29159887, 1820.90184704,
    761.3640411, 1500.02533014, 1241.9817628,
)  # fmt: skip

DYNAMIC_WORLD_BANDS = ["B2", "B3", "B4", "B5", "B6", "B7", "B8", "B11", "B12"]
DYNAMIC_WORLD_CLASSES = [
    "water",
    "trees",
    "grass",
    "flooded_vegetation",
    "crops",
    "shrub_and_scrub",
    "built",
    "bare",
    "snow_and_ice",
]


def classes(*names: str) -> list[dict[str, Any]]:
    """Classes 0..n-1 of these names, as a card writes them."""
    return [{"value": i, "name": name} for i, name in enumerate(names)]


def simplecnn_dict(
    data: Path, *, weights: str = "simplecnn.safetensors"
) -> dict[str, Any]:
    """SimpleCNN as plain fields, to change one in a test."""
    return {
        "name": "worldfloods-simplecnn",
        "architecture": f"{SUPPORT / 'simplecnn.py'}:SimpleCNN",
        "architecture_args": {"in_channels": 13, "classes": 3},
        "weights": {"href": str(data / "worldfloods_simplecnn" / weights)},
        "input": {
            "bands": S2_BANDS,
            "sensor": "sentinel-2",
            "units": "reflectance",
            "multiply": 10000.0,
            "normalization": {
                "type": "mean-std",
                "mean": WORLDFLOODS_MEAN,
                "std": tuple(s + 1e-6 for s in WORLDFLOODS_STD),
            },
            "patch": {"size": 128, "halo": 4},
            "gsd_m": (10.0, 20.0),
        },
        "output": {"classes": classes("land", "water", "cloud")},
    }


def simplecnn(data: Path, *, weights: str = "simplecnn.safetensors") -> ModelCard:
    """WorldFloods SimpleCNN: 13 bands → land, water, cloud; halo 4 px."""
    return ModelCard.from_dict(simplecnn_dict(data, weights=weights))


def dynamic_world_dict(data: Path) -> dict[str, Any]:
    """Dynamic World as plain fields."""
    folder = data / "dynamicworld"
    return {
        "name": "dynamic-world",
        "architecture": f"{folder / 'dynamicworld_torch.py'}:DynamicWorld",
        "weights": {"href": str(folder / "dynamicworld.safetensors")},
        "input": {
            "bands": DYNAMIC_WORLD_BANDS,
            "sensor": "sentinel-2",
            "units": "reflectance",
            "multiply": 10000.0,
            "normalization": {
                "type": "callable",
                "callable": f"{folder / 'dynamicworld_torch.py'}:normalize",
            },
            "patch": {"size": 256, "multiple_of": 2, "alignment": 2, "halo": 22},
        },
        "output": {"classes": classes(*DYNAMIC_WORLD_CLASSES)},
        "license": "Apache-2.0",
    }


def dynamic_world(data: Path) -> ModelCard:
    """Dynamic World from a user's own file: 9 bands → 9 classes; halo 22 px."""
    return ModelCard.from_dict(dynamic_world_dict(data))


def ukis(bands: int = 6, level: str = "l1c") -> ModelCard:
    """ukis-csmask from its installed package: clouds and shadows; fixed 256 px."""
    pytest.importorskip("ukis_csmask")
    from geoscale.models.catalog import find_card

    return find_card(f"ukis-csmask-{bands}b-{level}")

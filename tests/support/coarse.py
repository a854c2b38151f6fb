"""Cards, weights and imagery for tasks whose results are coarser than their input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.testing import FakeSource, scene

NETS = Path(__file__).resolve().parent / "coarse_nets.py"
SHAPE = (118, 93)


def imagery(shape: tuple[int, int] = SHAPE, holes: float = 0.3) -> FakeSource:
    """Two bands of numbers near 1, with invalid pixels and an invalid corner."""
    source = scene(shape, bands=2, nodata=holes, seed=3)
    source.data[:] = np.mod(source.data, 251) / 100
    source.valid[:, :20, :30] = False
    return source


def make_card(folder: Path, net: str, task: str, output: dict[str, Any], **patch: Any):
    """Card of one of the networks, with seeded weights."""
    import torch
    from safetensors.torch import save_file

    from tests.support import coarse_nets

    width = output.get("features") or len(output.get("bands") or output["classes"])
    torch.manual_seed(7)
    module = getattr(coarse_nets, net)(2, width)
    save_file(module.state_dict(), folder / f"{net}.safetensors")
    return ModelCard.from_dict(
        {
            "name": f"toy-{net.lower()}",
            "task": task,
            "architecture": f"{NETS}:{net}",
            "architecture_args": {"channels": 2, "width": width},
            "weights": {"href": str(folder / f"{net}.safetensors")},
            "input": {"bands": ["b0", "b1"], "units": "raw", "patch": patch},
            "output": output,
        }
    )


def classes(count: int = 3) -> list[dict[str, Any]]:
    names = ("water", "forest", "town", "field")
    return [{"value": i, "name": names[i]} for i in range(count)]


def build(card: ModelCard):
    """Network of a card, as torch makes it."""
    from geoscale.models import resolve_weights
    from geoscale.models.build import build_module

    return build_module(card, resolve_weights(card)[0], trust_code=True)

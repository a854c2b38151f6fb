"""Networks of two dates with seeded weights, and pairs of images to run them on."""

from __future__ import annotations

from importlib import import_module
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.testing import FakeSource

BANDS = ["b0", "b1", "b2"]

SIAMESE: dict[str, Any] = {
    "architecture": "torchgeo.models:FCSiamDiff",
    "architecture_args": {
        "in_channels": 3,
        "encoder_name": "resnet18",
        "encoder_depth": 3,
        "decoder_channels": [16, 8, 8],
        "classes": 1,
    },
    "input": {
        "pair": "time-axis",
        "patch": {"size": 192, "multiple_of": 8, "alignment": 8, "halo": 72},
    },
    "output": {"single": True, "activation": "sigmoid"},
}
"""Fully convolutional, so that one pass over the whole pair can be equalled."""


def seeded(folder: Path, card: dict[str, Any], seed: int = 0) -> ModelCard:
    """Make the network of a card, store its random weights, and give the card."""
    import torch
    from safetensors.torch import save_file

    module, _, name = card["architecture"].partition(":")
    factory = getattr(import_module(module), name)
    args = dict(card["architecture_args"])
    for one in factory.__mro__ if isinstance(factory, type) else [factory]:
        if "encoder_weights" in signature(one).parameters:
            args["encoder_weights"] = None
    torch.manual_seed(seed)
    network = factory(**args)
    path = folder / f"{name}.safetensors"
    save_file({k: v.clone() for k, v in network.state_dict().items()}, path)
    spec = {"bands": BANDS, "frames": 2, "units": "raw", **card["input"]}
    return ModelCard.from_dict(
        {"name": name, "task": "change", **card}
        | {"weights": {"href": str(path)}, "input": spec}
    )


def images(shape: tuple[int, int], times: int = 2, seed: int = 0) -> FakeSource:
    """Noise that looks a little alike from date to date, with holes of each date."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(size=(1, 3, *shape))
    data = ground + 0.7 * rng.normal(size=(times, 3, *shape))
    return FakeSource(data.astype(np.float32), rng.random((times, *shape)) > 0.02)

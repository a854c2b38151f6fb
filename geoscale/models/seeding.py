"""Weights of random numbers in the layout of torchgeo's files, to try what has none.

For tests and for the table in the docs: a download of all would be tens of GB.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoscale.card import ModelCard
from geoscale.imports import load_object
from geoscale.models.backbones import Backbone


def hub_path(card: ModelCard) -> Path:
    """Where torch.hub keeps the file of a torchgeo weight."""
    from torchgeo.models import get_weight

    url = str(get_weight(card.weights.href.removeprefix("torchgeo:")).url)
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]


def seed_weights(card: ModelCard, path: Path, *, seed: int = 0) -> ModelCard:
    """Write random weights for a card, in the layout of torchgeo's file.

    Parameters
    ----------
    card : ModelCard
        Of torchgeo's catalogue.
    path : Path
        File to write.
    seed : int
        Of the numbers.

    Returns
    -------
    ModelCard
        The card with this file: by its path, since the name of most of torchgeo's
        files promises another sha256.
    """
    with torch.device("meta"):
        module = _build(card)
    generator = torch.Generator().manual_seed(seed)
    if isinstance(module, Backbone):
        name = module.name
        body = module.body.model if name.startswith("panopticon") else module.body
        state = _as_file(name, _fill(body.state_dict(), generator), generator)
    else:
        state = _fill(module.state_dict(), generator)
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path)
    weights = card.weights.model_copy(
        update={"href": str(path), "format": "state-dict"}
    )
    return card.model_copy(update={"weights": weights})


def _build(card: ModelCard) -> Any:
    assert card.architecture is not None
    return load_object(card.architecture)(**card.architecture_args)


def _fill(state: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Numbers that keep what flows through a deep network finite."""
    filled = {}
    for key, value in state.items():
        if not value.is_floating_point():
            filled[key] = torch.zeros(value.shape, dtype=value.dtype)
        elif key.endswith(("running_var", "norm.weight", "logit_scale")):
            filled[key] = torch.ones(value.shape)
        elif value.ndim == 1 and key.endswith(".weight"):
            # of norms: small ones would let a deep network forget its input
            filled[key] = torch.ones(value.shape)
        else:
            fan = max(1, value[0].numel()) if value.ndim > 1 else 100
            filled[key] = torch.randn(value.shape, generator=generator) / fan**0.5
    return filled


def _as_file(
    name: str, state: dict[str, Tensor], generator: torch.Generator
) -> dict[str, Any]:
    """Add what torchgeo's files hold besides, and leave out what they do."""
    if name.startswith("swin_v2"):
        width = state["norm.weight"].shape[0]
        head = torch.randn((1000, width), generator=generator)
        return {**state, "head.weight": head, "head.bias": torch.zeros(1000)}
    if name.startswith(("dofa", "copernicusfm")):
        return {k: v for k, v in state.items() if not k.startswith("fc_norm.")}
    if name.startswith("swin"):
        return {k: v for k, v in state.items() if not k.startswith("norm.")}
    if name.startswith("croma"):
        parts: dict[str, Any] = {}
        for key, value in state.items():
            part, _, rest = key.partition(".")
            if rest:
                parts.setdefault(part, {})[rest] = value
        return parts
    if name.startswith("panopticon"):
        positions = torch.randn((1, 1 + 37 * 37, 768), generator=generator)
        mask = torch.zeros((1, 768))
        return {**state, "pos_embed": positions, "mask_token": mask}
    return state

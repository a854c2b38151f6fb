"""From whatever names a model to its card."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from geoscale.card import ModelCard
from geoscale.models.catalog import find_card


def load_model(model: str | Path | Mapping[str, Any] | ModelCard) -> ModelCard:
    """Find a model's card; its weights are loaded by the workers.

    Parameters
    ----------
    model : str, path, mapping or ModelCard
        Catalogue name (``geoscale models list``), ``torchgeo:…``, path or URL
        of a card, or a card's fields.

    Returns
    -------
    ModelCard
        Data: bands, scaling, patch, classes, licence.

    Raises
    ------
    CardError
        If there is no such model, or the card is wrong.

    Examples
    --------
    >>> import geoscale as gs
    >>> gs.load_model("s2-landcover-unet").input.bands
    ('blue', 'green', 'red', 'nir')
    """
    if isinstance(model, ModelCard):
        return model
    if isinstance(model, Mapping):
        card = ModelCard.from_dict(model)
        return card.model_copy(update={"base": card.base or str(Path.cwd())})
    return find_card(str(model))

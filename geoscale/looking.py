"""Features of any network: cards of a layer inside it, and of features by the pixel."""

from __future__ import annotations

from math import lcm

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.options import Embedding
from geoscale.types import Json


def choose_features(
    card: ModelCard,
    embedding: Embedding | None,
    task: str | None,
    *,
    trust_code: bool = False,
) -> ModelCard:
    """Give the card of the features that a job asks for.

    Parameters
    ----------
    card : ModelCard
        Of the model.
    embedding : Embedding or None
        How embeddings are made.
    task : str or None
        What the job makes.
    trust_code : bool
        Allow an architecture outside the known packages: the network is built, without
        its weights, to find how many features a layer has.

    Returns
    -------
    ModelCard
        Of a backbone; the same where neither a layer nor pixels are asked for.

    Raises
    ------
    CardError
        If the network cannot be looked into, or has no such layer.
    """
    if task != "embedding" or embedding is None:
        return card
    layer, by_pixel = embedding.layer, embedding.per == "pixel"
    if layer is None and not by_pixel:
        return card
    output = card.output
    if layer is not None:
        _check_open(card)
        from geoscale.models.hidden import measure_layer

        features, step = measure_layer(card, layer, trust_code=trust_code)
    elif output.features is None or not isinstance(output.reduction, int):
        what = "one vector a patch" if output.features else f"{card.task}, no features"
        raise CardError(
            f"embedding.per pixel needs features that lie on a grid; `{card.name}` "
            f"gives {what}: name a layer of its network as `embedding.layer`"
        )
    else:
        features, step = output.features, output.reduction
    said: Json = {"features": features, "activation": "none"}
    if layer is not None:
        said["layer"] = layer
    if by_pixel:
        said["enlarge"] = True
    elif step > 1:
        said["reduction"] = step
    data = card.to_dict()
    patch = card.input.patch
    phase = {k: lcm(getattr(patch, k), step) for k in ("multiple_of", "alignment")}
    # what a feature sees around it is not what the map's network needs
    data["input"]["patch"] = {**patch.model_dump(), **phase, "halo": None}
    name = card.name if layer is None else f"{card.name}:{layer}"
    data |= {"name": name, "task": "backbone", "output": said}
    made = ModelCard.from_dict(data, where=f"features of {card.name}")
    return made.model_copy(update={"base": card.base})


def _check_open(card: ModelCard) -> None:
    """Refuse what cannot be looked into."""
    why = None
    if card.architecture is None or card.holds_code:
        why = "its file holds the network itself"
    elif card.task == "detection" or card.input.pair is not None:
        why = f"it is for {card.task}"
    elif card.output.head is not None:
        why = "it has a head of its own: name the card that the head was fitted to"
    if why is not None:
        raise CardError(
            f"`{card.name}` has no layers that `embedding.layer` could name: {why}"
        )

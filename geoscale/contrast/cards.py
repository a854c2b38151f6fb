"""Cards of the comparisons: networks whose numbers are found in the job's own pixels.

A card is *open* until its numbers are known: it says everything that planning needs,
and only the arguments of its network are missing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.types import Json

_ROOM = "geoscale.models.change_nets"
NO_WEIGHTS = "package:geoscale/data/no-weights.safetensors"
"""A file without a tensor: the numbers of these networks stand in the card."""

NAMES = {"cva": "ChangeVector", "irmad": "IrMad", "features": "FeatureDistance"}
"""Network of each method."""
_TITLES = {
    "cva": "Change vector analysis on z-scored bands",
    "irmad": "Iteratively reweighted multivariate alteration detection",
}
PATCH_PX = 256
"""These look at one pixel at a time: any size would do."""


def comparison_card(
    method: str, bands: Sequence[str], *, sensor: str | None = None, units: str = "raw"
) -> ModelCard:
    """Make the open card of a method that needs no weights.

    Parameters
    ----------
    method : {"cva", "irmad"}
        The method.
    bands : sequence of str
        Bands of one date.
    sensor : str, optional
        Sensor whose band names `bands` uses.
    units : {"raw", "reflectance"}
        What the bands hold.

    Returns
    -------
    ModelCard
        Of task change; its numbers are missing.

    Examples
    --------
    >>> card = comparison_card("cva", ["red", "nir"])
    >>> card.name, method_of(card), is_open(card)
    ('cva', 'cva', True)
    """
    return ModelCard.from_dict(
        {
            "name": method,
            "title": _TITLES[method],
            "task": "change",
            "architecture": f"{_ROOM}:{NAMES[method]}",
            "weights": {"href": NO_WEIGHTS},
            "input": {
                "bands": list(bands),
                "sensor": sensor,
                "frames": 2,
                "pair": "channels",
                "units": units,
                "patch": {"size": PATCH_PX, "halo": 0},
            },
            "output": {"activation": "none"},
        },
        where=f"card of {method}",
    )


def feature_card(model: ModelCard, layer: str) -> ModelCard:
    """Make the open card that compares what a model sees at two dates.

    Parameters
    ----------
    model : ModelCard
        Of any torch network of one date; its weights are used.
    layer : str
        Name of the part of the network whose output is compared.

    Returns
    -------
    ModelCard
        Of task change; only the threshold is missing.

    Raises
    ------
    CardError
        If the model takes several dates, is no torch network, or normalises by a
        function.
    """
    spec, norm = model.input, model.input.normalization
    if model.architecture is None or spec.frames != 1 or norm.type == "callable":
        raise CardError(
            f"`{model.name}` has no features that can be compared here: change.method "
            "features needs a card with `architecture`, of one date, whose "
            "normalisation is none or mean-std"
        )
    data = model.to_dict()
    twice = {"mean": [*norm.mean] * 2, "std": [*norm.std] * 2}
    data["input"] |= {
        "frames": 2,
        "pair": "channels",
        # context of a feature is not that of the map: blended, not cropped
        "patch": {**spec.patch.model_dump(), "halo": None},
        "normalization": {**norm.model_dump(mode="json"), **twice},
    }
    if spec.fill is not None:
        data["input"]["fill"] = [*spec.fill] * 2
    data |= {
        "name": f"{model.name}:{layer}",
        "title": f"Distance between features of {model.name}, layer {layer}",
        "task": "change",
        "architecture": f"{_ROOM}:{NAMES['features']}",
        "architecture_args": {
            "architecture": model.architecture,
            "architecture_args": dict(model.architecture_args),
            "layer": layer,
        },
        "output": {"activation": "none"},
    }
    return ModelCard.from_dict(data, where=f"features of {model.name}").model_copy(
        update={"base": model.base}
    )


def method_of(card: ModelCard) -> str | None:
    """Give the method of a comparison's card; None for all other cards."""
    room, _, name = (card.architecture or "").partition(":")
    known = {name: method for method, name in NAMES.items()}
    return known.get(name) if room == _ROOM else None


def is_open(card: ModelCard) -> bool:
    """Whether numbers of its network are still to be found."""
    return method_of(card) is not None and "threshold" not in card.architecture_args


def close_card(card: ModelCard, numbers: Mapping[str, Any]) -> ModelCard:
    """Put the numbers into an open card."""
    args: Json = {**card.architecture_args, **numbers}
    return card.model_copy(update={"architecture_args": args})

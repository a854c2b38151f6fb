"""What a head looks at: a network's features, the bands themselves, or indices."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from geoscale.bands import common_name
from geoscale.card import ModelCard, ModelInput, Patch
from geoscale.card_output import ModelOutput, OutputClass
from geoscale.errors import JobError, require
from geoscale.heads import Head
from geoscale.models import load_model

BANDS, INDICES = "features:bands", "features:indices"
LETTERS = {
    "coastal": "A", "blue": "B", "green": "G", "yellow": "Y", "red": "R",
    "rededge071": "RE1", "rededge075": "RE2", "rededge078": "RE3", "nir": "N",
    "nir08": "N2", "nir09": "WV", "swir16": "S1", "swir22": "S2",
}  # fmt: skip
"""Common name of a band → its name in formulas of Awesome Spectral Indices."""
INDEX_NAMES = (
    "NDVI", "GNDVI", "EVI", "NDWI", "MNDWI", "NDMI", "NBR", "NDBI", "BI", "NDREI",
    "CIRE", "NDTI", "PSRI",
)  # fmt: skip
"""Indices that are taken where their bands are there."""


def open_input(
    model: str | Path | ModelCard | dict[str, Any],
    bands: Sequence[str],
    *,
    sensor: str | None = None,
    units: str = "reflectance",
    frames: int = 1,
) -> ModelCard:
    """Give the card of what lies before a head.

    Parameters
    ----------
    model : str, path, mapping or ModelCard
        ``features:bands``, ``features:indices``, or a model as `load_model` takes it.
    bands : sequence of str
        Of the stack; a model asks for its own.
    sensor : str, optional
        Whose names `bands` are.
    units : {"reflectance", "raw"}
        Of bands.
    frames : int
        Dates that make one input, for bands and indices.

    Returns
    -------
    ModelCard
        Of a network without a head; its classes mean nothing.

    Raises
    ------
    JobError
        If a head cannot be put behind it.
    """
    if str(model) not in (BANDS, INDICES):
        card = load_model(model)
        dense = card.task in ("segmentation", "regression", "backbone")
        if (
            not dense
            or card.output.reduction == "patch"
            or card.output.head is not None
        ):
            raise JobError(
                f"`{card.name}` is for {card.task}, or has a head already; a head "
                "needs features of places: a backbone, or a segmentation network"
            )
        if card.holds_code or card.architecture is None:
            raise JobError(
                f"the file of `{card.name}` is a program (ONNX, TorchScript, "
                "torch.export), which no head can be put behind; one needs a "
                "network whose architecture torch can build"
            )
        return card
    made = ModelCard.from_dict(
        {
            "name": "bands",
            "architecture": "geoscale.models.heads:Bands",
            "weights": {"href": "none.safetensors"},
            "input": {
                "bands": list(bands),
                "sensor": sensor,
                "units": units,
                "frames": frames,
                "patch": {"size": 256, "halo": 0},
            },
            "output": {"classes": [{"value": i, "name": str(i)} for i in range(2)]},
        }
    )
    if str(model) == BANDS:
        return made
    found = indices_of(made)
    if found is None:
        raise JobError(
            f"no index can be made of the bands {', '.join(bands)}; they need common "
            "names (red, nir), or a sensor"
        )
    return found


def has_weights(card: ModelCard) -> bool:
    """Tell whether a card of `open_input` has a file of weights."""
    return card.weights.href != "none.safetensors"


def indices_of(card: ModelCard) -> ModelCard | None:
    """Give the card of the spectral indices of another card's bands, date by date.

    Formulas are those of Awesome Spectral Indices (Montero et al. 2023,
    doi:10.1038/s41597-023-02096-0), by the package spyndex.

    Parameters
    ----------
    card : ModelCard
        Its input is taken over.

    Returns
    -------
    ModelCard or None
        None where no index has all its bands.

    Raises
    ------
    MissingDependencyError
        If spyndex is not installed.
    """
    spec = card.input
    letters = [LETTERS.get(common_name(b, spec.sensor) or "", "") for b in spec.bands]
    spyndex: Any = require("spyndex", extra="fit")
    names: list[str] = []
    formulas: list[str] = []
    chosen: list[str] = []
    for name in INDEX_NAMES:
        if name in spyndex.indices:
            text = _formula(spyndex, name, letters)
            if text is not None:
                chosen.append(name)
                formulas.append(text)
    if not formulas:
        return None
    if spec.frames > 1:
        dates = range(spec.frames)
        formulas = [_at_date(f, letters, t) for t in dates for f in formulas]
        names = [f"{n}_{t}" if n else "" for t in dates for n in letters]
    else:
        names = letters
    return card.model_copy(
        update={
            "name": "indices",
            "title": ", ".join(chosen),
            "architecture": "geoscale.models.heads:Indices",
            "architecture_args": {
                "names": names,
                "formulas": formulas,
                "scale": spec.multiply,
            },
            "weights": card.weights.model_copy(
                update={"href": "none.safetensors", "sha256": None}
            ),
            "input": plain_input(spec),
            "base": None,
        }
    )


def plain_input(spec: ModelInput) -> ModelInput:
    """Give an input without normalisation, for networks that see one pixel."""
    fields = spec.model_dump(exclude={"normalization", "fill", "patch", "pair"})
    return ModelInput.model_validate({**fields, "patch": {"size": 256, "halo": 0}})


def _formula(spyndex: Any, name: str, letters: Sequence[str]) -> str | None:
    """Give an index with its constants put in; None where a band is missing."""
    found = spyndex.indices[name]
    text = str(found.formula)
    for word in found.bands:
        if word in letters:
            continue
        default = getattr(spyndex.constants.get(word), "default", None)
        if default is None:
            return None
        text = re.sub(rf"\b{word}\b", str(float(default)), text)
    return text


def _at_date(formula: str, letters: Sequence[str], date: int) -> str:
    for letter in {one for one in letters if one}:
        formula = re.sub(rf"\b{letter}\b", f"{letter}_{date}", formula)
    return formula


def with_classes(
    card: ModelCard, labels: Sequence[str], head: Head, with_bands: bool
) -> ModelCard:
    """Give the card of a network with a head behind it.

    Parameters
    ----------
    card : ModelCard
        Of the network.
    labels : sequence of str
        Classes; whole numbers keep their value, others are numbered.
    head : Head
        What the head is.
    with_bands : bool
        Whether the network's input follows its features.

    Returns
    -------
    ModelCard
        Of task segmentation.
    """
    output = ModelOutput(
        classes=tuple(name_classes(labels)),
        activation="softmax",
        take=card.output.take,
        head=head.model_copy(update={"with_bands": with_bands}),
    )
    update: dict[str, Any] = {"task": "segmentation", "output": output}
    patch = card.input.patch
    if head.reach and patch.halo is not None:
        # the network's own ring, and what the head sees beyond it
        fields = {**patch.model_dump(), "halo": patch.halo + head.reach}
        patch = Patch.model_validate(fields)
        update["input"] = card.input.model_copy(update={"patch": patch})
    return card.model_copy(update=update)


def name_classes(labels: Sequence[str]) -> list[OutputClass]:
    """Make classes of labels: whole numbers keep their value, others are numbered.

    Examples
    --------
    >>> [(c.value, c.name) for c in name_classes(["2", "8"])]
    [(2, '2'), (8, '8')]
    >>> [(c.value, c.name) for c in name_classes(["bare soil", "wood"])]
    [(0, 'bare_soil'), (1, 'wood')]
    """
    numbers = [int(t) if re.fullmatch(r"\d{1,3}", t) else 255 for t in labels]
    keep = max(numbers) <= 254 and len(set(numbers)) == len(numbers)
    return [
        OutputClass(
            value=numbers[i] if keep else i,
            name=re.sub(r"\s+", "_", text),
            title=text if re.search(r"\s", text) else None,
        )
        for i, text in enumerate(labels)
    ]

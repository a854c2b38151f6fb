"""Cards carried inside ONNX files: a network that says itself what it wants."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from geoscale.card import ModelCard
from geoscale.errors import CardError, WeightsError, require
from geoscale.models.fetch import check_first_bytes
from geoscale.plain import parse_yaml

if TYPE_CHECKING:
    import onnx

KEY = "geoscale:card"
"""Entry of the file's ``metadata_props`` that holds the card, as JSON."""
SUFFIX = ".onnx"
"""Of files that may carry a card."""


def read_onnx_card(path: Path) -> ModelCard:
    """Read the card that an ONNX file carries.

    Parameters
    ----------
    path : Path
        Local file.

    Returns
    -------
    ModelCard
        Its weights are the file itself, whatever it says.

    Raises
    ------
    CardError
        If it carries none, or one that is wrong.
    WeightsError
        If the file is missing, a placeholder, or no ONNX network.
    MissingDependencyError
        If onnx is not installed.
    """
    found = {entry.key: entry.value for entry in _load(path).metadata_props}
    if KEY not in found:
        raise CardError(
            f"{path} carries no card (metadata `{KEY}`): write a card.yaml with "
            f"`weights: {{href: {path.name}}}`; `geoscale models pack` puts it into "
            "the file"
        )
    where = f"the card in {path}"
    data = parse_yaml(found[KEY].encode(), where, CardError)
    if not isinstance(data, dict):
        raise CardError(f"{where} holds {type(data).__name__}, not fields")
    weights = {"href": path.name, "format": "onnx"}
    card = ModelCard.from_dict({**data, "weights": weights}, where=where)
    return card.model_copy(update={"base": str(path.resolve().parent)})


def write_onnx_card(card: ModelCard, weights: Path, to: Path) -> None:
    """Write an ONNX network with its card inside.

    Parameters
    ----------
    card : ModelCard
        Of the network; its `weights` are left out.
    weights : Path
        Local ONNX file; stays as it is, unless it is `to`.
    to : Path
        File to write, which is replaced whole.

    Raises
    ------
    CardError
        If it cannot be written.
    WeightsError
        If `weights` is no ONNX network, or keeps its numbers in other files.
    MissingDependencyError
        If onnx is not installed.
    """
    onnx = require("onnx", extra="onnx")
    network = _load(weights)
    if any(t.external_data for t in network.graph.initializer):
        raise WeightsError(
            f"{weights} keeps its numbers in files beside it, and one file is to hold "
            "all: save it whole (onnx.save with save_as_external_data=False)"
        )
    kept = {entry.key: entry.value for entry in network.metadata_props}
    told = {
        key: v for key, v in card.to_dict().items() if key not in ("weights", "base")
    }
    kept[KEY] = json.dumps(told, sort_keys=True)
    del network.metadata_props[:]
    onnx.helper.set_model_props(network, kept)
    part = to.with_name(f".{uuid4().hex}.part")
    try:
        part.write_bytes(network.SerializeToString())
        os.replace(part, to)
    except OSError as err:
        raise CardError(f"{to} cannot be written: {err}") from err
    finally:
        part.unlink(missing_ok=True)


def _load(path: Path) -> onnx.ModelProto:
    check_first_bytes(path)
    library: Any = require("onnx", extra="onnx")
    try:
        found: onnx.ModelProto = library.load(path, load_external_data=False)
    except Exception as err:
        raise WeightsError(f"{path} is no ONNX network: {err}") from err
    return found

"""How a result was made, and from what, in the words of STAC."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from geoscale.card import ModelCard
from geoscale.types import Json
from geoscale.words import redact

TASKS = {
    "segmentation": "semantic-segmentation",
    "classification": "scene-classification",
    "change": "change-detection",
    "detection": "object-detection",
    "embedding": "similarity-search",
}
"""Task of a card → as the MLM extension calls it, where that differs."""


def plain(value: Mapping[str, Any]) -> Json:
    """Make facts JSON, without the credentials that may hide in any href."""
    found: Json = json.loads(json.dumps(dict(value), default=str), object_hook=_redact)
    return found


def describe_making(facts: Json, card: ModelCard | None, goal: str) -> Json:
    """Say by what, from what and how a result was made.

    Parameters
    ----------
    facts : dict
        JSON-able facts about the run.
    card : ModelCard or None
        The model.
    goal : str
        What was made.

    Returns
    -------
    dict
        Properties of an Item.
    """
    made: Json = {f"geoscale:{key}": value for key, value in facts.items()}
    versions = facts.get("versions")
    if isinstance(versions, dict) and versions:
        made["processing:software"] = {k: str(v) for k, v in versions.items()}
    if card is None:
        made["processing:lineage"] = "made by geoscale"
        return made
    goal = {"backbone": "embedding"}.get(goal, goal)
    sha = facts.get("model_sha256") or card.weights.sha256
    made["processing:lineage"] = (
        f"{goal} of {', '.join(card.input.bands)} with model {card.name}"
        f"{f' (sha256 {sha})' if sha else ''} by geoscale"
    )
    made["mlm:name"] = card.name
    made["mlm:tasks"] = [TASKS.get(goal, goal)]
    onnx = card.weights.format == "onnx" or card.weights.href.endswith(".onnx")
    made["mlm:framework"] = "ONNX" if onnx else "PyTorch"
    if card.architecture is not None:
        made["mlm:architecture"] = card.architecture.rpartition(":")[2]
    for key, value in (("license", card.license), ("citation", card.citation)):
        if value is not None:
            made[f"geoscale:model_{key}"] = value
    return made


def add_sources(item: Any, sources: Any) -> None:
    """Link an Item to those that it was made from, where their place is known.

    Parameters
    ----------
    item : pystac.Item
        Changed in place.
    sources : list
        Ids, or mappings with ``id`` and ``href``.
    """
    import pystac

    for source in sources if isinstance(sources, list) else []:
        known = source if isinstance(source, dict) else {"id": source}
        href = known.get("href") or (
            known["id"] if "://" in str(known.get("id")) else None
        )
        if href is not None:
            title = str(known.get("id", href))
            item.add_link(
                pystac.Link("derived_from", href, pystac.MediaType.GEOJSON, title)
            )


def _redact(found: Json) -> Json:
    def clean(value: Any) -> Any:
        if isinstance(value, list):
            return [clean(v) for v in value]
        return redact(value).removesuffix("?…") if isinstance(value, str) else value

    return {key: clean(value) for key, value in found.items()}

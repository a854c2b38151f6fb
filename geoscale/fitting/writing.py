"""The folder of a head: its card, its numbers, its report."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import yaml

from geoscale.card import ModelCard, Weights
from geoscale.errors import OutputError
from geoscale.fitting.inputs import with_classes
from geoscale.fitting.judging import Judged
from geoscale.fitting.page import judge_floor, name_ground, write_html, write_markdown
from geoscale.fitting.result import Fitted
from geoscale.results.texts import write_texts
from geoscale.types import Array, Json

HEAD = "head.safetensors"


def write_head(
    folder: Path,
    card: ModelCard,
    judged: Judged,
    body: dict[str, Array],
    facts: Json,
    *,
    with_bands: bool,
) -> Fitted:
    """Write a head; its card names files beside it, and nothing elsewhere.

    Parameters
    ----------
    folder : Path
        Made where it is not there.
    card : ModelCard
        Of the network before the head.
    judged : Judged
        The head, its classes and figures.
    body : dict of str to ndarray
        Weights of the network, ``body.…``.
    facts : dict
        What stands in the report beside figures: labels and imagery.
    with_bands : bool
        Whether the network's input follows its features.

    Returns
    -------
    Fitted
        Names the card.

    Raises
    ------
    OutputError
        If `folder` is a file.
    """
    from safetensors.numpy import save

    folder = folder.expanduser()
    if folder.is_file():
        raise OutputError(f"{folder} is a file; name a folder for the head")
    folder.mkdir(parents=True, exist_ok=True)
    made, names, mended = judged.made, judged.names, judged.calibration
    report = {**facts, **judged.report}
    outer = {f"head.{k}": v for k, v in made.tensors(mended.heat).items()}
    outer |= {f"calibration.{k}": v for k, v in mended.tensors().items()}
    data = save({**body, **outer})
    _replace(folder / HEAD, data)
    spec = made.spec().model_copy(update={"calibration": mended.spec()})
    full = with_classes(card, names, spec, with_bands)
    full = full.model_copy(
        update={
            "name": "head-on-" + card.name.replace("/", "-"),
            "title": f"{report['head']} head on {card.name}: {', '.join(names)}"[:200],
            "weights": Weights(href=HEAD, sha256=hashlib.sha256(data).hexdigest()),
            "notes": _say_origin(card, report),
            **_bring_code(card, folder),
        }
    )
    text = yaml.safe_dump(full.to_dict(), sort_keys=False, allow_unicode=True)
    write_texts(
        folder,
        {
            "card.yaml": text,
            "report.json": json.dumps(report, indent=1) + "\n",
            "report.md": write_markdown(report),
            "report.html": write_html(report),
        },
    )
    return Fitted(folder, report)


def _replace(path: Path, data: bytes) -> None:
    part = path.with_suffix(".part")
    part.write_bytes(data)
    os.replace(part, path)


def _bring_code(card: ModelCard, folder: Path) -> dict[str, Any]:
    """Copy the user's own Python files beside the card, which then names these."""
    changes: dict[str, Any] = {"base": None}

    def bring(named: str) -> str:
        module, _, name = named.partition(":")
        if not module.endswith(".py"):
            return named
        file = Path(card.base or ".") / module
        _replace(folder / file.name, file.read_bytes())
        return f"{file.name}:{name}"

    if card.architecture is not None:
        changes["architecture"] = bring(card.architecture)
    norm = card.input.normalization
    if norm.callable is not None:
        moved = norm.model_copy(update={"callable": bring(norm.callable)})
        changes["input"] = card.input.model_copy(update={"normalization": moved})
    return changes


def _say_origin(card: ModelCard, report: Json) -> str:
    pooled = report["features"]["chosen"]["pooled"]
    sha256 = report["weights_sha256"]
    network = f" (weights sha256 {sha256[:12]})" if sha256 else ""
    before = f" {card.notes}" if card.notes else ""
    return (
        f"A {report['head']} head on {card.name}{network}, fitted to "
        f"{report['pixels']} labelled pixels of {report['labels']} on imagery of "
        f"{report['imagery_date']}. Of held-out {name_ground(report)}: "
        f"accuracy {pooled['accuracy']:.3f}, mean F1 {pooled['f1_macro']:.3f}. "
        f"{judge_floor(report)}{before}"
    )

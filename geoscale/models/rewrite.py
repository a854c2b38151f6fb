"""Halo and alignment into the file of a card; its comments and order stay."""

from __future__ import annotations

import json
import os
from pathlib import Path
from uuid import uuid4

import yaml

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.models.onnx_card import SUFFIX, read_onnx_card, write_onnx_card


def write_context(path: Path, *, halo: int, alignment: int) -> None:
    """Write what was measured into a card.

    Parameters
    ----------
    path : Path
        YAML or JSON card, or an ONNX file that carries one.
    halo, alignment : int
        In px.

    Raises
    ------
    CardError
        If the file is no card, cannot be written, or would be none afterwards (a
        halo as wide as the patch).
    """
    if path.suffix.lower() == SUFFIX:
        data = read_onnx_card(path).to_dict()
        data["input"].setdefault("patch", {}).update(alignment=alignment, halo=halo)
        write_onnx_card(ModelCard.from_dict(data, where=str(path)), path, path)
        return
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as err:
        raise CardError(f"card {path} cannot be read: {err}") from err
    values = {"alignment": alignment, "halo": halo}
    if path.suffix.lower() == ".json":
        data = json.loads(text)
        card = data.get("properties", {}).get("geoscale:card", data)
        card["input"].setdefault("patch", {}).update(values)
        text = json.dumps(data, indent=2) + "\n"
    else:
        for key, value in values.items():
            text = _set(text, key, value, path)
        ModelCard.from_dict(yaml.safe_load(text), where=str(path))
    part = path.with_name(f".{uuid4().hex}.part")
    try:
        part.write_text(text, encoding="utf-8")
        os.replace(part, path)
    except OSError as err:
        raise CardError(f"card {path} cannot be written: {err}") from err


def _set(text: str, key: str, value: int, path: Path) -> str:
    """Set one value of ``input.patch``, where it stands or where it belongs."""
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    spec = _child(root, "input")
    if not isinstance(spec, yaml.MappingNode) or not spec.value:
        raise CardError(f"card {path} has no `input` to write into")
    patch = _child(spec, "patch")
    if patch is None:
        return _insert(text, spec, f"patch: {{{key}: {value}}}")
    known = _child(patch, key)
    if known is not None:
        begin, end = known.start_mark.index, known.end_mark.index
        return f"{text[:begin]}{value}{text[end:]}"
    assert isinstance(patch, yaml.MappingNode)
    if not patch.value:
        begin, end = patch.start_mark.index, patch.end_mark.index
        return f"{text[:begin]}{{{key}: {value}}}{text[end:]}"
    return _insert(text, patch, f"{key}: {value}")


def _insert(text: str, node: yaml.MappingNode, entry: str) -> str:
    """Put an entry before the first of a mapping, in the mapping's own style."""
    first = node.value[0][0].start_mark
    between = ", " if node.flow_style else "\n" + " " * first.column
    return f"{text[: first.index]}{entry}{between}{text[first.index :]}"


def _child(node: yaml.Node | None, key: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((v for k, v in node.value if k.value == key), None)

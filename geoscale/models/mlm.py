"""Cards as STAC Items with the Machine Learning Model extension, and back.

An Item of ours carries the card whole, as ``geoscale:card``, beside the fields of the
extension: nothing is lost on the way back. Of others' Items the fields are read, and
what they do not say (units, halo) stays at its default and is named in the notes.
https://github.com/stac-extensions/mlm
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from geoscale.bands import guess_sensor
from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.imports import is_trusted
from geoscale.types import Json

CARD = "geoscale:card"
"""Property that holds the card itself."""

_TASKS = {
    "segmentation": "semantic-segmentation",
    "change": "semantic-segmentation",
    "backbone": "similarity-search",
    "detection": "object-detection",
    "regression": "regression",
    "forecasting": "regression",
    "classification": "scene-classification",
}
_SCENES = ("scene-classification", "classification")
_MAPS = ("semantic-segmentation", "segmentation")
# format of the card → what made the file
_ARTIFACTS = {
    "torchscript": "torch.jit.save",
    "pt2": "torch.export.save",
    "safetensors": "safetensors.torch.save_file",
    "onnx": "onnx.save",
}
_HEIGHT, _WIDTH = ("height", "y", "h"), ("width", "x", "w")
_CHANNELS = ("bands", "band", "channel", "channels", "variables")


def is_item(data: Any) -> bool:
    """Whether plain data is a STAC Item rather than a card."""
    return isinstance(data, Mapping) and data.get("type") == "Feature"


def write_item(card: ModelCard) -> Json:
    """Make a STAC Item of a card.

    Parameters
    ----------
    card : ModelCard
        The model.

    Returns
    -------
    dict
        STAC 1.1 with the MLM extension, as the installed pystac knows it.
    """
    import pystac
    from pystac.extensions import mlm

    card = card.model_copy(update={"base": None})
    item = pystac.Item(
        id=re.sub(r"[^A-Za-z0-9._-]+", "-", card.name),
        geometry=None,
        bbox=None,
        datetime=None,
        # a network has no date: the extension's own examples say it so
        start_datetime=datetime(1900, 1, 1, tzinfo=UTC),
        end_datetime=datetime(9999, 12, 31, tzinfo=UTC),
        properties={
            "description": card.title or card.name,
            "bands": [{"name": band} for band in dict.fromkeys(card.input.bands)],
            CARD: card.to_dict(),
        },
    )
    if card.license is not None:
        item.properties["license"] = card.license
    asset = pystac.Asset(
        href=card.weights.href,
        title="Weights",
        media_type="application/octet-stream",
        roles=["mlm:model", "mlm:weights", "data"],
    )
    item.add_asset("weights", asset)
    extension = mlm.MLMExtension.ext(item, add_if_missing=True)
    task = mlm.TaskType(_TASKS[card.task])
    onnx = card.weights.format == "onnx" or card.weights.href.endswith(".onnx")
    extension.apply(
        name=_mlm_name(card.name),
        architecture=_architecture(card),
        tasks=[task],
        input=[mlm.ModelInput(_describe_input(card))],
        output=[mlm.ModelOutput(_describe_output(card, str(task)))],
        framework="ONNX" if onnx else "PyTorch",
        pretrained=True,
        hyperparameters=_hyperparameters(card),
    )
    mlm.AssetGeneralMLMExtension.ext(asset).apply(
        artifact_type=_ARTIFACTS.get(_format(card), "torch.save")
    )
    made: Json = item.to_dict(include_self_link=False)
    made["properties"] = {k: v for k, v in made["properties"].items() if v is not None}
    made["properties"].setdefault("datetime", None)
    return made


def read_item(data: Mapping[str, Any], where: str) -> ModelCard:
    """Make a card of a STAC Item with the MLM extension.

    Parameters
    ----------
    data : mapping
        The Item, as JSON gives it.
    where : str
        Named in errors.

    Returns
    -------
    ModelCard
        Ours as it was written, others' as far as their fields go.

    Raises
    ------
    CardError
        If it is no such Item, or says too little to run the model.
    """
    properties = data.get("properties")
    if not isinstance(properties, Mapping):
        raise CardError(f"{where} is a STAC Item without properties")
    if isinstance(properties.get(CARD), Mapping):
        return ModelCard.from_dict(properties[CARD], where=where)
    if not any(str(key).startswith("mlm:") for key in properties):
        raise CardError(
            f"{where} is a STAC Item, but not of a model: it has no `mlm:` fields; "
            "give a card, or an Item with the MLM extension"
        )
    given = _only(properties, "mlm:input", where)
    result = _only(properties, "mlm:output", where)
    href, asset = _weights(data, where)
    tasks = result.get("tasks") or properties.get("mlm:tasks") or []
    scenes = set(tasks) & set(_SCENES)
    if not set(tasks) & {*_MAPS, *_SCENES}:
        raise CardError(
            f"{where} is a model for {', '.join(map(str, tasks)) or 'no task'}; tasks "
            f"that end in a map are {', '.join((*_MAPS, *_SCENES))}"
        )
    bands, frames = _bands(given, data, where)
    classes = result.get("classification:classes") or result.get(
        "classification_classes", ()
    )
    norm, said = _scaling(given, len(bands) * frames)
    architecture, known = _read_architecture(properties, data)
    fields: dict[str, Any] = {
        "name": re.sub(r"[^A-Za-z0-9._-]+", "-", str(properties.get("mlm:name", "")))
        or "model",
        "title": properties.get("description"),
        "task": "classification" if scenes else "segmentation",
        "architecture": architecture,
        "architecture_args": properties.get("mlm:hyperparameters") or {},
        "weights": {"href": href, "format": _read_format(asset, href)},
        "input": {
            "bands": bands,
            "frames": frames,
            "sensor": guess_sensor("Sentinel-2") if _is_s2(bands) else None,
            "units": "raw",
            "normalization": norm,
            "patch": _patch(given),
        },
        "output": {"classes": [_read_class(c, i) for i, c in enumerate(classes)]},
        "license": properties.get("license"),
        "notes": "Read from a STAC MLM Item, which states no units (values are taken "
        f"as stored) and no halo.{said}{known}",
    }
    return ModelCard.from_dict(fields, where=where)


def _mlm_name(name: str) -> str:
    cleaned = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.")
    return cleaned if cleaned[:1].isalpha() else f"m-{cleaned}"


def _architecture(card: ModelCard) -> str:
    if card.architecture is None:
        return "held by the file"
    return card.architecture.replace(":", ".")


def _format(card: ModelCard) -> str:
    suffix = card.weights.href.rpartition(".")[2].lower()
    return card.weights.format or suffix


def _hyperparameters(card: ModelCard) -> Any:
    from pystac.extensions import mlm

    if not card.architecture_args:
        return None
    return mlm.Hyperparameters(dict(card.architecture_args))


def _describe_input(card: ModelCard) -> Json:
    spec, norm = card.input, card.input.normalization
    side = spec.patch.size if spec.patch.fixed else -1
    scaling: list[Json] = []
    if norm.type == "mean-std":
        scaling = [
            {"type": "z-score", "mean": m, "stddev": s}
            for m, s in zip(norm.mean, norm.std, strict=True)
        ]
    shape, dims = [spec.channels], ["bands"]
    if card.output.forecast is not None and spec.pair == "time-axis":
        shape, dims = [spec.frames, len(spec.bands)], ["time", "bands"]
    units = f"{spec.units} x {spec.multiply:g}" if spec.multiply != 1 else spec.units
    return {
        "name": "imagery",
        "description": f"{spec.frames} date(s), {units}, before the scaling",
        "bands": list(spec.bands) * spec.frames,
        "input": {
            "shape": [-1, *shape, side, side],
            "dim_order": ["batch", *dims, "height", "width"],
            "data_type": "float32",
        },
        "value_scaling": scaling or None,
        "resize_type": None,
        "pre_processing_function": _expression(norm.callable),
    }


def _expression(callable_: str | None) -> Json | None:
    if callable_ is None:
        return None
    return {"format": "python", "expression": callable_.replace("/", ".")}


def _describe_output(card: ModelCard, task: str) -> Json:
    side = card.input.patch.size if card.input.patch.fixed else -1
    side = card.output.places((side,))[0] if side > 0 else -1
    shape, dims = [-1, card.output.channels, side, side], ["height", "width"]
    if card.output.reduction == "patch":
        shape, dims = shape[:2], []
    kinds = {"backbone": ("features", "embedding"), "regression": ("numbers", "band")}
    kinds["forecasting"] = kinds["regression"]
    name, axis = kinds.get(card.task, ("scores", "class"))
    axes, ahead = [axis], card.output.forecast
    if ahead is not None:
        shape[1:2], axes = [ahead.steps, len(card.output.bands)], ["time", axis]
    classes = [
        {"value": c.value, "name": c.name, "title": c.title, "color_hint": c.color}
        for c in card.output.classes
    ]
    return {
        "name": name,
        "tasks": [task],
        "result": {
            "shape": shape,
            "dim_order": ["batch", *axes, *dims],
            "data_type": "float32",
        },
        "classification:classes": [
            {k: v for k, v in c.items() if v is not None} for c in classes
        ],
        "post_processing_function": None,
    }


def _only(properties: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    found = properties.get(key)
    if not isinstance(found, list) or len(found) != 1 or not isinstance(found[0], dict):
        count = len(found) if isinstance(found, list) else 0
        raise CardError(
            f"{where}: `{key}` has {count} entries; a model with one is supported"
        )
    return found[0]


def _weights(data: Mapping[str, Any], where: str) -> tuple[str, Mapping[str, Any]]:
    assets = data.get("assets")
    for role in ("mlm:weights", "mlm:model"):
        for asset in assets.values() if isinstance(assets, Mapping) else ():
            if isinstance(asset, Mapping) and role in (asset.get("roles") or ()):
                return str(asset.get("href", "")), asset
    raise CardError(
        f"{where} has no asset of role mlm:weights or mlm:model: where are the weights?"
    )


def _bands(
    given: Mapping[str, Any], data: Mapping[str, Any], where: str
) -> tuple[list[str], int]:
    from geoscale.models.torchgeo_cards import split_frames

    listed = [
        str(b.get("name") if isinstance(b, Mapping) else b)
        for b in given.get("bands") or ()
    ]
    if not listed:
        raise CardError(
            f"{where} names no bands of its input; write a card with `input.bands`"
        )
    shape = given.get("input") or {}
    order = list(shape.get("dim_order") or ())
    axis = next((order.index(a) for a in _CHANNELS if a in order), None)
    count = None if axis is None else int(shape["shape"][axis])
    if count is not None and count > 0 and count != len(listed):
        raise CardError(
            f"{where} lists {len(listed)} bands, but its input has {count} channels; "
            "mend `mlm:input`"
        )
    return split_frames(listed)


def _is_s2(bands: Sequence[str]) -> bool:
    return all(re.fullmatch(r"B\d\d?[aA]?", b) for b in bands) and (
        "B8A" in bands or "B8a" in bands or len(bands) > 11
    )


def _patch(given: Mapping[str, Any]) -> dict[str, Any]:
    shape = given.get("input") or {}
    sizes = dict(
        zip(shape.get("dim_order") or (), shape.get("shape") or (), strict=False)
    )
    sides = [
        int(size)
        for name, size in sizes.items()
        if name in (*_HEIGHT, *_WIDTH) and int(size) > 0
    ]
    # shapes of a few pixels are placeholders, as in the extension's own examples
    if len(sides) == 2 and sides[0] == sides[1] and sides[0] >= 16:
        return {"size": sides[0], "fixed": True}
    return {}


def _scaling(given: Mapping[str, Any], channels: int) -> tuple[dict[str, Any], str]:
    steps = given.get("value_scaling") or given.get("scaling") or []
    stats = given.get("statistics") or []
    if not steps and stats and given.get("norm_type") == "z-score":
        steps = [{"type": "z-score", **s} for s in stats]
    if given.get("pre_processing_function"):
        return {}, (
            " It names a function that prepares its input, which is not run: write a "
            "card with `normalization: {type: callable}`."
        )
    if not steps:
        return {}, ""
    kinds = {str(s.get("type")) for s in steps if isinstance(s, Mapping)}
    if len(steps) == 1:
        steps = list(steps) * channels
    if kinds == {"z-score"} and len(steps) == channels:
        mean, std = [s["mean"] for s in steps], [s["stddev"] for s in steps]
        return {"type": "mean-std", "mean": mean, "std": std}, ""
    if kinds == {"min-max"} and len(steps) == channels:
        low = [float(s["minimum"]) for s in steps]
        wide = [float(s["maximum"]) - m for s, m in zip(steps, low, strict=True)]
        return {"type": "mean-std", "mean": low, "std": wide}, ""
    return {}, f" Its scaling ({', '.join(sorted(kinds))}) is left out: add it."


def _read_architecture(
    properties: Mapping[str, Any], data: Mapping[str, Any]
) -> tuple[str | None, str]:
    text = str(properties.get("mlm:architecture") or "")
    if ":" not in text:
        module, _, name = text.rpartition(".")
        text = f"{module}:{name}" if module else ""
    if text and is_trusted(text):
        return text, ""
    return None, (
        " Its architecture is a name, not code: add `architecture` and "
        "`architecture_args` unless the file holds the network."
    )


def _read_format(asset: Mapping[str, Any], href: str) -> str | None:
    kind = str(asset.get("mlm:artifact_type", ""))
    for name, artifact in _ARTIFACTS.items():
        if kind == artifact:
            return name
    if href.startswith("torchgeo:"):
        return "torchgeo"
    return "onnx" if "onnx" in kind.lower() else None


def _read_class(found: Any, number: int) -> dict[str, Any]:
    data = found if isinstance(found, Mapping) else {"name": str(found)}
    name = str(data.get("name") or data.get("title") or f"class_{number}")
    color = data.get("color_hint") or data.get("color-hint")
    return {
        "value": data.get("value", number),
        "name": re.sub(r"\s+", "_", name.strip()),
        "title": data.get("title") or data.get("description"),
        "color": color if re.fullmatch(r"[0-9A-Fa-f]{6}", str(color or "")) else None,
    }

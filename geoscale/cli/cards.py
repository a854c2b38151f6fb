"""Cards and the catalogue in words."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from geoscale.admission import judge_license, needs_acceptance

if TYPE_CHECKING:
    from geoscale.card import ModelCard
    from geoscale.models.catalog import CatalogEntry
    from geoscale.models.check import Checked
    from geoscale.schemas import Schema


def describe_card(card: ModelCard) -> list[str]:
    """Describe a card, a line for each thing a user must know.

    Parameters
    ----------
    card : ModelCard
        The model.

    Returns
    -------
    list of str
        Lines.
    """
    wants, patch = card.input, card.input.patch
    rows = {
        "title": card.title or card.name,
        "task": _task(card),
        "network": _network(card),
        "weights": _weights(card),
        "bands": ", ".join(wants.bands)
        + (f"  ({wants.sensor})" if wants.sensor else "")
        + (f"  x {wants.frames} dates" if wants.frames > 1 else ""),
        "units": wants.units
        + (f" x {wants.multiply:g}" if wants.multiply != 1 else ""),
        "scaling": _scaling(card),
        "pixel size": "any"
        if wants.gsd_m is None
        else f"{wants.gsd_m[0]:g} to {wants.gsd_m[1]:g} m",
        "patch": f"{patch.size} px, "
        + ("fixed" if patch.fixed else f"or any multiple of {patch.multiple_of} px"),
        "halo": "not stated: neighbouring patches are blended"
        if patch.halo is None
        else f"{patch.halo} px of context on each side",
        "alignment": f"patches start at multiples of {patch.alignment} px",
        "classes": _classes(card),
        "licence": describe_license(card.license, bool(needs_acceptance(card))),
        "cite": card.citation or "the card names nothing to cite",
        "notes": card.notes or "",
    }
    if card.output.bands:
        rows["numbers"] = rows.pop("classes")
    if card.output.forecast is not None:
        ahead = card.output.forecast
        rows["ahead"] = (
            f"{ahead.steps} steps of {ahead.every_days:g} days, after "
            f"{card.input.frames} dates as far apart"
        )
    if card.task == "backbone":
        rows["features"] = (
            f"{card.output.features} for every {card.output.reduction} x "
            f"{card.output.reduction} px"
        )
        del rows["halo"]
    if card.needs_trust:
        rows["code"] = "runs Python code of its own: read it, then --trust-code"
    return [card.name, *(_wrap(key, text) for key, text in rows.items() if text)]


def describe_entry(entry: CatalogEntry) -> list[str]:
    """Describe a row of the catalogue in a line, and what it wants in a second.

    Parameters
    ----------
    entry : CatalogEntry
        The row.

    Returns
    -------
    list of str
        Two lines, the second indented.
    """
    told: list[str] = [entry.task if entry.task != "segmentation" else ""]
    if entry.refused:
        told = [f"cannot be run: {entry.refused}"]
    bands = " ".join(entry.bands)
    told += [
        f"{entry.sensor}: {bands}" if entry.sensor and bands else bands,
        f"{entry.gsd_m[0]:g} m" if entry.gsd_m else "",
        entry.scaling,
        f"{entry.size_mb} MB" if entry.size_mb else "",
        describe_license(entry.license),
        entry.needs,
    ]
    return [f"{entry.name}  {entry.title}", "    " + "; ".join(t for t in told if t)]


def describe_schema(schema: Schema, *, whole: bool) -> list[str]:
    """Describe a class schema in a line, or with its source and classes.

    Parameters
    ----------
    schema : Schema
        The schema.
    whole : bool
        Whether to name its classes.

    Returns
    -------
    list of str
        Lines.
    """
    head = f"{schema.name:<20} {len(schema.classes):>2} classes  {schema.title}"
    if not whole:
        return [head]
    shown = "\n".join(
        f"{c['value']:>3}  #{c['color']} {c['title']}" for c in schema.classes
    )
    rows = {"source": schema.source, "colours": schema.colors, "classes": shown}
    return [head, *(_wrap(key, text) for key, text in rows.items())]


def describe_license(name: str | None, must_accept: bool = False) -> str:
    """Say what a licence forbids.

    Parameters
    ----------
    name : str or None
        Of the weights.
    must_accept : bool
        Whether a job has to accept it.

    Returns
    -------
    str
        One line.
    """
    more = "; a job needs --accept-license" if must_accept else ""
    found = judge_license(name)
    if found == "unknown":
        return "licence UNKNOWN: ask its authors before you use or publish its maps" + (
            more
        )
    if found:
        return f"{name}: NOT for commercial use without its authors' consent{more}"
    return str(name)


def describe_check(found: Checked) -> list[str]:
    """Describe what a check found.

    Parameters
    ----------
    found : Checked
        From `check_model`.

    Returns
    -------
    list of str
        Lines.
    """
    rows: dict[str, Any] = {
        "task": found.task,
        "weights": f"{found.weights}\n{found.bytes / 1e6:.1f} MB, "
        f"sha256:{found.sha256}",
        "keys": _keys(found),
        "mended": "\n".join(found.said),
        "one patch": f"{_shape(found.input)} gave {_shape(found.output)} {found.dtype}"
        + _found(found),
        "speed": f"{found.seconds * 1000:.0f} ms a patch, {found.mpx_s:.2f} Mpx/s on "
        "this CPU",
        "context": found.context,
    }
    return [found.name, *(_wrap(key, text) for key, text in rows.items() if text)]


def _keys(found: Checked) -> str:
    if not found.parameters:
        return "none to compare: the file holds its network"
    return f"all there, none left over; {found.parameters:,} parameters"


def _found(found: Checked) -> str:
    if found.found is None:
        return ""
    word = "detection" if found.found == 1 else "detections"
    return f": {found.found:,} {word} in noise"


def _shape(shape: tuple[int, ...]) -> str:
    return " x ".join(str(n) for n in shape)


def _task(card: ModelCard) -> str:
    if card.task == "backbone":
        return "backbone: features, for task embedding or a head; no map of its own"
    if card.output.reduction == "patch":
        return f"{card.task}: one result for each patch"
    return card.task


def _network(card: ModelCard) -> str:
    if card.architecture is None:
        return "held by the weights file"
    name = card.architecture_args.get("name")
    return f"{card.architecture} ({name})" if name else card.architecture


def _weights(card: ModelCard) -> str:
    sha256 = card.weights.sha256
    known = f"sha256:{sha256[:12]}…" if sha256 else "no sha256 in the card"
    return f"{card.weights.href.rpartition('/')[2]}  {known}"


def _scaling(card: ModelCard) -> str:
    norm = card.input.normalization
    if norm.type == "mean-std":
        return "(value - mean) / std; " + ", ".join(
            f"{m:g} ± {s:g}" for m, s in zip(norm.mean, norm.std, strict=True)
        )
    extra = norm.model_dump(exclude_defaults=True, exclude={"type"})
    shown = ", ".join(f"{key} {value}" for key, value in extra.items())
    return f"{norm.type}  {shown}" if shown else str(norm.type)


def _classes(card: ModelCard) -> str:
    if card.output.bands:
        return "\n".join(f"{b.name} [{b.units}]" for b in card.output.bands)
    return "\n".join(
        f"{c.value:>3}  {'#' + c.color if c.color else '':<8} {c.title or c.name}"
        for c in card.output.classes
    )


def _wrap(key: str, text: str) -> str:
    """Set a text beside its key; long ones go on below, indented."""
    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, 84, drop_whitespace=False) or [""]
    body = f"\n{'':<14}".join(line.rstrip() for line in lines)
    return f"  {key:<12}{body}"

"""Commands about models: which there are, and what each wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from geoscale.cli.say import say, say_json

if TYPE_CHECKING:
    from geoscale.card import ModelCard

app = typer.Typer(
    no_args_is_help=True,
    help="List models, and show what one wants and gives.",
    epilog="Example:  geoscale models list",
)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]


@app.command("list", epilog="Example:  geoscale models list --json")
def list_(as_json: AsJson = False) -> None:
    """List the models that a job may name."""
    import dataclasses

    from geoscale.models import list_models

    entries = list_models()
    if as_json:
        say_json([dataclasses.asdict(entry) for entry in entries])
        return
    width = max(len(entry.name) for entry in entries)
    for entry in entries:
        extras = [entry.license or "licence unknown", entry.needs]
        say(f"{entry.name:<{width}}  {entry.title}")
        say(f"{'':<{width}}  {'; '.join(text for text in extras if text)}")
    say("\nA model of your own: the path or URL of its card (.yaml, .json).")


@app.command("show", epilog="Example:  geoscale models show s2-landcover-unet")
def show(
    name: Annotated[str, typer.Argument(help="Catalogue name, path or URL of a card.")],
    as_json: AsJson = False,
) -> None:
    """Show a model's bands, scaling, patch, classes, licence; loads no weights."""
    from geoscale.models import find_card

    card = find_card(name)
    if as_json:
        say_json(card.to_dict())
    else:
        say("\n".join(describe_card(card)))


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
        "task": card.task,
        "network": card.architecture or "held by the weights file",
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
        "licence": _licence(card.license),
        "cite": card.citation or "the card names nothing to cite",
        "notes": card.notes or "",
    }
    if card.needs_trust:
        rows["code"] = "runs Python code of its own: read it, then --trust-code"
    return [card.name, *(_wrap(key, text) for key, text in rows.items() if text)]


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
    return "\n".join(
        f"{c.value:>3}  {'#' + c.color if c.color else '':<8} {c.title or c.name}"
        for c in card.output.classes
    )


def _licence(licence: str | None) -> str:
    if licence is None:
        return "UNKNOWN: ask its authors before you use or publish its maps"
    if licence == "proprietary" or "NC" in licence.upper().split("-"):
        return f"{licence}: NOT for commercial use without its authors' consent"
    return licence


def _wrap(key: str, text: str) -> str:
    """Set a text beside its key; long ones go on below, indented."""
    import textwrap

    lines: list[str] = []
    for line in text.splitlines():
        lines += textwrap.wrap(line, 84, drop_whitespace=False) or [""]
    body = f"\n{'':<14}".join(line.rstrip() for line in lines)
    return f"  {key:<12}{body}"

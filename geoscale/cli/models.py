"""Commands about models: which there are, what each wants, and whether it works."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geoscale.cli.say import say, say_json

if TYPE_CHECKING:
    from geoscale.card import ModelCard
    from geoscale.models.check import Checked

app = typer.Typer(
    no_args_is_help=True,
    help="List models, show what one wants and gives, check it, add your own.",
    epilog="Example:  geoscale models list",
)

AsJson = Annotated[bool, typer.Option("--json", help="Write JSON for programs.")]
Trust = Annotated[
    bool,
    typer.Option("--trust-code", help="Allow code that the card brings along."),
]
Name = Annotated[
    str,
    typer.Argument(
        help="Catalogue name, hf:owner/name, path or URL of a card or STAC MLM Item."
    ),
]


@app.command("list", epilog="Example:  geoscale models list --task backbone")
def list_(
    every: Annotated[
        bool,
        typer.Option("--all", help="Also torchgeo's backbones, with all details."),
    ] = False,
    task: Annotated[
        str | None,
        typer.Option(help="Only models for this: segmentation, change, backbone."),
    ] = None,
    sensor: Annotated[
        str | None, typer.Option(help="Only models for this: sentinel-2, landsat-8 …")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the models that a job may name."""
    from geoscale.cli.cards import describe_entry
    from geoscale.errors import CardError
    from geoscale.models import list_models

    whole = every or sensor is not None or task == "backbone"
    entries = list_models(backbones=whole)
    for word, wanted in (("task", task), ("sensor", sensor)):
        if wanted is None:
            continue
        known = sorted({str(getattr(e, word)) for e in entries if getattr(e, word)})
        if wanted not in known:
            raise CardError(
                f"no model has {word} {wanted}; there are {', '.join(known)}"
            )
        entries = [e for e in entries if getattr(e, word) == wanted]
    if as_json:
        say_json([dataclasses.asdict(entry) for entry in entries])
        return
    for entry in entries:
        say("\n".join(describe_entry(entry)))
    if not whole:
        say("\nBackbones of torchgeo, for features: geoscale models list --all")
    say("A model of your own: geoscale models add, or the path of its card in the job.")


@app.command("show", epilog="Example:  geoscale models show s2-landcover-unet")
def show(name: Name, as_json: AsJson = False) -> None:
    """Show a model's bands, scaling, patch, classes, licence; loads no weights."""
    from geoscale.cli.cards import describe_card
    from geoscale.models import find_card

    card = find_card(name)
    if as_json:
        say_json(card.to_dict())
    else:
        say("\n".join(describe_card(card)))


@app.command("check", epilog="Example:  geoscale models check my-card.yaml --write")
def check(
    name: Name,
    write: Annotated[
        bool,
        typer.Option("--write", help="Write halo and alignment into the card's file."),
    ] = False,
    measure: Annotated[
        bool, typer.Option(help="Measure halo and alignment, which takes seconds.")
    ] = True,
    trust_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Load a model's weights, verify their keys, run one patch, measure its halo."""
    from geoscale.cli.cards import describe_check
    from geoscale.models import find_card
    from geoscale.models.check import check_model

    card = find_card(name)
    found = check_model(card, trust_code=trust_code, measure=measure)
    if as_json:
        say_json(found.to_json())
    else:
        say("\n".join(describe_check(found)))
    if write:
        say(_write(name, card, found), err=as_json)


@app.command("add", epilog="Example:  geoscale models add hf:owner/name --name fields")
def add(
    source: Annotated[
        str,
        typer.Argument(
            help="Card or STAC MLM Item (path, URL, hf:owner/name), their folder, or "
            "an ONNX file that carries its card."
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name to give it; default: the card's.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Write over one of the same name.")
    ] = False,
) -> None:
    """Put a model of your own under a name that jobs may use."""
    from geoscale.errors import CardError
    from geoscale.models import find_card
    from geoscale.models.catalog import find_cards, list_models
    from geoscale.models.shelf import put_on_shelf

    broken: list[str] = []
    if "://" not in source and Path(source).is_dir():
        cards, broken = find_cards(Path(source))
        if not cards:
            raise CardError(
                f"folder {source} holds no card (.yaml, .yml, .json)"
                + "".join(f"; {text}" for text in broken)
            )
        if name is not None and len(cards) > 1:
            raise CardError(f"--name is for one card; folder {source} has {len(cards)}")
    else:
        cards = [find_card(source)]
    taken = {e.name for e in list_models() if e.origin != "yours"}
    for card in cards:
        wanted = name or card.name
        if wanted in taken:
            raise CardError(
                f"`{wanted}` is a model of the catalogue; give another --name"
            )
        path = put_on_shelf(card, wanted, replace=replace)
        say(f"{wanted}  {path}")
        say(f"    check it: geoscale models check {wanted}")
    for text in broken:
        say(f"left out: {text}", err=True)
    if broken:
        raise typer.Exit(CardError.exit_code)


@app.command("schemas", epilog="Example:  geoscale models schemas eurosat")
def schemas(
    name: Annotated[
        str | None, typer.Argument(help="Schema to show; default: list all.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the class schemas that a card may name, or show the classes of one."""
    from geoscale.cli.cards import describe_schema
    from geoscale.schemas import PREFIX, list_schemas, load_schema

    names = list_schemas() if name is None else [name.removeprefix(PREFIX)]
    found = [load_schema(one) for one in names]
    if as_json:
        told = [dataclasses.asdict(one) for one in found]
        say_json(told if name is None else told[0])
        return
    for one in found:
        say("\n".join(describe_schema(one, whole=name is not None)))
    if name is None:
        say("In a card:  output: {classes: schema:NAME}")


@app.command(
    "export-mlm",
    epilog="Example:  geoscale models export-mlm s2-landcover-unet --to item.json",
)
def export_mlm(
    name: Name,
    to: Annotated[
        Path | None, typer.Option("--to", help="File to write; default: print it.")
    ] = None,
) -> None:
    """Write a model's card as a STAC Item with the MLM extension."""
    import json

    from geoscale.models import find_card
    from geoscale.models.mlm import write_item
    from geoscale.models.shelf import anchor

    card = find_card(name)
    beside = to is not None and card.base == str(to.resolve().parent)
    item = write_item(card if beside else anchor(card))
    if to is None:
        say_json(item)
        return
    to.write_text(json.dumps(item, indent=2), encoding="utf-8")
    say(to)


@app.command("pack", epilog="Example:  geoscale models pack card.yaml --to own.onnx")
def pack(
    name: Name,
    to: Annotated[Path, typer.Option("--to", help="ONNX file to write.")],
) -> None:
    """Put a card into its ONNX file, which then needs nothing beside it."""
    from geoscale.models import find_card, resolve_weights
    from geoscale.models.onnx_card import write_onnx_card

    card = find_card(name)
    write_onnx_card(card, resolve_weights(card)[0], to)
    say(to)
    say(f"    check it: geoscale models check {to}")


def _write(name: str, card: ModelCard, found: Checked) -> str:
    from geoscale.errors import CardError
    from geoscale.models.rewrite import write_context
    from geoscale.models.shelf import list_shelf

    path = list_shelf().get(name, Path(name))
    if not path.is_file() or card.base is None:
        raise CardError(
            f"--write changes the file of a card, and `{name}` is none; give its path, "
            "or `geoscale models add` it under another name"
        )
    if found.halo is None or found.alignment is None:
        return f"nothing written: {found.context}"
    write_context(path, halo=found.halo, alignment=found.alignment)
    return f"halo {found.halo} px and alignment {found.alignment} px written to {path}"

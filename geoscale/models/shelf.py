"""The user's own shelf: cards that `geoscale models add` put under a name."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import yaml

from geoscale.card import ModelCard
from geoscale.errors import CardError

SUFFIXES = (".yaml", ".yml", ".json")
"""Of files that may be cards."""


def shelf_dir() -> Path:
    """Folder of the user's cards: ``$GEOSCALE_MODELS``, else in ``~/.config``."""
    set_by_user = os.environ.get("GEOSCALE_MODELS")
    return Path(
        set_by_user or Path.home() / ".config" / "geoscale" / "models"
    ).expanduser()


def list_shelf() -> dict[str, Path]:
    """Name → file of each card on the shelf."""
    folder = shelf_dir()
    if not folder.is_dir():
        return {}
    return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def put_on_shelf(
    card: ModelCard, name: str | None = None, *, replace: bool = False
) -> Path:
    """Keep a card under a name.

    Parameters
    ----------
    card : ModelCard
        The model; local files that it names are kept where they are.
    name : str, optional
        Default: the card's.
    replace : bool
        Write over a card of the same name.

    Returns
    -------
    Path
        The card on the shelf.

    Raises
    ------
    CardError
        If the name is taken, or is none.
    """
    name = name or card.name
    anchored = anchor(card)
    kept = ModelCard.from_dict(
        {**anchored.to_dict(), "name": name}, where=f"card `{name}`"
    )
    folder = shelf_dir()
    path = folder / f"{name}.yaml"
    if path.exists() and not replace:
        raise CardError(
            f"there is a model `{name}` already ({path}); give --name, or --replace it"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{uuid4().hex}.part")
        part.write_text(
            yaml.safe_dump(kept.to_dict(), sort_keys=False, allow_unicode=True),
            encoding="utf-8",
        )
        os.replace(part, path)
    except OSError as err:
        raise CardError(
            f"card cannot be kept at {path}: {err}; set GEOSCALE_MODELS to a folder "
            "that can be written"
        ) from err
    return path


def anchor(card: ModelCard) -> ModelCard:
    """Make the local paths of a card absolute, so that it may lie anywhere.

    Parameters
    ----------
    card : ModelCard
        With the folder that it was read from.

    Returns
    -------
    ModelCard
        Without one.
    """
    if card.base is None:
        return card
    base = Path(card.base)
    href = card.weights.href
    if not urlsplit(href).scheme:
        href = str((base / href).resolve())
    norm = card.input.normalization
    return card.model_copy(
        update={
            "base": None,
            "architecture": _absolute(card.architecture, base),
            "weights": card.weights.model_copy(update={"href": href}),
            "input": card.input.model_copy(
                update={
                    "normalization": norm.model_copy(
                        update={"callable": _absolute(norm.callable, base)}
                    )
                }
            ),
        }
    )


def _absolute(path: str | None, base: Path) -> str | None:
    """``net.py:Net`` beside the card → its whole path."""
    if path is None or ".py:" not in path:
        return path
    file, _, name = path.rpartition(":")
    return f"{(base / file).resolve()}:{name}"

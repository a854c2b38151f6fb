"""Class schemas: names, values and colours of the classes that data sets share.

One file each in ``data``, with its source. A card names one: ``classes:
schema:eurosat``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Protocol

from geoscale.errors import CardError
from geoscale.plain import read_yaml
from geoscale.words import suggest

PREFIX = "schema:"
"""Before the name of a schema, where a card names one for its classes."""

CLASS_ARGS = ("classes", "num_classes", "n_classes", "out_channels")
"""Arguments by which architectures are told how many channels to give."""


class Named(Protocol):
    """Classes, and the schema that they came from."""

    @property
    def classes(self) -> tuple[Any, ...]:
        """One for each value of the map."""

    @property
    def class_schema(self) -> str | None:
        """Name, if they came from one."""

    @property
    def channels(self) -> int:
        """Channels that the network must have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """Classes of a data set."""

    name: str
    """By which cards name it."""
    title: str
    """For people."""
    source: str
    """Where names and values are from."""
    colors: str
    """Whose the colours are."""
    classes: tuple[dict[str, Any], ...]
    """``value``, ``name``, ``title``, ``color`` of each, in the order of channels."""


def list_schemas() -> list[str]:
    """Names of all schemas, ascending."""
    return sorted(path.stem for path in _folder().glob("*.yaml"))


@cache
def load_schema(name: str) -> Schema:
    """Find a schema by its name.

    Parameters
    ----------
    name : str
        One of `list_schemas`.

    Returns
    -------
    Schema
        Its classes, in the order of a network's channels.

    Raises
    ------
    CardError
        If there is none; the message names the nearest.

    Examples
    --------
    >>> [c["name"] for c in load_schema("ftw-3").classes]
    ['background', 'field', 'field_boundary']
    """
    known = list_schemas()
    if name not in known:
        hint = suggest(name, known) or f"; known are {', '.join(known)}"
        raise CardError(f"there is no class schema `{name}`{hint}")
    data = read_yaml(_folder() / f"{name}.yaml", "class schema", CardError)
    return Schema(name=name, **{**data, "classes": tuple(data["classes"])})


def spell_out(output: Any) -> Any:
    """Put the classes of a schema where a card's output only names it.

    Parameters
    ----------
    output : object
        ``output`` of a card as it was read, of whatever kind.

    Returns
    -------
    object
        With ``classes`` in full and ``class_schema``, if it names one.

    Raises
    ------
    ValueError
        If there is no such schema.
    """
    named = output.get("classes") if isinstance(output, dict) else None
    if not isinstance(named, str):
        return output
    name = named.removeprefix(PREFIX)
    if name == named:
        raise ValueError(f"say `classes: {PREFIX}NAME`, or list them")
    try:
        found = load_schema(name)
    except CardError as err:
        raise ValueError(str(err)) from None
    return {**output, "classes": found.classes, "class_schema": name}


def check_channels(output: Named, args: Mapping[str, Any]) -> None:
    """Refuse a schema for a network that was made for another number of classes.

    Parameters
    ----------
    output : Named
        ``output`` of a card.
    args : mapping
        Arguments of its architecture.

    Raises
    ------
    ValueError
        With both numbers.
    """
    for name in CLASS_ARGS if output.class_schema else ():
        made = args.get(name)
        if isinstance(made, int) and made != output.channels:
            raise ValueError(
                f"schema `{output.class_schema}` has {len(output.classes)} classes, "
                f"but `architecture_args.{name}` makes a network of {made} channels; "
                "name the schema that it was trained on, or list its classes"
            )


def _folder() -> Path:
    return Path(str(files("geoscale"))) / "schemas" / "data"

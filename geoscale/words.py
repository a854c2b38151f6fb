"""Nearest words: what a user may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import AliasChoices, BaseModel

from geoscale.redaction import redact

__all__ = ["nearest_key", "redact", "suggest"]


def suggest(word: str, known: Iterable[str]) -> str:
    """Say ``; did you mean `x`?`` or nothing."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f"; did you mean `{near[0]}`?" if near else ""


def shorten(text: str, most: int = 60) -> str:
    """Cut what is too long for a message.

    Examples
    --------
    >>> shorten("a" * 9, most=5)
    'aaaa…'
    """
    return text if len(text) <= most else text[: most - 1] + "…"


def nearest_key(loc: Sequence[Any], model: type[BaseModel]) -> str:
    """Suggest the known key nearest to the last part of a pydantic location.

    Parameters
    ----------
    loc : sequence
        Where pydantic found an unknown key.
    model : type
        The outermost model.

    Returns
    -------
    str
        A suggestion, else the list of known keys.
    """
    current: type[BaseModel] | None = model
    for part in loc[:-1]:
        current = _field_model(current, part) if current else None
    if current is None:
        return ""
    known = [
        word for name in current.model_fields for word in _spellings(current, name)
    ]
    return suggest(str(loc[-1]), known) or f"; known are {', '.join(known)}"


def _spellings(model: type[BaseModel], name: str) -> list[str]:
    """Words under which a field may be given."""
    alias = model.model_fields[name].validation_alias
    return (
        [str(c) for c in alias.choices] if isinstance(alias, AliasChoices) else [name]
    )


def _field_model(model: type[BaseModel], name: Any) -> type[BaseModel] | None:
    field = model.model_fields.get(str(name))
    if field is None:
        return model if isinstance(name, int) else None
    stack: list[Any] = [field.annotation]
    while stack:
        kind = stack.pop()
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
        stack.extend(getattr(kind, "__args__", ()))
    return None

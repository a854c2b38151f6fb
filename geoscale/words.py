"""Nearest words and redaction: what every message needs."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from pydantic import BaseModel

_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^\s\"'<>\\]+", re.I)
_QUERY = re.compile(r"\?[^\s\"'<>\\?]*=[^\s\"'<>\\]*")


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
    known = list(current.model_fields)
    return suggest(str(loc[-1]), known) or f"; known are {', '.join(known)}"


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


def redact(text: str) -> str:
    """Strip user info, queries and fragments from every URL in a text.

    Signed URLs carry credentials in their query; no message, log, plan or
    output may hold them.

    Examples
    --------
    >>> redact("GET https://me:pw@x.org/a.tif?sig=abc failed")
    'GET https://x.org/a.tif?… failed'

    GDAL names files without their host, and with the query:

    >>> redact("a.tif?sig=abc, band 1: IReadBlock failed")
    'a.tif?… band 1: IReadBlock failed'
    """
    found = _URL.sub(lambda match: _redact_url(match[0]), str(text))
    return _QUERY.sub("?…", found)


def _redact_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return bare + ("?…" if parts.query else "")

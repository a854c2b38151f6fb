"""JSON values with something wrong somewhere, for hypothesis."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from typing import Any

import hypothesis.strategies as st

DEEP = "@@deep@@"
"""Stands for lists inside each other, which `json.dumps` could not write."""
LONG = 100_000
WEIRD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 10**30, 10**400, 1e308, -0.0, 0.5, 5e-324,
    float("nan"), float("inf"), float("-inf"),
    "", " ", "0", "nan", "1e400", "9" * 5000, "a" * LONG, "\x00", "a\x00b", "\n",
    "\x1b[2J", "\ud800", "\u202e", "ﬀ", "é" * 300, "\U0001d53e", "B04", "EPSG:99999",
    "../../etc/passwd", "/etc/passwd", "/dev/zero", "file:///etc/passwd",
    "/vsicurl/http://x/", "vrt://x", "<VRTDataset/>", "C:\\x", "http://[", "http://",
    "https://x.org:99999/a.tif", "s3://", "~", "~root", "*", "${HOME}", "%00",
    "package.module:function", "net.py:Net", "os:system", "2024-02-30", "9999-12-31",
    "0001-01-01T00:00:00+14:00", "2024-05-01T00:00:00Z/..", "i4,f8", "O",
    [], [[]], {}, {"": None}, {"a": {"b": {}}}, [None], [0] * 10, list(range(5000)),
    [float("nan")] * 6, {str(i): i for i in range(2000)}, DEEP, [DEEP],
)  # fmt: skip


def places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Paths of every value inside a value."""
    pairs: Any = ()
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value[:20])
    found = []
    for key, below in pairs:
        found += [(*here, key), *places(below, (*here, key))]
    return found


HOWS = (
    "weird", "weird", "weird", "delete", "retype", "nest", "swap", "rename", "repeat",
    "number",
)  # fmt: skip


@st.composite
def mutants(draw: Any, value: Any, most: int = 3) -> Any:
    """Give a copy of a JSON value with one to three things changed."""
    found = copy.deepcopy(value)
    for _ in range(draw(st.integers(1, most))):
        every = places(found)
        if not every:
            return draw(st.sampled_from(WEIRD))
        _change(draw, found, draw(st.sampled_from(every)), draw(st.sampled_from(HOWS)))
    return found


def _change(draw: Any, found: Any, place: tuple[Any, ...], how: str) -> None:
    *above, last = place
    holder = _at(found, above)
    old = holder[last]
    if how == "delete":
        del holder[last]
    elif how == "rename" and isinstance(holder, dict):
        name = draw(st.sampled_from([str(last).upper(), f"{last} ", "é", "__class__"]))
        holder[name] = holder.pop(last)
    elif how == "repeat" and isinstance(holder, list):
        holder.extend([copy.deepcopy(old)] * draw(st.sampled_from([1, 50])))
    else:
        holder[last] = copy.deepcopy(_other(draw, found, old, how))


def _other(draw: Any, found: Any, old: Any, how: str) -> Any:
    """Something to put in the place of a value."""
    if how == "retype":
        kinds = [str(old)[:200], [old], {"value": old}, bool(old), len(str(old)), None]
        return draw(st.sampled_from(kinds))
    if how == "nest":
        for _ in range(draw(st.sampled_from([1, 3, 40]))):
            old = [old] if draw(st.booleans()) else {"value": old}
        return old
    if how == "swap":
        return _at(found, draw(st.sampled_from(places(found))))
    if how == "number":
        return draw(st.one_of(st.integers(), st.floats()))
    return draw(st.sampled_from(WEIRD))


def _at(found: Any, place: Sequence[Any]) -> Any:
    for key in place:
        found = found[key]
    return found


def write(value: Any) -> str:
    """Write as JSON, which YAML is too; NaN and lone surrogates included."""
    text = json.dumps(value)
    return text.replace(json.dumps(DEEP), "[" * 3000 + "]" * 3000)


@st.composite
def torn(draw: Any, text: str) -> bytes:
    """Give a text cut short, or with some bytes that do not belong there."""
    data = text.encode()
    at = draw(st.integers(0, len(data)))
    more = draw(st.sampled_from([b"", b"\x00", b"\xff", b"{", b"]", b'"', b"\xed\xa0"]))
    rest = b"" if draw(st.booleans()) else data[at + draw(st.integers(0, 3)) :]
    return data[:at] + more + rest

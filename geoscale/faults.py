"""Named points at which tests make this process die; without them, nothing.

``GEOSCALE_CRASH_AT=ledger.before:3`` ends the process, as SIGKILL would, when it comes
to this point for the third time. ``GEOSCALE_CRASH_COUNTS=path`` writes how often each
point was passed, at exit.
"""

from __future__ import annotations

import atexit
import json
import os
import threading
from collections import Counter
from pathlib import Path

POINTS = (
    "block.begin",
    "block.inferred",
    "block.written",
    "put.before",
    "put.torn",
    "put.after",
    "commit.before",
    "commit.after",
    "ledger.before",
    "ledger.after",
    "final.before",
    "final.after",
)
"""All points, as `point` names them."""
KILLED = 9
"""Exit code of a process that died at a point."""

_at, _, _number = os.environ.get("GEOSCALE_CRASH_AT", "").partition(":")
_counts_path = os.environ.get("GEOSCALE_CRASH_COUNTS")
_passed: Counter[str] = Counter()
_lock = threading.Lock()
is_watched = bool(_at or _counts_path)
"""Whether anybody asked for this; nobody does outside of tests."""


def point(name: str) -> None:
    """Pass a point, or die here.

    Parameters
    ----------
    name : str
        One of `POINTS`.
    """
    if not is_watched:
        return
    assert name in POINTS, name
    with _lock:
        _passed[name] += 1
        if name == _at and _passed[name] == int(_number or 1):
            os._exit(KILLED)


def _write_counts() -> None:
    assert _counts_path is not None
    Path(_counts_path).write_text(json.dumps(_passed), encoding="utf-8")


if _counts_path:
    atexit.register(_write_counts)

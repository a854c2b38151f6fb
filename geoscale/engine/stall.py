"""Nothing moves: how long to wait, and what every thread was doing."""

from __future__ import annotations

import statistics
import sys
import threading
import traceback
from collections.abc import Iterable

STALL_S = 600.0
"""Least time without any block after which a run is held to hang, in s."""
TIMES_USUAL = 10.0
"""Blocks of usual length that this time must at least be."""
_FRAMES = 12


def find_patience(seconds: Iterable[float], least: float = STALL_S) -> float:
    """Choose after how long without a block a run is held to hang.

    Parameters
    ----------
    seconds : iterable of float
        What recent blocks took, in s.
    least : float
        Never less, in s.

    Returns
    -------
    float
        In s.

    Examples
    --------
    >>> find_patience([1.0, 2.0]), find_patience([100.0, 200.0, 90.0])
    (600.0, 1000.0)
    """
    known = list(seconds)
    return max(least, TIMES_USUAL * statistics.median(known)) if known else least


def format_stacks() -> str:
    """Say what every thread of this process is doing, innermost call last."""
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    parts = []
    for ident, frame in sys._current_frames().items():
        if ident == threading.get_ident():
            continue
        lines = traceback.format_stack(frame)[-_FRAMES:]
        parts.append(f"thread {names.get(ident, ident)}:\n{''.join(lines).rstrip()}")
    return "\n".join(parts)

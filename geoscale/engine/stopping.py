"""Stopping in order: whether a run is to begin no more blocks, and why.

What is being made is finished and recorded. Nothing depends on that: a run that is
killed instead loses the blocks in flight and goes on all the same.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable

MARGIN_S = 5.0
"""What ending takes beside the blocks: the last records, closing workers, in s."""
NEAR = "the deadline is near"
"""Why a run stops that has no time for another block."""
SHARE = 0.95
"""Part of the recent blocks that took no longer than a block is held to take."""


class Stop:
    """Asked before each block whether to begin it.

    Parameters
    ----------
    after_s : float, optional
        Seconds from now in which the run has to end; default: any time.
    clock : callable
        Seconds that pass; the time of day is not asked.

    Examples
    --------
    >>> stop = Stop()
    >>> stop.go_on()
    True
    >>> stop.ask("SIGTERM")
    >>> stop.go_on(), stop.reason
    (False, 'SIGTERM')
    """

    def __init__(
        self, after_s: float | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._due = None if after_s is None else clock() + after_s
        self._seconds: deque[float] = deque(maxlen=200)
        self._waves = 1
        self.reason = ""
        """Why no block is begun any more; empty while they are."""

    def ask(self, reason: str) -> None:
        """Begin no more blocks; safe in a signal handler."""
        self.reason = self.reason or reason

    def queue(self, waves: int) -> None:
        """Say how many blocks follow each other once they were handed out."""
        self._waves = max(1, waves)

    def note(self, seconds: float) -> None:
        """Learn how long a block took, in s."""
        self._seconds.append(seconds)

    def go_on(self) -> bool:
        """Whether to begin another block.

        Returns
        -------
        bool
            False for good, once asked to stop or once a block of usual length would
            end after the deadline.
        """
        if self.reason:
            return False
        if self._due is not None and self._clock() + self._needed() > self._due:
            self.reason = NEAR
        return not self.reason

    def _needed(self) -> float:
        usual = sorted(self._seconds)
        longest = usual[math.ceil(SHARE * len(usual)) - 1] if usual else 0.0
        return MARGIN_S + self._waves * longest

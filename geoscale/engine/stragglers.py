"""Tasks that take far too long: after what time, and who shall make their blocks too.

A process that hangs, or a host that is slow, would hold up the end of a run. Its
tasks are sent to another worker as well; whichever ends first counts, and what the
other writes later are the same bytes. Nothing here knows Dask.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from geoscale.engine.runs import Run

SLOW_S = 30.0
"""Least time that a task is given, in s."""
TIMES_USUAL = 3.0
"""Tasks of usual length that this time must at least be."""
LEAST_BLOCKS = 10
"""Blocks that must have ended before anything is known of the usual."""
SHARE = 0.5
"""Part of the blocks that must have ended: until then no worker is idle."""
COPIES = 2
"""Further workers that a task is sent to, at most."""


@dataclass(slots=True, eq=False)
class Sent:
    """A run of blocks that is under way, on one worker or on several."""

    run: Run
    """The blocks."""
    since: float
    """When it was sent last, in seconds of a monotonic clock."""
    tasks: set[Any] = field(default_factory=set)
    """Those that may still end."""
    copies: int = 0
    """How often it was sent again."""
    is_over: bool = False
    """Whether its blocks have been counted."""


class Patience:
    """How long a task may take.

    Parameters
    ----------
    least : float
        Never less, in s.

    Examples
    --------
    >>> patience = Patience()
    >>> patience.expect(20)
    >>> for _ in range(10):
    ...     patience.note(25.0, blocks=1)
    >>> patience.seconds
    75.0
    """

    def __init__(self, least: float = SLOW_S) -> None:
        self._least = least
        self._lengths: deque[float] = deque(maxlen=101)
        self._ended = 0
        self._all = 0

    def expect(self, blocks: int) -> None:
        """Learn how many blocks are to be made, beside those that have ended."""
        self._all = max(self._all, self._ended + blocks)

    def note(self, seconds: float, blocks: int) -> None:
        """Learn how long a task took until its blocks had ended, in s."""
        self._lengths.append(seconds)
        self._ended += blocks

    @property
    def lengths(self) -> deque[float]:
        """What recent tasks took, in s."""
        return self._lengths

    @property
    def usual(self) -> float:
        """Median of recent tasks, in s; 0 before the first."""
        return statistics.median(self._lengths) if self._lengths else 0.0

    @property
    def seconds(self) -> float | None:
        """After what time a task is late, in s; None while that cannot be told."""
        if self._ended < max(LEAST_BLOCKS, SHARE * self._all):
            return None
        return max(self._least, TIMES_USUAL * self.usual)

    def find_late(self, sent: Iterable[Sent], now: float) -> list[Sent]:
        """Choose what is to be sent to another worker, oldest first.

        Parameters
        ----------
        sent : iterable of Sent
            Under way.
        now : float
            By the clock of `Sent.since`, in s.

        Returns
        -------
        list of Sent
            Late, and not sent to too many workers yet.
        """
        limit = self.seconds
        if limit is None:
            return []
        late = [
            one
            for one in sent
            if not one.is_over and one.copies < COPIES and now - one.since > limit
        ]
        return sorted(late, key=lambda one: one.since)

    def describe(self, late: Iterable[Sent], workers: Iterable[str]) -> str:
        """Say what is late, and where.

        Parameters
        ----------
        late : iterable of Sent
            What is sent once more.
        workers : iterable of str
            Those that have it.

        Returns
        -------
        str
            One line.
        """
        numbers = sorted(n for one in late for n in one.run.blocks)
        what = f"block {numbers[0]} takes"
        if len(numbers) > 1:
            what = f"{len(numbers)} blocks ({numbers[0]} to {numbers[-1]}) take"
        return (
            f"{what} longer than {self.seconds or 0:.0f} s on "
            f"{', '.join(sorted(workers))} (usual: {self.usual:.1f} s); another worker "
            "makes the same, and whichever ends first counts"
        )

"""Epochs: many blocks shown at once, and recorded once they are shown.

The order is commit, then records. A kill before the commit loses the epoch, whose
blocks are computed again; a kill between the two leaves blocks that are shown and not
recorded: they are computed again, too, and committed with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from geoscale.engine.journal import Journal
from geoscale.faults import point
from geoscale.types import EpochSink, Json, Outcome

EPOCH_BLOCKS = 4096
"""Blocks that are committed together, at most: some 500 bytes of each are held."""


class EpochJournal(Journal):
    """A journal whose records wait until the sink has committed their blocks.

    Parameters
    ----------
    url : str
        The output.
    sink : EpochSink
        The driver's; nobody else commits.
    seconds : float
        Time of an epoch, at most, in s.
    blocks : int
        Blocks of an epoch, at most.
    clock : callable
        Seconds, for flushing only; nothing is decided by it.
    """

    def __init__(
        self,
        url: str,
        sink: EpochSink,
        *,
        seconds: float,
        blocks: int = EPOCH_BLOCKS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(url, clock)
        self._sink, self._blocks, self._seconds = sink, blocks, seconds
        self._changes: list[bytes] = []

    def add(self, outcome: Outcome) -> None:
        """Note how a block ended; shown and stored with the next flush."""
        if outcome.changes:
            self._changes.append(outcome.changes)
        super().add(outcome)

    def flush(self) -> None:
        """Commit what is pending, then store its records."""
        if self._changes:
            point("commit.before")
            self._sink.commit(self._changes, f"{len(self._changes)} blocks")
            point("commit.after")
            self._changes.clear()
        super().flush()

    def tell(self, progress: Callable[[], Json]) -> None:
        """Store where this driver stands, after a commit; this hastens none."""
        if not self._pending:
            super().tell(progress)

    def _is_due(self, records: int, age: float) -> bool:
        return records >= self._blocks or age > self._seconds

"""Which blocks make one task: runs of neighbours while blocks are short.

A scheduler passes some hundred tasks a second. Where blocks are short, one
task therefore carries a run of blocks that follow each other in the plan,
which also share decoded tiles of the source. Nothing here knows Dask.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

TASK_S = 1.5
"""Length to aim at for one task, in s: long beside its dispatch, short to lose."""
LATEST_S = 2.0
"""Age at which a task begins no further block, in s; the rest goes back."""
LONGEST = 64
"""Blocks that one task may carry."""
SHARE = 4
"""Tasks that must be left for each slot: the last blocks are spread evenly."""
TASKS_PER_S = 200
"""What a scheduler passes with ease: to spread finer would take longer."""
_WEIGHT = 1 / 16
"""Of the newest block in the running mean."""


@dataclass(frozen=True, slots=True)
class Run:
    """Blocks of one task, in the order in which they are run."""

    blocks: tuple[int, ...]
    """Numbers in the plan."""
    attempt: int = 1
    """Which try this is, for every one of them."""
    where: str | None = None
    """Worker that is to have it; None leaves the choice to the scheduler."""


class Pace:
    """How long blocks take, and so how many of them make one task.

    Parameters
    ----------
    longest : int
        Blocks that one task may carry; 1 gives every block its own.
    """

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._mean: float | None = None

    @property
    def seconds(self) -> float | None:
        """Running mean of one block, in s; None before the first."""
        return self._mean

    def note(self, seconds: float) -> None:
        """Learn how long a worker took for one block, in s, queues left out."""
        if self._mean is None:
            self._mean = seconds
        self._mean += _WEIGHT * (seconds - self._mean)

    def length(self, left: int, slots: int) -> int:
        """Choose how many blocks the next task carries.

        Parameters
        ----------
        left : int
            Blocks that no task has yet.
        slots : int
            Blocks that the cluster works on at a time.

        Returns
        -------
        int
            1 until a block has ended, and where blocks are slow.
        """
        if self._mean is None:
            return 1
        mean = max(self._mean, 1e-6)
        fair = max(left // (slots * SHARE), int(slots / TASKS_PER_S / mean))
        return max(1, min(int(TASK_S / mean), self._longest, fair))


class FirstTries:
    """Blocks that were never tried: runs of neighbours, wherever there is room.

    Parameters
    ----------
    blocks : iterable of int
        In plan order.
    pace : Pace
        Chooses the lengths.
    per_worker : int
        Blocks that a worker works on at a time.
    """

    def __init__(self, blocks: Iterable[int], pace: Pace, per_worker: int) -> None:
        self._todo = deque(blocks)
        self._pace = pace
        self._per_worker = per_worker

    def take(self, workers: Mapping[str, int], running: Sequence[Run]) -> list[Run]:
        """Give the runs there is room for: all that can work, and one more each."""
        count = max(1, len(workers))
        slots = sum(min(n, self._per_worker) for n in workers.values()) or 1
        found = []
        for _ in range(count * (self._per_worker + 1) - len(running)):
            if not self._todo:
                break
            length = self._pace.length(len(self._todo), slots)
            size = min(length, len(self._todo))
            found.append(Run(tuple(self._todo.popleft() for _ in range(size))))
        return found

    @property
    def is_left(self) -> bool:
        """Whether some have no task."""
        return bool(self._todo)

    def put_back(self, run: Run, begun: int) -> None:
        """Take back the blocks of a run that were not begun."""
        self._todo.extendleft(reversed(run.blocks[begun:]))


class Retries:
    """Blocks that failed or were lost: alone in a task, and alone on a worker.

    If that worker dies, the block was the only one it can have died of.

    Parameters
    ----------
    blocks : iterable of (int, int)
        Number and attempt.
    """

    def __init__(self, blocks: Iterable[tuple[int, int]]) -> None:
        self._todo = deque(blocks)

    def take(self, workers: Mapping[str, int], running: Sequence[Run]) -> list[Run]:
        """Give one block to each worker that has none."""
        busy = {run.where for run in running}
        free: list[str | None] = [name for name in workers if name not in busy]
        if not workers and not running:
            free = [None]  # the scheduler keeps it until a worker comes
        pairs = self._pop(len(free))
        return [
            Run((number,), attempt, where)
            for where, (number, attempt) in zip(free, pairs, strict=False)
        ]

    @property
    def is_left(self) -> bool:
        """Whether some have no task."""
        return bool(self._todo)

    def put_back(self, run: Run, begun: int) -> None:
        """Take back a block that was not begun."""
        self._todo.extendleft((n, run.attempt) for n in run.blocks[begun:])

    def _pop(self, count: int) -> list[tuple[int, int]]:
        return [self._todo.popleft() for _ in range(min(count, len(self._todo)))]

"""A run as a batch job: a deadline that holds, and exit codes that a script can follow.

75 means that the same command would go on, and only comes where this run has made a
block: a job that is queued again for it cannot go round for ever.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from geoscale.cli.say import say
from geoscale.ending import STOPPED
from geoscale.engine.stopping import NEAR

if TYPE_CHECKING:
    from geoscale.ending import RunReport
    from geoscale.engine.drive import Progress, Tally
    from geoscale.types import Outcome

NOTHING_MADE = 4
"""Exit code where nothing was made until the deadline."""
ENDS_S = 15.0
"""Seconds after the deadline in which a cluster may end, before the process is left."""


class TimeUpError(BaseException):
    """The deadline is over; no error that anything may catch and go on.

    Nor a KeyboardInterrupt: one that passes through code that a library runs from C
    lets Python end by a signal, whoever has caught it.
    """


class Watch:
    """Knows whether a run has made a block, and holds its deadline.

    Parameters
    ----------
    due_s : float, optional
        Seconds from now in which the run is to be over.
    """

    def __init__(self, due_s: float | None) -> None:
        self._due_s = due_s
        self._computed = False

    @property
    def code(self) -> int:
        """Exit code of a run that was cut off."""
        return STOPPED if self._computed else NOTHING_MADE

    def follow(self, progress: Progress) -> Progress:
        """Pass on how a run proceeds, and see whether it has made a block."""

        def note(tally: Tally, outcome: Outcome | None) -> None:
            """See whether a block was made."""
            self._computed = self._computed or tally.computed > 0
            progress(tally, outcome)

        return note

    @contextmanager
    def held(self) -> Iterator[None]:
        """End what runs here at the deadline, blocks in flight or not.

        Yields
        ------
        None
            While the deadline is held.
        """
        if self._due_s is None:
            yield
            return
        last = threading.Timer(self._due_s + ENDS_S, self._leave)
        last.daemon = True
        before = signal.signal(signal.SIGALRM, self._cut)
        signal.setitimer(signal.ITIMER_REAL, self._due_s)
        last.start()
        try:
            yield
        except TimeUpError:
            say(self._explain(), err=True)
            raise typer.Exit(self.code) from None
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)
            last.cancel()

    def end(self, report: RunReport, shard: tuple[int, int] | None) -> int:
        """Exit code of a run that has ended by itself."""
        code = report.exit_code
        if report.stopped == NEAR and code == STOPPED and not self._computed:
            say(self._explain(), err=True)
            return NOTHING_MADE
        is_whole = not (report.stopped or report.quarantined or report.damaged)
        if shard is not None and code == 3 and is_whole:
            say(f"part {shard[0]} of {shard[1]} is done; others are not yet")
            return 0
        return code

    def _explain(self) -> str:
        if self._computed:
            return "the deadline is over: blocks in flight were left, the rest is kept"
        return (
            "error: nothing was finished before the deadline, so the same again would "
            "not help: a block, or the end of the map, takes longer than the job has. "
            "Give it more wall time, or choose smaller blocks (`inference.block`)"
        )

    def _cut(self, *_: Any) -> None:
        raise TimeUpError

    def _leave(self) -> None:
        # whatever hangs: what is stored is whole, and what is not is made again
        os.write(sys.stderr.fileno(), f"\n{self._explain()}\n".encode())
        os._exit(self.code)

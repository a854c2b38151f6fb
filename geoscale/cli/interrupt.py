"""Signals: Ctrl-C leaves the blocks in flight, SIGTERM and SIGUSR1 finish them.

Batch systems send the latter some time before they kill. A second signal of any kind
ends the process at once; nothing is lost either way.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import TYPE_CHECKING

import typer

from geoscale.cli.say import INTERRUPTED, say

if TYPE_CHECKING:
    from geoscale.engine.stopping import Stop


@contextmanager
def interruptible(goes_on: str, stop: Stop | None = None) -> Iterator[None]:
    """Stop on SIGINT, SIGTERM or SIGUSR1; a second one ends the process.

    Parameters
    ----------
    goes_on : str
        Said at the end: how to go on.
    stop : Stop, optional
        Asked to begin no more blocks by SIGTERM and SIGUSR1; without it SIGTERM is
        as SIGINT, and SIGUSR1 is left alone.

    Yields
    ------
    None
        While signals are handled.
    """
    seen: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        """Stop in order; at once where that was asked for before."""
        if seen:
            os._exit(INTERRUPTED)
        seen.append(number)
        if stop is not None and number != signal.SIGINT:
            _tell(b"\nno more blocks are begun; those in flight are finished\n")
            stop.ask(signal.Signals(number).name)
            return
        _tell(b"\nstopping, finished blocks are kept; Ctrl-C again leaves at once\n")
        raise KeyboardInterrupt

    numbers = [signal.SIGINT, signal.SIGTERM]
    if stop is not None and hasattr(signal, "SIGUSR1"):
        numbers.append(signal.SIGUSR1)
    before = {n: signal.signal(n, handle) for n in numbers}
    try:
        yield
    except KeyboardInterrupt:
        say(goes_on, err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _tell(line: bytes) -> None:
    # print is not to be called in a signal handler: it may hold a lock just now
    os.write(sys.stderr.fileno(), line)

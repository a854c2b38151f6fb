"""Ctrl-C: the first stops in order, the second at once."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer

from geoscale.cli.say import INTERRUPTED, say


@contextmanager
def interruptible(goes_on: str) -> Iterator[None]:
    """Stop in order on SIGINT or SIGTERM; a second one ends the process.

    Parameters
    ----------
    goes_on : str
        Said at the end: how to go on.

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
        os.write(
            sys.stderr.fileno(),
            b"\nstopping, finished blocks are kept; Ctrl-C again leaves at once\n",
        )
        raise KeyboardInterrupt

    before = {n: signal.signal(n, handle) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except KeyboardInterrupt:
        say(goes_on, err=True)
        raise typer.Exit(INTERRUPTED) from None
    finally:
        for number, old in before.items():
            signal.signal(number, old)

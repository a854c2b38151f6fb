"""Progress of a run: a bar on a terminal, else a line every few seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from geoscale.cli.say import say
from geoscale.durations import format_seconds
from geoscale.gauges import say_now

if TYPE_CHECKING:
    from geoscale.engine.drive import Progress, Tally
    from geoscale.types import Outcome

LINE_SECONDS = 5.0
"""Time between lines where there is no terminal, in s."""


@contextmanager
def show_progress(*, err: bool = False) -> Iterator[Progress]:
    """Give a function to be called after every block.

    Parameters
    ----------
    err : bool
        Write to stderr, since stdout is for a program.

    Yields
    ------
    callable
        Takes the tally and the last outcome.
    """
    stream = sys.stderr if err else sys.stdout
    if not stream.isatty():
        yield _Lines(err=err)
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        TextColumn("{task.completed:,.0f}/{task.total:,.0f} blocks"),
        TextColumn("{task.fields[rest]}"),
    )
    with Progress(*columns, console=Console(file=stream)) as bar:
        number = bar.add_task(
            "starting", total=None, completed=0, rest="", visible=False
        )

        def update(tally: Tally, outcome: Outcome | None) -> None:
            bar.update(
                number,
                description="starting" if outcome is None else "running",
                total=tally.total,
                completed=tally.done,
                rest=describe(tally, outcome),
                visible=True,
            )

        yield update


class _Lines:
    """One line now and then.

    Parameters
    ----------
    err : bool
        Write to stderr.
    """

    def __init__(self, *, err: bool) -> None:
        self._err = err
        self._last = time.monotonic()

    def __call__(self, tally: Tally, outcome: Outcome | None) -> None:
        """Say where the run stands, if it is time."""
        now = time.monotonic()
        failed = outcome is not None and not outcome.ok
        last = outcome is not None and tally.done >= tally.total
        if outcome is None or failed or last or now - self._last >= LINE_SECONDS:
            self._last = now
            line = f"{tally.done:,}/{tally.total:,} blocks"
            say(f"{line}  {describe(tally, outcome)}", err=self._err)
            if failed and outcome is not None:
                say(f"  failed: {outcome.error}", err=self._err)
            sys.stdout.flush()


def describe(tally: Tally, outcome: Outcome | None) -> str:
    """Speed, time left and failures.

    Parameters
    ----------
    tally : Tally
        Where the run stands.
    outcome : Outcome or None
        How the last block ended; None before the first.

    Returns
    -------
    str
        ``1.2 Mpx/s  ETA 3 min``.
    """
    if outcome is None:
        return "workers load the model" if tally.done < tally.total else "nothing left"
    seconds = tally.seconds
    parts = [f"{tally.pixels / 1e6 / seconds if seconds else 0:.2f} Mpx/s"]
    left = tally.total - tally.done - len(tally.quarantined)
    if left and tally.computed:
        parts.append(f"ETA {format_seconds(left * seconds / tally.computed)}")
    if tally.gpus:
        parts.append(say_now(tally.gpus.values()))
    if tally.failures:
        word = "failure" if tally.failures == 1 else "failures"
        parts.append(f"{tally.failures:,} {word}")
    if tally.quarantined:
        parts.append(f"{len(tally.quarantined):,} quarantined")
    return "  ".join(parts)

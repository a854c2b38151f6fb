"""A window of files read in strips, where there are more threads than files.

Strips ask for the same tiles as the whole window would, so they change no pixel.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from geoscale.sources.hrefs import Access
from geoscale.sources.missing import Task
from geoscale.sources.parallel import count_threads
from geoscale.sources.reading import read_bands
from geoscale.sources.targets import Into, Request
from geoscale.types import Bool
from geoscale.windows import Window

LEAST_ROWS = 256
"""Of a strip: a tile that two strips touch is decoded by one and waited for by the
other."""


def cut_rows(rows: int, files: int, *, remote: bool) -> list[slice]:
    """Cut a window's rows into as many strips as occupy the threads that read.

    Parameters
    ----------
    rows : int
        Of the window, in px.
    files : int
        Files that are read at once.
    remote : bool
        Whether over a network: then a file is read in as few requests as can be.

    Returns
    -------
    list of slice
        Without gaps, ascending.

    Examples
    --------
    >>> cut_rows(2048, 4, remote=True)
    [slice(0, 2048, None)]
    """
    parts = 1
    if not remote:
        free = count_threads(remote=False) // max(1, files)
        parts = max(1, min(free, rows // LEAST_ROWS))
    edges = [rows * i // parts for i in range(parts + 1)]
    return [slice(a, b) for a, b in pairwise(edges)]


def make_tasks(
    request: Request, window: Window, access: Access, into: Into, strips: list[slice]
) -> list[Task]:
    """Make the reads of one file, one for each strip.

    Parameters
    ----------
    request : Request
        What to read.
    window : Window
        Inside the target grid.
    access : Access
        How the file may be reached.
    into : Into
        Gets the pixels of the whole window.
    strips : list of slice
        As `cut_rows` gives them.

    Returns
    -------
    list of callable
        Each as `geoscale.sources.reading.read_bands`.
    """
    return [
        functools.partial(
            read_bands,
            request,
            Window(window.y0 + rows.start, window.x0, window.y0 + rows.stop, window.x1),
            access,
            Into([array[rows] for array in into.arrays], into.gains),
        )
        for rows in strips
    ]


def join(
    results: Sequence[Callable[[], Bool | None]],
    strips: Sequence[slice],
    shape: tuple[int, int],
) -> Callable[[], Bool | None]:
    """Put together where the strips of a file are valid.

    Parameters
    ----------
    results : sequence of callable
        Of the strips, as `make_tasks` made them.
    strips : sequence of slice
        Their rows.
    shape : tuple of int, (y, x)
        Of the window.

    Returns
    -------
    callable
        Waits for them; None where the file reaches into no strip.
    """
    if len(results) == 1:
        return results[0]

    def ask() -> Bool | None:
        """Ask in order, as the rows lie."""
        found = [result() for result in results]
        if all(good is None for good in found):
            return None
        valid = np.zeros(shape, bool)
        for rows, good in zip(strips, found, strict=True):
            if good is not None:
                valid[rows] = good
        return valid

    return ask

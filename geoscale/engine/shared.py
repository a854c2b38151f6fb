"""Scores of patches that lie across the edges of blocks, kept for the neighbours.

Where patches are blended, a patch at a block's edge gives to two blocks or four.
A process that runs neighbours after each other need not compute it again: the
same patch in a batch of the same shape has the same scores. What is not kept any
more is computed again, so nothing but time depends on it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict

from geoscale.memory import SHARED_BYTES
from geoscale.passes import Pass
from geoscale.types import Float
from geoscale.windows import Window

_Key = tuple[Pass, Window]


class SharedScores:
    """A bounded store of scores; the least recently used go first.

    Parameters
    ----------
    limit : int
        Most bytes; 0 keeps nothing.

    Examples
    --------
    >>> import numpy as np
    >>> kept = SharedScores(limit=100)
    >>> kept.keep((0,), Window(0, 0, 2, 2), np.ones((2, 2, 2), np.float32))
    >>> kept.take((0,), Window(0, 0, 2, 2)).sum()
    np.float32(8.0)
    >>> kept.take((1,), Window(0, 0, 2, 2)) is None
    True
    """

    def __init__(self, limit: int = SHARED_BYTES) -> None:
        self._limit = limit
        self._held: OrderedDict[_Key, Float] = OrderedDict()
        self._lock = threading.Lock()
        self.bytes = 0

    def take(self, steps: Pass, window: Window) -> Float | None:
        """Scores of a patch, (class, y, x); None where they are not kept.

        Parameters
        ----------
        steps : Pass
            Time steps of the stack that the network sees.
        window : Window
            The patch.

        Returns
        -------
        ndarray of float32 or None
            Not to be changed.
        """
        with self._lock:
            found = self._held.get((steps, window))
            if found is not None:
                self._held.move_to_end((steps, window))
            return found

    def keep(self, steps: Pass, window: Window, scores: Float) -> None:
        """Keep a copy of a patch's scores.

        Parameters
        ----------
        steps : Pass
            Time steps of the stack that the network sees.
        window : Window
            The patch.
        scores : ndarray of float32, (class, y, x)
            Of the whole patch.
        """
        if scores.nbytes > self._limit:
            return
        mine = scores.copy()  # a view would hold the whole batch
        mine.flags.writeable = False
        with self._lock:
            old = self._held.pop((steps, window), None)
            self.bytes += mine.nbytes - (0 if old is None else old.nbytes)
            self._held[steps, window] = mine
            while self.bytes > self._limit:
                _, gone = self._held.popitem(last=False)
                self.bytes -= gone.nbytes

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._held.clear()
            self.bytes = 0


def is_shared(window: Window, core: Window, shape: tuple[int, int]) -> bool:
    """Whether a patch gives to a block that comes after this one.

    Parameters
    ----------
    window : Window
        The patch; may reach past the stack.
    core : Window
        The block.
    shape : tuple of int, (y, x)
        Size of the stack, in px.

    Examples
    --------
    >>> is_shared(Window(0, 6, 4, 10), Window(0, 0, 8, 8), (8, 16))
    True
    >>> is_shared(Window(0, 6, 4, 10), Window(0, 0, 8, 8), (8, 8))
    False
    """
    below = core.y1 < min(window.y1, shape[0])
    right = core.x1 < min(window.x1, shape[1])
    return below or right

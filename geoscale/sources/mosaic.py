"""Putting the items of one time step together, the earlier ones on top."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from geoscale.types import Array, Bool


class Layer:
    """An item that is being put under those of its time step that came before.

    Parameters
    ----------
    item : int
        Number of the item.
    data : ndarray, (band, y, x)
        Pixels of the time step so far, 0 where not valid; anything before the first
        item was merged.
    valid : ndarray of bool, (y, x)
        Where there are any.
    """

    def __init__(self, item: int, data: Array, valid: Bool) -> None:
        self.item = item
        self._data, self._valid = data, valid
        self._is_first = not valid.any()
        # the first needs no copy, and mostly it is the only one
        self.got: Array = data if self._is_first else np.empty_like(data)

    def find_usable(self, results: Sequence[Callable[[], Bool | None]]) -> Bool:
        """Tell where this item gives pixels: all bands valid, none came before.

        Parameters
        ----------
        results : sequence of callable
            Validity of some bands, None where they do not reach into the
            window. Asked for in order, and only as long as it matters.

        Returns
        -------
        ndarray of bool
            (y, x).
        """
        usable: Bool = ~self._valid
        for result in results:
            good = result()
            if good is None:
                return np.zeros_like(usable)
            usable &= good
            if not usable.any():
                break
        return usable

    def merge(self, usable: Bool) -> None:
        """Take the pixels; nothing may write into `got` any more."""
        if not self._is_first:
            np.copyto(self._data, self.got, where=usable)
        elif not usable.all():
            np.copyto(self._data, 0, where=~usable)
        self._valid |= usable

"""Weights and the float32 accumulator of overlapping patches.

Contributions are added in lattice order, so a pixel's sum does not depend on
the block it was computed in.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from geoscale.spread import share_rows, spread
from geoscale.windows import Window

Taper = Literal["hann", "linear", "flat"]


def make_weights(shape: tuple[int, int], taper: Taper = "hann") -> NDArray[np.float32]:
    """Weights of one patch: highest in the middle, above 0 everywhere.

    Parameters
    ----------
    shape : tuple of int, (y, x)
        Size of the patch, in px.
    taper : {"hann", "linear", "flat"}
        Shape of the weights.

    Returns
    -------
    ndarray of float32, (y, x)
        Separable weights, at most 1.

    References
    ----------
    .. [1] Pielawski and Wählby 2020, "Introducing Hann windows for reducing
       edge-effects in patch-based image segmentation", PLOS ONE,
       doi:10.1371/journal.pone.0229839.

    Examples
    --------
    >>> make_weights((1, 4), "linear").tolist()
    [[0.25, 0.75, 0.75, 0.25]]
    """
    rows, columns = (_taper(n, taper) for n in shape)
    return (rows[:, None] * columns[None, :]).astype(np.float32)


def _taper(n: int, taper: Taper) -> NDArray[np.float64]:
    # Half-pixel centres keep the outermost weight above 0: at a corner of the
    # stack a single patch must still give the pixel its whole value.
    at = (np.arange(n) + 0.5) / n
    if n == 1 or taper == "flat":
        return np.ones(n)
    if taper == "hann":
        return np.asarray(np.sin(np.pi * at) ** 2)
    return np.asarray(1 - np.abs(2 * at - 1))


class Accumulator:
    """Weighted mean of scores over one block.

    Parameters
    ----------
    classes : int
        Length of the class axis.
    core : Window
        Pixels of the block.
    """

    def __init__(self, classes: int, core: Window) -> None:
        self._core = core
        self._sum = np.zeros((classes, *core.shape), np.float32)
        self._weight = np.zeros(core.shape, np.float32)

    def add(
        self,
        scores: NDArray[np.float32],
        weights: NDArray[np.float32],
        window: Window,
        gives: Window,
    ) -> None:
        """Add one patch.

        Parameters
        ----------
        scores : ndarray of float32, (class, y, x)
            Of the whole patch.
        weights : ndarray of float32, (y, x)
            Of the whole patch.
        window : Window
            Pixels of the patch.
        gives : Window
            The part inside the block.
        """
        inside, here = gives.within(window), gives.within(self._core)
        part = weights[inside]
        # class by class: a product of all classes is a large array, new every time
        scratch = np.empty(part.shape, np.float32)
        for total, plane in zip(self._sum, scores, strict=True):
            np.multiply(plane[inside], part, out=scratch)
            total[here] += scratch
        self._weight[here] += part

    def finish(self) -> NDArray[np.float32]:
        """Give the mean, (class, y, x); 0 where no patch came."""

        def work(rows: slice) -> None:
            """Divide some rows."""
            weight = self._weight[rows]
            np.copyto(weight, np.float32(1), where=weight == 0)
            for total in self._sum:
                total[rows] /= weight

        spread(work, share_rows(self._sum.shape[1], self._sum[:, 0].nbytes))
        return self._sum

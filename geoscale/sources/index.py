"""Which items touch which windows: a spatial index over their boxes.

Boxes and windows are in pixels of the output grid, half-open; a box may be infinite
where the place of an item is not known.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Bool, Ints
from geoscale.windows import Window

FEW = 256
"""Items that are looked through one by one."""

Boxes = NDArray[np.float64]
"""(n, 4): y0, x0, y1, x1."""


class BoxIndex:
    """Items of one time step.

    Parameters
    ----------
    boxes : ndarray of float64, (item, 4)
        Of all items of the source.
    members : sequence of int
        Numbers of those of this time step, in their order.
    shape : tuple of int, (y, x)
        Size of the output grid, in px.

    Examples
    --------
    >>> boxes = np.array([[0, 0, 10, 10], [10, 0, 20, 10.0]])
    >>> index = BoxIndex(boxes, [0, 1], (20, 10))
    >>> index.touching(Window(8, 0, 10, 10)).tolist()
    [0]
    >>> index.cells(np.array([0, 5, 12, 20]), np.array([0, 10])).ravel().tolist()
    [True, True, True]
    """

    def __init__(self, boxes: Boxes, members: Any, shape: tuple[int, int]) -> None:
        self._members = np.asarray(members, np.intp)
        self._boxes = boxes[self._members]
        self._shape = shape

    def touching(self, window: Window) -> Ints:
        """Numbers of the items that may touch a window, in their order."""
        box = np.array([window.as_tuple()], float)
        if len(self._members) <= FEW:
            return self._members[_overlap(box, self._boxes)]
        near = self._tree.query(self._to_shapes(box)[0])
        near.sort()
        found: Ints = self._members[near[_overlap(box, self._boxes[near])]]
        return found

    def match(self, boxes: Boxes) -> tuple[Ints, Ints]:
        """Pair many windows with the items that may touch them.

        Parameters
        ----------
        boxes : ndarray, (window, 4)
            Windows.

        Returns
        -------
        windows, items : ndarray of int, (pair,)
            Sorted by window, then in the order of the items.
        """
        windows, near = self._tree.query(self._to_shapes(boxes))
        good = _overlap(boxes[windows], self._boxes[near])
        windows, near = windows[good], near[good]
        order = np.lexsort((near, windows))
        return windows[order], self._members[near[order]]

    def cells(self, ys: Ints, xs: Ints) -> Bool:
        """Tell which cells of a lattice any item may touch.

        Parameters
        ----------
        ys, xs : ndarray of int
            Edges of the cells, ascending.

        Returns
        -------
        ndarray of bool
            (len(ys) - 1, len(xs) - 1).
        """
        # +1 where a box begins and -1 past where it ends: running sums count boxes
        rows, columns = len(ys) - 1, len(xs) - 1
        count = np.zeros((rows + 1, columns + 1), np.int64)
        i0, i1 = _span(ys, self._boxes[:, 0], self._boxes[:, 2])
        j0, j1 = _span(xs, self._boxes[:, 1], self._boxes[:, 3])
        some = (i0 < i1) & (j0 < j1)
        i0, i1, j0, j1 = (n[some] for n in (i0, i1, j0, j1))
        for i, j, sign in ((i0, j0, 1), (i1, j1, 1), (i0, j1, -1), (i1, j0, -1)):
            np.add.at(count, (i, j), sign)
        touched: Bool = count.cumsum(0).cumsum(1)[:rows, :columns] > 0
        return touched

    @functools.cached_property
    def _tree(self) -> Any:
        import shapely

        return shapely.STRtree(self._to_shapes(self._boxes))

    def _to_shapes(self, boxes: Boxes) -> Any:
        import shapely

        height, width = self._shape
        y0, y1 = (np.clip(boxes[:, k], -1, height + 1) for k in (0, 2))
        x0, x1 = (np.clip(boxes[:, k], -1, width + 1) for k in (1, 3))
        # a diagonal has the same bounds as its box, at a fifth less memory
        ends = np.stack([x0, y0, x1, y1], axis=1).reshape(-1, 2, 2)
        return shapely.linestrings(ends)


def _overlap(windows: Boxes, boxes: Boxes) -> Bool:
    a, b = windows.T, boxes.T
    found: Bool = (b[0] < a[2]) & (a[0] < b[2]) & (b[1] < a[3]) & (a[1] < b[3])
    return found


def _span(
    edges: Ints, low: NDArray[np.float64], high: NDArray[np.float64]
) -> tuple[Ints, Ints]:
    """First cell that each interval touches, and the one past the last."""
    # cell k is edges[k] to edges[k + 1]; it is touched if low < its end and its
    # begin < high
    first = np.searchsorted(edges[1:], low, side="right")
    last = np.searchsorted(edges[:-1], high, side="left")
    return first, np.maximum(first, last)

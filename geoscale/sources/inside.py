"""Which pixels lie inside a polygon: by the middle of each, whatever the window."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from geoscale.types import Bool, Floats
from geoscale.windows import Window

CELLS_PX = (256, 32)
"""Heights and widths of the squares that are asked about whole, then in parts."""

# A prepared geometry makes its index at the first question.
_asking = threading.Lock()


def find_inside(polygon: Any, window: Window) -> Bool:
    """Tell for each pixel whether its middle lies in a polygon.

    Every pixel is decided by itself, so that the answer does not depend on the
    window; burning a polygon by GDAL rounds relative to the window's corner.

    Parameters
    ----------
    polygon : shapely geometry
        In pixels of the grid, prepared; its border is outside.
    window : Window
        Pixels that are asked about.

    Returns
    -------
    ndarray of bool, (y, x)
        True inside.

    Examples
    --------
    >>> import shapely
    >>> find_inside(shapely.box(0.5, 0, 3, 9), Window(0, 0, 1, 4)).tolist()
    [[False, True, True, False]]
    """
    import shapely

    inside = np.zeros(window.shape, bool)
    cells = [window]
    with _asking:
        for size in CELLS_PX:
            cells = _cut(cells, size)
            boxes = _middles(cells)
            full = shapely.contains_properly(polygon, boxes)
            for cell in np.array(cells, object)[full]:
                inside[cell.within(window)] = True
            mixed = ~full & shapely.intersects(polygon, boxes)
            cells = list(np.array(cells, object)[mixed])
        for cell in cells:
            xs, ys = np.meshgrid(
                np.arange(cell.x0, cell.x1) + 0.5, np.arange(cell.y0, cell.y1) + 0.5
            )
            inside[cell.within(window)] = shapely.contains_xy(polygon, xs, ys)
    return inside


def _cut(windows: list[Window], size: int) -> list[Window]:
    return [
        Window(y, x, min(y + size, w.y1), min(x + size, w.x1))
        for w in windows
        for y in range(w.y0, w.y1, size)
        for x in range(w.x0, w.x1, size)
    ]


def _middles(cells: list[Window]) -> Any:
    """Boxes from the middle of the first pixel to that of the last."""
    import shapely

    corners: Floats = np.array(
        [(c.x0, c.y0, c.x1, c.y1) for c in cells], np.float64
    ).reshape(-1, 4)
    x0, y0, x1, y1 = corners.T
    return shapely.box(x0 + 0.5, y0 + 0.5, x1 - 0.5, y1 - 0.5)

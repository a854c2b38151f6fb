"""Levels of an output: the map and its overviews, each read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.sinks.layout import load_template, open_output
from geoscale.storage import Folder
from geoscale.template import OutputTemplate
from geoscale.types import Array
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_STEP = 2048


@dataclass(frozen=True, slots=True)
class Level:
    """The map at one resolution."""

    factor: int
    """1, 2, 4…: how much coarser than the map it is."""
    template: OutputTemplate
    """What is stored at this level."""
    data: Any
    """Its lazy dataset."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in px."""
        return self.template.shape

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape."""
        return self.template.geobox

    def read(self, layer: str, time: int, window: Window, step: int = 1) -> Array:
        """Read a window of a layer, (y, x).

        Parameters
        ----------
        layer : str
            Name of the layer.
        time : int
            Number of the time step.
        window : Window
            Pixels of this level.
        step : int
            Take every n-th row and column.

        Returns
        -------
        ndarray
            Classes as stored, quantised layers as floats with NaN.
        """
        rows = slice(window.y0, window.y1, step)
        columns = slice(window.x0, window.x1, step)
        values: Array = np.asarray(self.data[layer][time, rows, columns].values)
        return values

    def step(self, max_px: int) -> int:
        """Every how many pixels must be taken to stay below `max_px`."""
        rows, columns = self.shape
        return max(1, int(np.ceil(np.sqrt(rows * columns / max_px))))

    def sample(self, layer: str, time: int, max_px: int) -> Array:
        """Read a layer whole, thinned out where it is too large.

        Parameters
        ----------
        layer : str
            Name of the layer.
        time : int
            Number of the time step.
        max_px : int
            Most pixels of the result.

        Returns
        -------
        ndarray, (y, x)
            Every n-th pixel.
        """
        rows, columns = self.shape
        step = self.step(max_px)
        # a multiple of the step, so that strips join without a jump
        high = max(1, _STEP // step) * step
        strips = [
            self.read(layer, time, Window(y, 0, min(y + high, rows), columns), step)
            for y in range(0, rows, high)
        ]
        return np.concatenate(strips)


def open_levels(url: str) -> list[Level]:
    """Open the map and its overviews, finest first; no pixel is read.

    Parameters
    ----------
    url : str
        An output, finished or not.

    Returns
    -------
    list of Level
        At least one.
    """
    levels = [Level(1, load_template(url), open_output(url))]
    names = [n for n in Folder(f"{url}/overviews").names() if n.isdigit()]
    for factor in sorted(int(n) for n in names):
        group = f"overviews/{factor}"
        template = load_template(f"{url}/{group}")
        levels.append(Level(factor, template, open_output(url, group=group)))
    return levels


def pick_level(levels: list[Level], max_px: int) -> Level:
    """Finest level of at most so many pixels, else the coarsest."""
    fits = [one for one in levels if one.shape[0] * one.shape[1] <= max_px]
    return fits[0] if fits else levels[-1]

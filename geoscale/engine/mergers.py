"""What becomes of the scores of patches: blended, put side by side, or layers at once.

Used by one thread, which gives patches in lattice order.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from geoscale.blend import Accumulator, Taper, make_weights
from geoscale.patches import Patch
from geoscale.types import Array, Bool, Float, Task
from geoscale.windows import Window


class Merger(Protocol):
    """Takes the scores of a block's patches."""

    phase: str
    """Under what its time is counted."""

    def add(self, patch: Patch, scores: Float) -> None:
        """Take a patch's scores, (class, y, x); they may be changed later."""
        ...


class Blended:
    """Weighted mean of all patches at a pixel.

    Parameters
    ----------
    classes : int
        Length of the class axis.
    core : Window
        Pixels of the block.
    patch : tuple of int, (y, x)
        Size of a patch, in px.
    taper : str
        Shape of the weights.
    """

    phase = "merge"

    def __init__(
        self, classes: int, core: Window, patch: tuple[int, int], taper: Taper
    ) -> None:
        self._mixed = Accumulator(classes, core)
        self._weights = make_weights(patch, taper)

    def add(self, patch: Patch, scores: Float) -> None:
        """Add a patch."""
        self._mixed.add(scores, self._weights, patch.window, patch.gives)

    def finish(self) -> Float:
        """Scores of the block, (class, y, x); 0 where no patch came."""
        return self._mixed.finish()


class Cropped:
    """Middles of patches side by side.

    Parameters
    ----------
    classes : int
        Length of the class axis.
    core : Window
        Pixels of the block.
    wanted : sequence of Patch
        What will come.
    """

    phase = "merge"

    def __init__(self, classes: int, core: Window, wanted: Sequence[Patch]) -> None:
        # what no patch gives is 0; where all are run there is no such pixel, and
        # clearing it would take as long as filling it
        whole = sum(p.gives.size for p in wanted) == core.size
        make = np.empty if whole else np.zeros
        self._core = core
        self._scores: Float = make((classes, *core.shape), np.float32)

    def add(self, patch: Patch, scores: Float) -> None:
        """Copy the middle of a patch."""
        here = (slice(None), *patch.gives.within(self._core))
        self._scores[here] = scores[(slice(None), *patch.gives.within(patch.window))]

    def finish(self) -> Float:
        """Scores of the block, (class, y, x); 0 where no patch came."""
        return self._scores


class Layered:
    """Layers of middles of patches, made of each while it is in the cache.

    The scores of a whole block, several times what is stored of it, are never there.

    Parameters
    ----------
    task : Task
        Finishes scores, pixel by pixel.
    core : Window
        Pixels of the block.
    keep : ndarray of bool, (y, x)
        Pixels of the core that get a value; a patch comes for each of them.

    Attributes
    ----------
    layers : dict of ndarray
        One array per layer, (y, x) or (class, y, x).
    """

    phase = "finish"

    def __init__(self, task: Task, core: Window, keep: Bool) -> None:
        self._task, self._core, self._keep = task, core, keep
        self.layers: dict[str, Array] = {
            layer.name: np.full(
                layer.block_shape(core.shape), layer.fill_value, layer.dtype
            )
            for layer in task.layers
        }

    def add(self, patch: Patch, scores: Float) -> None:
        """Finish the middle of a patch."""
        here = patch.gives.within(self._core)
        middle = scores[(slice(None), *patch.gives.within(patch.window))]
        for name, part in self._task.finish(middle, self._keep[here]).items():
            self.layers[name][(..., *here)] = part

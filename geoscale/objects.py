"""Objects that a detector finds, and how they are passed.

One detection is four corners in pixels, a score and a class, be it upright or turned,
of whatever network. Masks come beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Array, Bool, Float, Floats, Ints, Json
from geoscale.windows import Window

LAYER = "detections"
"""Name under which plans list what is stored."""


@dataclass(frozen=True, slots=True)
class Mask:
    """Pixels of one object."""

    window: Window
    """Where they lie."""
    pixels: Bool
    """(y, x), True inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Detections of one patch, in its own pixels, those of best score first."""

    corners: Floats
    """(n, 4, 2), x and y of the corners, clockwise on the screen, in px."""
    scores: Float
    """(n,), in [0, 1]."""
    values: NDArray[np.int16]
    """(n,), values of their classes."""
    masks: tuple[Mask, ...] | None = None
    """By detection, where the card asks for outlines."""

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, which: Bool | Ints) -> Found:
        """Take some of them, by a mask or by numbers."""
        masks = None
        if self.masks is not None:
            numbers = np.arange(len(self))[which]
            masks = tuple(self.masks[i] for i in numbers.tolist())
        return Found(
            corners=self.corners[which],
            scores=self.scores[which],
            values=self.values[which],
            masks=masks,
        )


@runtime_checkable
class Detector(Protocol):
    """A model held by this process that finds objects in patches.

    What is found in a patch depends on that patch alone, not on those beside it.
    """

    @property
    def batch(self) -> int:
        """Patches per call; the engine fills the last call up to this number."""
        ...

    @property
    def model_id(self) -> str:
        """Hash of the loaded weights."""
        ...

    def detect(self, patches: Float) -> Sequence[Found]:
        """Run a batch: float32 (n, channel, y, x) → what is in each."""
        ...

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        ...


def corners_of(boxes: Array) -> Floats:
    """Give the corners of upright boxes.

    Parameters
    ----------
    boxes : ndarray, (n, 4)
        Least x and y, greatest x and y, in px.

    Returns
    -------
    ndarray of float64, (n, 4, 2)
        x and y, clockwise on the screen from the upper left.
    """
    wide = np.asarray(boxes, np.float64)
    found: Floats = wide[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return found


def turned_corners(boxes: Array) -> Floats:
    """Give the corners of oriented boxes.

    Parameters
    ----------
    boxes : ndarray, (n, 5)
        Middle x and y, width, height in px, and angle in radians: from the x axis
        clockwise on the screen to the side that is called width.

    Returns
    -------
    ndarray of float64, (n, 4, 2)
        x and y, clockwise on the screen.
    """
    x, y, width, height, angle = np.asarray(boxes, np.float64).T
    cos, sin = np.cos(angle), np.sin(angle)
    along = np.stack([cos * width, sin * width], -1) / 2
    across = np.stack([-sin * height, cos * height], -1) / 2
    middle = np.stack([x, y], -1)
    sides = [-along - across, along - across, along + across, across - along]
    found: Floats = np.stack([middle + side for side in sides], 1)
    return found


def is_upright(corners: Floats) -> Bool:
    """Tell which boxes have sides along the axes, (n,)."""
    first, second, third, fourth = (corners[:, i] for i in range(4))
    level = (first[:, 1] == second[:, 1]) & (third[:, 1] == fourth[:, 1])
    plumb = (second[:, 0] == third[:, 0]) & (fourth[:, 0] == first[:, 0])
    found: Bool = level & plumb
    return found

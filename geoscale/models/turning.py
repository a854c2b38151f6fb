"""Test-time augmentation: the mean of what a network says of a patch, turned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geoscale.types import Float, Json

if TYPE_CHECKING:
    from geoscale.models.runtimes import AnyPredictor

Turn = tuple[int, bool]

_Y, _X = 2, 3


def _turns(quarters: tuple[int, ...], mirrored: tuple[bool, ...]) -> tuple[Turn, ...]:
    return tuple((k, flip) for flip in mirrored for k in quarters)


TURNS: dict[str, tuple[Turn, ...]] = {
    "flips": ((0, False), (2, False), (0, True), (2, True)),
    "rotations": _turns((0, 1, 2, 3), (False,)),
    "all": _turns((0, 1, 2, 3), (False, True)),
}
"""Name → quarters by which patches are rotated, and whether they are mirrored before;
half a turn of a mirror image is the other mirror image."""


def turn(x: Float, how: Turn) -> Float:
    """Mirror along x if asked, then rotate by quarters.

    Parameters
    ----------
    x : ndarray of float32, (n, channel, y, x)
        Patches.
    how : tuple of int and bool
        One of `TURNS`.

    Returns
    -------
    ndarray of float32
        Contiguous.
    """
    quarters, mirrored = how
    turned = np.rot90(np.flip(x, _X) if mirrored else x, quarters, (_Y, _X))
    return np.ascontiguousarray(turned)


def turn_back(x: Float, how: Turn) -> Float:
    """Undo `turn`, exactly; a view."""
    quarters, mirrored = how
    back = np.rot90(x, -quarters, (_Y, _X))
    return np.flip(back, _X) if mirrored else back


class TurnedPredictor:
    """A predictor whose scores are means over turned patches.

    Each turn is a batch of the same shape, in a fixed order, so that the same patches
    give the same bytes. It keeps no blocks on a device.

    Parameters
    ----------
    predictor : TorchPredictor, OnnxPredictor or OpenvinoPredictor
        Runs the network; others may use it as it is meanwhile.
    turns : str
        A key of `TURNS`.
    """

    def __init__(self, predictor: AnyPredictor, turns: str) -> None:
        self._predictor, self._turns = predictor, turns

    @property
    def batch(self) -> int:
        """Patches per call."""
        return self._predictor.batch

    @property
    def model_id(self) -> str:
        """sha256 of the weights file."""
        return self._predictor.model_id

    @property
    def device_name(self) -> str:
        """Name of the device for logs and locks."""
        return self._predictor.device_name

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        return self._predictor.describe() | {"tta": self._turns}

    def predict(self, patches: Float) -> Float:
        """Run patches, each as often as there are turns.

        Parameters
        ----------
        patches : ndarray of float32, (n, channel, y, x)
            Finite; square, where they are rotated.

        Returns
        -------
        ndarray of float32, (n, class, y, x)
            Means of the scores.

        Raises
        ------
        CardError, BlockError, DeviceLostError
            As `HeldPredictor.predict` does.
        """
        turns, total = TURNS[self._turns], None
        for how in turns:
            scores = turn_back(self._predictor.predict(turn(patches, how)), how)
            if total is None:
                total = np.array(scores, np.float32)
            else:
                total += scores
        assert total is not None
        # a power of two: nothing is rounded
        total *= np.float32(1 / len(turns))
        return total

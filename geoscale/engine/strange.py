"""How far the pixels of a block are from those that the network was trained on."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from geoscale.passes import BlockTask
from geoscale.types import Json, Pixels

if TYPE_CHECKING:
    from geoscale.engine.block import Kernel

STEP = 8
"""Every so many pixels along both sides of a block are looked at."""
STRANGE = 3.0
"""Standard deviations from which a block counts as strange."""
FIRST = 4
"""Blocks that are waited for before a run warns."""

_LOG = logging.getLogger(__name__)


def warn_if_strange(done: int, strange: int, total: int) -> None:
    """Warn once, where the first blocks of a run are all strange.

    Parameters
    ----------
    done : int
        Blocks made by this run.
    strange : int
        Those of them that are.
    total : int
        Blocks that are to be made.
    """
    if done == strange == min(FIRST, total):
        _LOG.warning(
            "all of the first %d blocks lie more than %g standard deviations from the "
            "pixels that the network was trained on: their units or bands may be "
            "wrong; `geoscale plan JOB --check-values` names the likely mistake",
            done, STRANGE,
        )  # fmt: skip


class Strangeness:
    """Distance of a block's mean from the card's, in standard deviations.

    Root mean square over the channels; where several dates are read one after the
    other, of the strangest. Nothing is told where a card states no statistics.

    Parameters
    ----------
    kernel : Kernel
        Says how pixels are normalised.
    task : BlockTask
        Which block.
    """

    def __init__(self, kernel: Kernel, task: BlockTask) -> None:
        self._prepare, self._task = kernel.prepare, task
        known, change = kernel.prepare.on_device, kernel.plan.change
        # statistics of the job itself are no training data
        trained = change is None or not change.needs_no_model
        self._known = trained and known is not None and known.mean is not None
        self._far: float | None = None

    def add(self, pixels: Pixels) -> None:
        """Look at what was read for one pass."""
        if not self._known:
            return
        ys, xs = self._task.core.within(self._task.read)
        some = (..., slice(ys.start, ys.stop, STEP), slice(xs.start, xs.stop, STEP))
        x, usable = self._prepare.prepare(pixels.data[some], pixels.valid[some])
        if not usable.any():
            return
        mean = x[:, usable].mean(axis=1, dtype=np.float64)
        far = float(np.sqrt((mean**2).mean()))
        self._far = far if self._far is None else max(far, self._far)

    def tell(self) -> Json:
        """Counters: ``far``, and ``strange`` if it is."""
        if self._far is None:
            return {}
        return {"far": round(self._far, 3), "strange": int(self._far > STRANGE)}

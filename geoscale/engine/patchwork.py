"""The patches of one block: gathered, run in batches of one shape, handed on.

Scores come in lattice order, whatever is run, in which batch, or was kept from a
neighbouring block: sums of floats depend on their order.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from geoscale.coarse import shrink_patch
from geoscale.engine.mergers import Merger
from geoscale.engine.shared import is_shared
from geoscale.errors import CardError
from geoscale.objects import Detector
from geoscale.passes import BlockTask, Pass
from geoscale.patches import Patch
from geoscale.types import Float, Predictor
from geoscale.windows import Window

if TYPE_CHECKING:
    from geoscale.engine.block import Channels, Kernel


class Timer:
    """Seconds by phase, and which phase is running."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.phase = "start"

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Time one phase; phases do not nest."""
        self.phase = phase
        start = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - start
            self.seconds[phase] = self.seconds.get(phase, 0.0) + spent

    @contextmanager
    def holding(self, lock: AbstractContextManager[object]) -> Iterator[None]:
        """Hold a device; the time until it is free counts as `wait`."""
        with ExitStack() as stack:
            with self("wait"):
                stack.enter_context(lock)
            yield


class Patchwork:
    """Runs the patches of a block on the host.

    Parameters
    ----------
    kernel : Kernel
        Plan, predictor, and what neighbouring blocks left.
    task : BlockTask
        The block.
    steps : Pass
        Time steps of the stack that the network sees.
    timer : Timer
        Gets the seconds of each phase.

    Attributes
    ----------
    ran : int
        Patches that the network saw.
    kept : int
        Patches whose scores a neighbouring block left.
    """

    def __init__(
        self, kernel: Kernel, task: BlockTask, steps: Pass, timer: Timer
    ) -> None:
        assert not isinstance(kernel.predictor, Detector)
        self._predictor: Predictor = kernel.predictor
        self._kernel, self._task, self._timer = kernel, task, timer
        self._steps = steps
        plan = kernel.plan
        self._cell = plan.cell
        places = plan.card.output.places(plan.lattice.patch_shape)
        self._gives = (plan.width, *places)
        self._lattice = kernel.plan.lattice
        self.ran = self.kept = 0

    def run(self, channels: Channels, wanted: list[Patch], into: Merger) -> None:
        """Run patches and hand their scores on.

        Parameters
        ----------
        channels : Channels
            Of the task's read window.
        wanted : list of Patch
            In lattice order.
        into : Merger
            Takes the scores.
        """
        for patch, scores in self._predict(channels, wanted):
            with self._timer(into.phase):
                into.add(shrink_patch(patch, self._cell), scores)

    def _predict(
        self, channels: Channels, wanted: list[Patch]
    ) -> Iterator[tuple[Patch, Float]]:
        """Yield each patch with its scores, in lattice order."""
        steps, store = self._steps, self._kernel.shared
        kept: dict[Window, Float] = {}
        if self._lattice.merge == "blend":
            found = ((p.window, store.take(steps, p.window)) for p in wanted)
            kept = {window: scores for window, scores in found if scores is not None}
        self.kept = len(kept)
        # At the edge of the stack patches are moved inwards, some onto each other:
        # those see the same pixels, and are run once.
        uses = Counter(patch.window for patch in wanted)
        missing = iter([window for window in uses if window not in kept])
        ahead: dict[Window, Float] = {}
        for patch in wanted:
            window = patch.window
            if window not in kept and window not in ahead:
                ahead.update(self._run_batch(channels, missing))
            held = kept if window in kept else ahead
            scores = held[window]
            uses[window] -= 1
            if not uses[window]:
                del held[window]
            if held is ahead and self._is_kept(window):
                store.keep(steps, window, scores)
            yield patch, scores

    def _is_kept(self, window: Window) -> bool:
        if self._lattice.merge != "blend":
            return False
        return is_shared(window, self._task.core, self._lattice.shape)

    def _run_batch(
        self, channels: Channels, missing: Iterator[Window]
    ) -> Iterator[tuple[Window, Float]]:
        """Run the next patches.

        Every batch has the same shape, whatever the block (the last is filled up
        with zeros): libraries choose their kernels by shape, and the last bits of
        a result with them.
        """
        plan, size = self._kernel.plan, self._predictor.batch
        shape = (size, channels.count, *self._lattice.patch_shape)
        group = list(islice(missing, size))
        with self._timer("gather"):
            batch = np.empty(shape, np.float32)
            batch[len(group) :] = 0
            for i, window in enumerate(group):
                channels.take(self._task.read, window, plan.shape, batch[i])
        with self._timer("predict"):
            scores = self._predictor.predict(batch)
        if scores.shape != (size, *self._gives):
            raise CardError(
                f"`{plan.card.name}` gave {scores.shape} for a batch of {shape}; by "
                f"its card it gives {self._gives} (class, y, x) for each patch"
            )
        if plan.is_pooled and self._gives[1:] != (1, 1):
            # each patch by itself: no sum depends on its neighbours in the batch
            flat = scores.reshape(size, self._gives[0], -1)
            scores = flat.mean(axis=2, dtype=np.float32)[..., None, None]
        self.ran += len(group)
        yield from zip(group, scores, strict=False)

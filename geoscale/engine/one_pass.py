"""One pass of a block: what was read becomes merged scores, or layers at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoscale.coarse import judge_cells, shrink_patch
from geoscale.engine.mergers import Blended, Cropped, Layered, Merger
from geoscale.engine.objects import ObjectPass
from geoscale.engine.on_device import offers_canvas, open_canvas
from geoscale.engine.patchwork import Patchwork, Timer
from geoscale.objects import Detector
from geoscale.passes import BlockTask, Pass, PassTask
from geoscale.patches import Patch
from geoscale.types import Array, Bool, Float, Pixels

if TYPE_CHECKING:
    from geoscale.engine.block import Channels, Kernel


class OnePass:
    """One pass of a block, which lives as long as it is made.

    Parameters
    ----------
    kernel : Kernel
        Neither source nor sink is used.
    task : BlockTask
        Which block.
    steps : Pass
        Which time steps of the stack.
    timer : Timer
        Gets the seconds of each phase.

    Attributes
    ----------
    counters : dict
        Patches run, kept and of the lattice; valid pixels.
    """

    def __init__(
        self, kernel: Kernel, task: BlockTask, steps: Pass, timer: Timer
    ) -> None:
        self._kernel, self._task, self._timer = kernel, task, timer
        if not isinstance(kernel.predictor, Detector):
            self._work = Patchwork(kernel, task, steps, timer)
        self.counters: dict[str, int] = {}

    def finish(self, pixels: Pixels) -> dict[str, Array]:
        """Layers of a block that is this one pass, on the device where that can."""
        assert not isinstance(self._kernel.task, PassTask)
        if isinstance(self._kernel.predictor, Detector):
            objects = ObjectPass(self._kernel, self._task, self._timer)
            columns = objects.finish(pixels)
            self.counters = objects.counters
            return columns
        fell_back = 0
        if offers_canvas(self._kernel):
            layers = self._finish_on_device(pixels)
            if layers is not None:
                return layers
            fell_back = 1
        layers = self._finish_here(pixels)
        if fell_back:
            self.counters["canvas_fallback"] = fell_back
        return layers

    def score(self, pixels: Pixels) -> tuple[Float, Bool]:
        """Merge scores, (class, y, x); and tell which pixels of the core have some."""
        channels, keep, listed, wanted = self._prepare(pixels)
        plan = self._kernel.plan
        core, classes = plan.stored(self._task.core), plan.width
        into: Blended | Cropped
        if plan.lattice.merge == "blend":
            high, wide = (n // plan.cell for n in plan.lattice.patch_shape)
            into = Blended(classes, core, (high, wide), plan.inference.taper)
        else:
            small = [shrink_patch(patch, plan.cell) for patch in wanted]
            into = Cropped(classes, core, small)
        self._run(channels, wanted, into)
        self._count(listed, keep)
        with self._timer(into.phase):
            return into.finish(), keep

    def _finish_here(self, pixels: Pixels) -> dict[str, Array]:
        """As `finish`, by the host."""
        task = self._kernel.task
        assert not isinstance(task, PassTask)
        if self._kernel.plan.lattice.merge == "blend":
            scores, keep = self.score(pixels)
            with self._timer("finish"):
                return task.finish(scores, keep)
        channels, keep, listed, wanted = self._prepare(pixels)
        into = Layered(task, self._kernel.plan.stored(self._task.core), keep)
        self._run(channels, wanted, into)
        self._count(listed, keep)
        return into.layers

    def _prepare(
        self, pixels: Pixels
    ) -> tuple[Channels, Bool, list[Patch], list[Patch]]:
        """Channels; pixels that get a class; all patches; those worth running."""
        kernel, task = self._kernel, self._task
        with self._timer("prepare"):
            channels = kernel.prepare.begin(pixels.data, pixels.valid)
            inside = channels.usable[task.core.within(task.read)]
            return channels, *_choose(kernel, task, inside)

    def _run(self, channels: Channels, wanted: list[Patch], into: Merger) -> None:
        # The device is held for the whole block, not for a batch at a time: blocks in
        # flight then take turns, and one reads and writes while the other infers. By
        # the batch they would end together and read together, beside a device that
        # idles. No patch, no device.
        if wanted:
            with self._timer.holding(self._kernel.device_lock):
                self._work.run(channels, wanted, into)

    def _finish_on_device(self, pixels: Pixels) -> dict[str, Array] | None:
        """As `finish`, on a canvas; None where the device's memory does not do."""
        kernel, task, timer = self._kernel, self._task, self._timer
        assert not isinstance(kernel.task, PassTask)
        with timer("prepare"):
            canvas = open_canvas(kernel, task, pixels)
            if canvas is None:
                return None
            keep, listed, wanted = _choose(kernel, task, canvas.usable())
        if not wanted:
            self._count(listed, keep)
            self.counters["canvas"] = 1
            return Layered(kernel.task, task.core, keep).layers
        with timer.holding(kernel.device_lock), timer("predict"):
            fits = canvas.run([(p.window, p.gives) for p in wanted], keep)
        if not fits:
            return None
        # outside the lock: the next block's work is queued behind this one's meanwhile
        with timer("predict"):
            layers = canvas.fetch()
        self._work.ran = len(wanted)
        self._count(listed, keep)
        self.counters["canvas"] = 1
        return layers

    def _count(self, listed: list[Patch], keep: Bool) -> None:
        self.counters = {
            "patches": self._work.ran,
            "shared_patches": self._work.kept,
            "lattice_patches": len(listed),
            "valid_px": int(keep.sum()),
        }


def _choose(
    kernel: Kernel, task: BlockTask, usable: Bool
) -> tuple[Bool, list[Patch], list[Patch]]:
    """Cells that get a value; all patches of the block; those worth running."""
    keep, plan = usable, kernel.plan
    if kernel.mask is not None:
        keep = keep & kernel.mask(task.core)
    keep, core = judge_cells(keep, plan.cell), plan.stored(task.core)
    listed = plan.lattice.touching(task.core)

    def matters(patch: Patch) -> bool:
        gives = plan.stored(patch.gives).within(core)
        return bool(keep[gives].any())

    return keep, listed, [patch for patch in listed if matters(patch)]

"""The kernel: read, prepare, patches, predict, merge, finish, write.

`run_block` is the only way in which a block is ever made: a plain loop over
it defines the result, Dask and shards may only make it faster.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from geoscale.engine.failures import classify, describe
from geoscale.engine.on_device import offers_canvas, open_canvas
from geoscale.engine.patchwork import Patchwork, Timer
from geoscale.engine.shared import SharedScores
from geoscale.errors import BlockError
from geoscale.faults import point
from geoscale.patches import Patch
from geoscale.plans import BlockTask, InferencePlan
from geoscale.types import (
    Array,
    Bool,
    EpochSink,
    Float,
    Outcome,
    Pixels,
    PixelSpec,
    Predictor,
    Sink,
    Source,
    Task,
)
from geoscale.windows import Window


class Prepare(Protocol):
    """Calibrated pixels → the network's input."""

    @property
    def on_device(self) -> PixelSpec | None:
        """What `prepare` does, where a device can do it; None: only here."""
        ...

    def prepare(self, data: Array, valid: Bool) -> tuple[Float, Bool]:
        """(time, band, y, x), (time, y, x) → float32 (channel, y, x), (y, x)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """Everything that one process needs to run blocks of one plan."""

    plan: InferencePlan
    """What is run."""
    source: Source
    """Where pixels come from."""
    prepare: Prepare
    """Fill, scale and normalise."""
    predictor: Predictor
    """The model that this process holds."""
    task: Task
    """What becomes of the scores."""
    device_lock: AbstractContextManager[object]
    """Held while the patches of one block are run."""
    sink: Sink | None = None
    """Where blocks are stored; None where they are handed back."""
    mask: Callable[[Window], Bool] | None = None
    """True inside the area of interest."""
    describe: Mapping[str, object] = field(default_factory=dict)
    """Versions, device, precision: kept with the output."""
    shared: SharedScores = field(default_factory=SharedScores)
    """Scores of patches between blocks that this process runs."""


def run_block(kernel: Kernel, number: int, attempt: int = 1) -> Outcome:
    """Make one block and store it; never raises for a failure of the block.

    Parameters
    ----------
    kernel : Kernel
        With a sink.
    number : int
        Block of the plan.
    attempt : int
        Which try this is.

    Returns
    -------
    Outcome
        Digests and counters, or what went wrong and of what kind.
    """
    assert kernel.sink is not None
    task, timer = kernel.plan.task(number), Timer()
    try:
        point("block.begin")
        layers, counters = infer_block(kernel, task, timer)
        point("block.inferred")
        with timer("write"):
            digests, changes = _write(kernel.sink, task, layers)
        point("block.written")
    except Exception as error:
        message = f"block {task.name} failed in {timer.phase}: {describe(error)}"
        return Outcome(
            block=number,
            ok=False,
            digests={},
            stats={},
            error=message,
            kind=classify(error),
            attempt=attempt,
        )
    stats = {f"{name}_s": round(s, 4) for name, s in timer.seconds.items()}
    return Outcome(
        block=number,
        ok=True,
        digests=digests,
        stats=counters | stats,
        attempt=attempt,
        changes=changes,
    )


def _write(
    sink: Sink, task: BlockTask, layers: Mapping[str, Array]
) -> tuple[dict[str, str | None], bytes]:
    if isinstance(sink, EpochSink):
        return sink.write_apart(task.time, task.core, layers)
    return sink.write(task.time, task.core, layers), b""


def infer_block(
    kernel: Kernel, task: BlockTask, timer: Timer | None = None
) -> tuple[dict[str, Array], dict[str, Any]]:
    """Make the layers of one block; nothing is stored.

    Parameters
    ----------
    kernel : Kernel
        The sink is not used.
    task : BlockTask
        Which block.
    timer : Timer, optional
        Gets the seconds of each phase.

    Returns
    -------
    dict of ndarray
        One array per layer, (y, x) or (class, y, x).
    dict
        Counters: patches run, patches of the lattice, valid and core pixels; and the
        assets that were missing, if any.
    """
    timer = timer or Timer()
    with timer("read"):
        pixels = kernel.source.read(task.read, task.times)
        _check_pixels(kernel, task, pixels)
    layers, counters = infer_pixels(kernel, task, pixels, timer)
    if pixels.missing:
        told = [[m.item, list(m.bands), m.why] for m in pixels.missing]
        return layers, counters | {"missing": told}
    return layers, counters


def infer_pixels(
    kernel: Kernel, task: BlockTask, pixels: Pixels, timer: Timer
) -> tuple[dict[str, Array], dict[str, int | float]]:
    """Make the layers of one block from pixels that were read.

    Parameters
    ----------
    kernel : Kernel
        Neither source nor sink is used.
    task : BlockTask
        Which block.
    pixels : Pixels
        Of the task's read window.
    timer : Timer
        Gets the seconds of each phase.

    Returns
    -------
    dict of ndarray
        One array per layer.
    dict
        Counters.
    """
    fell_back = 0
    if offers_canvas(kernel):
        done = _infer_on_device(kernel, task, pixels, timer)
        if done is not None:
            return done
        fell_back = 1
    with timer("prepare"):
        channels, usable = kernel.prepare.prepare(pixels.data, pixels.valid)
        keep, listed, wanted = _choose(
            kernel, task, usable[task.core.within(task.read)]
        )
    work = Patchwork(kernel, task, timer)
    # The device is held for the whole block, not for a batch at a time: blocks in
    # flight then take turns, and one reads and writes while the other infers. By the
    # batch they would end together and read together, beside a device that idles.
    # No patch, no device.
    if wanted:
        with timer.holding(kernel.device_lock):
            work.run(channels, wanted)
    merged = work.finish()
    with timer("finish"):
        layers = kernel.task.finish(merged, keep)
    counters = _count(task, listed, work.ran, keep)
    counters["shared_patches"] = work.kept
    if fell_back:
        counters["canvas_fallback"] = fell_back
    return layers, counters


def _infer_on_device(
    kernel: Kernel, task: BlockTask, pixels: Pixels, timer: Timer
) -> tuple[dict[str, Array], dict[str, int | float]] | None:
    """As `infer_pixels`, on a canvas; None where the device's memory does not do."""
    with timer("prepare"):
        canvas = open_canvas(kernel, task, pixels)
        if canvas is None:
            return None
        keep, listed, wanted = _choose(kernel, task, canvas.usable())
    counters = _count(task, listed, len(wanted), keep) | {"canvas": 1}
    if not wanted:
        nothing = Patchwork(kernel, task, timer).finish()
        return kernel.task.finish(nothing, keep), counters
    with timer.holding(kernel.device_lock), timer("predict"):
        fits = canvas.run([(p.window, p.gives) for p in wanted], keep)
    if not fits:
        return None
    # outside the lock: the next block's work is queued behind this one's meanwhile
    with timer("predict"):
        layers = canvas.fetch()
    return layers, counters


def _choose(
    kernel: Kernel, task: BlockTask, usable: Bool
) -> tuple[Bool, list[Patch], list[Patch]]:
    """Pixels that get a class; all patches of the block; those worth running."""
    keep = usable
    if kernel.mask is not None:
        keep = keep & kernel.mask(task.core)
    listed = kernel.plan.lattice.touching(task.core)
    return keep, listed, [p for p in listed if keep[p.gives.within(task.core)].any()]


def _count(
    task: BlockTask, listed: list[Patch], ran: int, keep: Bool
) -> dict[str, int | float]:
    return {
        "patches": ran,
        "shared_patches": 0,
        "lattice_patches": len(listed),
        "valid_px": int(keep.sum()),
        "core_px": task.core.size,
    }


def _check_pixels(kernel: Kernel, task: BlockTask, pixels: Pixels) -> None:
    frames, bands = len(task.times), len(kernel.source.bands)
    expected = (frames, bands, *task.read.shape)
    if pixels.data.shape != expected or pixels.valid.shape != (
        frames,
        *task.read.shape,
    ):
        raise BlockError(
            f"source gave {pixels.data.shape} and {pixels.valid.shape}, expected "
            f"{expected} and validity without bands",
            block=task.name,
            phase="read",
        )

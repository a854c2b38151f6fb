"""The kernel: read, prepare, patches, predict, merge, finish, write.

`run_block` is the only way in which a block is ever made: a plain loop over
it defines the result, Dask and shards may only make it faster.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from geoscale.engine.dates import Dates
from geoscale.engine.failures import classify, describe
from geoscale.engine.one_pass import OnePass
from geoscale.engine.patchwork import Timer
from geoscale.engine.shared import SharedScores
from geoscale.engine.strange import Strangeness
from geoscale.errors import BlockError
from geoscale.faults import point
from geoscale.gauges import Gauge
from geoscale.objects import Detector
from geoscale.passes import BlockTask, Pass, PassTask
from geoscale.plans import InferencePlan
from geoscale.types import (
    Array,
    Bool,
    EpochSink,
    Float,
    Layer,
    Outcome,
    Pixels,
    PixelSpec,
    Predictor,
    Sink,
    Source,
    Task,
)
from geoscale.windows import Window


class Channels(Protocol):
    """A network's input of one window, made as patches are asked for."""

    @property
    def count(self) -> int:
        """Channels of the network."""
        ...

    @property
    def usable(self) -> Bool:
        """(y, x): True where every date is valid and every value is finite."""
        ...

    def take(
        self, held: Window, window: Window, shape: tuple[int, int], out: Float
    ) -> None:
        """Put a patch of a stack of this shape into out, float32 (channel, y, x).

        `held` is what was read; past the edges of the stack the patch is mirrored.
        """
        ...


class Prepare(Protocol):
    """Calibrated pixels → the network's input."""

    @property
    def on_device(self) -> PixelSpec | None:
        """What `prepare` does, where a device can do it; None: only here."""
        ...

    def prepare(self, data: Array, valid: Bool) -> tuple[Float, Bool]:
        """(time, band, y, x), (time, y, x) → float32 (channel, y, x), (y, x)."""
        ...

    def begin(self, data: Array, valid: Bool) -> Channels:
        """As `prepare`, patch by patch; the arrays are not to be changed meanwhile."""
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
    predictor: Predictor | Detector
    """The model that this process holds."""
    task: Task | PassTask
    """What becomes of the scores."""
    device_lock: AbstractContextManager[object]
    """Held while the patches of one block are run."""
    sink: Sink | None = None
    """Where blocks are stored; None where they are handed back."""
    mask: Callable[[Window], Bool] | None = None
    """True inside the area of interest."""
    beyond: Callable[[Window, int], Bool] | None = None
    """True up to so many pixels beyond the border of a UTM zone; None without one."""
    extra: tuple[Layer, ...] = ()
    """Layers that the source gives."""
    describe: Mapping[str, object] = field(default_factory=dict)
    """Versions, device, precision: kept with the output."""
    gauge: Gauge | None = None
    """Of the GPU that blocks are run on; None where that is none."""
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
            digests, changes = _write(kernel, task, layers)
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
    if kernel.gauge is not None:
        stats |= kernel.gauge.read()
    return Outcome(
        block=number,
        ok=True,
        digests=digests,
        stats=counters | stats,
        attempt=attempt,
        changes=changes,
    )


def _write(
    kernel: Kernel, task: BlockTask, layers: Mapping[str, Array]
) -> tuple[dict[str, str | None], bytes]:
    sink, core = kernel.sink, kernel.plan.stored(task.core)
    assert sink is not None
    if isinstance(sink, EpochSink):
        return sink.write_apart(task.time, core, layers)
    return sink.write(task.time, core, layers), b""


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
        Counters: patches run, patches of the lattice, valid and core pixels; pixels
        with imagery but no clear view; and the assets that were missing, if any.
    """
    timer = timer or Timer()
    fold = None
    if isinstance(kernel.task, PassTask):
        fold = kernel.task.begin(kernel.plan.stored(task.core).shape)
    assert fold is not None or len(task.passes) == 1, "scores of passes need a fold"
    counters: Counter[str] = Counter()
    told: list[list[Any]] = []
    dates, strange = Dates(kernel, task), Strangeness(kernel, task)
    layers: dict[str, Array] = {}
    for number, steps in enumerate(task.passes):
        with timer("read"):
            pixels = kernel.source.read(task.read, steps)
            _check_pixels(kernel, task, steps, pixels)
            dates.add(pixels)
            strange.add(pixels)
        told += [[m.item, list(m.bands), m.why] for m in pixels.missing]
        one = OnePass(kernel, task, steps, timer)
        if fold is None:
            layers = one.finish(pixels)
        else:
            scores, keep = one.score(pixels)
            del pixels  # before the next pass is read
            with timer("finish"):
                fold.add(number, scores, keep)
        counters.update(one.counters)
    if fold is not None:
        with timer("finish"):
            layers, keep = fold.finish()
        counters["valid_px"] = int(keep.sum())
    found: dict[str, Any] = {**counters, "core_px": task.core.size}
    found |= dates.tell() | strange.tell()
    return layers | dates.layers(), (found | {"missing": told} if told else found)


def _check_pixels(kernel: Kernel, task: BlockTask, steps: Pass, pixels: Pixels) -> None:
    frames, bands = len(steps), len(kernel.source.bands)
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

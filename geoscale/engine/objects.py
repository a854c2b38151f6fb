"""One block of a detector: patches run, and what is found in them kept once.

A patch belongs to one block, and keeps what has its middle among the pixels that it
owns, or a little beside: two patches see the middle of one object a little apart, and
without that slack each may leave it to the other. What both keep is one object more
than once, which is for `geoscale.suppression`, once, over all blocks. So nothing
depends on how the stack is cut: neither which patch is run, nor what it keeps. Where
the grid is a UTM zone, what lies as little beyond its border is kept too, for
`geoscale.borders`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from geoscale.detecting import Detection
from geoscale.engine.patchwork import Timer
from geoscale.objects import Detector, Found, Mask, is_upright
from geoscale.passes import BlockTask
from geoscale.suppression import link, suppress
from geoscale.types import Array, Bool, Floats, Pixels
from geoscale.windows import Window

if TYPE_CHECKING:
    from geoscale.engine.block import Channels, Kernel


@dataclass(frozen=True, slots=True)
class _Place:
    """One patch that a block runs."""

    row: int
    """Row of the lattice."""
    window: Window
    """Pixels that the network sees."""
    counts: Window
    """Where middles of its detections count."""
    own: Window
    """Pixels that it owns."""


class ObjectPass:
    """Detections of one block.

    Parameters
    ----------
    kernel : Kernel
        Its predictor is a `Detector`.
    task : BlockTask
        Which block.
    timer : Timer
        Gets the seconds of each phase.

    Attributes
    ----------
    counters : dict
        Patches run and of the lattice; valid pixels; detections.
    """

    def __init__(self, kernel: Kernel, task: BlockTask, timer: Timer) -> None:
        assert isinstance(kernel.predictor, Detector)
        spec = kernel.plan.card.output.detection
        assert spec is not None
        self._kernel, self._task, self._timer = kernel, task, timer
        self._spec: Detection = spec
        self._detector: Detector = kernel.predictor
        self._stack = Window(0, 0, *kernel.plan.shape)
        self.counters: dict[str, int] = {}

    def finish(self, pixels: Pixels) -> dict[str, Array]:
        """Find the objects of a block.

        Parameters
        ----------
        pixels : Pixels
            Of the task's read window.

        Returns
        -------
        dict of ndarray
            Columns, by detection: ``row`` int32, of the patch in the lattice;
            ``corners`` float64 (n, 4, 2), ``score`` float32, ``value`` int16; and
            ``mask`` where outlines are wanted. In pixels of the stack, in an order
            that hangs on the patches alone.
        """
        kernel, task = self._kernel, self._task
        with self._timer("prepare"):
            channels = kernel.prepare.begin(pixels.data, pixels.valid)
            usable = channels.usable
            places = [p for p in self._places() if self._keep(p.own, usable).any()]
        found: list[tuple[int, Found]] = []
        if places:
            with self._timer.holding(kernel.device_lock):
                for place, one in self._run(channels, places):
                    with self._timer("finish"):
                        found.append((place.row, self._choose(place, one, usable)))
        self.counters = {
            "patches": len({p.window for p in places}),
            "lattice_patches": len(places),
            "valid_px": int(self._keep(task.core, usable).sum()),
            "detections": sum(len(one) for _, one in found),
        }
        return _join(found, masks=self._spec.mask_threshold is not None)

    def _keep(self, window: Window, usable: Bool) -> Bool:
        """Pixels of a window, inside what was read, that are valid and of interest."""
        keep = usable[window.within(self._task.read)]
        mask = self._kernel.mask
        return keep if mask is None else keep & mask(window)

    def _places(self) -> Iterator[_Place]:
        """Yield the patches that this block runs, in lattice order."""
        lattice, slack = self._kernel.plan.lattice, self._spec.slack
        rows, columns = lattice.ranges(self._task.core)
        for ky in rows:
            for kx in columns:
                (y0, y1), (x0, x1) = lattice.y.core(ky), lattice.x.core(kx)
                own = Window(y0, x0, y1, x1)
                if self._owner(own) != self._task.number:
                    continue
                y, x = lattice.y.start(ky), lattice.x.start(kx)
                window = Window(y, x, y + lattice.y.patch, x + lattice.x.patch)
                counts = own.grow(slack) & window & self._stack
                yield _Place(ky, window, counts, own)

    def _owner(self, own: Window) -> int:
        """Find the block that runs a patch.

        It is the block of the patch's first pixel, or the first one that is run at all:
        where a block has no imagery, its neighbour has the rest of the patch.
        """
        grid, runs = self._kernel.plan.grid, self._kernel.plan.runs()
        size, time = grid.block_px, self._task.time
        for y in range(own.y0 // size, (own.y1 - 1) // size + 1):
            for x in range(own.x0 // size, (own.x1 - 1) // size + 1):
                if runs[time, y, x]:
                    return grid.number(time, y, x)
        return -1

    def _run(
        self, channels: Channels, places: list[_Place]
    ) -> Iterator[tuple[_Place, Found]]:
        """Run patches in batches of one shape; those at one place once."""
        plan, size = self._kernel.plan, self._detector.batch
        # patches that are moved inwards at the edge may lie on each other
        windows = list(dict.fromkeys(p.window for p in places))
        shape = (size, channels.count, *plan.lattice.patch_shape)
        seen: dict[Window, Found] = {}
        for first in range(0, len(windows), size):
            group = windows[first : first + size]
            with self._timer("gather"):
                batch = np.zeros(shape, np.float32)
                for i, window in enumerate(group):
                    channels.take(self._task.read, window, plan.shape, batch[i])
            with self._timer("predict"):
                seen |= zip(group, self._detector.detect(batch), strict=False)
        for place in places:
            yield place, seen[place.window]

    def _thin(self, found: Found) -> Found:
        """Leave one detection of each object of a patch, wherever its middle is.

        Before middles are looked at: else a lesser box whose middle lies among the
        patch's own pixels would stay where the best one lies beside them.
        """
        how = self._spec.suppression
        if how.method != "nms":
            return found  # these need all that was found
        links = link(found.corners, found.values, how)
        return found.pick(
            suppress(found.corners, found.scores, found.values, links, how).numbers
        )

    def _choose(self, place: _Place, found: Found, usable: Bool) -> Found:
        """Bring a patch's detections to the stack, and keep those that count there."""
        window, counts = place.window, place.counts
        found = self._thin(found)
        placed = found.corners + np.array([window.x0, window.y0], np.float64)
        corners = _clip(placed, window & self._stack)
        middle = (corners[:, 0] + corners[:, 2]) / 2
        x, y = np.floor(middle).astype(np.int64).T
        inside = (counts.y0 <= y) & (y < counts.y1) & (counts.x0 <= x) & (x < counts.x1)
        sides = np.ptp(corners, axis=1)
        # nothing is left of boxes beside the stack; what is larger than the patch was
        # not seen
        inside &= (sides > 0).all(1) & (sides <= 2 * max(window.shape)).all(1)
        keep = self._keep(counts, usable)
        if self._kernel.beyond is not None and inside.any():
            # two zones see the middle of one object a little apart, as patches do
            keep = keep | (
                usable[counts.within(self._task.read)]
                & self._kernel.beyond(counts, self._spec.slack)
            )
        inside[inside] = keep[y[inside] - counts.y0, x[inside] - counts.x0]
        found = Found(
            corners=corners,
            scores=found.scores,
            values=found.values,
            masks=found.masks,
        ).pick(inside)
        if found.masks is None:
            return found
        return _place_masks(found, window, self._stack)


def _clip(corners: Floats, window: Window) -> Floats:
    """Cut upright boxes off at the edges of what was seen; turned ones stay whole."""
    low, high = (window.x0, window.y0), (window.x1, window.y1)
    upright = is_upright(corners)[:, None, None]
    found: Floats = np.where(upright, np.clip(corners, low, high), corners)
    return found


def _place_masks(found: Found, window: Window, stack: Window) -> Found:
    """Move masks to the stack; detections without a pixel there are left out."""
    assert found.masks is not None
    masks = []
    for mask in found.masks:
        there = mask.window.shift(window.y0, window.x0)
        inside = there & stack
        masks.append(Mask(inside, mask.pixels[inside.within(there)]))
    moved = Found(
        corners=found.corners,
        scores=found.scores,
        values=found.values,
        masks=tuple(masks),
    )
    return moved.pick(np.array([bool(m.pixels.any()) for m in masks], bool))


def _join(found: list[tuple[int, Found]], *, masks: bool) -> dict[str, Array]:
    """Make columns of the detections of all patches."""
    each = [one for _, one in found]
    columns: dict[str, Array] = {
        "row": np.repeat(
            np.array([row for row, _ in found], np.int32), [len(one) for one in each]
        ),
        "corners": np.concatenate(
            [np.zeros((0, 4, 2)), *(one.corners for one in each)]
        ),
        "score": np.concatenate(
            [np.zeros(0, np.float32), *(one.scores for one in each)]
        ),
        "value": np.concatenate([np.zeros(0, np.int16), *(one.values for one in each)]),
    }
    if masks:
        column = np.empty(len(columns["row"]), object)
        column[:] = [mask for one in each for mask in one.masks or ()]
        columns["mask"] = column
    return columns

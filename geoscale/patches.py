"""The patch lattice: one for the whole stack, whatever the blocks.

Along each axis patch ``k`` owns the pixels ``[k * stride, (k + 1) * stride)``,
its *core*, and sits around them with a margin on both sides. At an edge of
the stack the patch is moved inwards, so that the network meets its own
padding exactly where it would if it saw the whole image at once::

    stack   0────────────────────────────────────────────N
    patch 0 [■■■■■■■■·····]
    patch 1         [··■■■■■■■■··]
    patch 2                 [··■■■■■■■■··]
    patch 3                        [·····■■■■■■■■■■■■■■■■]   ■ core

That is how patches are cropped. Where they are blended, the network usually looks
at the whole patch, nothing can equal the whole image, and the edge of the stack
deserves the context that its inside has: there the lattice reaches past the stack
by the overlap, and the image is mirrored.

The lattice is a property of the stack: what a pixel receives cannot depend on
how the stack is cut into blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from geoscale.chunks import round_up
from geoscale.errors import PlanError
from geoscale.windows import Window

Merge = Literal["crop", "blend"]


@dataclass(frozen=True, slots=True)
class Axis:
    """Patches along one axis of the stack.

    Examples
    --------
    >>> axis = Axis(length=512, patch=256, stride=128)
    >>> [axis.start(k) for k in range(axis.count)]
    [0, 64, 192, 256]
    >>> axis.core(3)
    (384, 512)
    """

    length: int
    """Pixels of the stack."""
    patch: int
    """Pixels of a patch; may be more than `length`."""
    stride: int
    """Pixels between cores."""
    alignment: int = 1
    """Patches start on multiples of this."""
    lead: int = 0
    """Pixels by which the first and last patch reach past the stack, mirrored; 0:
    they are moved inwards instead."""

    def __post_init__(self) -> None:
        if not 1 <= self.stride <= self.patch:
            raise PlanError(
                f"stride of {self.stride} px leaves gaps between patches of "
                f"{self.patch} px; choose 1 <= stride <= {self.patch}"
            )
        if self.stride % self.alignment:
            raise PlanError(
                f"stride of {self.stride} px is no multiple of the model's alignment "
                f"of {self.alignment} px; choose "
                f"{max(self.alignment, self.stride // self.alignment * self.alignment)}"
            )

    @property
    def margin(self) -> int:
        """Smallest distance from a core to its patch's edge inside the stack."""
        return (self.patch - self.stride) // 2 // self.alignment * self.alignment

    @property
    def last(self) -> int:
        """Start of the last patch."""
        if self.length <= self.patch:
            return 0
        return round_up(self.length + self.lead - self.patch, self.alignment)

    @property
    def _shift(self) -> int:
        return self.lead or self.margin

    @property
    def count(self) -> int:
        """Patches along the axis."""
        if self.last == 0:
            return 1
        return -(-(self.last + self._shift) // self.stride) + 1

    def start(self, k: int) -> int:
        """First pixel of patch `k`."""
        if self.last == 0:
            return 0
        return min(max(k * self.stride - self._shift, -self.lead), self.last)

    def core(self, k: int) -> tuple[int, int]:
        """Half-open range of the pixels that patch `k` owns."""
        end = self.length if k == self.count - 1 else (k + 1) * self.stride
        return k * self.stride, min(end, self.length)

    def owning(self, lo: int, hi: int) -> range:
        """Patches whose cores touch ``[lo, hi)``."""
        top = self.count - 1
        return range(min(lo // self.stride, top), min((hi - 1) // self.stride, top) + 1)

    def covering(self, lo: int, hi: int) -> range:
        """Patches any pixel of which lies in ``[lo, hi)``."""
        owning = self.owning(lo, hi)
        first, end = owning.start, owning.stop
        while first > 0 and self.start(first - 1) + self.patch > lo:
            first -= 1
        while end < self.count and self.start(end) < hi:
            end += 1
        return range(first, end)


@dataclass(frozen=True, slots=True)
class Patch:
    """One patch of the lattice and what it gives to a block."""

    window: Window
    """Pixels the network sees; may reach past the edges of the stack."""
    gives: Window
    """Pixels of the block that receive something from it."""


@dataclass(frozen=True, slots=True)
class Lattice:
    """Patches over a stack.

    Examples
    --------
    >>> lattice = Lattice.over((512, 512), patch=256, stride=128, merge="crop")
    >>> len(lattice.touching(Window(0, 0, 128, 128)))
    1
    """

    y: Axis
    """Rows."""
    x: Axis
    """Columns."""
    merge: Merge
    """``crop``: a pixel is given by the patch that owns it; ``blend``: by every
    patch that covers it, weighted."""

    @classmethod
    def over(
        cls,
        shape: tuple[int, int],
        *,
        patch: int,
        stride: int,
        merge: Merge,
        alignment: int = 1,
        multiple_of: int | None = None,
    ) -> Lattice:
        """Lay the lattice over a stack.

        Parameters
        ----------
        shape : tuple of int, (y, x)
            Size of the stack, in px.
        patch, stride : int
            In px.
        merge : {"crop", "blend"}
            How patches meet.
        alignment : int
            Patches start on multiples of this, in px.
        multiple_of : int, optional
            If given, the network takes any size that is a multiple of this,
            and the patch shrinks on a stack smaller than itself; if None the
            size is fixed and small stacks are padded.

        Returns
        -------
        Lattice
            The lattice.

        Raises
        ------
        PlanError
            If the stride leaves gaps or breaks the alignment.
        """
        sizes = [
            patch
            if multiple_of is None
            else min(patch, round_up(n, np.lcm(multiple_of, alignment).item()))
            for n in shape
        ]
        rows, columns = (
            Axis(
                n,
                size,
                min(stride, size),
                alignment,
                _find_lead(size, min(stride, size), alignment) * (merge == "blend"),
            )
            for n, size in zip(shape, sizes, strict=True)
        )
        return cls(rows, columns, merge)

    @property
    def patch_shape(self) -> tuple[int, int]:
        """Height and width of every patch, in px."""
        return self.y.patch, self.x.patch

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the stack, in px."""
        return self.y.length, self.x.length

    @property
    def margin(self) -> int | None:
        """Context every pixel has on each side inside the stack, in px.

        None where one patch holds the whole stack.
        """
        margins = [axis.margin for axis in (self.y, self.x) if axis.count > 1]
        return min(margins) if margins else None

    def __len__(self) -> int:
        return self.y.count * self.x.count

    def touching(self, core: Window) -> list[Patch]:
        """List the patches a block needs, row by row.

        Parameters
        ----------
        core : Window
            The block.

        Returns
        -------
        list of Patch
            In lattice order, which is also the order of blending.
        """
        rows, columns = self.ranges(core)
        return [self._patch(ky, kx, core) for ky in rows for kx in columns]

    def ranges(self, core: Window) -> tuple[range, range]:
        """Rows and columns of the lattice that `touching` would list."""
        pick = Axis.owning if self.merge == "crop" else Axis.covering
        return pick(self.y, core.y0, core.y1), pick(self.x, core.x0, core.x1)

    def count_touching(self, core: Window) -> int:
        """Count what `touching` would list, without listing it."""
        rows, columns = self.ranges(core)
        return len(rows) * len(columns)

    def read_window(self, core: Window) -> Window:
        """Pixels a block must read: all its patches, clipped to the stack."""
        patches = self.touching(core)
        first, last = patches[0].window, patches[-1].window
        y0, y1 = _with_mirrored(first.y0, last.y1, self.y.length)
        x0, x1 = _with_mirrored(first.x0, last.x1, self.x.length)
        return Window(y0, x0, y1, x1).clip(self.shape)

    def _patch(self, ky: int, kx: int, core: Window) -> Patch:
        y, x = self.y.start(ky), self.x.start(kx)
        window = Window(y, x, y + self.y.patch, x + self.x.patch)
        if self.merge == "crop":
            (y0, y1), (x0, x1) = self.y.core(ky), self.x.core(kx)
            return Patch(window, Window(y0, x0, y1, x1) & core)
        return Patch(window, window & core)


def _find_lead(patch: int, stride: int, alignment: int) -> int:
    """Reach past the stack that gives its edge the overlap of its inside.

    At most half a patch, so that what is mirrored lies in the same patch.
    """
    most = (patch - 1) // 2 - (alignment - 1)
    return max(0, min(patch - stride, most)) // alignment * alignment


def _with_mirrored(lo: int, hi: int, length: int) -> tuple[int, int]:
    """Widen a range that reaches past the stack by what is mirrored into it.

    Only a patch that is small beside the alignment reaches further out than in.
    """
    first = min(lo, 2 * length - 1 - hi) if hi > length else lo
    return first, max(hi, 1 - lo) if lo < 0 else hi


def reflect_index(start: int, stop: int, lo: int, hi: int) -> NDArray[np.intp]:
    """Index ``[start, stop)`` into ``[lo, hi)``, mirrored at both ends.

    The edge pixel is not repeated (numpy's ``reflect``); any reach works, and
    a range of one pixel repeats it.

    Examples
    --------
    >>> reflect_index(-2, 5, 0, 3).tolist()
    [2, 1, 0, 1, 2, 1, 0]
    """
    size = hi - lo
    if size == 1:
        return np.full(stop - start, lo, dtype=np.intp)
    period = 2 * (size - 1)
    offset = (np.arange(start, stop, dtype=np.intp) - lo) % period
    return lo + np.minimum(offset, period - offset)


def take_patch(
    pixels: NDArray[Any],
    held: Window,
    window: Window,
    shape: tuple[int, int],
    out: NDArray[Any],
) -> None:
    """Copy a patch; past the edges of the stack it is mirrored.

    Parameters
    ----------
    pixels : ndarray, (..., y, x)
        Pixels of `held`.
    held : Window
        What was read; lies inside the stack.
    window : Window
        The patch; may reach past the edges of the stack.
    shape : tuple of int, (y, x)
        Size of the stack, in px.
    out : ndarray, (..., y, x)
        Filled in place.
    """
    rows = reflect_index(window.y0, window.y1, 0, shape[0]) - held.y0
    columns = reflect_index(window.x0, window.x1, 0, shape[1]) - held.x0
    # slices are copied row by row; an index would be looked up for every pixel
    for to_y, from_y in iter_runs(rows):
        for to_x, from_x in iter_runs(columns):
            out[..., to_y, to_x] = pixels[..., from_y, from_x]


def iter_runs(index: NDArray[np.intp]) -> Iterator[tuple[slice, slice]]:
    """Cut an index into runs that go up or down by one.

    Parameters
    ----------
    index : ndarray of intp, (n,)
        None below 0; such as `reflect_index` gives.

    Yields
    ------
    tuple of slice
        Where a run lies in the index, and what it names.

    Examples
    --------
    >>> for here, there in iter_runs(reflect_index(-2, 3, 0, 9)):
    ...     print(here, there)
    slice(0, 3, None) slice(2, None, -1)
    slice(3, 5, None) slice(1, 3, 1)
    """
    first, length = 0, len(index)
    while first < length:
        last = first + 1
        step = int(index[last] - index[first]) if last < length else 1
        if abs(step) != 1:
            step = 1
        else:
            while last < length and index[last] - index[last - 1] == step:
                last += 1
        stop = int(index[last - 1]) + step
        named = slice(int(index[first]), stop if stop >= 0 else None, step)
        yield slice(first, last), named
        first = last

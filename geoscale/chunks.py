"""Cutting a stack into blocks and blocks into chunks; whole numbers only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import PlanError
from geoscale.windows import Window

RUN, OUTSIDE, NO_ITEM = 0, 1, 2
"""State of a block: to be run, outside the area of interest, no imagery."""
MOST_BLOCKS = 10_000_000
"""Blocks of a plan: beyond that a grid is wrong, or cut too finely."""


@dataclass(frozen=True, slots=True)
class BlockGrid:
    """Blocks of a (time, y, x) stack, numbered row by row, time outermost.

    The cores cover every pixel of every time step once.

    Examples
    --------
    >>> grid = BlockGrid(times=2, shape=(5, 7), block_px=4)
    >>> grid.counts, len(grid), grid.core(3)
    ((2, 2, 2), 8, Window(y0=4, x0=4, y1=5, x1=7))
    """

    times: int
    """Time steps of the output."""
    shape: tuple[int, int]
    """Height and width of the stack, in px."""
    block_px: int
    """Height and width of a block, in px."""

    def __post_init__(self) -> None:
        height, width = self.shape
        if height * width * self.times > MOST_BLOCKS * self.block_px**2:
            raise PlanError(
                f"{self.times} time steps of {height} x {width} px make more than "
                f"{MOST_BLOCKS:,} blocks of {self.block_px} px; check the grid's "
                "extent and resolution, choose larger blocks, or make several jobs"
            )
        if self.block_px < 1 or min(self.shape) < 1 or self.times < 1:
            raise PlanError(
                f"no block fits: {self.times} time steps of {self.shape} px "
                f"in blocks of {self.block_px} px; each must be 1 or more"
            )

    @property
    def counts(self) -> tuple[int, int, int]:
        """Blocks along time, y and x."""
        height, width = self.shape
        return self.times, ceil(height / self.block_px), ceil(width / self.block_px)

    def __len__(self) -> int:
        times, rows, columns = self.counts
        return times * rows * columns

    def index(self, number: int) -> tuple[int, int, int]:
        """Position (time, y, x) of a block."""
        _, rows, columns = self.counts
        rest, x = divmod(number, columns)
        time, y = divmod(rest, rows)
        return time, y, x

    def number(self, time: int, y: int, x: int) -> int:
        """Give the number of the block at a position."""
        _, rows, columns = self.counts
        return (time * rows + y) * columns + x

    def name(self, number: int) -> str:
        """Name of a block for people and the journal: ``time-y-x``."""
        return "-".join(str(i) for i in self.index(number))

    def core(self, number: int) -> Window:
        """Pixels the block writes, clipped to the stack."""
        _, y, x = self.index(number)
        size = self.block_px
        return Window(y * size, x * size, (y + 1) * size, (x + 1) * size).clip(
            self.shape
        )

    def middle(self) -> Window:
        """Core of a block with neighbours on all sides, where there is one."""
        _, rows, columns = self.counts
        # of two, the second is usually cut off by the edge of the stack
        return self.core(self.number(0, (rows - 1) // 2, (columns - 1) // 2))

    def edges(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Where blocks begin and the last one ends, along y and x, in px."""
        _, rows, columns = self.counts
        along = (np.arange(n + 1) * self.block_px for n in (rows, columns))
        ys, xs = (np.minimum(e, n) for e, n in zip(along, self.shape, strict=True))
        return ys, xs

    def __iter__(self) -> Iterator[int]:
        return iter(range(len(self)))


def choose_chunk(block_px: int, target_px: int = 512) -> int:
    """Largest divisor of a block that is at most `target_px`, in px.

    Chunks are what readers of the map fetch; shards (whole blocks) are what
    is written.

    Examples
    --------
    >>> choose_chunk(2048), choose_chunk(96), choose_chunk(1000, 512)
    (512, 96, 500)
    """
    return next(
        size for size in range(min(block_px, target_px), 0, -1) if block_px % size == 0
    )


def round_up(value: int, step: int) -> int:
    """Smallest multiple of `step` that is at least `value`."""
    return -(-value // step) * step

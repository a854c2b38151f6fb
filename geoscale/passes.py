"""Passes of a block: which time steps of a stack make a time step of the output.

A pass is what the network sees at once. Most maps need one pass a block; where each
date is classified for itself, there is one for every date, and their scores are put
together as they come, so that memory does not grow with the number of dates.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from geoscale.types import Array, Bool, Float, Layer
from geoscale.windows import Window

Pass = tuple[int, ...]
"""Time steps of the stack that the network sees at once, one for each frame."""
Passes = tuple[Pass, ...]
"""Passes of one time step of the output, in the order in which they are made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockTask:
    """One block: everything a worker must know, and nothing it must carry."""

    number: int
    """Number in the plan."""
    name: str
    """``time-y-x``, its name in the journal and in errors."""
    time: int
    """Time step of the output."""
    passes: Passes
    """Time steps of the stack that are read, prepared and predicted together."""
    core: Window
    """Pixels this task writes; the cores of a plan cover the stack once."""
    read: Window
    """Pixels this task reads: all its patches, clipped to the stack."""

    @property
    def times(self) -> Pass:
        """Time steps of the stack that it reads, ascending, each once."""
        return join_steps(self.passes)


class Fold(Protocol):
    """The passes of one block on their way to its layers; used by one thread."""

    def add(self, number: int, scores: Float, usable: Bool) -> None:
        """Take one pass: (class, y, x) scores and (y, x) usable pixels of the core.

        Passes come in the order of the plan, `number` counting from 0. The arrays are
        the fold's own from now on. Scores of pixels that are not usable mean nothing,
        and those outside the area of interest, which are not usable, neither.
        """
        ...

    def finish(self) -> tuple[dict[str, Array], Bool]:
        """One array per layer, and (y, x) the pixels that are not nodata."""
        ...


@runtime_checkable
class PassTask(Protocol):
    """A task that takes the passes of a block one after the other.

    What it holds between them must not grow with their number.
    """

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored for every pixel."""
        ...

    def begin(self, shape: tuple[int, int]) -> Fold:
        """Begin a block of so many px, (y, x)."""
        ...


def join_steps(passes: Passes) -> Pass:
    """Time steps of some passes, ascending, each once.

    Examples
    --------
    >>> join_steps(((0, 1), (1, 2)))
    (0, 1, 2)
    """
    return tuple(sorted({step for one in passes for step in one}))


def take_turns(times: int, frames: int) -> tuple[Passes, ...]:
    """One pass for every `frames` time steps: each is used once.

    Parameters
    ----------
    times : int
        Time steps of the stack, a multiple of `frames`.
    frames : int
        Dates that the network takes at once.

    Returns
    -------
    tuple
        The passes of each time step of the output.

    Examples
    --------
    >>> take_turns(4, 2)
    (((0, 1),), ((2, 3),))
    """
    return tuple((tuple(range(t, t + frames)),) for t in range(0, times, frames))


def pair_neighbours(times: int, *, together: bool) -> tuple[Passes, ...]:
    """Every time step but the first beside the one before it.

    Parameters
    ----------
    times : int
        Time steps of the stack, 2 or more.
    together : bool
        Whether the network sees both at once; else one after the other.

    Returns
    -------
    tuple
        The passes of each time step of the output, one fewer than the stack has.

    Examples
    --------
    >>> pair_neighbours(3, together=True)
    (((0, 1),), ((1, 2),))
    >>> pair_neighbours(2, together=False)
    (((0,), (1,)),)
    """
    pairs = [(t - 1, t) for t in range(1, times)]
    if together:
        return tuple((pair,) for pair in pairs)
    return tuple(((first,), (second,)) for first, second in pairs)

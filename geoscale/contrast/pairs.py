"""Pairs: the pixels of two dates at one place, and how work is done on all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeVar

import numpy as np

from geoscale.types import Bool, Float, Floats
from geoscale.windows import Window

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pair:
    """Two dates of one window."""

    window: Window
    """Where, in px of the stack."""
    before: Float
    """(band, y, x), finite everywhere."""
    after: Float
    """As `before`, of the second date."""
    valid: Bool
    """(y, x): True where both dates are valid, inside the area of interest."""

    def values(self) -> Floats:
        """Give valid pixels of both dates, float64 (2 bands, pixel), `before` first."""
        both = (self.before[:, self.valid], self.after[:, self.valid])
        return np.concatenate(both).astype(np.float64)


class Sample(Protocol):
    """All the places of a first pass, wherever their pixels are.

    What `map` gives is in the order of the places, whoever did the work: sums of
    floats depend on their order.
    """

    def map(self, work: Callable[[Pair], T]) -> list[T]:
        """Do something at every place; `work` may have to travel."""
        ...

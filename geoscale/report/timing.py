"""Where the time went: phases of all blocks, and how long single blocks took."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

PHASES = {
    "read": ("read",),
    "prepare": ("prepare", "gather"),
    "predict": ("predict",),
    "merge": ("merge", "finish"),
    "write": ("write",),
}
"""Phase that is shown → phases of the ledger."""
WIDTH, HEIGHT = 640, 150
"""Size of the histogram's drawing."""
_BINS = 24


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase, summed over all blocks."""

    name: str
    """What it is called."""
    seconds: float
    """Sum over all blocks, in s."""
    percent: float
    """Share of the time of all phases."""
    start: float
    """Share of the phases before it, in percent."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of the histogram, in the drawing's units."""

    x: float
    """Left edge."""
    y: float
    """Upper edge."""
    width: float
    """Width."""
    height: float
    """Height."""
    title: str
    """What it counts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Times of a run, ready to be drawn."""

    phases: list[Phase]
    """In the order in which a block passes them."""
    bars: list[Bar]
    """Blocks by their time."""
    median: float
    """Of a block, in s."""
    longest: float
    """Of a block, in s."""
    busy: float
    """Sum over all blocks, in s."""


def measure_timing(stats: Iterable[Mapping[str, Any]]) -> Timing | None:
    """Add up what the ledger says of the blocks.

    Parameters
    ----------
    stats : iterable of mapping
        Counters of every finished block.

    Returns
    -------
    Timing or None
        None where nothing was measured.
    """
    rows = [
        [sum(float(s.get(f"{p}_s", 0)) for p in parts) for parts in PHASES.values()]
        for s in stats
    ]
    if not rows or not np.sum(rows):
        return None
    times = np.asarray(rows)
    sums, blocks = times.sum(axis=0), times.sum(axis=1)
    shares = 100 * sums / sums.sum()
    starts = np.cumsum(shares) - shares
    found = zip(PHASES, sums, shares, starts, strict=True)
    return Timing(
        phases=[Phase(n, float(s), float(p), float(a)) for n, s, p, a in found],
        bars=_histogram(blocks),
        median=float(np.median(blocks)),
        longest=float(blocks.max()),
        busy=float(blocks.sum()),
    )


def _histogram(seconds: Any) -> list[Bar]:
    top = float(seconds.max())
    counts, edges = np.histogram(
        seconds, bins=min(_BINS, max(6, len(seconds) // 2)), range=(0, top)
    )
    wide = WIDTH / len(counts)
    bars = []
    for i, count in enumerate(counts):
        high = HEIGHT * int(count) / int(counts.max())
        word = "block" if count == 1 else "blocks"
        title = f"{count:,} {word}: {edges[i]:.2g} to {edges[i + 1]:.2g} s"
        if count:
            bars.append(Bar(i * wide + 1, HEIGHT - high, wide - 2, high, title))
    return bars

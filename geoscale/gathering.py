"""All that blocks found, brought together: each object once, from north to south.

The order is that of the lattice's rows of patches, whatever the blocks. Detections wait
until no patch further south can reach the group that they are linked to; what waits
grows with the width of the map and not with its length.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from geoscale.detecting import Detection
from geoscale.plans import InferencePlan
from geoscale.sinks.vector import VectorSink
from geoscale.spread import spread
from geoscale.suppression import group, link, rank, suppress
from geoscale.types import Array

_COLUMNS = ("corners", "outline", "score", "value")
Columns = dict[str, Array]


def find_objects(plan: InferencePlan, sink: VectorSink) -> Iterator[Columns]:
    """Yield every object once, some at a time.

    Parameters
    ----------
    plan : InferencePlan
        What was run.
    sink : VectorSink
        Where its parts are.

    Yields
    ------
    dict of ndarray
        ``time`` int64 (n,), ``value``, ``score``, ``corners`` (n, 4, 2) in px, and
        ``outline``; what is yielded, and in which order, hangs on the lattice alone.
    """
    spec = plan.card.output.detection
    assert spec is not None
    axis = plan.lattice.y
    for time in range(len(plan.times)):
        waiting = _Waiting(spec)
        for row, columns in _rows(plan, sink, time):
            waiting.add(columns)
            reach: float = np.inf
            if row + 1 < axis.count:
                # upright boxes end with their patch, turned ones reach out by less than
                # its size
                reach = axis.start(row + 1) - axis.patch
            found = waiting.take(reach)
            if len(found["score"]):
                yield found | {"time": np.full(len(found["score"]), time)}


def _rows(
    plan: InferencePlan, sink: VectorSink, time: int
) -> Iterator[tuple[int, Columns]]:
    """Yield what each row of patches found, from whatever blocks."""
    axis, size, held = plan.lattice.y, plan.grid.block_px, dict[int, list[Columns]]()
    runs, row = plan.runs()[time], 0
    for block in range(plan.grid.counts[1]):
        places = np.flatnonzero(runs[block]).tolist()
        for part in spread(partial(sink.read, time, block), places):
            if part is None:
                continue
            for number in np.unique(part["row"]).tolist():
                some = part["row"] == number
                picked = {name: part[name][some] for name in _COLUMNS}
                held.setdefault(number, []).append(picked)
        # a row of patches is complete with the last block that its pixels touch
        while row < axis.count and (axis.core(row)[1] - 1) // size <= block:
            yield row, _stack(held.pop(row, []))
            row += 1


def _stack(parts: list[Columns]) -> Columns:
    empty: Columns = {
        "corners": np.zeros((0, 4, 2)),
        "outline": np.zeros(0, object),
        "score": np.zeros(0, np.float32),
        "value": np.zeros(0, np.int16),
    }
    return {name: np.concatenate([empty[name], *(p[name] for p in parts)])
            for name in _COLUMNS}  # fmt: skip


class _Waiting:
    """Detections whose group may still grow."""

    def __init__(self, spec: Detection) -> None:
        self._spec, self._held = spec, _stack([])

    def add(self, columns: Columns) -> None:
        """Add what another row of patches found."""
        self._held = _stack([self._held, columns])

    def take(self, reach: float) -> Columns:
        """Take the objects that nothing below `reach`, in px, can be linked to."""
        held, how = self._held, self._spec.suppression
        corners, values, scores = held["corners"], held["value"], held["score"]
        if not len(scores):
            return held
        links = link(corners, values, how)
        groups = group(links, len(scores))
        lowest = np.full(int(groups.max()) + 1, -np.inf)
        np.maximum.at(lowest, groups, corners[:, :, 1].max(1))
        done = lowest[groups] < reach
        self._held = {name: column[~done] for name, column in held.items()}
        some = {name: column[done] for name, column in held.items()}
        kept = suppress(
            some["corners"],
            some["score"],
            some["value"],
            link(some["corners"], some["value"], how),
            how,
            self._spec.score_threshold,
        )
        found = {name: column[kept.numbers] for name, column in some.items()}
        found |= {"corners": kept.corners, "score": kept.scores}
        # by place, and never by the order in which blocks were read
        order = rank(found["score"], found["value"], found["corners"])
        middle = found["corners"].mean(1)
        order = order[np.lexsort((middle[order, 0], middle[order, 1]))]
        return {name: column[order] for name, column in found.items()}

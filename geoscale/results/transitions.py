"""The verb: how much of each class became which, in pixels and on the ground.

Whole numbers are counted block by block and weighed at the end, so that blocks and
workers decide nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.api import as_url
from geoscale.chunks import BlockGrid
from geoscale.errors import JobError
from geoscale.results.flows import Flow, Transitions
from geoscale.results.ground import Ground
from geoscale.results.layers import (
    CHANGED,
    FROM,
    TO,
    Flag,
    choose_layer,
    choose_time,
    list_dates,
    list_flags,
    load_finished,
    trace_px,
)
from geoscale.results.pieces import CODES, Counts64, count_kinds
from geoscale.results.waves import each_block
from geoscale.sinks.layout import open_output, read_part
from geoscale.template import OutputTemplate
from geoscale.windows import Window

if TYPE_CHECKING:
    from distributed import Client

Side = tuple[str, int]
"""Name of a layer and number of a time step."""
_SAME, _CHANGED = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Sides:
    """What is held against what: plain data that go to workers."""

    output: str
    """URL of the output."""
    before: Side
    """Classes of the earlier date."""
    after: Side
    """Classes of the later date."""
    mark: Side | None
    """Layer that says which pixels count as changed; None: all whose classes differ."""


@dataclass(frozen=True)
class Opened:
    """Both sides, open."""

    sides: Sides
    """What was asked for."""
    template: OutputTemplate
    """Of the output."""
    ground: Ground
    """True areas."""
    data: Any = field(repr=False)
    """Lazy dataset, as stored."""

    def read(self, side: Side, window: Window) -> Counts64:
        """Read a window of one side, int64 (y, x)."""
        rows, columns = slice(window.y0, window.y1), slice(window.x0, window.x1)
        found = read_part(self.data[side[0]], (side[1], rows, columns))
        return found.astype(np.int64)

    def fill(self, side: Side) -> int:
        """Value of nodata."""
        return int(self.template.layer(side[0]).fill_value)


def transitions(
    output: str | Path,
    *,
    client: Client | None = None,
    layer: str | None = None,
    time: str | None = None,
    before: str | None = None,
    after: str | None = None,
) -> Transitions:
    """Count how much of each class became which.

    Of a change map with ``from_class`` and ``to_class``, where what its layer
    ``change`` calls changed counts as changed; or of two time steps of a map.

    Parameters
    ----------
    output : str or path
        A finished output.
    client : distributed.Client, optional
        Cluster to count on; its workers must see the output.
    layer : str, optional
        Layer of classes whose time steps are compared; default ``classes``.
    time : str, optional
        Beginning of the time label of a change map.
    before, after : str, optional
        Beginnings of the time labels to be compared; default the first and the last.

    Returns
    -------
    Transitions
        Print it, or write it with `Transitions.write`.

    Raises
    ------
    JobError
        If the output has nothing to compare, or an option is wrong.
    OutputError
        If it is not there or not finished.
    """
    url = as_url(output)
    template = load_finished(url)
    names = {one.name for one in template.layers}
    steps = layer is not None or before is not None or after is not None
    if {FROM, TO} <= names and not steps:
        sides, dates = _pair_sides(url, template, time)
    else:
        sides, dates = _step_sides(url, template, layer, (before, after, time))
    return _count(sides, dates, template, client)


def count_block(opened: Opened, window: Window) -> Counts64:
    """Count one block.

    Parameters
    ----------
    opened : Opened
        From `open_sides`.
    window : Window
        Inside the map.

    Returns
    -------
    ndarray of int64, (n, 3)
        Both classes and whether it counts as changed, as one; part of the ground;
        pixels.
    """
    sides = opened.sides
    before, after = (opened.read(one, window) for one in (sides.before, sides.after))
    known = (before != opened.fill(sides.before)) & (after != opened.fill(sides.after))
    mark = before != after
    if sides.mark is not None:
        said = opened.read(sides.mark, window)
        known &= said != opened.fill(sides.mark)
        mark = said == CHANGED
    codes = (before * CODES + after) * 2 + mark
    local, parts = opened.ground.parts(window)
    where = np.broadcast_to(local, window.shape)[known]
    found = count_kinds(codes[known], where)
    found[:, 1] = parts[found[:, 1]]
    return found


def open_sides(sides: Sides) -> Opened:
    """Open both sides; no pixel is read.

    Parameters
    ----------
    sides : Sides
        What is held against what.

    Returns
    -------
    Opened
        For `count_block`.
    """
    template = load_finished(sides.output)
    data = open_output(sides.output, raw=True)
    return Opened(sides, template, Ground(template.geobox), data)


def _pair_sides(
    url: str, template: OutputTemplate, time: str | None
) -> tuple[Sides, tuple[str, str]]:
    number, label = choose_time(template.times, time)
    mark = ("change", number) if _has(template, "change") else None
    sides = Sides(output=url, before=(FROM, number), after=(TO, number), mark=mark)
    return sides, (list_dates(template)[number][0] or "", label)


def _step_sides(
    url: str,
    template: OutputTemplate,
    layer: str | None,
    asked: tuple[str | None, str | None, str | None],
) -> tuple[Sides, tuple[str, str]]:
    before, after, time = asked
    if time is not None:
        raise JobError(
            "time names a step of a change map with from and to class; of a map of "
            "classes name both dates: before and after (--from, --until)"
        )
    wanted = layer or ("classes" if _has(template, "classes") else None)
    name = choose_layer(template, wanted).name
    times = template.times
    if len(times) < 2 or name == "change":
        there = ", ".join(one.name for one in template.layers)
        raise JobError(
            f"the output has {there} at {len(times)} time step"
            f"{'s' * (len(times) != 1)}: transitions need {FROM} and {TO}, or classes "
            "at two or more"
        )
    first = (0, times[0]) if before is None else choose_time(times, before)
    last = (len(times) - 1, times[-1]) if after is None else choose_time(times, after)
    if first[0] >= last[0]:
        raise JobError(
            f"{first[1]} is not before {last[1]}: name an earlier and a later time step"
        )
    sides = Sides(output=url, before=(name, first[0]), after=(name, last[0]), mark=None)
    return sides, (first[1], last[1])


def _count(
    sides: Sides,
    dates: tuple[str, str],
    template: OutputTemplate,
    client: Client | None,
) -> Transitions:
    opened = open_sides(sides)
    grid = BlockGrid(1, template.shape, trace_px(template))
    sums: dict[int, Counts64] = {}
    blocks = (grid.core(number) for number in grid)
    for found in each_block(
        count_block, open_sides, sides, blocks, client=client, opened=opened
    ):
        for code in np.unique(found[:, 0]).tolist():
            rows = found[found[:, 0] == code]
            if code not in sums:
                sums[code] = np.zeros(opened.ground.size, np.int64)
            sums[code][rows[:, 1]] += rows[:, 2]
    known = (
        list_flags(template, template.layer(sides.before[0])),
        list_flags(template, template.layer(sides.after[0])),
    )
    return _conclude(sides.output, dates, known, _weigh(opened.ground, sums))


def _weigh(
    ground: Ground, sums: Mapping[int, Counts64]
) -> dict[tuple[int, int, int], Flow]:
    made = {}
    for code, counts in sorted(sums.items()):
        pair, mark = divmod(code, 2)
        flow = Flow(px=int(counts.sum()), m2=ground.weigh(counts))
        made[(*divmod(pair, CODES), mark)] = flow
    return made


def _conclude(
    output: str,
    dates: tuple[str, str],
    known: tuple[tuple[Flag, ...], tuple[Flag, ...]],
    flows: Mapping[tuple[int, int, int], Flow],
) -> Transitions:
    by_value = {one.value: one for flags in known for one in flags}
    for before, after, _ in flows:
        for value in (before, after):
            by_value.setdefault(value, Flag(value, str(value), "999999"))
    flags = tuple(by_value[value] for value in sorted(by_value))
    nothing = Flow(px=0, m2=0.0)

    def table(mark: int) -> tuple[tuple[Flow, ...], ...]:
        return tuple(
            tuple(flows.get((old.value, new.value, mark), nothing) for new in flags)
            for old in flags
        )

    return Transitions(
        output=output,
        before=dates[0],
        after=dates[1],
        classes=flags,
        changed=table(_CHANGED),
        same=table(_SAME),
    )


def _has(template: OutputTemplate, name: str) -> bool:
    return any(one.name == name for one in template.layers)

"""Time steps: which items are one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from geoscale.sources.fields import format_label
from geoscale.sources.items import Item

GroupBy = Literal["solar_day", "item", "all"]


@dataclass(frozen=True, slots=True)
class Step:
    """One time step of the stack."""

    label: str
    """Time of its first item, ISO 8601, UTC, no zone."""
    members: tuple[int, ...]
    """Numbers of its items, in the order in which they win."""


def group_items(items: Sequence[Item], groupby: GroupBy) -> tuple[Step, ...]:
    """Group items, sorted by (time, id), into time steps.

    Parameters
    ----------
    items : sequence of Item
        Sorted.
    groupby : {"solar_day", "item", "all"}
        ``solar_day``: one step for each day at the place itself, so that a pass
        over midnight UTC stays whole; ``item``: one for each item; ``all``: one.

    Returns
    -------
    tuple of Step
        Ascending in time.
    """
    groups: dict[object, list[int]] = {}
    for i, item in enumerate(items):
        keys = {"solar_day": _solar_day(item), "item": i, "all": 0}
        groups.setdefault(keys[groupby], []).append(i)
    steps = [
        Step(format_label(items[members[0]].when), tuple(members))
        for members in groups.values()
    ]
    return tuple(sorted(steps, key=lambda step: (step.label, step.members)))


def _solar_day(item: Item) -> str:
    if not item.footprint:
        return f"{item.when:%Y-%m-%d}"
    longitudes = [x for x, _ in item.footprint]
    if max(longitudes) - min(longitudes) > 180:
        longitudes = [x % 360 for x in longitudes]
    middle = (max(longitudes) + min(longitudes)) / 2
    middle = (middle + 180) % 360 - 180
    # whole hours, as odc-stac has it
    return f"{item.when + timedelta(hours=int(middle / 15)):%Y-%m-%d}"

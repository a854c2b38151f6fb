"""Time steps: which items are one image."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Literal

from geoscale.sources.items import Item

GroupBy = Literal["solar_day", "item", "all"]
"""``solar_day``: one step for each day at the place; ``item``: one for each item;
``all``: one."""

Method = Literal["median", "mean", "first", "last", "nearest", "max-ndvi"]
"""How several dates become one image. ``first``, ``last``: the earliest and the latest
clear pixel; ``nearest``: the clear pixel nearest to the middle of the period;
``max-ndvi``: the greenest."""


@dataclass(frozen=True, slots=True)
class Step:
    """One time step of the stack."""

    label: str
    """Time of its first item, ISO 8601, UTC, no zone."""
    members: tuple[int, ...]
    """Numbers of its items, in the order in which they win."""


def find_solar_day(item: Item) -> str:
    """Give the day at the place itself, so that a pass over midnight UTC stays whole.

    Parameters
    ----------
    item : Item
        The item.

    Returns
    -------
    str
        ``YYYY-MM-DD``; in UTC where its place is not known.
    """
    if not item.footprint:
        return f"{item.when:%Y-%m-%d}"
    longitudes = [x for x, _ in item.footprint]
    if max(longitudes) - min(longitudes) > 180:
        longitudes = [x % 360 for x in longitudes]
    middle = (max(longitudes) + min(longitudes)) / 2
    middle = (middle + 180) % 360 - 180
    # whole hours, as odc-stac has it
    return f"{item.when + timedelta(hours=int(middle / 15)):%Y-%m-%d}"

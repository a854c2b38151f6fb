"""Time steps: which items are one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime as DateTime
from datetime import timedelta
from typing import Literal

from geoscale.sources.items import Item

GroupBy = Literal["solar_day", "item", "all"]
"""``solar_day``: one step for each day at the place; ``item``: one for each item;
``all``: one."""

Method = Literal[
    "median", "mean", "first", "last", "nearest", "best", "max-ndvi", "vote"
]  # fmt: skip
"""How several dates become one image. ``first``, ``last``: the earliest and the latest
clear pixel; ``nearest``: the clear pixel nearest to the middle of the period; ``best``:
that of the scene with the least cloud; ``max-ndvi``: the greenest. ``vote``: they do
not; each scene is classified, and the classes vote."""


@dataclass(frozen=True, slots=True)
class Step:
    """One time step of the stack."""

    label: str
    """Time of its first item, ISO 8601, UTC, no zone."""
    members: tuple[int, ...]
    """Numbers of its items, in the order in which they win."""


def find_middle(item: Item) -> float | None:
    """Longitude of an item's middle, in degrees from -180 to 180; None if unknown."""
    if not item.footprint:
        return None
    longitudes = [x for x, _ in item.footprint]
    if max(longitudes) - min(longitudes) > 180:
        longitudes = [x % 360 for x in longitudes]
    middle = (max(longitudes) + min(longitudes)) / 2
    return (middle + 180) % 360 - 180


def find_solar_days(
    whens: Sequence[DateTime], middles: Sequence[float | None]
) -> list[str]:
    """Give days at the places themselves, so that a pass over midnight UTC stays whole.

    Where all places lie around the antimeridian, all have the date of its western side:
    else a pass across it would be of two days.

    Parameters
    ----------
    whens : sequence of datetime
        Times of items, UTC.
    middles : sequence of float or None
        Longitudes, in degrees, -180 to 180; None where not known.

    Returns
    -------
    list of str
        ``YYYY-MM-DD``; in UTC where a place is not known.

    Examples
    --------
    >>> from datetime import datetime
    >>> late = datetime(2024, 5, 31, 23, 0)
    >>> find_solar_days([late, late], [20.0, -179.0])
    ['2024-06-01', '2024-05-31']
    >>> find_solar_days([late, late], [179.0, -179.0])
    ['2024-06-01', '2024-06-01']
    """
    known = [x for x in middles if x is not None]
    is_far = bool(known) and min(abs(x) for x in known) > 90 and max(known) > 0
    turn = 360.0 if is_far else 0.0
    found = []
    for when, x in zip(whens, middles, strict=True):
        lon = 0.0 if x is None else x + turn * (x < 0)
        # whole hours, as odc-stac has it
        found.append(f"{when + timedelta(hours=int(lon / 15)):%Y-%m-%d}")
    return found

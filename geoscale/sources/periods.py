"""Periods: which time steps of a stack make one image."""

from __future__ import annotations

import calendar
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from geoscale.errors import SourceError
from geoscale.sources.fields import format_label, parse_datetime
from geoscale.words import suggest

EACH = "each scene"
"""As periods: every time step is one."""
SHOWN = 6
"""Most names that an error lists."""

_MONTH = re.compile(r"(\d{4})-(\d{2})")
_YEAR = re.compile(r"\d{4}")
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


@dataclass(frozen=True, slots=True)
class Period:
    """One image of several dates."""

    name: str
    """What the job calls it."""
    label: str
    """Where it begins: ISO 8601, UTC, no zone."""
    middle: str
    """Half way to its end, or the date that was asked for, as `label`."""
    steps: tuple[int, ...]
    """Time steps of the stack, ascending."""


def find_periods(
    asked: Mapping[str, str] | Sequence[str] | None,
    times: Sequence[str],
    near: Mapping[str, str] | str | None = None,
) -> tuple[Period, ...]:
    """Sort the time steps of a stack into periods.

    Parameters
    ----------
    asked : mapping, sequence, ``each scene`` or None
        Name → period, or periods, as ``2024``, ``2024-06``, ``2024-06-15`` or two of
        these with a slash between; the last day, month or year belongs to it. None: one
        period of all.
    times : sequence of str
        Labels of the stack's time steps, ascending.
    near : str or mapping, optional
        Date to which pixels are to be near, or name of a period → date; default: the
        middle of each period.

    Returns
    -------
    tuple of Period
        Ascending, none empty.

    Raises
    ------
    SourceError
        If a period is no period, overlaps another, or has no time step: then the
        nearest one is named. If `near` names a period that is not there.

    Examples
    --------
    >>> [p.steps for p in find_periods({"before": "2023", "after": "2024"},
    ...                                ["2023-05-01T00:00:00", "2024-05-01T00:00:00"])]
    [(0,), (1,)]
    """
    whens = [parse_datetime(label, "time step") for label in times]
    if asked == EACH:
        each = [Period(t, t, t, (k,)) for k, t in enumerate(times)]
        return _with_near(each, near)
    if asked is None:
        asked = {"all": f"{whens[0].isoformat()}/{whens[-1].isoformat()}"}
    named = asked if isinstance(asked, Mapping) else {text: text for text in asked}
    if not named:
        raise SourceError("imagery.periods names none; give name: 2024-06/2024-08")
    spans = sorted((*parse_period(text), name) for name, text in named.items())
    for (_, end, one), (start, _, other) in pairwise(spans):
        if start < end:
            raise SourceError(
                f"periods `{one}` and `{other}` overlap: {named[one]} and "
                f"{named[other]}; let one end before the other begins"
            )
    found = []
    for start, end, name in spans:
        steps = tuple(i for i, when in enumerate(whens) if start <= when < end)
        if not steps:
            raise SourceError(_say_empty(name, str(named[name]), start, end, whens))
        middle = start + (end - start) / 2
        found.append(Period(name, format_label(start), format_label(middle), steps))
    return _with_near(found, near)


def _with_near(
    periods: Sequence[Period], near: Mapping[str, str] | str | None
) -> tuple[Period, ...]:
    """Put the dates that were asked for in the place of the middles."""
    if near is None:
        return tuple(periods)
    names = [period.name for period in periods]
    dates = near if isinstance(near, Mapping) else dict.fromkeys(names, near)
    for name in dates:
        if name not in names:
            raise SourceError(
                f"imagery.near names the period `{name}`{suggest(name, names)}; the "
                f"periods are {', '.join(names[:SHOWN])}"
            )
    middles = {
        name: format_label(parse_datetime(text, "imagery.near"))
        for name, text in dates.items()
    }
    return tuple(replace(p, middle=middles.get(p.name, p.middle)) for p in periods)


def parse_period(text: Any) -> tuple[datetime, datetime]:
    """Read a period.

    Parameters
    ----------
    text : str
        See `find_periods`.

    Returns
    -------
    tuple of datetime
        UTC; from the first until before the second.

    Raises
    ------
    SourceError
        If it is none.

    Examples
    --------
    >>> first, end = parse_period("2023-11/2024-02")
    >>> first.isoformat(), end.isoformat()
    ('2023-11-01T00:00:00+00:00', '2024-03-01T00:00:00+00:00')
    """
    first, slash, last = str(text).strip().partition("/")
    start, end = _span(first)
    if slash:
        end = _span(last)[1]
    if start >= end:
        raise SourceError(f"period `{text}` ends before it begins; write first/last")
    return start, end


def _span(text: str) -> tuple[datetime, datetime]:
    """First moment of a date, and the first after it."""
    text = text.strip()
    where = "imagery.periods"
    if _YEAR.fullmatch(text):
        year = int(text)
        return datetime(year, 1, 1, tzinfo=UTC), datetime(year + 1, 1, 1, tzinfo=UTC)
    if found := _MONTH.fullmatch(text):
        start = parse_datetime(f"{text}-01", where)
        days = calendar.monthrange(int(found[1]), int(found[2]))[1]
        return start, start + timedelta(days=days)
    start = parse_datetime(text, where)
    if _DAY.fullmatch(text):
        return start, start + timedelta(days=1)
    return start, start + timedelta(microseconds=1)


def _say_empty(
    name: str, text: str, start: datetime, end: datetime, whens: Sequence[datetime]
) -> str:
    def far(when: datetime) -> timedelta:
        return start - when if when < start else when - end

    nearest = min(whens, key=far)
    return (
        f"period `{name}` ({text}) has no scene; the nearest of {len(whens)} dates is "
        f"{nearest:%Y-%m-%d}: widen the period, or search for more scenes"
    )

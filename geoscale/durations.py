"""Lengths of time as people write them."""

from __future__ import annotations

import re

from geoscale.errors import JobError

_UNITS = (86_400, 3_600, 60, 1)


def parse_duration(text: str, name: str = "--deadline") -> float:
    """Read a time such as ``3h50m``, ``90m`` or ``5400`` as seconds.

    Parameters
    ----------
    text : str
        Days, hours, minutes and seconds in this order, or plain seconds; also
        ``hours:minutes:seconds``, with days before a dash, as batch systems write it.
    name : str
        Option or key that it was given for.

    Returns
    -------
    float
        Seconds, above 0.

    Raises
    ------
    JobError
        If it is no such time.

    Examples
    --------
    >>> parse_duration("3h50m"), parse_duration("90"), parse_duration("1d")
    (13800.0, 90.0, 86400.0)
    >>> parse_duration("00:02:00"), parse_duration("1-12:00:00")
    (120.0, 129600.0)
    """
    seconds = 0.0
    clock = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d):(\d\d)", text.strip())
    found = clock or re.fullmatch(
        r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s?)?", text.strip()
    )
    if found is not None:
        parts = zip(found.groups(), _UNITS, strict=True)
        seconds = sum(float(n) * unit for n, unit in parts if n is not None)
    if not seconds:
        raise JobError(f"{name} {text}: write a time such as 3h50m, 90m or 5400s")
    return seconds


def format_clock(seconds: float) -> str:
    """Write a time as ``hours:minutes:seconds``, as batch systems read it.

    Examples
    --------
    >>> format_clock(13800), format_clock(129600)
    ('03:50:00', '36:00:00')
    """
    whole = int(seconds)
    return f"{whole // 3600:02d}:{whole % 3600 // 60:02d}:{whole % 60:02d}"


def format_seconds(seconds: float) -> str:
    """Say a duration as people do.

    Parameters
    ----------
    seconds : float
        Duration, in s.

    Returns
    -------
    str
        With two units at most.

    Examples
    --------
    >>> format_seconds(42.3), format_seconds(210), format_seconds(8000)
    ('42 s', '3 min 30 s', '2 h 13 min')
    """
    total = round(seconds)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60} s"
    return f"{total // 3600:,} h {total % 3600 // 60} min"

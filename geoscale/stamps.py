"""Labels of time steps: ISO 8601, UTC, no zone suffix."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import JobError

MICROSECONDS_PER_DAY = 86_400_000_000


def parse_times(times: tuple[str, ...]) -> NDArray[np.datetime64]:
    """Read labels.

    Parameters
    ----------
    times : tuple of str
        Labels.

    Returns
    -------
    ndarray of datetime64[us]
        Their moments.

    Raises
    ------
    JobError
        If one is no label.
    """
    try:
        return np.array(times, dtype="datetime64[us]")
    except ValueError:
        raise JobError(
            f"times {list(times[:3])} are not ISO 8601 without a zone, "
            "such as 2024-05-01T10:20:31"
        ) from None


def encode_times(times: tuple[str, ...]) -> tuple[NDArray[np.int64], str]:
    """Give labels as CF stores them.

    Parameters
    ----------
    times : tuple of str
        Labels.

    Returns
    -------
    ndarray of int64, (time,)
        Whole numbers.
    str
        Their units.
    """
    micro = parse_times(times).astype(np.int64)
    if (micro % 1_000_000).any():
        return micro, "microseconds since 1970-01-01"
    return micro // 1_000_000, "seconds since 1970-01-01"


def add_days(label: str, days: float) -> str:
    """Give the label of a moment so many days after another.

    Parameters
    ----------
    label : str
        Of the first moment.
    days : float
        Parts of a day are rounded to microseconds.

    Returns
    -------
    str
        Without parts of seconds where there are none.

    Examples
    --------
    >>> add_days("2024-02-27T10:20:31", 5), add_days("2024-02-28", 0.5)
    ('2024-03-03T10:20:31', '2024-02-28T12:00:00')
    """
    micro = round(days * MICROSECONDS_PER_DAY)
    moment = parse_times((label,))[0] + np.timedelta64(micro, "us")
    whole = moment.astype("datetime64[s]")
    return str(whole if whole == moment else moment)


def days_between(first: str, second: str) -> float:
    """Days from one label to another.

    Examples
    --------
    >>> days_between("2024-02-28T12:00:00", "2024-03-01")
    1.5
    """
    one, other = parse_times((first, second))
    return float((other - one).astype(np.int64)) / MICROSECONDS_PER_DAY

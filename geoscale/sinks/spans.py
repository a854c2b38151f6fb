"""What the time of a map means: of two dates that are compared, and of a forecast."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from geoscale.stamps import days_between
from geoscale.template import OutputTemplate
from geoscale.types import Json

FORECAST = "https://stac-extensions.github.io/forecast/v0.2.0/schema.json"
"""STAC extension of what lies ahead."""


def read_label(label: str) -> Any:
    """Read a label as a datetime in UTC."""
    from datetime import UTC

    moment: Any = np.datetime64(label, "us").astype("O")
    return moment.replace(tzinfo=UTC)


def describe_span(template: OutputTemplate, time: int) -> tuple[Json, list[str]]:
    """Say from when to when a map speaks.

    Parameters
    ----------
    template : OutputTemplate
        Of the output.
    time : int
        Number of the time step.

    Returns
    -------
    dict
        Properties of its Item: nothing, both dates of a change, or from where a
        forecast looks ahead, and how far.
    list of str
        Extensions that these need.
    """
    if template.forecast_from is not None:
        first = template.forecast_from
        days = days_between(first, template.times[time])
        found = {
            "forecast:reference_datetime": _stamp(first),
            "forecast:horizon": name_duration(days),
        }
        return found, [FORECAST]
    if not template.compared:
        return {}, []
    said = template.compared[time]
    span = {
        "start_datetime": _stamp(said["from"]),
        "end_datetime": _stamp(said["to"]),
    }
    return {**span, **{f"geoscale:{name}": value for name, value in said.items()}}, []


def name_duration(days: float) -> str:
    """Name a duration as ISO 8601 does.

    Examples
    --------
    >>> name_duration(5), name_duration(0.5), name_duration(1.25)
    ('P5D', 'PT12H', 'P1DT6H')
    """
    seconds = round(days * 86_400)
    whole, rest = divmod(seconds, 86_400)
    parts = zip((rest // 3600, rest % 3600 // 60, rest % 60), "HMS", strict=True)
    clock = "".join(f"{n}{unit}" for n, unit in parts if n)
    day = f"{whole}D" if whole or not clock else ""
    return f"P{day}" + (f"T{clock}" if clock else "")


def _stamp(label: str) -> str:
    text: str = read_label(label).isoformat()
    return re.sub(r"\+00:00$", "Z", text)

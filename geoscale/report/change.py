"""What the page of a change map has more: both dates, probability, what became what."""

from __future__ import annotations

import base64
import hashlib
from importlib.resources import files

import numpy as np

from geoscale.engine.journal import Journal
from geoscale.plans import InferencePlan
from geoscale.report.areas import EXACT_PX
from geoscale.report.levels import Level
from geoscale.report.picture import (
    PICTURE_PX,
    Bytes,
    as_data_url,
    paint_classes,
    paint_pair,
)
from geoscale.results.figures import draw_heat_map
from geoscale.results.flows import Transitions
from geoscale.results.layers import FROM, TO, list_dates, list_flags
from geoscale.results.transitions import transitions
from geoscale.types import Array, Json

# From pale to dark red, readable for colour-blind eyes: ColorBrewer's OrRd,
# https://colorbrewer2.org
RAMP = ("fef0d9", "fdcc8a", "fc8d59", "e34a33", "b30000")
"""Colours of a probability from 0 to 1."""


def paint_change(plan: InferencePlan, url: str, level: Level, time: int) -> Json | None:
    """Paint what only change maps have.

    Parameters
    ----------
    plan : InferencePlan
        Says where the imagery is.
    url : str
        The output.
    level : Level
        Pictures get its shape.
    time : int
        Time step of the map.

    Returns
    -------
    dict or None
        ``before`` and ``after`` with picture and date, ``why`` they are no imagery,
        ``probability``, ``heat_map`` as SVG, ``summary``, and ``script`` with its
        ``digest``; None for other maps.
    """
    names = {one.name for one in level.template.layers}
    if "change" not in names:
        return None
    first, last = list_dates(level.template)[time]
    sides, why = _paint_sides(plan, level, time)
    script = (files("geoscale.report") / "slider.js").read_text("utf-8")
    found = _count(url, level, plan.times[time]) if {FROM, TO} <= names else None
    return {
        "before": {"picture": sides[0], "date": (first or "")[:10]},
        "after": {"picture": sides[1], "date": last[:10]},
        "kind": "classes" if why and sides[0] else "imagery",
        "classes": _name_classes(level) if {FROM, TO} <= names else [],
        "why": why,
        "probability": _paint_probability(level, time)
        if "probability" in names
        else None,
        "ramp": [f"#{color}" for color in RAMP],
        "heat_map": None if found is None else draw_heat_map(found),
        "summary": "" if found is None else str(found).splitlines()[0],
        "script": script,
        "digest": digest_script(script),
    }


def digest_script(script: str) -> str:
    """Digest of a script as a page's policy names it."""
    made = hashlib.sha256(script.encode("utf-8")).digest()
    return "sha256-" + base64.b64encode(made).decode("ascii")


def _paint_sides(
    plan: InferencePlan, level: Level, time: int
) -> tuple[tuple[str | None, str | None], str]:
    """Paint both dates: the imagery, else the classes; and why it is not imagery."""
    passes = plan.groups[time]
    pair = paint_pair(plan, (passes[0][0], passes[-1][-1]), level)
    if not isinstance(pair, str):
        before, after = (as_data_url(one, photo=True) for one in pair)
        return (before, after), ""
    names = {one.name for one in level.template.layers}
    if not {FROM, TO} <= names:
        return (None, None), pair
    made = [_paint_layer(level, name, time) for name in (FROM, TO)]
    return (made[0], made[1]), f"{pair} The classes of both dates are shown instead."


def _paint_layer(level: Level, name: str, time: int) -> str:
    layer = level.template.layer(name)
    data = level.sample(name, time, PICTURE_PX)
    flags = list_flags(level.template, layer)
    return as_data_url(paint_classes(data, flags, int(layer.fill_value)), photo=False)


def _paint_probability(level: Level, time: int) -> str:
    data = level.sample("probability", time, PICTURE_PX)
    return as_data_url(paint_ramp(data), photo=False)


def paint_ramp(data: Array) -> Bytes:
    """Paint a probability.

    Parameters
    ----------
    data : ndarray of float, (y, x)
        In [0, 1], NaN where there is none.

    Returns
    -------
    ndarray of uint8, (y, x, 4)
        Red, green, blue, alpha.
    """
    known = np.isfinite(data)
    unit = np.where(known, data, 0)
    stops = np.linspace(0, 1, len(RAMP))
    colors = np.array([list(bytes.fromhex(color)) for color in RAMP], float)
    painted = np.zeros((*data.shape, 4), np.uint8)
    for i in range(3):
        painted[..., i] = np.rint(np.interp(unit, stops, colors[:, i]))
    painted[..., 3] = np.where(known, 255, 0)
    return painted


def _name_classes(level: Level) -> list[Json]:
    flags = list_flags(level.template, level.template.layer(TO))
    return [
        {"title": one.name.replace("_", " "), "color": f"#{one.color}"} for one in flags
    ]


def _count(url: str, level: Level, time: str) -> Transitions | None:
    """Count what became what; None where that is too much, or not all is there."""
    rows, columns = level.shape
    if rows * columns * level.factor**2 > EXACT_PX or Journal(url).final() is None:
        return None
    return transitions(url, time=time)

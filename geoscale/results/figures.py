"""Figures of transitions as SVG: the heat map, and what flowed where."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from geoscale.results.flows import Transitions
from geoscale.results.ground import format_area
from geoscale.results.texts import LETTER, size_matrix

CELL = 76
"""Width and height of a cell of the heat map."""
TITLE_WIDTH = 400
"""Width of the words above."""
HIGH, WIDE, BAR, GAP = 320.0, 260, 14, 10
"""Height of all flows, way between the bars, width of a bar, gap between classes."""


def draw_heat_map(found: Transitions) -> str:
    """Draw the transition matrix; colour is the share of the class before.

    Parameters
    ----------
    found : Transitions
        What became what.

    Returns
    -------
    str
        SVG.
    """
    used, cells = found.used, []
    for y, i in enumerate(used):
        row = sum(found.cell(i, j).px for j in used)
        for x, j in enumerate(used):
            flow = found.cell(i, j)
            share = flow.px / row if row else 0.0
            cells.append(
                {
                    "x": x * CELL,
                    "y": y * CELL,
                    "area": format_area(flow.m2) if flow.px else "-",
                    "share": _percent(share) if flow.px else "",
                    "alpha": f"{share**0.5:.3f}",  # small shares are what is looked for
                    "dark": share > 0.3,
                    "same": i == j,
                }
            )
    names = [found.classes[i].name for i in used]
    return _render(
        "transitions.svg.j2", cells=cells, **size_matrix(names, CELL, TITLE_WIDTH)
    )


def draw_flows(found: Transitions) -> str:
    """Draw what changed as bands from the classes before to those after.

    Parameters
    ----------
    found : Transitions
        Has changed pixels.

    Returns
    -------
    str
        SVG (a Sankey diagram); heights are areas.
    """
    size = range(len(found.classes))
    m2 = [[flow.m2 for flow in row] for row in found.changed]
    scale = HIGH / (sum(map(sum, m2)) or 1.0)
    lost = [sum(row) * scale for row in m2]
    won = [sum(m2[i][j] for i in size) * scale for j in size]
    left, right = _stack(found, lost), _stack(found, won)
    starts = {one["number"]: one["y"] for one in left}
    ends = {one["number"]: one["y"] for one in right}
    bands = []
    for i in size:
        for j in size:
            if not m2[i][j]:
                continue
            high = m2[i][j] * scale
            a, b = starts[i], ends[j]
            starts[i], ends[j] = a + high, b + high
            old, new = found.classes[i], found.classes[j]
            bands.append(
                {
                    "path": _band(a, b, high),
                    "color": f"#{old.color}",
                    "title": f"{old.name} to {new.name}: {format_area(m2[i][j])}",
                }
            )
    words = [len(one["label"]) for one in (*left, *right)]
    side = 16 + LETTER * max(words)
    bottom = max(one["y"] + one["height"] for one in (*left, *right))
    return _render(
        "flows.svg.j2",
        left=left,
        right=right,
        bands=bands,
        bar=BAR,
        wide=WIDE,
        side=side,
        width=2 * side + WIDE + 2 * BAR,
        height=bottom + 12,
    )


def _stack(found: Transitions, heights: list[float]) -> list[dict[str, Any]]:
    made, y = [], 0.0
    for number, high in enumerate(heights):
        if not high:
            continue
        one = found.classes[number]
        share = _percent(high / HIGH)
        made.append(
            {
                "number": number,
                "y": y,
                "height": max(high, 1.0),
                "color": f"#{one.color}",
                "label": f"{one.name} {share}",
            }
        )
        y += max(high, 14.0) + GAP  # a line of text fits beside each
    return made


def _band(a: float, b: float, high: float) -> str:
    x0, x1 = BAR, BAR + WIDE
    middle = (x0 + x1) / 2
    return (
        f"M{x0},{a:.2f} C{middle},{a:.2f} {middle},{b:.2f} {x1},{b:.2f} "
        f"V{b + high:.2f} C{middle},{b + high:.2f} {middle},{a + high:.2f} "
        f"{x0},{a + high:.2f} Z"
    )


def _percent(share: float) -> str:
    return f"{share:.1%}" if share >= 0.0005 else "< 0.1%"


def _render(name: str, **facts: Any) -> str:
    import jinja2

    text = (files("geoscale.results") / name).read_text(encoding="utf-8")
    house = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return house.from_string(text).render(facts)

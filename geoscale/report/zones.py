"""The page above the pages of UTM zones: what each zone shows, and sums over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geoscale.engine.journal import Journal
from geoscale.report.page import redact_all, render, write_page
from geoscale.results.ground import format_area
from geoscale.types import Json


def write_zones(url: str, told: Json, page: Path, *, notes: Sequence[str] = ()) -> None:
    """Write a page for every zone that was begun, and one that leads to them.

    Parameters
    ----------
    url : str
        Folder of the zones' outputs.
    told : dict
        From `geoscale.zones.read_zones`.
    page : Path
        The page above; ``<stem>-<zone>.html`` lie beside it.
    notes : sequence of str
        What a reader must know.
    """
    shown: dict[str, Json] = {}
    for name in told["zones"]:
        if Journal(f"{url}/{name}").load_plan() is not None:
            below = page.with_name(f"{page.stem}-{name}.html")
            shown[name] = write_page(f"{url}/{name}", below, notes=notes)
            shown[name]["href"] = below.name
    rows = [
        _describe(name, told["zones"][name], shown.get(name)) for name in told["zones"]
    ]
    legend = [row for facts in shown.values() for row in facts["legend"]]
    facts = redact_all(
        {
            "name": url.rpartition("/")[2].removesuffix(".zarr"),
            "place": url,
            "complete": all(row["complete"] for row in rows),
            "empty": told["empty"],
            "total": format_area(sum(row["m2"] for row in legend)),
            "legend": _sum_areas(legend),
            "notes": list(notes),
        }
    )
    facts["zones"] = rows
    facts["card"] = next((one["card"] for one in shown.values()), None)
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(facts, "zones.html.j2"), encoding="utf-8")


def _describe(name: str, told: Json, facts: Json | None) -> Json:
    """Say what the page above tells of a zone; None: it was not begun."""
    row = {"name": name, "crs": told["crs"], "blocks": told["blocks"]}
    if facts is None:
        empty = {"complete": False, "done": 0, "failed": 0, "mapped": "-"}
        return {**row, **empty, "href": None, "picture": None}
    return {
        **row,
        "complete": facts["complete"],
        "done": facts["blocks"]["done"],
        "failed": len(facts["failed"]),
        "mapped": dict(facts["tiles"]).get("mapped", "-"),
        "href": facts["href"],
        "picture": facts["pictures"]["map"],
    }


def _sum_areas(legend: Sequence[Mapping[str, Any]]) -> list[Json]:
    """Add the areas of each class over the zones, largest first."""
    sums: Counter[str] = Counter()
    colors = {row["title"]: row["color"] for row in legend}
    for row in legend:
        sums[row["title"]] += row["m2"]
    total = sum(sums.values()) or 1.0
    return [
        {
            "title": title,
            "color": colors[title],
            "area": format_area(m2),
            "percent": 100 * m2 / total,
        }
        for title, m2 in sums.most_common()
    ]

"""The page above the pages of UTM zones: what each zone shows, and sums over all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from geoscale.engine.journal import Journal
from geoscale.report.facts import redact_all
from geoscale.report.objects import write_objects
from geoscale.report.page import render, write_page
from geoscale.results.ground import format_area
from geoscale.sinks.vector import has_objects
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
            write = write_objects if has_objects(f"{url}/{name}") else write_page
            shown[name] = write(f"{url}/{name}", below, notes=notes)
            shown[name]["href"] = below.name
    rows = [
        _describe(name, told["zones"][name], shown.get(name)) for name in told["zones"]
    ]
    legend = [row for facts in shown.values() for row in facts["legend"]]
    counted = any("objects" in facts for facts in shown.values())
    unit = "count" if counted else "m2"
    facts = redact_all(
        {
            "name": url.rpartition("/")[2].removesuffix(".zarr"),
            "place": url,
            "complete": all(row["complete"] for row in rows),
            "empty": told["empty"],
            "counted": counted,
            "total": _say(sum(row[unit] for row in legend), unit),
            "legend": _sum_up(legend, unit),
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
    tiles, pictures = dict(facts["tiles"]), facts["pictures"]
    mapped = tiles.get("mapped", "-")
    if "objects" in facts:
        mapped = f"{facts['objects']:,} objects"
    return {
        **row,
        "complete": facts["complete"],
        "done": facts["blocks"]["done"],
        "failed": len(facts["failed"]),
        "mapped": mapped,
        "href": facts["href"],
        "picture": pictures["whole"] if "objects" in facts else pictures["map"],
    }


def _say(amount: float, unit: str) -> str:
    return format_area(amount) if unit == "m2" else f"{amount:,}"


def _sum_up(legend: Sequence[Mapping[str, Any]], unit: str) -> list[Json]:
    """Add areas or objects of each class over the zones, most first."""
    sums: Counter[str] = Counter()
    colors = {row["title"]: row["color"] for row in legend}
    for row in legend:
        sums[row["title"]] += row[unit]
    total = sum(sums.values()) or 1
    return [
        {
            "title": title,
            "color": colors[title],
            "amount": _say(amount, unit),
            "percent": 100 * amount / total,
        }
        for title, amount in sums.most_common()
    ]

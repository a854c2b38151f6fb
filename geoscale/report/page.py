"""The page: gather what is known of an output and set it as HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from geoscale.engine.journal import Journal, Ledger
from geoscale.plans import InferencePlan
from geoscale.report.areas import EXACT_PX, Areas, mean_confidence, measure_areas
from geoscale.report.change import paint_change
from geoscale.report.facts import gather_run, name_day, redact_all
from geoscale.report.levels import Level, open_levels, pick_level
from geoscale.report.numbers import enlarge, paint_numbers
from geoscale.report.picture import (
    PICTURE_PX,
    as_data_url,
    enlargement,
    paint_classes,
    paint_detail,
    paint_imagery,
)
from geoscale.results.ground import format_area
from geoscale.results.layers import CHANGED, choose_layer, list_dates, list_flags
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Json, Layer
from geoscale.windows import Window
from geoscale.words import redact

DETAIL_PX = 320
"""Height and width of the closer look, in px of the map."""


def write_page(
    url: str,
    page: Path,
    *,
    notes: Sequence[str] = (),
    beside: tuple[str, Sequence[str]] | None = None,
    later: str = "After",
) -> Json:
    """Write one self-contained HTML page that shows a map on one grid.

    Parameters
    ----------
    url : str
        The output, finished or not.
    page : Path
        The page.
    notes : sequence of str
        What a reader must know; shown below the pictures.
    beside : tuple of str and sequence of str, optional
        URL of a change map of the same area, and what a reader must know of it.
    later : str
        What the later date of a change map is called.

    Returns
    -------
    dict
        What the page shows.

    Raises
    ------
    OutputError
        If there is no output.
    """
    facts = redact_all(gather_facts(url)) | {"notes": [redact(n) for n in notes]}
    facts |= {"pictures": paint(url), "beside": _show_beside(beside), "later": later}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(facts), encoding="utf-8")
    return dict(facts)


def render(facts: Mapping[str, Any], template: str = "page.html.j2") -> str:
    """Set the page.

    Parameters
    ----------
    facts : mapping
        As `gather_facts` gives, with ``pictures`` and ``notes``.
    template : str
        Name of a file beside this one.

    Returns
    -------
    str
        HTML without any request to elsewhere.
    """
    import jinja2

    room = files("geoscale.report")
    house = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (room / name).read_text("utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return house.get_template(template).render(facts)


def gather_facts(url: str) -> Json:
    """Gather all but the pictures.

    Parameters
    ----------
    url : str
        The output.

    Returns
    -------
    dict
        What the template asks for.

    Raises
    ------
    OutputError
        If nothing was begun there.
    """
    facts, run = gather_run(url)
    plan, ledger, levels = run.plan, run.ledger, open_levels(url)
    template, time = levels[0].template, len(plan.times) - 1
    since = list_dates(template)[time][0]
    legend = list(_legend(levels, template, time))
    tiles = _tiles(levels, ledger, run.final, time)
    return facts | {
        "since": name_day(since) if since else "",
        "seen": name_day(template.forecast_from or plan.times[time]),
        "legend": legend,
        "tiles": [*_changed(plan, legend), *tiles],
        "layers": [layer.name for layer in template.layers],
    }


def paint(url: str) -> Json:
    """Paint the map and its imagery.

    Parameters
    ----------
    url : str
        The output.

    Returns
    -------
    dict
        ``map`` and ``imagery`` as data URLs or None, ``why`` there is no imagery,
        ``detail`` of both at full resolution or None, ``change`` what a change map has
        more, or None.
    """
    plan = Journal(url).load_plan()
    assert plan is not None
    levels, time = open_levels(url), len(plan.times) - 1
    level = pick_level(levels, PICTURE_PX)
    layer = _class_layer(level.template)
    found: Json = {"map": None, "imagery": None, "why": "", "detail": None}
    found["shows"] = ""
    # a map of few cells is enlarged, beside imagery that has its own pixels
    larger = enlargement(plan, level)
    numbers = paint_numbers(level, time) if layer is None else None
    if numbers is not None:
        painted, found["shows"] = numbers
        found["map"] = as_data_url(enlarge(painted, larger), photo=False)
    if layer is not None:
        data = level.sample(layer.name, time, PICTURE_PX)
        flags = list_flags(level.template, layer)
        painted = paint_classes(data, flags, int(layer.fill_value))
        found["map"] = as_data_url(enlarge(painted, larger), photo=False)
        if max(levels[0].shape) > 2 * DETAIL_PX and plan.cell == 1:
            found["detail"] = _paint_detail(plan, levels[0], layer, time)
    found["change"] = paint_change(plan, url, level, time)
    if found["change"] is not None:
        found["why"] = redact(found["change"]["why"])
        return found
    imagery = paint_imagery(plan, time, level)
    if isinstance(imagery, str):
        found["why"] = redact(imagery)
    else:
        found["imagery"] = as_data_url(imagery, photo=True)
    return found


def _show_beside(beside: tuple[str, Sequence[str]] | None) -> Json | None:
    """Gather what is shown of another map; None where there is none."""
    if beside is None:
        return None
    url, notes = beside
    facts = gather_facts(url)
    some = {name: facts[name] for name in ("name", "card", "legend", "tiles")}
    told = redact_all(some | {"notes": list(notes)})
    return {**told, "pictures": paint(url)}


def _paint_detail(
    plan: InferencePlan, level: Level, layer: Layer, time: int
) -> Json | None:
    """Paint the middle of the map, and its imagery, pixel by pixel."""
    rows, columns = level.shape
    half, y, x = DETAIL_PX // 2, rows // 2, columns // 2
    window = Window(y - half, x - half, y + half, x + half).clip(level.shape)
    data = level.read(layer.name, time, window)
    fill = int(layer.fill_value)
    imagery, flags = paint_detail(plan, time, window), list_flags(level.template, layer)
    if imagery is None or not (data != fill).any():
        return None
    return {
        "imagery": as_data_url(imagery, photo=True),
        "map": as_data_url(paint_classes(data, flags, fill), photo=False),
        "size": f"{window.height} x {window.width} px",
    }


def _class_layer(template: OutputTemplate) -> Layer | None:
    has = any(is_categorical(one) for one in template.layers)
    return choose_layer(template, None) if has else None


def _legend(levels: list[Level], template: OutputTemplate, time: int) -> Any:
    """Yield each class with its colour, area and share, largest first."""
    layer = _class_layer(template)
    if layer is None:
        return
    level = pick_level(levels, EXACT_PX)
    areas = measure_areas(level, layer.name, time, int(layer.fill_value))
    titles = {c.name: c.title for c in template.classes if c.title}
    flags = list_flags(template, layer)
    for one in sorted(flags, key=lambda flag: -areas.m2.get(flag.value, 0.0)):
        yield {
            "title": titles.get(one.name) or one.name.replace("_", " "),
            "value": one.value,
            "color": f"#{one.color}",
            "area": format_area(areas.m2.get(one.value, 0.0)),
            "m2": areas.m2.get(one.value, 0.0),
            "percent": areas.percent(one.value),
            "factor": areas.factor,
        }


def _changed(plan: InferencePlan, legend: list[Json]) -> Any:
    """Yield how much changed, of a change map."""
    for row in legend:
        if plan.goal == "change" and row["value"] == CHANGED:
            yield "changed", f"{row['area']}, {row['percent']:.1f}\u00a0%"


def _tiles(levels: list[Level], ledger: Ledger, final: Json | None, time: int) -> Any:
    """Yield the few numbers that stand at the top."""
    template = levels[0].template
    layer = _class_layer(template)
    if layer is not None:
        coarse = pick_level(levels, PICTURE_PX)
        areas: Areas = measure_areas(coarse, layer.name, time, int(layer.fill_value))
        yield "mapped", format_area(areas.total)
    rows, columns = template.shape
    yield "size", f"{rows:,} x {columns:,} px"
    if any(one.name == "confidence" for one in template.layers):
        mean = mean_confidence(pick_level(levels, PICTURE_PX), time)
        if mean is not None:
            yield "mean confidence", f"{mean:.2f}"
    yield "blocks", f"{len(ledger.done):,}"
    if "strange" in ledger.totals:
        count = int(ledger.totals["strange"])
        yield "unlike training pixels", f"{count:,} block{'s' * (count != 1)}"
    if final is not None:
        yield "objects verified", f"{final.get('verified_objects', 0):,}"

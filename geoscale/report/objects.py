"""The page of a detector's output: objects over the imagery, how many, how sure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.card_output import OutputClass, class_colors
from geoscale.plans import InferencePlan
from geoscale.report.boxes import Painter, find_crowd
from geoscale.report.facts import Run, gather_run, redact_all
from geoscale.report.page import render
from geoscale.report.timing import HEIGHT, WIDTH, Bar
from geoscale.sinks.vector import TABLE
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

SHOWN = 40
"""Most classes that the page lists."""
ROWS = 65_536
"""Rows of the table that are looked at together."""
_BINS = 25


@dataclass(slots=True)
class Tally:
    """How many objects of one date there are, and how sure the detector is of them."""

    counts: dict[int, int] = field(default_factory=dict)
    """Class value → objects."""
    sums: dict[int, float] = field(default_factory=dict)
    """Class value → sum of their scores."""
    bins: NDArray[np.int64] = field(default_factory=lambda: np.zeros(_BINS, np.int64))
    """Objects by score, in even steps from the least one to 1."""

    @property
    def total(self) -> int:
        """All objects."""
        return sum(self.counts.values())


def write_objects(url: str, page: Path, *, notes: Sequence[str] = ()) -> Json:
    """Write one self-contained HTML page that shows what a detector found.

    Parameters
    ----------
    url : str
        The output, finished or not.
    page : Path
        The page.
    notes : sequence of str
        What a reader must know.

    Returns
    -------
    dict
        What the page shows.

    Raises
    ------
    OutputError
        If there is no output.
    """
    facts, run = gather_run(url)
    classes = run.plan.card.output.classes
    spec = run.plan.card.output.detection
    assert spec is not None
    tally = Tally() if run.final is None else count(url, run.plan, spec.score_threshold)
    legend = _legend(tally, classes)
    facts |= {
        "legend": legend,
        "shown": SHOWN,
        "tiles": list(_tiles(run, tally)),
        "objects": tally.total,
        "least": spec.score_threshold,
        "scores": draw_scores(tally, spec.score_threshold),
        "notes": [redact(note) for note in notes],
        "outlines": spec.mask_threshold is not None,
    }
    facts = redact_all(facts) | {"pictures": paint_objects(url, run)}
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text(render(facts, "objects.html.j2"), encoding="utf-8")
    return dict(facts)


def iter_rows(
    url: str, plan: InferencePlan, columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Yield rows of the last date, some at a time.

    Parameters
    ----------
    url : str
        A finished output.
    plan : InferencePlan
        Of it.
    columns : sequence of str
        Some of ``value``, ``score``, ``bbox`` and ``geometry``.

    Yields
    ------
    dict of ndarray
        Column → values; ``bbox`` as (n, 4), in the CRS.
    """
    import pyarrow.parquet as pq

    last = np.datetime64(plan.times[-1], "ms")
    with Folder(url).open(TABLE) as stream:
        file = pq.ParquetFile(stream)
        for batch in file.iter_batches(ROWS, columns=["date", *columns]):
            dates = batch["date"].to_numpy(zero_copy_only=False)
            some = dates.astype("datetime64[ms]") == last
            made: dict[str, Any] = {}
            for name in columns:
                if name == "bbox":
                    sides = [side.to_numpy() for side in batch[name].flatten()]
                    made[name] = np.stack(sides, axis=1)[some]
                else:
                    made[name] = batch[name].to_numpy(zero_copy_only=False)[some]
            yield made


def count(url: str, plan: InferencePlan, least: float) -> Tally:
    """Count the objects of the last date by class and by score.

    Parameters
    ----------
    url : str
        A finished output.
    plan : InferencePlan
        Of it.
    least : float
        Least score of what is kept.

    Returns
    -------
    Tally
        In one pass over the table.
    """
    tally = Tally()
    for rows in iter_rows(url, plan, ("value", "score")):
        values, scores = rows["value"], rows["score"].astype(np.float64)
        for value in np.unique(values).tolist():
            some = values == value
            tally.counts[value] = tally.counts.get(value, 0) + int(some.sum())
            tally.sums[value] = tally.sums.get(value, 0.0) + float(scores[some].sum())
        # soft NMS may leave a little less than the least score
        inside = np.clip(scores, least, 1.0)
        tally.bins += np.histogram(inside, _BINS, (least, 1.0))[0]
    return tally


def draw_scores(tally: Tally, least: float) -> list[Bar]:
    """Draw how many objects have which score.

    Parameters
    ----------
    tally : Tally
        From `count`.
    least : float
        Where its bins begin.

    Returns
    -------
    list of Bar
        In the units of the drawing; none where there is no object.
    """
    most = int(tally.bins.max())
    if not most:
        return []
    wide, edges = WIDTH / _BINS, np.linspace(least, 1, _BINS + 1)
    bars = []
    for i, number in enumerate(tally.bins.tolist()):
        high = HEIGHT * number / most
        word = "object" if number == 1 else "objects"
        title = f"{number:,} {word}: score {edges[i]:.2f} to {edges[i + 1]:.2f}"
        if number:
            bars.append(Bar(i * wide + 1, HEIGHT - high, wide - 2, high, title))
    return bars


def paint_objects(url: str, run: Run) -> Json:
    """Paint objects over the imagery: all of it, and where most of them are.

    Parameters
    ----------
    url : str
        The output.
    run : Run
        Of it.

    Returns
    -------
    dict
        ``whole`` and ``detail`` as data URLs or None, ``size`` of the detail, and
        ``why`` there is no imagery.
    """
    plan = run.plan
    painter = Painter(plan)
    found: Json = {"whole": None, "detail": None, "size": "", "why": ""}
    crowd = None
    if run.final is not None:
        crowd = find_crowd(
            plan, lambda: (rows["bbox"] for rows in iter_rows(url, plan, ("bbox",)))
        )
        columns = ("value", "bbox", "geometry") if crowd else ("value", "bbox")
        for rows in iter_rows(url, plan, columns):
            painter.add(rows, crowd)
    found["whole"] = painter.paint_whole(crowd)
    found["why"] = redact(painter.why)
    if crowd is not None:
        found["detail"] = painter.paint_detail(crowd)
        found["size"] = f"{crowd.height} x {crowd.width} px"
    return found


def _legend(tally: Tally, classes: Sequence[OutputClass]) -> list[Json]:
    """Give each class that was found with its colour and numbers, most first."""
    rows = []
    for one, color in zip(classes, class_colors(classes), strict=True):
        number = tally.counts.get(one.value, 0)
        if number:
            rows.append(
                {
                    "title": one.title or one.name.replace("_", " "),
                    "color": f"#{color}",
                    "count": number,
                    "percent": 100 * number / tally.total,
                    "score": tally.sums[one.value] / number,
                }
            )
    return sorted(rows, key=lambda row: -int(row["count"]))


def _tiles(run: Run, tally: Tally) -> Iterator[tuple[str, str]]:
    """Yield the few numbers that stand at the top."""
    if run.final is not None:
        yield "objects", f"{tally.total:,}"
        if len(run.plan.card.output.classes) > 1:
            all_of = len(run.plan.card.output.classes)
            yield "classes found", f"{len(tally.counts)} of {all_of}"
        if tally.total:
            yield "mean score", f"{sum(tally.sums.values()) / tally.total:.2f}"
    rows, columns = run.plan.shape
    yield "size", f"{rows:,} x {columns:,} px"
    yield "blocks", f"{len(run.ledger.done):,}"
    if "strange" in run.ledger.totals:
        number = int(run.ledger.totals["strange"])
        yield "unlike training pixels", f"{number:,} block{'s' * (number != 1)}"
    if run.final is not None:
        yield "parts verified", f"{run.final.get('verified_objects', 0):,}"

"""A forecast held against imagery that came later, beside what was seen last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.api import as_url
from geoscale.chunks import BlockGrid
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, OutputError, SourceError
from geoscale.evaluation.deviations import Errors, ForecastEvaluation, StepErrors
from geoscale.forecasts import allowed_slack, say_days
from geoscale.job import load_imagery
from geoscale.judging import with_judge
from geoscale.plans import InferencePlan
from geoscale.results.waves import each_block
from geoscale.sinks.layout import open_output
from geoscale.sources.opening import open_source, source_of
from geoscale.sources.settings import Imagery, parse_imagery
from geoscale.stamps import days_between
from geoscale.tasks.forecast import FORECAST
from geoscale.types import Array, Bool, Float, Json, Source
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What is compared; plain data that go to workers."""

    url: str
    """A finished forecast."""
    imagery: Json
    """Imagery that came later, as a job names it."""
    trust_code: bool
    """Allow Python code of the model of a mask."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Both sides, open in one process."""

    plan: InferencePlan
    """Of the forecast."""
    data: Any
    """(time, band, y, x), opened lazily."""
    seen: Source
    """Imagery that the forecast was made of."""
    later: Source
    """Imagery that came later."""
    pairs: tuple[tuple[int, int], ...]
    """Step of the forecast, and time step of what came later."""
    bands: tuple[tuple[int, int], ...]
    """Band of the forecast, and of the imagery."""


def is_forecast(output: str | Path) -> bool:
    """Whether an output is a forecast; False where there is none."""
    plan = Journal(as_url(output)).load_plan()
    return plan is not None and plan.card.output.forecast is not None


def evaluate_forecast(
    output: str | Path,
    imagery: str | Path | Imagery | Mapping[str, Any],
    *,
    client: Client | None = None,
    trust_code: bool = False,
) -> ForecastEvaluation:
    """Hold a finished forecast against imagery that came later.

    Beside it stands persistence: what each pixel showed when it was last seen clearly,
    taken to stay. Only pixels that all three know are counted.

    Parameters
    ----------
    output : str or path
        A finished output of task forecasting.
    imagery : str, path, Imagery or mapping
        What came later: a YAML file with ``imagery:`` as in a job, or its keys. Masks
        and periods are as for a job.
    client : distributed.Client, optional
        Cluster to count on; its workers must see both.
    trust_code : bool
        Allow Python code that the card of a mask's model names.

    Returns
    -------
    ForecastEvaluation
        Print it, or write it with `ForecastEvaluation.write`.

    Raises
    ------
    JobError
        If the imagery's settings are wrong.
    OutputError
        If the output is no forecast, or is not finished.
    SourceError
        If no scene is of a date of the forecast, or no band of its bands.
    """
    if isinstance(imagery, str | Path):
        if Path(imagery).suffix.lower() not in (".yaml", ".yml", ".json"):
            raise JobError(
                f"{redact(str(imagery))}: a forecast is held against imagery that came "
                "later; name a YAML file with `imagery:` as in a job, or the job itself"
            )
        imagery = load_imagery(imagery)
    named = parse_imagery(imagery)
    asked = Asked(
        url=as_url(output),
        imagery=named.model_dump(exclude_unset=True, mode="json"),
        trust_code=trust_code,
    )
    opened = open_both(asked)
    plan, units = opened.plan, opened.plan.card.input.units
    grid = BlockGrid(1, plan.shape, plan.grid.block_px)
    total = [
        [Errors.none(units) for _ in range(2 * len(opened.bands))] for _ in opened.pairs
    ]
    blocks = (grid.core(number) for number in grid)
    for found in each_block(
        count_errors, open_both, asked, blocks, client=client, opened=opened
    ):
        for step, parts in zip(total, found, strict=True):
            for k, part in enumerate(parts):
                step[k] = step[k] + part
    return _conclude(opened, asked, total)


def open_both(asked: Asked) -> Opened:
    """Open a forecast, what it was made of, and what came later.

    Parameters
    ----------
    asked : Asked
        What is compared.

    Returns
    -------
    Opened
        Metadata are read, pixels are not.

    Raises
    ------
    OutputError, SourceError
        As `evaluate_forecast` does.
    """
    journal = Journal(asked.url)
    plan = journal.load_plan()
    if plan is None or plan.card.output.forecast is None:
        raise OutputError(
            f"{redact(asked.url)} is no forecast of geoscale; check the path"
        )
    if journal.final() is None:
        raise OutputError(f"{redact(asked.url)} is not finished; run the job first")
    card = plan.card
    if (asked.imagery.get("mask") or {}).get("model"):
        raise JobError(
            "what a forecast is held against takes no model as its mask; say `mask: "
            "{asset: …}`, or leave clouds out by `imagery.datetime`"
        )
    later: Any = open_source(
        asked.imagery,
        geobox=plan.geobox,
        bands=card.input.bands,
        sensor=card.input.sensor,
    )
    # values as the card's `units` say, not as the network takes them
    later = later.calibrated(card.input.units, 1.0)
    seen = with_judge(source_of(plan), plan, trust_code=asked.trust_code)
    return Opened(
        plan=plan,
        data=open_output(asked.url)[FORECAST],
        seen=seen,
        later=later,
        pairs=_pair_dates(plan, later.times),
        bands=_pair_bands(plan),
    )


def count_errors(opened: Opened, window: Window) -> list[list[Errors]]:
    """Add up the errors of one block, of the forecast and of persistence.

    Parameters
    ----------
    opened : Opened
        Both sides.
    window : Window
        Pixels of the block.

    Returns
    -------
    list of list of Errors
        By step: each band of the forecast, then each of persistence.
    """
    units = opened.plan.card.input.units
    stays, known = _persist(opened, window)
    ys, xs = slice(window.y0, window.y1), slice(window.x0, window.x1)
    found = []
    for step, scene in opened.pairs:
        pixels = opened.later.read(window, [scene])
        ahead = opened.data[step, :, ys, xs].values.astype(np.float32)
        row: list[Errors] = []
        for forecast in (ahead, None):
            for mine, theirs in opened.bands:
                truth = pixels.data[0, theirs].astype(np.float32)
                valid = pixels.valid[0] & known & np.isfinite(ahead[mine])
                valid &= np.isfinite(truth)
                said = stays[theirs] if forecast is None else forecast[mine]
                row.append(Errors.of(said[valid], truth[valid], units))
        found.append(row)
    return found


def _persist(opened: Opened, window: Window) -> tuple[Float, Bool]:
    """Last clear values, (band, y, x), and where there are any."""
    card, steps = opened.plan.card, opened.plan.groups[0][0]
    shape = (len(card.input.bands), *window.shape)
    stays, known = np.zeros(shape, np.float32), np.zeros(window.shape, bool)
    # in float32 as the network saw it, and back in the card's units
    back = np.float32(1 / card.input.multiply)
    for step in steps:
        pixels = opened.seen.read(window, [step])
        data: Array = pixels.data[0].astype(np.float32) * back
        clear = pixels.valid[0] & np.isfinite(data).all(axis=0)
        np.copyto(stays, data, where=clear)
        known |= clear
    return stays, known


def _pair_dates(
    plan: InferencePlan, times: tuple[str, ...]
) -> tuple[tuple[int, int], ...]:
    """Find the scene of each date of a forecast, where there is one."""
    ahead = plan.card.output.forecast
    assert ahead is not None
    slack, found = allowed_slack(ahead.every_days), []
    for step, label in enumerate(plan.times):
        far = [abs(days_between(label, time)) for time in times]
        nearest = min(range(len(times)), key=far.__getitem__)
        if far[nearest] <= slack:
            found.append((step, nearest))
    if not found:
        raise SourceError(
            f"no scene is within {say_days(slack)} of a date of the forecast "
            f"({plan.times[0][:10]} … {plan.times[-1][:10]}); the imagery has "
            f"{', '.join(time[:10] for time in times[:6])}"
        )
    return tuple(found)


def _pair_bands(plan: InferencePlan) -> tuple[tuple[int, int], ...]:
    seen = plan.card.input.bands
    names = [band.name for band in plan.card.output.bands]
    found = [(k, seen.index(name)) for k, name in enumerate(names) if name in seen]
    if not found:
        raise SourceError(
            f"no band of the forecast ({', '.join(names)}) is one of the imagery's "
            f"({', '.join(seen)}): there is nothing to hold it against"
        )
    return tuple(found)


def _conclude(
    opened: Opened, asked: Asked, total: list[list[Errors]]
) -> ForecastEvaluation:
    plan, count = opened.plan, len(opened.bands)
    names = tuple(plan.card.output.bands[mine].name for mine, _ in opened.bands)
    last = plan.source_times[plan.newest(0)]
    steps = []
    for (step, scene), row in zip(opened.pairs, total, strict=True):
        steps.append(
            StepErrors(
                time=plan.times[step],
                days=days_between(last, plan.times[step]),
                scene=opened.later.times[scene],
                bands=names,
                forecast=tuple(row[:count]),
                persistence=tuple(row[count:]),
            )
        )
    return ForecastEvaluation(
        output=asked.url,
        model=plan.card.name,
        seen=last,
        without=tuple(
            label
            for n, label in enumerate(plan.times)
            if n not in {step for step, _ in opened.pairs}
        ),
        steps=tuple(steps),
    )

"""How a run ends: overviews, verification, and a report of what is left to do."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from geoscale.assemble import make_sink
from geoscale.borders import find_neighbours, gather
from geoscale.engine.dates import list_unclear, say_unclear
from geoscale.engine.drive import Tally, finalize
from geoscale.engine.failures import advise
from geoscale.engine.journal import Journal
from geoscale.gauges import say_after
from geoscale.launch import wait_for_workers
from geoscale.notebook import draw_cell
from geoscale.plans import InferencePlan
from geoscale.sinks.overviews import write_overviews
from geoscale.sinks.thumbnail import draw_thumbnail
from geoscale.sinks.vector import VectorSink
from geoscale.sinks.zarr import ZarrSink
from geoscale.types import Json
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

STOPPED = 75
"""Exit code of a run that was asked to stop: EX_TEMPFAIL, so that job scripts can tell
it from a failure and hand the same command in again."""
SHOWN = 20
"""Quarantined blocks that a report prints; JSON has all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A quarantined block."""

    error: str
    """What its last attempt said."""
    kind: str
    """Why, in the words of `geoscale.engine.failures`."""
    place: tuple[float, float] | None
    """Longitude and latitude of its middle, in degrees."""
    advice: str
    """What to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """How a run ended."""

    output: str
    """Where the map is."""
    complete: bool
    """Whether every block is stored and verified."""
    blocks: int
    """Blocks of the plan."""
    computed: int
    """Blocks made by this run."""
    quarantined: dict[str, Trouble]
    """Block → what is wrong with it."""
    missing: int
    """Blocks still to be made."""
    damaged: int
    """Stored objects that are not what was written."""
    pixels: int
    """Pixels made by this run."""
    seconds: float
    """Time of this run, without planning, in s."""
    waits: bool = False
    """Whether all blocks are there, but not those of a zone beside, which decides with
    it to which of them an object on their border belongs."""
    stopped: str = ""
    """Why it stopped in order before its end; empty if it did not."""
    failures: int = 0
    """Failed attempts of this run."""
    missing_assets: int = 0
    """Assets that could not be had, whose pixels are nodata by the job's choice."""
    unclear: tuple[str, ...] = ()
    """Periods in which pixels with imagery have no clear view, and how many."""
    dashboard: str = ""
    """Address of the dashboard of the cluster that it ran on; empty without one."""
    gpus: dict[str, Json] = field(default_factory=dict)
    """UUID of each GPU → how busy it was, and its memory; empty where NVML is not."""
    zones: dict[str, RunReport] = field(default_factory=dict)
    """Zone → its own report, where there are several; the rest is over all of them."""

    @property
    def exit_code(self) -> int:
        """0 complete, 3 quarantined or left over, 4 damaged, 75 asked to stop."""
        if self.complete:
            return 0
        if self.damaged:
            return 4
        return STOPPED if self.stopped else 3

    def __str__(self) -> str:
        speed = self.pixels / 1e6 / self.seconds if self.seconds else 0.0
        word = "complete and verified" if self.complete else "NOT complete"
        if self.stopped and not self.complete:
            word = f"stopped in order ({self.stopped})"
        made, mpx = f"{self.computed:,}", self.pixels / 1e6
        rate = f"{mpx:,.1f} Mpx in {self.seconds:.1f} s, {speed:.2f} Mpx/s"
        lines = [
            f"{word}: {redact(self.output)}",
            f"  {made} of {self.blocks:,} blocks made by this run: {rate}",
        ]
        lines += [
            f"  {name}  {report.describe()}" for name, report in self.zones.items()
        ]
        if self.missing > len(self.quarantined):
            left = self.missing - len(self.quarantined)
            lines.append(f"  {left:,} blocks left: run the same command again")
        if self.waits:
            lines.append("  waits for a UTM zone beside it: run the same command again")
        if self.damaged:
            lines.append(f"  {self.damaged:,} stored objects damaged: geoscale repair")
        lines += [f"  GPU {text}" for text in say_after(self.gpus)]
        lines += [f"  {text}" for text in self.unclear]
        if self.missing_assets:
            lines.append(
                f"  {self.missing_assets:,} assets were missing, their pixels are "
                "nodata: missing_assets in .geoscale/final.json"
            )
        return "\n".join([*lines, *self._troubles()])

    def _repr_html_(self) -> str:
        first, _, rest = str(self).partition("\n")
        return draw_cell(
            first,
            rest,
            progress=(self.blocks - self.missing, self.blocks),
            picture=draw_thumbnail(self.output),
            link=self.dashboard,
        )

    def describe(self) -> str:
        """Say in a few words how it ended."""
        word = "complete" if self.complete else "NOT complete"
        text = f"{word}, {self.computed:,} of {self.blocks:,} blocks made by this run"
        left = self.missing - len(self.quarantined)
        told = {"quarantined": len(self.quarantined), "left": left}
        told["damaged"] = self.damaged
        return ", ".join([text, *(f"{n:,} {word}" for word, n in told.items() if n)])

    def _troubles(self) -> Iterator[str]:
        """Yield the table of quarantined blocks, those of one cause together."""
        if not self.quarantined:
            return
        yield f"  {len(self.quarantined):,} blocks quarantined:"
        shown = list(self.quarantined.items())[:SHOWN]
        for name, trouble in shown:
            where = (
                ""
                if trouble.place is None
                else "  at {:.4f}, {:.4f}".format(*trouble.place)
            )
            yield f"    {name}{where}  {trouble.kind}: {trouble.error}"
        if len(self.quarantined) > SHOWN:
            more = len(self.quarantined) - SHOWN
            yield f"    and {more:,} more: --json lists them all"
        for advice in dict.fromkeys(t.advice for t in self.quarantined.values()):
            yield f"  what to do: {advice}"
        yield "  then: the same command with --only-quarantined"


def finish_run(
    plan: InferencePlan,
    url: str,
    tally: Tally,
    provenance: Json,
    client: Client | None = None,
) -> RunReport:
    """Verify and seal an output whose blocks are all there, and report.

    Parameters
    ----------
    plan : InferencePlan
        What was run.
    url : str
        The output.
    tally : Tally
        Of this run.
    provenance : dict
        Kept with the output.
    client : distributed.Client, optional
        Cluster that makes the overviews.

    Returns
    -------
    RunReport
        Complete only if every stored byte is what was written.
    """
    sink, journal = make_sink(plan, url), Journal(url)
    ledger = journal.read()
    done = ledger.done
    missing = sum(int(n) not in done for n in plan.numbers())
    complete, damaged, waits, beside = False, 0, False, None
    if not missing:
        _drop_orphans(plan, sink, done)
        beside = find_neighbours(plan, url) if isinstance(sink, VectorSink) else []
        waits = beside is None
    if beside is not None:
        summary = dict(provenance)
        if isinstance(sink, VectorSink):
            summary["gathered"] = gather(plan, sink, beside)
        elif plan.output.overviews:
            summary["overviews"] = _overviews(journal, url, client)
        found = finalize(plan, journal, sink, summary)
        complete, damaged = found.is_sound, len(found.damaged)
        if complete:
            sink.finalize(
                {"geoscale:complete": True, "geoscale:provenance": provenance}
            )
    return RunReport(
        output=url,
        complete=complete,
        blocks=len(plan.numbers()),
        computed=tally.computed,
        quarantined={
            plan.grid.name(n): explain_trouble(plan, n, error, tally.kinds[n])
            for n, error in sorted(tally.quarantined.items())
        },
        missing=missing,
        damaged=damaged,
        waits=waits,
        pixels=tally.pixels,
        seconds=tally.seconds,
        stopped=tally.stopped,
        failures=tally.failures,
        missing_assets=len(tally.missing),
        gpus={name: use.to_dict() for name, use in tally.gpus.items()},
        dashboard="" if client is None else str(client.dashboard_link or ""),
        unclear=tuple(say_unclear(row) for row in list_unclear(plan, ledger)),
    )


def merge_reports(url: str, reports: Mapping[str, RunReport]) -> RunReport:
    """Report over several zones: the worst decides.

    Parameters
    ----------
    url : str
        Folder of the zones' outputs.
    reports : mapping
        Zone → report.

    Returns
    -------
    RunReport
        Complete only if every zone is; blocks are named ``zone/block``.
    """
    each = list(reports.values())
    return RunReport(
        output=url,
        complete=all(report.complete for report in each),
        blocks=sum(report.blocks for report in each),
        computed=sum(report.computed for report in each),
        quarantined={
            f"{zone}/{block}": trouble
            for zone, report in reports.items()
            for block, trouble in report.quarantined.items()
        },
        missing=sum(report.missing for report in each),
        damaged=sum(report.damaged for report in each),
        pixels=sum(report.pixels for report in each),
        seconds=sum(report.seconds for report in each),
        stopped=next((report.stopped for report in each if report.stopped), ""),
        failures=sum(report.failures for report in each),
        missing_assets=sum(report.missing_assets for report in each),
        unclear=tuple(
            f"{zone}  {text}"
            for zone, report in reports.items()
            for text in report.unclear
        ),
        zones=dict(reports),
    )


def report_unbegun(plan: InferencePlan, url: str, stopped: str) -> RunReport:
    """Report an output of which this run made nothing, since it was to stop.

    Parameters
    ----------
    plan : InferencePlan
        What was to be run.
    url : str
        The output.
    stopped : str
        Why nothing was begun.

    Returns
    -------
    RunReport
        What is left to do.
    """
    journal = Journal(url)
    done = journal.read().done
    return RunReport(
        output=url,
        complete=journal.final() is not None,
        blocks=len(plan.numbers()),
        computed=0,
        quarantined={},
        missing=sum(int(n) not in done for n in plan.numbers()),
        damaged=0,
        pixels=0,
        seconds=0.0,
        stopped=stopped,
    )


def explain_trouble(plan: InferencePlan, number: int, error: str, kind: str) -> Trouble:
    """Say of a quarantined block where it lies and what to do about it.

    Parameters
    ----------
    plan : InferencePlan
        It is one of this plan's blocks.
    number : int
        Its number.
    error : str
        What its last attempt said.
    kind : str
        Kind of that failure.

    Returns
    -------
    Trouble
        For the report.
    """
    return Trouble(
        error=error, kind=kind, place=_find_place(plan, number), advice=advise(kind)
    )


def _find_place(plan: InferencePlan, number: int) -> tuple[float, float] | None:
    """Longitude and latitude of a block's middle; None where it has none."""
    from pyproj import Transformer
    from pyproj.exceptions import ProjError

    core = plan.task(number).core
    column, row = (core.x0 + core.x1) / 2, (core.y0 + core.y1) / 2
    box = plan.geobox
    x, y = box.transform * (column, row)
    try:
        to_degrees = Transformer.from_crs(str(box.crs), "EPSG:4326", always_xy=True)
        lon, lat = to_degrees.transform(x, y, errcheck=True)
    except ProjError:
        return None
    return round(lon, 5), round(lat, 5)


def _overviews(journal: Journal, url: str, client: Client | None) -> Json:
    """Make the coarser copies, or keep those of a finished output."""
    final = journal.final()
    if final is not None and "overviews" in final:
        return dict(final["overviews"])
    if client is None:
        return dict(write_overviews(url))
    return dict(write_overviews(url, hand_out=partial(_spread, client)))


def _spread(
    client: Client, function: Callable[[Any], Any], parts: Sequence[Any]
) -> Iterator[Any]:
    """Call a function for every part on the workers, a wave of them at a time."""
    wave = 16 * max(1, len(wait_for_workers(client)))
    for first in range(0, len(parts), wave):
        some = parts[first : first + wave]
        yield from client.gather(client.map(function, some, pure=False, retries=3))


def _drop_orphans(
    plan: InferencePlan, sink: ZarrSink | VectorSink, done: set[int]
) -> None:
    """Delete what killed writers left: shards of no block, partial files."""
    for key in sink.keys():  # noqa: SIM118  (a sink is no mapping)
        place = sink.place(key)
        inside = all(i < n for i, n in zip(place, plan.grid.counts, strict=True))
        if not inside or plan.grid.number(*place) not in done:
            sink.drop(key)
    sink.sweep()

"""A job of several UTM zones: one plan and one output for each, under one folder.

Every zone is a plan like any other, with a journal of its own; the folder above them
holds a Zarr group that lists them. What is here only keeps them together.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace

from geoscale.card import ModelCard
from geoscale.changes import resolve_change
from geoscale.ending import RunReport, merge_reports, report_unbegun
from geoscale.engine.journal import FOLDER, Journal
from geoscale.engine.stopping import Stop
from geoscale.errors import EmptyPlanError, JobError, OutputError, PlanError
from geoscale.explain import describe_time
from geoscale.goals import resolve_embedding
from geoscale.job import Job
from geoscale.judging import find_judging
from geoscale.launch import plan_source
from geoscale.options import Output
from geoscale.patching import resolve_inference
from geoscale.plans import InferencePlan
from geoscale.resume import find_begun
from geoscale.sources.zoning import ZoneStack, open_zones
from geoscale.storage import Folder
from geoscale.sums import count_pixels
from geoscale.types import Json
from geoscale.words import redact
from geoscale.zone_list import ROOT, read_zones


@dataclass(frozen=True, kw_only=True)
class ZonePlans(Mapping[str, InferencePlan]):
    """Plans of all UTM zones of a job, by name (``utm-36n``), from west to east.

    A mapping; each plan may be looked at, or run, on its own.
    """

    plans: Mapping[str, InferencePlan]
    """Zone → plan."""
    empty: tuple[str, ...] = ()
    """Zones that the area touches, and no imagery."""
    to: str | None = None
    """Output that the job names."""

    def __getitem__(self, name: str) -> InferencePlan:
        return self.plans[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.plans)

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def hash(self) -> str:
        """Name of the result: sha256 over the plans' hashes."""
        text = json.dumps({name: plan.hash for name, plan in self.items()})
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def is_settled(self) -> bool:
        """Whether nothing is left to be measured before the first block."""
        return all(plan.is_settled for plan in self.values())

    @property
    def in_flight(self) -> int:
        """Most blocks that a process works on at a time."""
        return max(plan.in_flight for plan in self.values())

    def map(self, change: Callable[[str, InferencePlan], InferencePlan]) -> ZonePlans:
        """Give these plans with each one changed, by zone and plan."""
        return replace(self, plans={k: change(k, v) for k, v in self.items()})

    def validate(self, *, allowed_bytes: int | None = None) -> None:
        """Refuse what cannot work; see `InferencePlan.validate`.

        Parameters
        ----------
        allowed_bytes : int, optional
            Memory that a worker process may use.

        Raises
        ------
        PlanError
            With the name of the zone.
        """
        for name, plan in self.items():
            with _naming(name):
                plan.validate(allowed_bytes=allowed_bytes)

    def check_parts(self, shard: tuple[int, int] | None) -> None:
        """Refuse parts of a run that would wait for each other in every zone.

        Parameters
        ----------
        shard : tuple of int or None
            The part; None: there are none.

        Raises
        ------
        JobError
            If something is left to be measured, which the first part would do.
        """
        if shard is not None and not self.is_settled:
            raise JobError(
                "parts (--shard) of several UTM zones wait for no choice in each: "
                "name inference.runtime and inference.precision instead of auto"
            )

    def explain(
        self,
        *,
        allowed_bytes: int | None = None,
        mpx_per_s: float | None = None,
        cost_per_hour: float | None = None,
    ) -> str:
        """Say what will be run: a line for each zone, and all of the largest.

        Parameters
        ----------
        allowed_bytes : int, optional
            Memory that a worker process may use.
        mpx_per_s : float, optional
            Measured speed of the whole cluster, in output megapixels per second.
        cost_per_hour : float, optional
            Price of the whole cluster per hour, in any currency.

        Returns
        -------
        str
            Several lines.
        """
        counts = {name: len(plan.numbers()) for name, plan in self.items()}
        lines = [f"{len(self)} UTM zones, {sum(counts.values()):,} blocks"]
        for name, plan in self.items():
            height, width = plan.shape
            lines.append(
                f"  {name}  {counts[name]:,} blocks of {plan.grid.block_px:,} px  "
                f"{len(plan.times)} time x {height:,} y x {width:,} x"
            )
        if self.empty:
            lines.append(f"  without imagery, not mapped: {', '.join(self.empty)}")
        if mpx_per_s:
            pixels = sum(count_pixels(plan.runs(), plan.grid) for plan in self.values())
            told = describe_time(pixels, mpx_per_s, cost_per_hour)
            lines.append(f"  time for all: {told}")
        largest = max(counts, key=lambda name: counts[name])
        told = self[largest].explain(allowed_bytes=allowed_bytes)
        return "\n".join([*lines, f"the largest, {largest}:", told])

    def __str__(self) -> str:
        return self.explain()


def plan_zones(job: Job, card: ModelCard, url: str, mark: str | None) -> ZonePlans:
    """Plan a job whose grid is ``crs: utm``; no pixel is read.

    Parameters
    ----------
    job : Job
        The job.
    card : ModelCard
        Its model.
    url : str
        Output: if the same job began all zones there, their plans are taken.
    mark : str or None
        Of the job, from `geoscale.resume.mark_job`; kept with each plan.

    Returns
    -------
    ZonePlans
        Zones with imagery have a plan.

    Raises
    ------
    PlanError
        If no zone has imagery, or one cannot work; names the zone.
    """
    begun = _find_begun(url, mark)
    if begun is not None:
        return begun
    output = Output.model_validate(job.output.model_dump(exclude={"to"}))
    stacks = open_zones(
        job.imagery,
        job.grid,
        bands=card.input.bands,
        sensor=card.input.sensor,
        # a network's context is less than a patch, whatever the size of the grid
        margin_px=resolve_inference(job.inference, card, (1, 1)).patch or 0,
        judging=find_judging(job.imagery.mask),
    )
    plans: dict[str, InferencePlan] = {}
    empty = []
    for stack in stacks:
        name = stack.zone.name
        with _naming(name):
            made = _plan_one(stack, job, card, output)
        if made is None:
            empty.append(name)
        else:
            plans[name] = replace(made, job=mark)
    if not plans:
        raise PlanError(
            f"none of {len(empty)} UTM zones of the area ({', '.join(empty)}) has "
            "imagery; check grid.bbox or grid.aoi, and the items' footprints"
        )
    return ZonePlans(plans=plans, empty=tuple(empty))


def _find_begun(url: str, mark: str | None) -> ZonePlans | None:
    """Give the stored plans; None where one was not begun, or by another job."""
    told = None if mark is None else read_zones(url)
    if told is None:
        return None
    plans = {name: find_begun(f"{url}/{name}", mark) for name in told["zones"]}
    begun = {name: plan for name, plan in plans.items() if plan is not None}
    if len(begun) < len(plans):
        return None
    return ZonePlans(plans=begun, empty=tuple(told["empty"]))


def _plan_one(
    stack: ZoneStack, job: Job, card: ModelCard, output: Output
) -> InferencePlan | None:
    if stack.source is None:
        return None
    source = stack.source.calibrated(card.input.units, card.input.multiply)
    embed = resolve_embedding(job.task, job.embedding, card)
    if embed is not None and embed.needs_numbers(output.dtype):
        raise JobError(
            "embedding.components and output.dtype int8 take numbers of the whole "
            "area; with `grid.crs: utm` every zone would find its own: set grid.crs to "
            "one CRS, EPSG:…, or give `embedding.numbers`"
        )
    change = resolve_change(job.task, job.change, card)
    try:
        made = plan_source(
            source, card, stack.area, job.inference, output, change, embed
        )
    except EmptyPlanError:
        return None  # there is some beside the area, to give context
    return replace(made, live=source)


@contextmanager
def _naming(name: str) -> Iterator[None]:
    """Put the name of the zone before what is refused."""
    try:
        yield
    except PlanError as err:
        raise type(err)(f"zone {name}: {err}") from None


def run_zones(
    plans: ZonePlans,
    url: str,
    run: Callable[[InferencePlan, str], RunReport],
    stop: Stop,
) -> RunReport:
    """Run all zones, one after the other.

    Parameters
    ----------
    plans : ZonePlans
        What to run.
    url : str
        The folder.
    run : callable
        Runs one plan to its output, and stops with `stop`.
    stop : Stop
        Once it says so, no further zone is begun.

    Returns
    -------
    RunReport
        Over all zones.
    """
    begin_zones(plans, url)
    reports: dict[str, RunReport] = {}
    for name, plan in plans.items():
        place = f"{url}/{name}"
        if stop.reason:
            reports[name] = report_unbegun(plan, place, stop.reason)
        else:
            reports[name] = run(plan, place)
    end_waiting(reports, lambda name: run(plans[name], f"{url}/{name}"))
    return merge_reports(url, reports)


def end_waiting(reports: dict[str, RunReport], run: Callable[[str], RunReport]) -> None:
    """End zones whose objects had to wait for those of the zones beside them.

    Parameters
    ----------
    reports : dict
        Zone → report, changed in place.
    run : callable
        Runs a zone again, in which nothing is left but its end.
    """
    for name, before in reports.items():
        if before.waits:
            after = run(name)
            reports[name] = replace(
                after,
                computed=before.computed + after.computed,
                pixels=before.pixels + after.pixels,
                seconds=before.seconds + after.seconds,
                failures=before.failures + after.failures,
            )


def begin_zones(plans: ZonePlans, url: str) -> None:
    """Write the list of zones above their outputs, or check the one that is there.

    Parameters
    ----------
    plans : ZonePlans
        What is to be run.
    url : str
        The folder.

    Raises
    ------
    OutputError
        If it holds other zones, or a map on one grid.
    """
    folder, told = Folder(url), read_zones(url)
    if folder.exists(f"{FOLDER}/plan.json"):
        raise OutputError(
            f"{redact(url)} holds a map on one grid, the job makes one for each UTM "
            "zone; choose another output"
        )
    ours = {
        "zones": {
            name: {"crs": str(plan.geobox.crs), "blocks": len(plan.numbers())}
            for name, plan in plans.items()
        },
        "empty": list(plans.empty),
    }
    if told is not None:
        _check_same(ours, told, url)
    for name, plan in plans.items():
        if plan.is_settled:  # else its own run takes over what was chosen before
            Journal(f"{url}/{name}").check(plan)
    if told is not None:
        return
    group = {
        "zarr_format": 3,
        "node_type": "group",
        "attributes": {"title": "one map for each UTM zone", "geoscale": ours},
    }
    folder.put(ROOT, json.dumps(group, indent=2).encode())


def _check_same(ours: Json, told: Json, url: str) -> None:
    there, here = list(told["zones"]), list(ours["zones"])
    if there != here:
        raise OutputError(
            f"{redact(url)} holds the zones {', '.join(there)}, the job makes "
            f"{', '.join(here)}: area or imagery were changed; put them back, or "
            "choose another output"
        )


def refuse_zones(url: str) -> None:
    """Refuse to put a map on one grid where there are several zones.

    Raises
    ------
    OutputError
        With the zones that are there.
    """
    told = read_zones(url)
    if told is not None:
        raise OutputError(
            f"{redact(url)} holds one map for each UTM zone: "
            f"{', '.join(told['zones'])}; choose another output"
        )

"""The verbs that make a map: open a stack, load a model, plan, run.

Everything here introduces rooms to each other and does little else.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from geoscale import choices
from geoscale.assemble import make_journal, make_sink
from geoscale.card import ModelCard, TaskName
from geoscale.changes import choose_card, refuse_zones_of, resolve_change
from geoscale.ending import RunReport, finish_run
from geoscale.engine.drive import Progress, drive
from geoscale.engine.lease import Lease
from geoscale.engine.stopping import Stop
from geoscale.errors import JobError, OutputError
from geoscale.goals import resolve_embedding
from geoscale.job import Job, load_job
from geoscale.judging import find_judging
from geoscale.launch import (
    allowed_worker_bytes,
    check_room,
    describe_run,
    equip,
    make_executor,
    pick_shard,
    plan_source,
)
from geoscale.learn import learn
from geoscale.looking import choose_features
from geoscale.models import load_model
from geoscale.options import Change, Embedding, Output
from geoscale.plans import InferencePlan
from geoscale.resume import find_begun, mark_job, name_output
from geoscale.sources.aoi import find_aoi
from geoscale.sources.opening import open_source
from geoscale.sources.settings import UTM, Grid, parse_grid
from geoscale.stacks import as_source, list_bands, open_stack
from geoscale.tune import settle, wait_for_plan
from geoscale.zones import ZonePlans, plan_zones, refuse_zones, run_zones

if TYPE_CHECKING:
    from distributed import Client

__all__ = [
    "Job",
    "RunReport",
    "load_job",
    "load_model",
    "open_stack",
    "plan",
    "plan_job",
    "run",
    "run_job",
]


def plan(  # noqa: PLR0913  (one verb, all by name)
    stack: Any,
    model: str | Path | Mapping[str, Any] | ModelCard | None,
    *,
    aoi: str | Mapping[str, Any] | None = None,
    task: TaskName | None = None,
    change: Change | Mapping[str, Any] | None = None,
    embedding: Embedding | Mapping[str, Any] | None = None,
    output: Output | Mapping[str, Any] | None = None,
    measure: bool = True,
    trust_code: bool = False,
    **options: Unpack[choices.InferenceOptions],
) -> InferencePlan:
    """Plan a job; no pixel is read and no network is run, unless it has to be measured.

    Parameters
    ----------
    stack : xarray.DataArray, xarray.Dataset or Source
        From `open_stack`, or any array with dims y and x and a CRS.
    model : str, path, mapping, ModelCard or None
        As for `load_model`; None where change is found without one.
    aoi : str or mapping, optional
        GeoJSON in degrees; pixels outside are nodata, blocks outside never run.
    task : str, optional
        ``segmentation``, ``change``, ``embedding``, ``regression`` or
        ``classification``.
        What to make; default: what the model is for.
    change : Change or mapping, optional
        For ``task="change"``: ``method``, ``threshold``, ``prior``,
        ``min_confidence``, ``magnitude``, ``layer``, ``coregister``.
    embedding : Embedding or mapping, optional
        For ``task="embedding"``: ``per``, ``layer``, ``components``, ``numbers``.
    output : Output or mapping, optional
        ``layers``, ``scores_dtype``, ``chunk``, ``overviews``.
    measure : bool
        With ``runtime="auto"`` or ``precision="auto"``, and where change is found by
        statistics of the whole area: measure now, in this process, on some patches
        of the job; else `run` does it where it runs.
    trust_code : bool
        Allow Python code that the card names, which measuring and looking for a layer
        run.
    **options
        ``block_px``, ``patch_px``, ``stride_px``, ``merge``, ``batch``,
        ``runtime``, ``precision``, ``min_agreement``, ``device``, ``in_flight``,
        ``tta``, ``mc_dropout``.

    Returns
    -------
    InferencePlan
        Print it to see what it will do.

    Raises
    ------
    PlanError
        If it cannot work; says what to change.
    """
    named, wanted = (
        None if model is None else load_model(model),
        choices.read_change(change),
    )
    card = choose_card(wanted, named, partial(list_bands, stack))
    goal = choices.read_task(task)
    asked = choices.read_embedding(embedding)
    card = choose_features(card, asked, goal, trust_code=trust_code)
    embed = resolve_embedding(goal, asked, card)
    found = resolve_change(goal, wanted, card)
    source = as_source(stack, card)
    where = parse_grid({"aoi": aoi}) if aoi is not None else Grid()
    area = find_aoi(where, source.geobox)
    made = plan_source(
        source,
        card,
        area,
        choices.read_inference(options),
        choices.read_output(output),
        found,
        embed,
    )
    made = dataclasses.replace(made, live=source)
    return _settle(made, trust_code=trust_code) if measure else made


def plan_job(
    job: Job | str | Path, *, measure: bool = True, trust_code: bool = False
) -> InferencePlan | ZonePlans:
    """Plan what a job file asks for, or give the plan that its output holds already.

    Parameters
    ----------
    job : Job, str or path
        The job, or its YAML file.
    measure, trust_code : bool
        As for `plan`.

    Returns
    -------
    InferencePlan or ZonePlans
        As `plan` gives; with ``crs: utm`` one for each zone.
    """
    job = job if isinstance(job, Job) else load_job(job)
    named = None if job.model is None else load_model(job.model)
    if job.grid.crs == UTM:
        refuse_zones_of(job.change, named)
    card = choose_card(job.change, named, partial(_list_bands, job))
    card = choose_features(card, job.embedding, job.task, trust_code=trust_code)
    mark, url = mark_job(job, card), as_url(job.output.to)
    if job.grid.crs == UTM:
        plans = plan_zones(job, card, url, mark)
        settle_one = partial(_settle, trust_code=trust_code)
        plans = dataclasses.replace(plans, to=url)
        return plans.map(lambda _, plan: settle_one(plan)) if measure else plans
    begun = find_begun(url, mark)
    if begun is not None:
        return dataclasses.replace(begun, to=url)
    source = open_source(
        job.imagery,
        grid=job.grid,
        bands=card.input.bands,
        sensor=card.input.sensor,
        judging=find_judging(job.imagery.mask),
    )
    source = source.calibrated(card.input.units, card.input.multiply)
    output = Output.model_validate(job.output.model_dump(exclude={"to"}))
    embed = resolve_embedding(job.task, job.embedding, card)
    change = resolve_change(job.task, job.change, card)
    area = find_aoi(job.grid, source.geobox)
    made = plan_source(source, card, area, job.inference, output, change, embed)
    made = dataclasses.replace(made, live=source, job=mark, to=url)
    return _settle(made, trust_code=trust_code) if measure else made


def _list_bands(job: Job) -> Sequence[str]:
    return job.imagery.bands or open_source(job.imagery, grid=job.grid).bands


def _settle(
    plan: InferencePlan,
    url: str | None = None,
    *,
    looks: bool = False,
    client: Client | None = None,
    trust_code: bool = False,
) -> InferencePlan:
    """Find what a plan leaves open: numbers of its area first, then what is fastest."""
    made = learn(plan, url, looks=looks, client=client, trust_code=trust_code)
    made = settle(made, url, client=client, trust_code=trust_code)
    # a plan that was stored meanwhile does not know
    return dataclasses.replace(made, to=plan.to)


def run(  # noqa: PLR0913  (one verb, all by name)
    plan: InferencePlan | ZonePlans,
    to: str | Path | None = None,
    *,
    client: Client | None = None,
    shard: tuple[int, int] | None = None,
    only_quarantined: bool = False,
    trust_code: bool = False,
    progress: Progress | None = None,
    stop: Stop | None = None,
) -> RunReport:
    """Run a plan, or go on where an earlier run of it stopped.

    Parameters
    ----------
    plan : InferencePlan or ZonePlans
        What to run; zones one after the other, each in a folder of its name.
    to : str or path, optional
        Local folder or fsspec URL; every worker must reach it. Default: what the job
        of `plan_job` names.
    client : distributed.Client, optional
        Cluster to run on; without it the blocks run in this process.
    shard : tuple of int, optional
        ``(i, n)``: only the i-th of n parts, from 0. Parts may run anywhere, at
        any time, without knowing of each other; the last one finalises.
    only_quarantined : bool
        Only blocks that failed in earlier runs and were not made since.
    trust_code : bool
        Allow Python code that the card names outside known packages.
    progress : callable, optional
        Called with the tally after every block.
    stop : Stop, optional
        Ends the run in order: when asked to, or before a deadline.

    Returns
    -------
    RunReport
        Counters, what is quarantined, and whether the output is complete.

    Raises
    ------
    OutputError
        If the output belongs to another plan, is something else, or another run
        works on it.
    StoppedError
        If no block could go on.
    """
    url = as_url(name_output(plan.to, to))
    stop = stop or Stop()
    if isinstance(plan, ZonePlans):
        one = partial(
            run, client=client, shard=shard, only_quarantined=only_quarantined,
            trust_code=trust_code, progress=progress, stop=stop,
        )  # fmt: skip
        plan.validate(allowed_bytes=allowed_worker_bytes(client))
        plan.check_parts(shard)
        return run_zones(plan, url, one, stop)
    refuse_zones(url)
    plan = _prepare_one(plan, url, client, shard, trust_code)
    sink = make_sink(plan, url)
    journal = make_journal(plan, url, sink)
    if shard is not None and plan.output.store == "icechunk":
        raise JobError(
            "parts of a job array cannot share an Icechunk repository, to which one "
            "driver commits; use a cluster, or leave `output.store` out"
        )
    plan.validate(allowed_bytes=allowed_worker_bytes(client))
    journal.check(plan)
    check_room(plan, url)
    sink.create()
    part = "driver" if shard is None else f"shard-{shard[0]}-of-{shard[1]}"
    journal.part = part
    with Lease(url, part, on_lost=stop.ask), equip(url, plan, client, trust_code):
        ledger = journal.begin(plan)
        blocks = None if shard is None else pick_shard(plan, shard)
        if only_quarantined:
            some = sorted(ledger.failed) if blocks is None else blocks
            blocks = [n for n in some if n in ledger.failed]
        executor = make_executor(plan, url, client, trust_code=trust_code)
        tally = drive(
            plan,
            journal,
            executor,
            blocks=blocks,
            progress=progress,
            stop=stop,
            ledger=ledger,
        )
        return finish_run(plan, url, tally, describe_run(plan, client), client)


def run_job(
    job: Job | str | Path, *, client: Client | None = None, **options: Any
) -> RunReport:
    """Plan and run a job file; the same command again goes on.

    Parameters
    ----------
    job : Job, str or path
        The job, or its YAML file.
    client : distributed.Client, optional
        Cluster to run on.
    **options
        As for `run`.

    Returns
    -------
    RunReport
        As `run` gives.
    """
    job = job if isinstance(job, Job) else load_job(job)
    trusts = bool(options.get("trust_code"))
    made = plan_job(job, measure=False, trust_code=trusts)
    return run(made, job.output.to, client=client, **options)


def prepare(
    plan: InferencePlan | ZonePlans,
    to: str | Path,
    *,
    client: Client | None = None,
    shard: tuple[int, int] | None = None,
    trust_code: bool = False,
) -> InferencePlan | ZonePlans:
    """Settle what a plan leaves to measurement, where its blocks will run.

    Parameters
    ----------
    plan : InferencePlan or ZonePlans
        Comes back as it is if nothing is open.
    to : str or path
        Output: what an earlier run of the job chose there holds.
    client : distributed.Client, optional
        Cluster; one of its workers measures.
    shard : tuple of int, optional
        As for `run`: the first part measures, the others take its choice.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    InferencePlan or ZonePlans
        Ready to run.

    Raises
    ------
    StoppedError
        If the first of several parts chooses nothing within some minutes.
    """
    url = as_url(to)
    if isinstance(plan, ZonePlans):
        plan.check_parts(shard)
        return plan.map(
            lambda name, one: _prepare_one(
                one, f"{url}/{name}", client, shard, trust_code
            )
        )
    return _prepare_one(plan, url, client, shard, trust_code)


def _prepare_one(
    plan: InferencePlan,
    url: str,
    client: Client | None,
    shard: tuple[int, int] | None,
    trust_code: bool,
) -> InferencePlan:
    is_first = shard is None or shard[0] == 0
    if not is_first and not (plan.asked is None and plan.is_learned):
        wait_for_plan(url)
    return _settle(plan, url, looks=is_first, client=client, trust_code=trust_code)


def as_url(place: str | Path) -> str:
    """Give a place as workers see it: a URL, or an absolute path."""
    text = str(place)
    if "\x00" in text:
        raise OutputError("the output's path holds a NUL character; choose another")
    return text.rstrip("/") if "://" in text else str(Path(text).expanduser().resolve())

"""Putting a kernel together in whatever process is to run blocks.

This is the one place that sees sources, models, tasks and sinks at once; they
do not see each other. `build_kernel` is what Dask workers import.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from geoscale.card import ModelCard
from geoscale.changes import name_compared
from geoscale.engine.block import Kernel
from geoscale.engine.epochs import EpochJournal
from geoscale.engine.journal import Journal
from geoscale.errors import OutputError, StoppedError
from geoscale.gauges import Gauge
from geoscale.judging import with_judge
from geoscale.making import make_task as make_task
from geoscale.memory import allowed_cpus
from geoscale.models import (
    ModelSettings,
    device_lock,
    find_differences,
    get_detector,
    get_predictor,
    handshake,
)
from geoscale.models.dropping import DroppedPredictor
from geoscale.models.held_detector import HeldDetector
from geoscale.models.runtimes import AnyPredictor
from geoscale.models.torch_predictor import TorchPredictor
from geoscale.models.turning import TurnedPredictor
from geoscale.parcels import Parcel
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sinks.icechunk import IcechunkSink
from geoscale.sinks.vector import VectorSink
from geoscale.sinks.zarr import ZarrSink
from geoscale.sources.aoi import Area
from geoscale.sources.opening import source_of
from geoscale.sources.reducing import describe_layers
from geoscale.spread import limit_threads
from geoscale.supply import at_hand
from geoscale.tasks.change import CHANGE_CLASSES
from geoscale.tasks.forecast import stored_layers
from geoscale.template import OutputTemplate
from geoscale.types import EpochSink, Json, Layer, Sink, Source
from geoscale.words import redact


def make_sink(plan: InferencePlan, url: str) -> ZarrSink | VectorSink:
    """Sink of a plan's output: a table for a detector, else a map.

    Parameters
    ----------
    plan : InferencePlan
        What is stored.
    url : str
        Local folder or fsspec URL.

    Returns
    -------
    ZarrSink or VectorSink
        Nothing is written yet.
    """
    if plan.card.output.detection is not None:
        return make_vector_sink(plan, url)
    return make_map_sink(plan, url)


def make_vector_sink(plan: InferencePlan, url: str) -> VectorSink:
    """Sink of a detector's output; nothing is written yet.

    Parameters
    ----------
    plan : InferencePlan
        Of task detection.
    url : str
        Local folder or fsspec URL.

    Returns
    -------
    VectorSink
        One part per block.
    """
    spec = plan.card.output.detection
    assert spec is not None
    layout = {
        "crs": str(plan.geobox.crs),
        "transform": list(plan.geobox.affine)[:6],
        "shape": list(plan.shape),
        "times": list(plan.times),
        "block_px": plan.inference.block,
        "classes": [c.model_dump(exclude_none=True) for c in plan.card.output.classes],
        "outlines": spec.mask_threshold is not None,
        "plan_hash": plan.hash,
    }
    return VectorSink(url, plan.geobox, layout)


def make_map_sink(plan: InferencePlan, url: str) -> ZarrSink:
    """Sink of a plan's output; nothing is written yet.

    Parameters
    ----------
    plan : InferencePlan
        What is stored.
    url : str
        Local folder or fsspec URL.

    Returns
    -------
    ZarrSink
        One shard per block and layer.
    """
    chunk = plan.output.chunk
    assert chunk is not None
    template = OutputTemplate(
        geobox=plan.stored_geobox,
        times=plan.times,
        layers=(*stored_layers(make_task(plan)), *list_extra(plan)),
        block_px=plan.stored_block,
        chunk_px=chunk,
        classes=plan.card.output.classes if plan.change is None else CHANGE_CLASSES,
        compared=_compared(plan),
        forecast_from=_forecast_from(plan),
        attrs={
            "title": f"{plan.goal} by {plan.card.name}",
            "geoscale:plan_hash": plan.hash,
            "geoscale:model": plan.card.name,
            "geoscale:weights_sha256": plan.weights_sha256,
        },
    )
    kind = IcechunkSink if plan.output.store == "icechunk" else ZarrSink
    return kind(url, template)


def make_journal(plan: InferencePlan, url: str, sink: Sink) -> Journal:
    """Journal of a run, which records no block before its sink shows it.

    Parameters
    ----------
    plan : InferencePlan
        What is run.
    url : str
        The output.
    sink : Sink
        The driver's.

    Returns
    -------
    Journal
        Nothing is written yet.
    """
    if isinstance(sink, EpochSink):
        return EpochJournal(url, sink, seconds=plan.output.epoch_s)
    return Journal(url)


def list_extra(plan: InferencePlan) -> tuple[Layer, ...]:
    """Layers that a plan's source gives, and the output stores beside the task's."""
    names, passes = plan.source.get("layers", ()), plan.groups[0]
    return describe_layers(names, sum(len(steps) for steps in passes))


def _compared(plan: InferencePlan) -> tuple[Json, ...]:
    if plan.change is None:
        return ()
    periods = [str(one[0]) for one in plan.source.get("periods", ())]
    return name_compared(plan.groups, plan.source_times, periods)


def _forecast_from(plan: InferencePlan) -> str | None:
    return plan.source_times[plan.newest(0)] if plan.card.output.forecast else None


def make_kernel(
    plan: InferencePlan,
    *,
    source: Source | None = None,
    sink: Sink | None = None,
    trust_code: bool = False,
    threads: int | None = None,
    parcels: Sequence[Parcel] = (),
) -> Kernel:
    """Load the model in this process and put it beside source and sink.

    Parameters
    ----------
    plan : InferencePlan
        What is to be run.
    source : Source, optional
        Default: rebuilt from the plan.
    sink : Sink, optional
        Where blocks are stored.
    trust_code : bool
        Allow Python code that the card names outside known packages.
    threads : int, optional
        CPU threads of the model's runtime, and of what is done around it.
    parcels : sequence of Parcel
        Files of the model that are waited for where the driver sends them.

    Returns
    -------
    Kernel
        Ready to run blocks.
    """
    chosen = plan.inference
    assert chosen.precision != "auto", "the plan was not settled"
    settings = ModelSettings(
        device=chosen.device,
        precision=chosen.precision,
        runtime=chosen.runtime,
        batch=chosen.batch,
        per_block=plan.patches_per_block(),
        patch=plan.lattice.patch_shape,
        threads=threads,
        trust_code=trust_code,
        expected_sha256=plan.weights_sha256,
    )
    # The code is hashed before it runs, the weights before they load.
    card = at_hand(plan.card, parcels)
    check_code(plan, card)
    predictor = _hold(plan, card, settings)
    if threads is not None:
        limit_threads(threads)
    found = with_judge(
        source_of(plan) if source is None else source,
        plan,
        trust_code=trust_code,
        threads=threads,
        parcels=parcels,
    )
    told = predictor.describe()
    device = str(told.get("device", "cpu"))
    area = _find_area(plan)
    return Kernel(
        plan=plan,
        source=found,
        prepare=Preprocessor.from_card(card, trust_code),
        predictor=predictor,
        task=make_task(plan),
        device_lock=device_lock(device),
        sink=sink,
        mask=None if area is None else area.mask,
        beyond=None if area is None or area.zone is None else area.beyond,
        extra=list_extra(plan),
        describe={"versions": handshake(), "model": told},
        gauge=Gauge() if device.startswith("cuda") else None,
    )


def _hold(
    plan: InferencePlan, card: ModelCard, settings: ModelSettings
) -> AnyPredictor | TurnedPredictor | DroppedPredictor | HeldDetector:
    """Load the model of a plan, in the way that it is asked."""
    if card.task == "detection":
        return get_detector(card, settings)
    runs = plan.inference.mc_dropout
    if runs:
        held = get_predictor(card, replace(settings, drops=True))
        assert isinstance(held, TorchPredictor)
        return DroppedPredictor(held, runs)
    held, turns = get_predictor(card, settings), plan.inference.tta
    return held if turns == "none" else TurnedPredictor(held, turns)


def check_code(plan: InferencePlan, card: ModelCard | None = None) -> None:
    """Refuse a user's model file that is not the one that was planned.

    Raises
    ------
    OutputError
        If the file's sha256 has changed.
    """
    found = hash_card_code(card or plan)
    if found != plan.code_sha256:
        raise OutputError(
            f"the Python file of `{plan.card.name}` has changed since the plan was "
            f"made ({str(plan.code_sha256)[:12]} then, {str(found)[:12]} now); put it "
            "back, or choose another output"
        )


def hash_card_code(plan_or_card: Any) -> str | None:
    """Hash the user's own Python files that a card names; None without any."""
    from geoscale.imports import hash_code

    card = getattr(plan_or_card, "card", plan_or_card)
    paths = (card.architecture, card.input.normalization.callable)
    hashes = [h for p in paths if p and (h := hash_code(p, base=card.base))]
    return "-".join(hashes) or None


def build_kernel(
    url: str,
    plan_hash: str,
    trust_code: bool = False,
    processes: int = 1,
    versions: Json | None = None,
    parcels: Sequence[Parcel] = (),
    source: Source | None = None,
) -> Kernel:
    """Build the kernel of a stored plan; called in worker processes.

    Parameters
    ----------
    url : str
        The output, which holds the plan.
    plan_hash : str
        Of the plan that the driver runs.
    trust_code : bool
        Allow Python code that the card names outside known packages.
    processes : int
        Worker processes that share this host's CPUs.
    versions : dict, optional
        Of the driver, with which those of this process must agree.
    parcels : sequence of Parcel
        Files of the model, which the driver sends where they are not seen.
    source : Source, optional
        Sent by the driver where it cannot be rebuilt from the plan.

    Returns
    -------
    Kernel
        With a sink.

    Raises
    ------
    StoppedError
        If this process does not see the driver's plan at `url`, or has other versions
        of what decides about a map.
    """
    check_versions(versions)
    plan = Journal(url).load_plan()
    if plan is None or plan.hash != plan_hash:
        seen = "no plan" if plan is None else f"plan {plan.hash[:12]}"
        raise StoppedError(
            f"a worker sees {seen} at {redact(url)}, the driver runs {plan_hash[:12]}: "
            "the output must be on storage that every worker shares"
        )
    kernel = make_kernel(
        plan,
        source=source,
        sink=make_sink(plan, url),
        trust_code=trust_code,
        threads=max(1, allowed_cpus() // processes),
        parcels=parcels,
    )
    check_versions(versions)  # once more: now GDAL is loaded, if the job needs it
    return kernel


def check_versions(theirs: Json | None) -> None:
    """Refuse to run blocks in a process that may make other pixels than the driver.

    Parameters
    ----------
    theirs : dict, optional
        The driver's; None agrees with everything.

    Raises
    ------
    StoppedError
        Naming what differs.
    """
    found = [] if theirs is None else find_differences(handshake(), theirs)
    if found:
        told = ", ".join(f"{d.name} {d.ours} (driver: {d.theirs})" for d in found)
        raise StoppedError(f"it has other versions than the driver: {told}")


def _find_area(plan: InferencePlan) -> Area | None:
    """Give the area of interest, asked about by window."""
    if plan.aoi is None:
        return None
    return Area.from_json(plan.aoi, plan.geobox)

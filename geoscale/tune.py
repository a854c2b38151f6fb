"""Tuning: choose by measurement what a job left to it, before its first block.

The pixels come from the job itself, the speeds from the process that will run
its blocks: this one, or a worker of the cluster. What was chosen, and every
figure that led to it, goes into the plan, and a run that goes on keeps it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.chunks import choose_chunk
from geoscale.engine.journal import Journal
from geoscale.errors import MemoryPlanError, PlanError, StoppedError
from geoscale.launch import allowed_worker_bytes, count_processes
from geoscale.memory import allowed_cpus
from geoscale.models.trial import Size, Trial, answer
from geoscale.options import Inference
from geoscale.parcels import Parcel
from geoscale.planner import Area, make_plan
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sources.opening import source_of, unjudged
from geoscale.supply import at_hand, find_parcels, supply
from geoscale.types import Float, Json, Source
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

SAMPLE_PX = 2**20
"""Pixels on which labels are compared, about; and patches, at least two."""
LOOKS = 16
"""Blocks that are looked at for patches with enough valid pixels."""
STRIDES = (256, 512, 1024)
"""Strides that are tried for models that take patches of any size."""


def settle(
    plan: InferencePlan,
    url: str | None = None,
    *,
    client: Client | None = None,
    trust_code: bool = False,
) -> InferencePlan:
    """Measure what the plan leaves open; take over what was chosen before.

    Parameters
    ----------
    plan : InferencePlan
        Comes back as it is if nothing is open.
    url : str, optional
        Output: if the same job was begun there, its choice holds.
    client : distributed.Client, optional
        Cluster that will run the blocks; one of its workers measures.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    InferencePlan
        Settled, with every figure in ``tuning``.

    Raises
    ------
    PlanError
        If nothing that was asked for can run.
    """
    if plan.asked is None:
        return plan
    begun = None if url is None else Journal(url).load_plan()
    if begun is not None and begun.is_settled and _asks_the_same(plan, begun):
        return dataclasses.replace(begun, live=plan.live)
    if plan.is_settled:
        return plan
    source = source_of(plan)
    trial = _ask(plan, source, client, trust_code)
    told = _measure(trial, plan, source, client)
    choice = told["choice"]
    chosen = plan.asked.model_copy(
        update={
            "runtime": choice["runtime"],
            "precision": choice["precision"],
            "patch": choice["patch"],
            "stride": plan.asked.stride or choice["stride"],
            "batch": choice["batch"],
        }
    )
    made = _replan(plan, source, chosen)
    return dataclasses.replace(
        made,
        asked=plan.asked,
        tuning=told,
        live=plan.live,
        statistics=plan.statistics,
        notes=tuple(dict.fromkeys((*plan.notes, *made.notes))),
    )


def _asks_the_same(plan: InferencePlan, other: InferencePlan) -> bool:
    """Whether two plans come from one job, whatever was measured for each."""
    if plan.asked is None or other.asked is None:
        return False
    ours, theirs = plan.identity(), other.identity()
    fixed = ours.keys() - {"inference", "output", "empty blocks"}
    free = {"in_flight", "device"}
    return (
        all(ours[k] == theirs[k] for k in fixed)
        and plan.asked.model_dump(exclude=free) == other.asked.model_dump(exclude=free)
        and plan.output.model_dump(exclude={"chunk"})
        == other.output.model_dump(exclude={"chunk"})
    )


def wait_for_plan(url: str, patience_s: float = 900.0) -> None:
    """Wait until an output holds a plan, which another process is making.

    Raises
    ------
    StoppedError
        If none comes.
    """
    journal, end = Journal(url), time.monotonic() + patience_s
    while journal.load_plan() is None:
        if time.monotonic() > end:
            raise StoppedError(
                f"the first part (shard 0) began nothing at {redact(url)} within "
                f"{patience_s / 60:.0f} min, and it chooses for all: start it, or "
                "leave nothing open in the job (runtime, precision, change)"
            )
        time.sleep(min(2.0, patience_s / 10))


def _measure(
    trial: Trial, plan: InferencePlan, source: Source, client: Client | None
) -> Json:
    if client is None:
        return answer(trial, lambda: take_sample(plan, source, trial.trust_code))
    # The one time that pixels travel: some MB, once, to one worker.
    sample = take_sample(plan, source, trial.trust_code)
    parcels = find_parcels(plan, trust_code=trial.trust_code)
    with supply(plan, client, trust_code=trial.trust_code):
        asked = client.submit(answer_there, trial, sample, parcels, pure=False)
        told: Json = asked.result()
    return told


def answer_there(trial: Trial, sample: Float, parcels: Sequence[Parcel]) -> Json:
    """Measure in a worker, once the model's files are there."""
    card = at_hand(trial.card, parcels)
    return answer(dataclasses.replace(trial, card=card), sample)


def _ask(
    plan: InferencePlan, source: Source, client: Client | None, trust_code: bool
) -> Trial:
    asked = plan.asked
    assert asked is not None
    processes = 1 if client is None else count_processes(client)
    pixels = sum(plan.grid.core(int(n)).size for n in plan.numbers())
    text = json.dumps(plan.source, sort_keys=True, default=str)
    lowers = asked.precision != "float32"
    return Trial(
        card=plan.card,
        weights_sha256=plan.weights_sha256,
        runtime=asked.runtime,
        precision=asked.precision,
        min_agreement=asked.min_agreement,
        device=asked.device,
        batch=asked.batch,
        sizes=tuple(_sizes(plan, source, allowed_worker_bytes(client))),
        pixels=pixels,
        # float32 agrees on any imagery, lower precisions on what they were tried on
        imagery=hashlib.sha256(text.encode()).hexdigest() if lowers else "",
        threads=max(1, allowed_cpus() // processes) if client is None else None,
        trust_code=trust_code,
    )


def _sizes(plan: InferencePlan, source: Source, allowed: int) -> list[Size]:
    """List the lattices to choose from: more than one only where none shows seams."""
    asked, needs = plan.asked, plan.card.input.patch
    assert asked is not None
    found = [_size(plan)]
    free = asked.patch is None and asked.stride is None and asked.block is None
    if needs.fixed or needs.halo is None or plan.lattice.merge != "crop" or not free:
        return found
    step = int(np.lcm(needs.multiple_of, needs.alignment))
    for wanted in STRIDES:
        ring = -(-needs.halo // needs.alignment) * needs.alignment
        patch = -(-(wanted + 2 * ring) // step) * step
        if patch - 2 * ring > max(plan.shape):
            continue
        try:
            made = _replan(plan, source, asked.model_copy(update={"patch": patch}))
            made.validate(allowed_bytes=allowed)
        except MemoryPlanError:
            break
        if _size(made) not in found:
            found.append(_size(made))
    return found


def _size(plan: InferencePlan) -> Size:
    assert plan.inference.patch is not None
    assert plan.inference.stride is not None
    return Size(
        patch=plan.inference.patch,
        shape=plan.lattice.patch_shape,
        stride=plan.inference.stride,
        per_block=plan.patches_per_block(),
    )


def _replan(plan: InferencePlan, source: Source, inference: Inference) -> InferencePlan:
    """Plan the same job with another choice."""
    area = None
    if plan.aoi is not None:
        from geoscale.sources.aoi import Area as Polygon

        polygon = Polygon.from_json(plan.aoi, plan.geobox)
        area = Area(geometry=plan.aoi, touches=polygon.touches)
    return make_plan(
        source,
        plan.card,
        weights_sha256=plan.weights_sha256,
        code_sha256=plan.code_sha256,
        inference=inference,
        output=plan.output.model_copy(update={"chunk": _asked_chunk(plan)}),
        area=area,
        change=plan.change,
    )


def _asked_chunk(plan: InferencePlan) -> int | None:
    """Chunk that the user chose; None where it follows from the block."""
    assert plan.inference.block is not None
    chunk = plan.output.chunk
    return None if chunk == choose_chunk(plan.inference.block) else chunk


def take_sample(plan: InferencePlan, source: Source, trust_code: bool = False) -> Float:
    """Read patches from blocks all over the job, ready for the network.

    Parameters
    ----------
    plan : InferencePlan
        The job, in its default size of patches.
    source : Source
        Read at most `LOOKS` times.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    ndarray of float32, (n, channel, y, x)
        Those with the most valid pixels.

    Raises
    ------
    PlanError
        If none of the places has a valid pixel.
    """
    prepare, seen = Preprocessor.from_card(plan.card, trust_code), unjudged(source)
    height, width = plan.lattice.patch_shape
    count = int(np.clip(SAMPLE_PX // (height * width), 2, 8))
    numbers = plan.numbers()
    picks = numbers[np.unique(np.linspace(0, len(numbers) - 1, LOOKS).astype(int))]
    found: list[tuple[float, Any]] = []
    for number in picks:
        task = plan.task(int(number))
        for window in _windows(plan, task.core, count if len(picks) < count else 1):
            pixels = seen.read(window.clip(plan.shape), task.passes[0])
            x, usable = prepare.prepare(pixels.data, pixels.valid)
            pad = ((0, 0), (0, height - x.shape[1]), (0, width - x.shape[2]))
            found.append((float(usable.mean()), np.pad(x, pad, mode="symmetric")))
        if sum(share > 0.5 for share, _ in found) >= count:
            break
    found.sort(key=lambda pair: -pair[0])
    if not found or found[0][0] == 0.0:
        raise PlanError(
            f"none of {len(found)} places of the job that were looked at has a valid "
            "pixel, so nothing can be measured; say runtime: native"
        )
    return np.stack([x for share, x in found[:count] if share > 0.0])


def _windows(plan: InferencePlan, core: Window, count: int) -> list[Window]:
    """List patches inside a block, aligned as the model wants them."""
    height, width = plan.lattice.patch_shape
    step = plan.card.input.patch.alignment
    across = int(np.ceil(np.sqrt(count)))
    found = []
    for k in range(count):
        y = core.y0 + (core.height * (2 * (k // across) + 1)) // (2 * across)
        x = core.x0 + (core.width * (2 * (k % across) + 1)) // (2 * across)
        y = min(max(0, y - height // 2), max(0, plan.shape[0] - height)) // step * step
        x = min(max(0, x - width // 2), max(0, plan.shape[1] - width)) // step * step
        found.append(Window(y, x, y + height, x + width))
    return found

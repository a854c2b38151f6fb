"""What a plan is projected to need: memory of a worker, and room for the output."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from geoscale.card import ModelCard
from geoscale.chunks import OUTSIDE
from geoscale.errors import EmptyPlanError, MemoryPlanError, PlanError
from geoscale.memory import (
    COMPOSITE_BYTES,
    SHARED_BYTES,
    TILE_CACHE_BYTES,
    BlockMemory,
    project_block_memory,
)
from geoscale.template import COORDS, OutputTemplate

if TYPE_CHECKING:
    from geoscale.plans import InferencePlan

RESERVED_BYTES = 1_200_000_000
"""Memory of an idle worker with torch and a model of common size loaded."""
ACTIVATIONS = 320
"""float32 values alive per input pixel inside the network on a CPU: two layers of
128 channels at full resolution and their reordering (U-Nets stay below)."""


def project_memory(plan: InferencePlan, batch: int | None = None) -> BlockMemory:
    """Project the peak host memory of one worker process.

    Parameters
    ----------
    plan : InferencePlan
        The plan.
    batch : int, optional
        Patches per batch; default the plan's, or as many as make half a megapixel.

    Returns
    -------
    BlockMemory
        Upper bound, by cause, in bytes.
    """
    patch_px = int(np.prod(plan.lattice.patch_shape))
    places = int(np.prod(plan.card.output.places(plan.lattice.patch_shape)))
    chosen = batch or plan.inference.batch
    n = chosen if isinstance(chosen, int) else max(1, 2**19 // patch_px)
    channels, classes = plan.card.input.channels, plan.width
    if plan.card.task == "detection":
        classes = 1  # nothing is held for each pixel and class
    core = plan.stored(plan.grid.core(0))
    read = plan.lattice.read_window(plan.grid.middle())
    # a network of pairs holds what it made of one date while it looks at the other
    alive = ACTIVATIONS * (1 if plan.card.input.pair is None else 2)
    if plan.inference.tta != "none":
        # patches as they were turned, scores turned back, and their sum
        alive += channels + 2 * classes
    if plan.inference.mc_dropout:
        # scores of a run, what they are off by, and what is given at the end
        alive += 3 * classes
    need = project_block_memory(
        (channels, *read.shape),
        (classes, *core.shape),
        itemsize=max(plan.itemsize, 4),
        channels=channels,
        batch_bytes=n * 4 * (patch_px * (channels + alive) + 2 * classes * places),
        reserved=RESERVED_BYTES,
        in_flight=plan.in_flight,
    )
    if plan.change is not None and not plan.change.sees_both:
        # scores of the first date, while those of the second are made and compared
        held = plan.in_flight * classes * core.size * 4
        need = replace(need, merged=need.merged + held)
    shared = SHARED_BYTES if plan.inference.merge == "blend" else 0
    if "periods" in plan.source:
        # the dates of a strip, and one date beside its sum or its best
        read_bytes = channels * int(np.prod(read.shape)) * 4
        shared += plan.in_flight * (2 * COMPOSITE_BYTES + 4 * read_bytes)
        shared += _judge_bytes(plan, read.size)
    if plan.votes:
        # a number for each class, and their shares once all have voted
        held = plan.in_flight * classes * core.size * 6
        need = replace(need, merged=need.merged + held)
    return replace(need, cache=TILE_CACHE_BYTES + shared)


def _judge_bytes(plan: InferencePlan, read_px: int) -> int:
    """Bound what the model of a mask takes beside the one of the job, in bytes."""
    judging = plan.source.get("judging")
    if judging is None:
        return 0
    card, chosen = ModelCard.from_dict(judging["card"]), judging["inference"]
    channels, classes = card.input.channels, len(card.output.classes)
    # it reads up to a patch beyond what is asked for, on every side
    grown = (int(read_px**0.5) + 2 * chosen["patch"]) ** 2
    batch_px = chosen["batch"] * chosen["patch"] ** 2
    batch = batch_px * 4 * (channels + 2 * classes + ACTIVATIONS)
    block = grown * 4 * (4 * channels + 2 * classes + 2)
    return int(batch + SHARED_BYTES + plan.in_flight * (block + COMPOSITE_BYTES))


def check_plan(plan: InferencePlan, allowed_bytes: int | None) -> None:
    """Refuse what cannot work; see `InferencePlan.validate`."""
    halo, margin = plan.card.input.patch.halo, plan.lattice.margin
    if plan.lattice.merge == "blend":
        halo = None
    if halo is not None and margin is not None and margin < halo:
        assert plan.inference.patch is not None
        raise PlanError(
            f"stride of {plan.inference.stride} px leaves {margin} px of "
            f"context around each core, `{plan.card.name}` needs {halo} px: "
            "seams would show; choose stride <= "
            f"{plan.inference.patch - 2 * halo}, or `merge: blend`"
        )
    if not len(plan.numbers()):
        outside = int((plan.states == OUTSIDE).sum())
        raise EmptyPlanError(
            f"none of {len(plan.grid)} blocks has imagery inside the area of "
            f"interest ({outside} lie outside it, the others have no item); check "
            "the grid's bounds, the AOI and the items' footprints"
        )
    need = plan.memory().total
    if allowed_bytes is not None and need > allowed_bytes:
        raise MemoryPlanError(
            f"a worker is projected to need {need / 1e9:.1f} GB, "
            f"{allowed_bytes / 1e9:.1f} GB are allowed; choose a smaller "
            f"`inference.block` than {plan.grid.block_px} px, a smaller batch, "
            "fewer blocks in flight, or give workers more memory"
        )


def project_output_bytes(template: OutputTemplate) -> tuple[int, int]:
    """Project what an output can take at most, as if nothing compressed.

    Parameters
    ----------
    template : OutputTemplate
        The output.

    Returns
    -------
    tuple of int
        Upper bound in bytes, and number of files or objects, without overviews.
    """
    chunk = template.chunk_px
    rows, columns = template.shape
    shards, chunks = (
        -(-rows // step) * -(-columns // step) * len(template.times)
        for step in (template.block_px, chunk)
    )
    per_shard = (template.block_px // chunk) ** 2
    total = files = 0
    for layer in template.layers:
        depth = layer.classes or 1
        raw = chunk * chunk * layer.itemsize
        # zstd grows noise by at most 1/256 and its frame; 16 bytes per index entry
        total += depth * chunks * (raw + raw // 256 + 64)
        total += shards * (depth * per_shard * 16 + 4)
        files += shards
    metadata = 1 + len(COORDS) + len(template.layers)
    text = 2 * metadata * (len(json.dumps(template.to_dict())) + 20_000)
    total += text + 8 * (rows + columns + len(template.times))
    return total, files + metadata + len(COORDS)

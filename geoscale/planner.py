"""Making a plan: resolve every choice, find empty blocks, refuse early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import lcm

import numpy as np
from numpy.typing import NDArray

from geoscale.admission import admit, needs_acceptance
from geoscale.card import ModelCard, Patch
from geoscale.changes import default_layers, group_steps
from geoscale.chunks import BlockGrid, choose_chunk, round_up
from geoscale.errors import CardError, PlanError
from geoscale.objects import LAYER
from geoscale.options import Change, Inference, Output
from geoscale.passes import Passes, join_steps
from geoscale.plans import NO_ITEM, OUTSIDE, RUN, InferencePlan
from geoscale.types import Bool, Ints, Json, Source

LEAST_BLOCK_PX, MOST_BLOCK_PX = 1024, 2048
"""Blocks are about an eighth of the stack wide, within these: one write, seconds
of work, and enough of them to keep reading, inference and writing busy at once."""
LEAST_ACROSS, MOST_ACROSS = 4, 8
"""Where patches are blended, blocks are a third of the stack wide, within these many
strides: what lies across their edges is computed twice, unless one process runs both
neighbours, as it does where the stack is small."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Area:
    """Area of interest on the output grid."""

    geometry: Json
    """GeoJSON geometry in the grid's CRS."""
    touches: Callable[[Ints, Ints], Bool]
    """Edges of cells along y and x → which cells hold any of it, (y, x)."""


def make_plan(  # noqa: PLR0913  (all by name)
    source: Source,
    card: ModelCard,
    *,
    weights_sha256: str,
    code_sha256: str | None = None,
    inference: Inference | None = None,
    output: Output | None = None,
    area: Area | None = None,
    change: Change | None = None,
) -> InferencePlan:
    """Plan a job.

    Parameters
    ----------
    source : Source
        Imagery, with the card's bands in the card's units.
    card : ModelCard
        The model.
    weights_sha256, code_sha256 : str
        Of the files that were found.
    inference, output : optional
        What the user chose; the rest is resolved here.
    area : Area, optional
        Blocks outside it are never run.
    change : Change, optional
        How change is found, from `geoscale.changes.resolve_change`; None: a map of
        classes.

    Returns
    -------
    InferencePlan
        Checked by `InferencePlan.validate`, memory aside.

    Raises
    ------
    PlanError
        If a choice does not fit the model or the stack.
    """
    asked = inference or Inference()
    admit(card, accept_license=asked.accept_license)
    if len(source.bands) != len(card.input.bands):
        raise CardError(
            f"`{card.name}` expects {len(card.input.bands)} bands "
            f"({', '.join(card.input.bands)}), the stack supplies {len(source.bands)} "
            f"({', '.join(source.bands)})"
        )
    spec = source.spec()
    groups = _group(spec, change, source, card)
    height, width = (int(n) for n in source.geobox.shape)
    chosen = resolve_inference(asked, card, (height, width))
    assert chosen.block is not None
    wanted = output or Output()
    if card.output.detection is not None:
        wanted = _refuse_layers(wanted, spec)
    if wanted.chunk is not None and chosen.block % wanted.chunk:
        raise PlanError(
            f"chunk of {wanted.chunk} px does not divide the block of {chosen.block} "
            f"px; two tasks would write one shard: use {choose_chunk(chosen.block)}"
        )
    grid = BlockGrid(len(groups), (height, width), chosen.block)
    plan = InferencePlan(
        source=spec,
        card=card,
        weights_sha256=weights_sha256,
        code_sha256=code_sha256,
        geobox=source.geobox,
        source_times=source.times,
        inference=chosen,
        output=wanted.model_copy(
            update={
                "chunk": wanted.chunk or choose_chunk(chosen.block),
                "layers": wanted.layers or default_layers(change),
            }
        ),
        change=change,
        itemsize=int(source.dtype.itemsize),
        states=find_states(grid, source, groups, area, any_will_do="votes" in spec),
        aoi=None if area is None else area.geometry,
        notes=tuple(_notes(source, card, (height, width), chosen)),
        asked=asked if asked.is_measured else None,
    )
    _check_turns(plan)
    plan.validate()
    return plan


def _refuse_layers(wanted: Output, spec: Json) -> Output:
    """Give what a detector's output can be: a table, without layers or overviews."""
    if wanted.layers not in (None, (LAYER,)) or wanted.store != "zarr":
        raise PlanError(
            "detections are stored as a table (GeoParquet); leave `output.layers` and "
            "`output.store` out"
        )
    if "votes" in spec or spec.get("layers"):
        raise PlanError(
            "composite vote and `imagery.layers` are for maps, and a detector gives "
            "none; leave them out, or choose composite median"
        )
    return wanted.model_copy(update={"layers": (LAYER,), "overviews": False})


def _check_turns(plan: InferencePlan) -> None:
    """Refuse to rotate patches that are longer than wide, before one is cut."""
    height, width = plan.lattice.patch_shape
    if height != width and plan.inference.tta in ("rotations", "all"):
        raise PlanError(
            f"`tta: {plan.inference.tta}` rotates patches by quarters, and those of "
            f"this stack are {height} x {width} px, not square: say `tta: flips`, or "
            f"choose `inference.patch` <= {min(height, width)}"
        )


def _group(
    spec: Json, change: Change | None, source: Source, card: ModelCard
) -> Sequence[Passes]:
    """Tell the passes of each time step of the output."""
    if "votes" not in spec:
        return group_steps(change, source.times, card)
    if change is not None or card.input.frames > 1:
        raise CardError(
            "composite vote is for models that classify one date, and for maps of "
            f"classes; `{card.name}` takes {card.input.frames}, the job makes "
            f"{'classes' if change is None else 'change'}: choose median, or another "
            "composite"
        )
    return [tuple((step,) for step in steps) for _, _, steps in spec["votes"]]


def resolve_inference(
    asked: Inference, card: ModelCard, shape: tuple[int, int]
) -> Inference:
    """Fill in every choice that the user left open.

    Parameters
    ----------
    asked : Inference
        What the user chose.
    card : ModelCard
        The model.
    shape : tuple of int, (y, x)
        Size of the stack, in px.

    Returns
    -------
    Inference
        With patch, stride, merge and block set.

    Raises
    ------
    PlanError
        If a choice does not fit the model.
    """
    needs = card.input.patch
    patch = asked.patch or needs.size
    if needs.fixed and patch != needs.size:
        raise PlanError(
            f"`{card.name}` takes patches of {needs.size} px only, not {patch}; leave "
            "`inference.patch` out"
        )
    step = lcm(needs.multiple_of, needs.alignment)
    if patch % step:
        raise PlanError(
            f"patch of {patch} px is no multiple of {step} px, which `{card.name}` "
            f"needs; choose {round_up(patch, step)}"
        )
    if card.output.detection is not None:
        needs = _refuse_for_detector(asked, card, patch)
    merge = asked.merge or ("crop" if needs.halo is not None else "blend")
    stride = asked.stride or _default_stride(patch, merge, needs)
    if not 1 <= stride <= patch:
        raise PlanError(
            f"stride of {stride} px leaves gaps between patches of {patch} px; "
            f"choose 1 <= stride <= {patch}"
        )
    found: Json = {"patch": patch, "stride": stride, "merge": merge}
    found["block"] = asked.block or _default_block(stride, merge, shape)
    # what is to be measured stands at its default until then
    if asked.runtime == "auto":
        found["runtime"] = "native"
    if asked.precision == "auto":
        found["precision"] = "float32"
    return asked.model_copy(update=found)


def _refuse_for_detector(asked: Inference, card: ModelCard, patch: int) -> Patch:
    """Give the context that a detector's objects need; refuse what it cannot do."""
    spec = card.output.detection
    assert spec is not None
    if asked.merge == "blend":
        raise PlanError(
            f"`{card.name}` is a detector: detections of patches are no scores to be "
            "blended; leave `inference.merge` out"
        )
    if asked.is_measured or asked.precision != "float32":
        raise PlanError(
            f"`{card.name}` is a detector, which runs in float32 by its own runtime; "
            "leave `inference.runtime` and `inference.precision` out"
        )
    if asked.tta != "none":
        raise PlanError(
            f"`{card.name}` is a detector, and `inference.tta` averages scores of "
            "pixels; leave it out"
        )
    if patch <= 2 * spec.margin:
        raise PlanError(
            f"objects of up to {spec.max_object_px} px leave nothing of a patch of "
            f"{patch} px, which need {2 * spec.margin} px of overlap; choose a larger "
            "`inference.patch`, or a smaller `max_object_px` in the card"
        )
    return card.input.patch.model_copy(update={"halo": spec.margin})


def _default_stride(patch: int, merge: str, needs: Patch) -> int:
    step = needs.alignment
    if merge == "crop":
        ring = round_up(patch // 8 if needs.halo is None else needs.halo, step)
        return max(step, (patch - 2 * ring) // step * step)
    # An eleventh: more overlap costs time and mends nothing on the cloud model's
    # scene, none shows in accuracy and seams; `python -m benchmarks strides`.
    stride = max(step, (patch - patch // 11) // step * step)
    # Odd where it may be: neighbouring patches then meet strided layers at
    # different phases, and blending averages what a single phase would imprint.
    return stride - 1 if step == 1 and stride % 2 == 0 else stride


def _default_block(stride: int, merge: str, shape: tuple[int, int]) -> int:
    """Whole strides, so that cropping recomputes nothing; no larger than needed."""
    longest = max(shape)
    target = min(max(LEAST_BLOCK_PX, longest // 8), MOST_BLOCK_PX)
    strides = -(-target // stride)
    if merge == "blend":
        third = -(-longest // (3 * stride))
        strides = max(strides, min(MOST_ACROSS, max(LEAST_ACROSS, third)))
    return stride * min(strides, -(-longest // stride))


def find_states(
    grid: BlockGrid,
    source: Source,
    groups: Sequence[Passes],
    area: Area | None,
    *,
    any_will_do: bool = False,
) -> NDArray[np.uint8]:
    """Tell which blocks are to be run; reads nothing.

    Parameters
    ----------
    grid : BlockGrid
        How the output is cut.
    source : Source
        Asked only which blocks it covers.
    groups : sequence of Passes
        By time step of the output; all the time steps of the stack that one is made
        of must be covered.
    area : Area or None
        Area of interest.
    any_will_do : bool
        Whether one of those time steps is enough.

    Returns
    -------
    ndarray of uint8, (block,)
        `RUN`, `OUTSIDE` or `NO_ITEM`.
    """
    ys, xs = grid.edges()
    covered = np.full(grid.counts, not any_will_do)
    for time, passes in enumerate(groups):
        for step in join_steps(passes):
            found = source.covers_cells(ys, xs, step)
            if any_will_do:
                covered[time] |= found
            else:
                covered[time] &= found
    states = np.where(covered, RUN, NO_ITEM)
    if area is not None:
        states[:, ~area.touches(ys, xs)] = OUTSIDE
    return states.astype(np.uint8).ravel()


def _notes(
    source: Source, card: ModelCard, shape: tuple[int, int], chosen: Inference
) -> Sequence[str]:
    notes = []
    patch = card.input.patch
    why = needs_acceptance(card)
    if why:
        notes.append(f"the {why}; whoever planned this accepted it")
    if patch.fixed and min(shape) < patch.size:
        notes.append(
            f"the stack of {shape[0]} x {shape[1]} px is smaller than the model's "
            f"fixed patch of {patch.size} px: it is padded by reflection"
        )
    notes += _tell_cut_objects(card, chosen)
    if card.task != "detection" and patch.halo is None and chosen.merge == "crop":
        notes.append(
            f"`{card.name}` states no halo: with merge crop, seams may show along "
            "patch borders; merge blend hides them"
        )
    gsd, crs = card.input.gsd_m, source.geobox.crs
    if gsd is not None and crs is not None and not crs.geographic:
        step = abs(source.geobox.affine.a)
        if not gsd[0] * 0.75 <= step <= gsd[1] * 1.34:
            notes.append(
                f"`{card.name}` was made for {gsd[0]:g}-{gsd[1]:g} m, the grid has "
                f"{step:g} m per pixel: expect lower accuracy"
            )
    return notes


def _tell_cut_objects(card: ModelCard, chosen: Inference) -> Sequence[str]:
    """Say so where patches overlap by less than the largest object."""
    spec = card.output.detection
    assert chosen.patch is not None
    assert chosen.stride is not None
    if spec is None or (chosen.patch - chosen.stride) // 2 >= spec.margin:
        return ()
    told = (
        f"patches overlap by {chosen.patch - chosen.stride} px, objects of up to "
        f"{spec.max_object_px} px need {2 * spec.margin} px: larger ones may be cut "
        f"or found twice; choose inference.stride <= {chosen.patch - 2 * spec.margin}"
    )
    return [told]

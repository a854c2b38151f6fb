"""Making a plan: resolve every choice, find empty blocks, refuse early."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoscale.admission import admit, needs_acceptance
from geoscale.card import ModelCard
from geoscale.changes import group_steps
from geoscale.chunks import BlockGrid, choose_chunk
from geoscale.coarse import find_cell
from geoscale.errors import CardError, PlanError
from geoscale.goals import complete_output
from geoscale.objects import LAYER
from geoscale.options import Change, Embedding, Inference, Output
from geoscale.passes import Passes, join_steps
from geoscale.patching import resolve_inference, tell_cut_objects
from geoscale.plans import NO_ITEM, OUTSIDE, RUN, InferencePlan
from geoscale.types import Bool, Ints, Json, Source


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
    embedding: Embedding | None = None,
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
    embedding : Embedding, optional
        How features become embeddings, from `geoscale.goals.resolve_embedding`.

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
    embeds = embedding is not None
    admit(card, accept_license=asked.accept_license, embeds=embeds)
    if len(source.bands) != len(card.input.bands):
        raise CardError(
            f"`{card.name}` expects {len(card.input.bands)} bands "
            f"({', '.join(card.input.bands)}), the stack supplies {len(source.bands)} "
            f"({', '.join(source.bands)})"
        )
    spec = source.spec()
    groups = _group(spec, change, source, card)
    height, width = (int(n) for n in source.geobox.shape)
    pooled = embedding is not None and embedding.per == "patch"
    chosen = resolve_inference(asked, card, (height, width), pooled=pooled)
    assert chosen.block is not None
    assert chosen.patch is not None
    cell = find_cell(card, chosen.patch, pooled=pooled)
    if asked.is_measured and (cell > 1 or card.task not in ("segmentation", "change")):
        raise PlanError(
            "runtime and precision `auto` compare the classes of pixels, and "
            f"`{card.name}` gives none: name `inference.runtime` and "
            "`inference.precision`"
        )
    if cell > 1 and spec.get("layers"):
        raise PlanError(
            f"`{card.name}` gives one value for {cell} x {cell} px, and layers of the "
            "imagery have one for each: leave `imagery.composite.layers` out"
        )
    if card.output.forecast is not None and spec.get("layers"):
        raise PlanError(
            f"`{card.name}` tells of future dates, and layers of the imagery of past "
            "ones: leave `imagery.layers` out"
        )
    wanted = output or Output()
    if card.output.detection is not None:
        wanted = _refuse_layers(wanted, spec)
    else:
        wanted = complete_output(wanted, card, change, embedding)
    block = chosen.block // cell
    if wanted.chunk is not None and block % wanted.chunk:
        raise PlanError(
            f"chunk of {wanted.chunk} px does not divide the block of {block} "
            f"px; two tasks would write one shard: use {choose_chunk(block)}"
        )
    grid = BlockGrid(len(groups), (height, width), chosen.block)
    any_will_do = "votes" in spec or card.output.forecast is not None
    plan = InferencePlan(
        source=spec,
        card=card,
        weights_sha256=weights_sha256,
        code_sha256=code_sha256,
        geobox=source.geobox,
        source_times=source.times,
        inference=chosen,
        output=wanted.model_copy(update={"chunk": wanted.chunk or choose_chunk(block)}),
        change=change,
        embedding=embedding,
        itemsize=int(source.dtype.itemsize),
        states=find_states(grid, source, groups, area, any_will_do=any_will_do),
        aoi=None if area is None else area.geometry,
        notes=tuple(_notes(source, card, (height, width), chosen, cell)),
        asked=asked if asked.is_measured else None,
    )
    _check_turns(plan)
    _check_dropout(plan)
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


def _check_dropout(plan: InferencePlan) -> None:
    """Refuse to leave parts out of what is no torch network, or gives no scores."""
    chosen, card = plan.inference, plan.card
    if not chosen.mc_dropout:
        return
    if plan.goal in ("change", "embedding", "detection") or plan.votes:
        made = "votes" if plan.votes else plan.goal
        raise PlanError(
            f"`inference.mc_dropout` tells how far scores and numbers are to be "
            f"trusted, and this job makes {made}: leave it out"
        )
    href = card.weights.href.lower()
    onnx = card.weights.format == "onnx" or href.endswith(".onnx")
    if chosen.runtime not in ("native", "torch") or onnx or card.holds_code:
        what = f"a file that holds `{card.name}`" if onnx or card.holds_code else ""
        raise PlanError(
            "`inference.mc_dropout` opens the dropout layers of a torch network, which "
            f"{what or f'runtime `{chosen.runtime}`'} has closed for good: leave it "
            "out, " + ("or say `inference.tta`" if what else "or say `runtime: torch`")
        )
    if chosen.tta != "none" or (plan.asked is not None and plan.asked.is_measured):
        other = f"tta: {chosen.tta}" if chosen.tta != "none" else "runtime: auto"
        raise PlanError(
            f"`inference.mc_dropout` does not go with `{other}`: choose one of them"
        )


def _group(
    spec: Json, change: Change | None, source: Source, card: ModelCard
) -> Sequence[Passes]:
    """Tell the passes of each time step of the output."""
    if "votes" not in spec:
        return group_steps(change, source.times, card)
    others = card.task not in ("segmentation", "change")
    if change is not None or card.input.frames > 1 or others:
        raise CardError(
            "composite vote is for models that classify one date, and for maps of "
            f"classes; `{card.name}` takes {card.input.frames}, the job makes "
            f"{'change' if change is not None else card.task}: choose median, or "
            "another composite"
        )
    return [tuple((step,) for step in steps) for _, _, steps in spec["votes"]]


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
    source: Source,
    card: ModelCard,
    shape: tuple[int, int],
    chosen: Inference,
    cell: int,
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
    notes += tell_cut_objects(card, chosen)
    seams = card.task != "detection" and patch.halo is None and chosen.merge == "crop"
    if seams and cell != chosen.patch:
        mend = "merge blend hides them"
        if card.output.features is not None:
            mend = "a larger patch, or a smaller stride, makes them fainter"
        notes.append(
            f"`{card.name}` states no halo: with merge crop, seams may show along "
            f"patch borders; {mend}"
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

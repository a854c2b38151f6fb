"""Patch, stride, merging and block of a job, from what is asked and the model needs."""

from __future__ import annotations

from collections.abc import Sequence
from math import lcm
from typing import Literal

from geoscale.card import ModelCard
from geoscale.chunks import round_up
from geoscale.coarse import find_cell
from geoscale.errors import PlanError
from geoscale.options import Inference
from geoscale.types import Json

LEAST_BLOCK_PX, MOST_BLOCK_PX = 1024, 2048
"""Blocks are about an eighth of the stack wide, within these: one write, seconds
of work, and enough of them to keep reading, inference and writing busy at once."""
LEAST_ACROSS, MOST_ACROSS = 4, 8
"""Where patches are blended, blocks are a third of the stack wide, within these many
strides: what lies across their edges is computed twice, unless one process runs both
neighbours, as it does where the stack is small."""


def resolve_inference(
    asked: Inference, card: ModelCard, shape: tuple[int, int], *, pooled: bool = False
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
    pooled : bool
        Whether the results of a patch become one.

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
    cell = find_cell(card, patch, pooled=pooled)
    align = lcm(needs.alignment, cell)
    step = lcm(needs.multiple_of, align)
    if patch % step:
        raise PlanError(
            f"patch of {patch} px is no multiple of {step} px, which `{card.name}` "
            f"needs; choose {round_up(patch, step)}"
        )
    if card.output.detection is not None:
        _refuse_for_detector(asked, card, patch)
    merge, stride = _lay_patches(asked, card, patch, cell)
    if not 1 <= stride <= patch:
        raise PlanError(
            f"stride of {stride} px leaves gaps between patches of {patch} px; "
            f"choose 1 <= stride <= {patch}"
        )
    found: Json = {"patch": patch, "stride": stride, "merge": merge}
    found["block"] = asked.block or _default_block(stride, merge, shape)
    if found["block"] % cell:
        raise PlanError(
            f"block of {found['block']} px is no multiple of the {cell} px for which "
            f"`{card.name}` gives one value; choose {round_up(found['block'], cell)}"
        )
    # what is to be measured stands at its default until then
    if asked.runtime == "auto":
        found["runtime"] = "native"
    if asked.precision == "auto":
        found["precision"] = "float32"
    return asked.model_copy(update=found)


def _lay_patches(
    asked: Inference, card: ModelCard, patch: int, cell: int
) -> tuple[Literal["crop", "blend"], int]:
    """Tell how patches are merged, and how far apart they are."""
    needs, features = card.input.patch, card.output.features
    ring, spec = needs.halo, card.output.detection
    if spec is not None:
        ring = spec.margin
    if cell == patch > 1:
        _refuse_overlap(asked, card, patch)
        return "crop", patch
    # Features near a patch's border tell of the border, and a mean would keep that:
    # measured on a ResNet, blending leaves seams that cropping does not.
    crops = ring is not None or features is not None
    merge = asked.merge or ("crop" if crops else "blend")
    if ring is None:
        ring = patch // (8 if features is None else 4)
    step = lcm(needs.alignment, cell)
    stride = patch if cell == patch else asked.stride
    return merge, stride or _default_stride(patch, merge, ring, step)


def _refuse_for_detector(asked: Inference, card: ModelCard, patch: int) -> None:
    """Refuse what a detector cannot do."""
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


def _refuse_overlap(asked: Inference, card: ModelCard, patch: int) -> None:
    """Refuse to blend, or to space out, results that stand for whole patches."""
    if asked.merge == "blend" or asked.stride not in (None, patch):
        raise PlanError(
            f"`{card.name}` gives one result for each patch of {patch} px: patches "
            "lie side by side; leave `inference.merge` and `inference.stride` out"
        )


def _default_stride(patch: int, merge: str, ring: int, step: int) -> int:
    if merge == "crop":
        return max(step, (patch - 2 * round_up(ring, step)) // step * step)
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


def tell_cut_objects(card: ModelCard, chosen: Inference) -> Sequence[str]:
    """Say so where patches overlap by less than the largest object.

    Parameters
    ----------
    card : ModelCard
        The model.
    chosen : Inference
        With patch and stride.

    Returns
    -------
    sequence of str
        One note, or none.
    """
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

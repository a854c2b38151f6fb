"""What finishes the scores of a plan."""

from __future__ import annotations

from geoscale.passes import PassTask
from geoscale.plans import InferencePlan
from geoscale.tasks.change import ClassChange, NetworkChange
from geoscale.tasks.embedding import Embed
from geoscale.tasks.forecast import Ahead
from geoscale.tasks.labels import Labels
from geoscale.tasks.objects import Objects
from geoscale.tasks.regression import Regression
from geoscale.tasks.segmentation import Segmentation
from geoscale.tasks.spread import WithSpread
from geoscale.tasks.vote import Vote
from geoscale.types import Task


def make_task(plan: InferencePlan) -> Task | PassTask:
    """Task that finishes a plan's scores.

    Parameters
    ----------
    plan : InferencePlan
        Resolved.

    Returns
    -------
    Task or PassTask
        Holds no pixel.
    """
    task = _make_plain(plan)
    if plan.inference.mc_dropout:
        assert not isinstance(task, PassTask)
        return WithSpread(task, plan.card)
    return task


def _make_plain(  # noqa: PLR0911  (one for each)
    plan: InferencePlan,
) -> Task | PassTask:
    change, stored = plan.change, plan.output.scores_dtype
    if plan.card.output.detection is not None:
        return Objects()
    if plan.embedding is not None:
        chosen, dtype = plan.embedding, plan.output.dtype or "float16"
        return Embed(plan.card, chosen.components, chosen.numbers, dtype=dtype)
    if plan.card.output.forecast is not None:
        return Ahead(plan.card, plan.output.dtype or "float32")
    if plan.card.output.bands:
        return Regression(plan.card, plan.layers, plan.output.dtype or "float32")
    if plan.card.output.multilabel:
        return Labels(plan.card, plan.layers, stored)
    if plan.votes:
        return Vote(plan.card, plan.layers, stored)
    if change is None:
        return Segmentation(plan.card, plan.layers, stored)
    if change.sees_both:
        return NetworkChange(plan.card, plan.layers, stored, threshold=change.threshold)
    return ClassChange(
        plan.card,
        plan.layers,
        stored,
        threshold=change.threshold,
        prior=change.prior,
        min_confidence=change.min_confidence,
    )

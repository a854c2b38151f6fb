"""What a job makes: which cards serve, and what is stored where nothing is said."""

from __future__ import annotations

from typing import Literal

from geoscale.card import ModelCard
from geoscale.changes import default_layers
from geoscale.errors import CardError, JobError
from geoscale.options import Change, Embedding, Output
from geoscale.tasks.embedding import EMBEDDING, Embed
from geoscale.tasks.forecast import FORECAST, Ahead
from geoscale.tasks.labels import LABELS
from geoscale.tasks.regression import Regression

MADE_BY = {
    "segmentation": "segmentation",
    "embedding": "backbone",
    "regression": "regression",
    "classification": "classification",
    "forecasting": "forecasting",
}
"""Task of a job → task of the cards that serve; change has rules of its own."""


def resolve_embedding(
    task: str | None, asked: Embedding | None, card: ModelCard
) -> Embedding | None:
    """Tell how embeddings are made, if the job is about them at all.

    Parameters
    ----------
    task : str or None
        What the job makes; None: what the card is for.
    asked : Embedding or None
        What the user chose.
    card : ModelCard
        The model.

    Returns
    -------
    Embedding or None
        None for any other task.

    Raises
    ------
    JobError
        If something is said of embeddings where none are made.
    CardError
        If the card does not serve the task.
    """
    refuse_other_task(task, card)
    if task == "embedding":
        return asked or Embedding()
    if asked is not None:
        raise JobError(
            "`embedding` says how embeddings are made, but the task is "
            f"{task or card.task}; say `task: embedding`, or leave `embedding` out"
        )
    return None


def refuse_other_task(task: str | None, card: ModelCard) -> None:
    """Refuse a card that does not serve what a job makes.

    Raises
    ------
    CardError
        Saying what the card is for.
    """
    wanted = MADE_BY.get(task or "")
    # change has words of its own; backbones are refused where licences are looked at
    if wanted is None or card.task == wanted:
        return
    if task == "embedding" and card.task in ("segmentation", "regression"):
        raise CardError(
            f"task embedding needs a card of `task: backbone`; `{card.name}` is for "
            f"{card.task}: name a layer of its network as `embedding.layer`, or choose "
            "another model"
        )
    if task == "segmentation" and card.task in ("change", "backbone", "detection"):
        return
    hint = {
        "backbone": "say `task: embedding`, or fit a head",
        "segmentation": "say `task: segmentation`",
        "change": "say `task: change`",
    }.get(card.task, f"say `task: {card.task}`")
    raise CardError(
        f"task {task} needs a card of `task: {wanted}`; `{card.name}` is for "
        f"{card.task}: {hint}, or choose another model"
    )


def complete_output(
    asked: Output,
    card: ModelCard,
    change: Change | None,
    embedding: Embedding | None,
) -> Output:
    """Fill in what is stored, and refuse what cannot be.

    Parameters
    ----------
    asked : Output
        What the user chose.
    card : ModelCard
        The model.
    change : Change or None
        How change is found.
    embedding : Embedding or None
        How embeddings are made.

    Returns
    -------
    Output
        With its layers, and its dtype where the task has one.

    Raises
    ------
    JobError
        If a layer or dtype does not go with the task.
    """
    layers: tuple[str, ...]
    dtype: Literal["float32", "float16", "int8"] | None
    if embedding is not None:
        layers, dtype = (EMBEDDING,), asked.dtype or "float16"
        Embed(card, embedding.components, embedding.numbers, dtype=dtype)
    elif card.task == "forecasting":
        layers, dtype = (FORECAST,), asked.dtype or "float32"
        Ahead(card, dtype)
    elif card.task == "regression":
        layers = tuple(band.name for band in card.output.bands)
        dtype = asked.dtype or "float32"
        Regression(card, asked.layers or layers, dtype)
    elif asked.dtype is not None:
        raise JobError(
            f"output.dtype is for regressions and embeddings, not for {card.task}; "
            "say `output.scores_dtype`, or leave it out"
        )
    elif card.task == "classification":
        layers, dtype = _class_layers(card), None
    else:
        layers, dtype = default_layers(change), None
    chosen = asked.layers or layers
    alone = embedding is not None or card.task == "forecasting"
    if alone and chosen != layers:
        raise JobError(
            f"{'embeddings' if embedding else 'forecasts'} are stored as one layer, "
            f"`{layers[0]}`; leave `output.layers` out"
        )
    return asked.model_copy(update={"layers": chosen, "dtype": dtype})


def _class_layers(card: ModelCard) -> tuple[str, ...]:
    plain = ("classes", "confidence", "scores")
    return (*plain, LABELS) if card.output.multilabel else plain

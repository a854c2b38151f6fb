"""What callers say in Python, checked as a job file is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict, get_args

from pydantic import ValidationError

from geoscale.card import TaskName, explain_validation
from geoscale.errors import JobError
from geoscale.options import Change, Embedding, Inference, Output
from geoscale.words import suggest


class InferenceOptions(TypedDict, total=False):
    """Options of `plan` and `predict`; see `geoscale.plans.Inference`."""

    block_px: int
    patch_px: int
    stride_px: int
    merge: str
    taper: str
    batch: int | str
    runtime: str
    precision: str
    min_agreement: float
    device: str
    tta: str
    mc_dropout: int
    in_flight: int
    accept_license: bool


def read_inference(options: Mapping[str, Any]) -> Inference:
    """Read how the model is to be run.

    Raises
    ------
    JobError
        If an option is unknown or of the wrong kind.
    """
    renamed = {"block_px": "block", "patch_px": "patch", "stride_px": "stride"}
    unknown = set(options) - set(InferenceOptions.__annotations__)
    if unknown:
        raise JobError(
            f"unknown option `{sorted(unknown)[0]}`; known are "
            f"{', '.join(InferenceOptions.__annotations__)}"
        )
    given = {renamed.get(name, name): value for name, value in options.items()}
    try:
        return Inference.model_validate(given)
    except ValidationError as err:
        raise JobError(explain_validation(err, Inference)) from None


def read_task(task: str | None) -> str | None:
    """Read what is to be made.

    Raises
    ------
    JobError
        If there is no such task.
    """
    known = get_args(TaskName)
    if task is not None and task not in known:
        raise JobError(
            f"task `{task}` is not known{suggest(task, known)}; choose from "
            f"{', '.join(known)}"
        )
    return task


def read_change(change: Change | Mapping[str, Any] | None) -> Change | None:
    """Read how change is to be found.

    Raises
    ------
    JobError
        If a key is unknown or of the wrong kind.
    """
    if change is None or isinstance(change, Change):
        return change
    try:
        return Change.model_validate(dict(change))
    except ValidationError as err:
        raise JobError(explain_validation(err, Change)) from None


def read_embedding(
    embedding: Embedding | Mapping[str, Any] | None,
) -> Embedding | None:
    """Read how embeddings are to be made.

    Raises
    ------
    JobError
        If a key is unknown or of the wrong kind.
    """
    if embedding is None or isinstance(embedding, Embedding):
        return embedding
    try:
        return Embedding.model_validate(dict(embedding))
    except ValidationError as err:
        raise JobError(explain_validation(err, Embedding)) from None


def read_output(output: Output | Mapping[str, Any] | None) -> Output:
    """Read what is to be stored.

    Raises
    ------
    JobError
        If a key is unknown or of the wrong kind.
    """
    if isinstance(output, Output):
        return output
    try:
        return Output.model_validate(dict(output or {}))
    except ValidationError as err:
        raise JobError(explain_validation(err, Output)) from None

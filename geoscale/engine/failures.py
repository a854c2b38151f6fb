"""What kind of failure an error is, and so what to do about it."""

from __future__ import annotations

import errno

from geoscale.errors import (
    BlockError,
    GeoscaleError,
    PlanError,
    ReadError,
    SinkError,
    StoppedError,
    WeightsError,
)
from geoscale.words import redact

TRANSIENT = "transient"
"""Try the block again, later, anywhere."""
PERMANENT = "permanent"
"""The block fails wherever it runs; counted, then quarantined."""
PROCESS = "process"
"""The process is no longer to be trusted; try the block in another."""
LOST = "lost"
"""The worker went away; the block is not to blame, not counted as its own."""
AUTH = "auth"
"""Credentials are refused: the block may be one of a few, or all would fail alike."""
RUN = "run"
"""Every block would fail alike: stop."""

_STOP = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def classify(error: BaseException) -> str:
    """Name the kind of a failure.

    Parameters
    ----------
    error : BaseException
        What a block raised; the cause of a `BlockError` decides.

    Returns
    -------
    str
        `TRANSIENT`, `PERMANENT`, `PROCESS`, `AUTH` or `RUN`.
    """
    if isinstance(error, BlockError) and error.__cause__ is not None:
        return classify(error.__cause__)
    kind = getattr(error, "kind", None)
    if kind in (TRANSIENT, PERMANENT, PROCESS, AUTH, RUN):
        return str(kind)
    if isinstance(error, OSError) and not isinstance(error, GeoscaleError):
        return RUN if error.errno in _STOP else TRANSIENT
    return next((kind for types, kind in _BY_TYPE if isinstance(error, types)), "") or (
        # torch names its own; the engine does not import torch
        PROCESS if type(error).__name__ in _PROCESS_NAMES else PERMANENT
    )


_PROCESS_NAMES = ("AcceleratorError", "OutOfMemoryError")
_BY_TYPE: tuple[tuple[tuple[type[BaseException], ...], str], ...] = (
    ((ReadError,), TRANSIENT),
    ((StoppedError, PlanError, WeightsError, SinkError), RUN),
    ((MemoryError,), PROCESS),
)


_ADVICE = {
    TRANSIENT: "the source, the network or the store failed at every try; wait until "
    "it answers",
    PERMANENT: "it would fail anywhere; mend the input, the card or the job that the "
    "message names",
    AUTH: "credentials are refused for these files, fresh ones too; ask for access, or "
    "leave the items out",
    PROCESS: "the process could not go on: most often memory; take a smaller block or "
    "batch, or a larger worker",
    LOST: "workers died under it, each time alone: most often memory, or a library "
    "that crashes on its pixels; take a smaller block, and look at the workers' logs",
}


def advise(kind: str) -> str:
    """Say what to do about a quarantined block.

    Parameters
    ----------
    kind : str
        Kind of its last failure.

    Returns
    -------
    str
        One sentence without its full stop.
    """
    return _ADVICE.get(kind, _ADVICE[PERMANENT])


def describe(error: BaseException) -> str:
    """Say what happened in one line, our own words first.

    Parameters
    ----------
    error : BaseException
        What was raised.

    Returns
    -------
    str
        Message, with the type where it is not ours.
    """
    text = redact(" ".join(str(error).split())) or "no message"
    return (
        text if isinstance(error, GeoscaleError) else f"{type(error).__name__}: {text}"
    )

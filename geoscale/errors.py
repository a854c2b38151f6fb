"""Errors as instructions: what, where, got, what to do.

The tree is grouped by what the caller would do next::

    GeoscaleError
    ├── PlanError (ValueError)         cannot run as asked; no pixel was read
    │   ├── JobError                   the job file or an option is wrong
    │   ├── StackError                 dims, CRS, dtype, nodata of the input
    │   ├── SourceError                items, assets, hrefs, searches
    │   ├── CardError                  bands, patch or classes do not fit
    │   ├── MemoryPlanError            projected > allowed
    │   ├── EmptyPlanError             no imagery in the area
    │   └── OutputError                the output exists, differs or has no room
    ├── WeightsError                   missing, wrong hash, wrong keys, unsafe
    ├── ReadError                      a source window could not be read
    ├── BlockError                     a block failed: .block, .phase, __cause__
    ├── SinkError                      a write would tear or lose data
    ├── StoreError (OSError)           the store of the output does not answer
    ├── StoppedError                   the whole run cannot go on (disk, auth)
    │   └── HungError                  nothing moves; the process must be left
    └── MissingDependencyError (ImportError)  names the extra to install
"""

from __future__ import annotations

import importlib
from types import ModuleType


class GeoscaleError(Exception):
    """Base of every error that geoscale raises on purpose."""

    exit_code: int = 2
    """Exit code of the command line when this error ends it."""


class PlanError(GeoscaleError, ValueError):
    """The job cannot run as asked; nothing was read."""


class JobError(PlanError):
    """The job file or an option is wrong."""


class StackError(PlanError):
    """Dims, CRS, dtype or nodata of the input do not serve."""


class SourceError(PlanError):
    """Items, assets, hrefs or a search do not give imagery."""


class CardError(PlanError):
    """A model card is wrong, or does not fit the stack."""


class MemoryPlanError(PlanError):
    """A block is projected to need more memory than is allowed."""


class EmptyPlanError(PlanError):
    """No block of the plan has imagery."""


class OutputError(PlanError):
    """The output exists, belongs to another plan, or has no room."""


class WeightsError(GeoscaleError):
    """Weights are missing, changed, incomplete or unsafe to load."""


class ReadError(GeoscaleError):
    """A window of a source could not be read; never turned into data.

    Parameters
    ----------
    message : str
        What happened.
    kind : str
        ``transient``: may pass; ``permanent``: the file is not there or is broken;
        ``auth``: credentials are refused, also fresh ones.
    """

    exit_code = 3

    def __init__(self, message: str, *, kind: str = "transient") -> None:
        super().__init__(message)
        self.kind = kind

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the kind when a worker sends the error home."""
        return _rebuild_read_error, (str(self), self.kind)


def _rebuild_read_error(message: str, kind: str) -> ReadError:
    return ReadError(message, kind=kind)


class BlockError(GeoscaleError):
    """One block failed.

    Parameters
    ----------
    message : str
        What happened.
    block : str
        Name of the block, ``t-y-x``.
    phase : str
        ``read``, ``preprocess``, ``predict``, ``merge`` or ``write``.
    """

    exit_code = 3

    def __init__(self, message: str, *, block: str = "", phase: str = "") -> None:
        super().__init__(message)
        self.block = block
        self.phase = phase

    def __reduce__(self) -> tuple[object, ...]:
        """Keep block and phase when a worker sends the error home."""
        return _rebuild_block_error, (str(self), self.block, self.phase)


def _rebuild_block_error(message: str, block: str, phase: str) -> BlockError:
    return BlockError(message, block=block, phase=phase)


class SinkError(GeoscaleError):
    """A write would tear, overlap or lose data."""

    exit_code = 4


class StoreError(GeoscaleError, OSError):
    """The output's store failed as often as it was asked; it may answer later."""

    exit_code = 4
    kind = "transient"
    """What it is to a block, in the words of `geoscale.engine.failures`."""


class StoppedError(GeoscaleError):
    """The run cannot go on for any block: disk full, auth, no workers."""

    exit_code = 4


class HungError(StoppedError):
    """No block ends any more, and a thread of this process cannot be stopped."""


class MissingDependencyError(GeoscaleError, ImportError):
    """An optional library is not installed; the message names the extra."""


def require(name: str, *, extra: str) -> ModuleType:
    """Import an optional library or say how to install it.

    Parameters
    ----------
    name : str
        Module to import.
    extra : str
        Extra of geoscale that brings it.

    Returns
    -------
    ModuleType
        The module.

    Raises
    ------
    MissingDependencyError
        If it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as err:
        msg = f"`{name}` is not installed; run: pip install 'geoscale[{extra}]'"
        raise MissingDependencyError(msg) from err

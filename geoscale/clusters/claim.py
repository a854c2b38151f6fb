"""A preload of workers in batch jobs: each takes one GPU before CUDA is loaded.

``dask worker --preload geoscale.clusters.claim``; several workers of one command, and
several commands of one job, would all use the first device that they see otherwise.
"""

from __future__ import annotations

import logging
import os
import tempfile
from pathlib import Path

from geoscale.clusters.batch import BatchProfile
from geoscale.clusters.devices import VISIBLE, choose_device
from geoscale.errors import JobError

_LOG = logging.getLogger(__name__)

PROCESSES = "GEOSCALE_PROCESSES"
"""Variable with the number of workers that one command starts."""


def claim_arguments(profile: BatchProfile) -> list[str]:
    """Arguments of ``dask worker`` for a profile: none where no GPU is asked for."""
    return ["--preload", __name__] if profile.gpus else []


def dask_setup(worker: object) -> None:
    """Show this process one device only; called by Dask as a worker starts.

    Where there are too few it is shown none: it is then set aside with the reason, and
    never shares one.
    """
    processes = int(os.environ.get(PROCESSES) or 1)
    try:
        slot = take_slot(os.getppid(), processes)
        device = choose_device(slot=slot, processes=processes)
    except JobError as error:
        # Dask passes over a preload that fails
        _LOG.error("%s: %s", worker, error)
        device = ""
    if device is not None:
        os.environ[VISIBLE] = device


def take_slot(parent: int, slots: int) -> int:
    """Take a number among the processes that a parent has started.

    Parameters
    ----------
    parent : int
        Id of the process that starts the workers.
    slots : int
        How many it keeps alive.

    Returns
    -------
    int
        From 0; that of a process that is gone is given again.

    Raises
    ------
    JobError
        If all are taken.
    """
    folder = Path(tempfile.gettempdir()) / f"geoscale-{os.getuid()}-slots"
    folder.mkdir(mode=0o700, exist_ok=True)
    for slot in range(slots):
        path = folder / f"{parent}-{slot}"
        if _is_gone(path):
            path.unlink(missing_ok=True)
        try:
            # whole before it is seen under its name, and only one can link it
            mine = folder / f".{os.getpid()}"
            mine.write_text(str(os.getpid()), encoding="ascii")
            os.link(mine, path)
        except FileExistsError:
            continue
        finally:
            mine.unlink(missing_ok=True)
        return slot
    raise JobError(f"{slots} workers of process {parent} are there already")


def _is_gone(path: Path) -> bool:
    try:
        os.kill(int(path.read_text(encoding="ascii")), 0)
    except FileNotFoundError:
        return False
    except (ValueError, ProcessLookupError):
        return True
    except PermissionError:
        return True  # another's by now: ids come round
    return False

"""Resume: the stored plan of a job that was begun, without planning it again.

Planning hundreds of thousands of items takes a minute. A job that says the same about
the same files means the plan that its output holds already.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from geoscale.assemble import hash_card_code
from geoscale.card import ModelCard
from geoscale.engine.journal import Journal
from geoscale.errors import JobError
from geoscale.job import Job
from geoscale.judging import find_judging
from geoscale.models import resolve_weights
from geoscale.plans import RESULT_VERSION, InferencePlan

_PIECE = 2**20


def mark_job(job: Job, card: ModelCard) -> str | None:
    """Digest of everything that a job's plan is made from.

    Parameters
    ----------
    job : Job
        The job.
    card : ModelCard
        Of its model.

    Returns
    -------
    str or None
        None where imagery is not a file of items: a search, a folder or an array may
        hold something else by now, and has to be looked at.
    """
    items = job.imagery.items
    if not isinstance(items, str | Path):
        return None
    told = {
        "version": RESULT_VERSION,
        "imagery": job.imagery.model_dump(mode="json", exclude={"items"}),
        "items": _hash_file(str(items)),
        "grid": job.grid.model_dump(mode="json"),
        "area": _hash_area(job.grid.aoi),
        "card": card.hash(),
        "weights": resolve_weights(card)[1],
        "code": hash_card_code(card),
        "task": job.task or "segmentation",
        "inference": job.inference.model_dump(mode="json"),
        "output": job.output.model_dump(mode="json", exclude={"to"}),
    }
    if job.embedding is not None:
        told["embedding"] = job.embedding.model_dump(mode="json")
    if job.change is not None:
        told["change"] = job.change.model_dump(mode="json")
    if (judging := find_judging(job.imagery.mask)) is not None:
        told["judging"] = judging.to_json()
    if None in (told["items"], told["area"]):
        return None
    text = json.dumps(told, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def find_begun(url: str, mark: str | None) -> InferencePlan | None:
    """Give the plan of an output that the same job began.

    Parameters
    ----------
    url : str
        The output.
    mark : str or None
        From `mark_job`.

    Returns
    -------
    InferencePlan or None
        None where nothing was begun, or by another job: then planning tells how they
        differ.
    """
    if mark is None:
        return None
    journal = Journal(url)
    if journal.load_mark() != mark:
        return None
    return journal.load_plan()


def _hash_area(aoi: Any) -> str | None:
    """Of the area's file; of itself where it is data; None if it cannot be read."""
    if isinstance(aoi, str | Path):
        return _hash_file(str(aoi))
    return "data"


def _hash_file(path: str) -> str | None:
    """sha256 of a file; None where it cannot be read: who plans says why."""
    import fsspec

    total = hashlib.sha256()
    try:
        with fsspec.open(path, "rb") as file:
            while piece := file.read(_PIECE):
                total.update(piece)
    except (OSError, ValueError, ImportError):
        return None
    return total.hexdigest()


def name_output(known: str | None, to: str | Path | None) -> str | Path:
    """Choose the output of a plan.

    Parameters
    ----------
    known : str or None
        What the plan's job names.
    to : str, path or None
        What the caller names; wins.

    Returns
    -------
    str or path
        The output.

    Raises
    ------
    JobError
        If neither is known.
    """
    place = known if to is None else to
    if place is None:
        raise JobError(
            'a plan needs an output: `run(plan, "map.zarr")`; only one that `plan_job` '
            "made knows that of its job"
        )
    return place

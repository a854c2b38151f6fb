"""What was submitted for an output: where it stands, and ending it.

It is noted beside the output (``.geoscale/jobs/``), under the ids of the batch system
or the name of the gateway's cluster.
So whoever sees the output can ask.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from geoscale import outputs
from geoscale.api import as_url
from geoscale.attaching import find_cluster
from geoscale.clusters import (
    GONE,
    QUEUES,
    UNKNOWN,
    GatewayProfile,
    JobState,
    ask_cluster,
    stop_gateway,
)
from geoscale.errors import JobError, OutputError
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

JOBS = "jobs"
"""Folder with what was submitted."""
ENDED = "ended"
"""How a driver inside a gateway's cluster ended: the end of that file's name."""


def describe(output: str | Path) -> Json:
    """Tell where a run stands: its blocks, and its jobs where any were submitted.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    dict
        As `geoscale.status`, and ``jobs`` of the last submission: ``id``, ``kind``,
        ``state`` in the queue's words, and whether it is ``over``.

    Raises
    ------
    OutputError
        If nothing was begun or submitted there.
    """
    url = as_url(output)
    jobs = _last(read_jobs(url))
    try:
        found = outputs.status(url)
    except OutputError:
        if not jobs:
            raise
        found = {"output": url, "model": None, "plan_hash": "", "blocks": 0, "done": 0}
        found |= {"left": 0, "failed": {}, "complete": False, "runs": 0}
    if not jobs:
        return found
    states = _ask(url, jobs)
    rows = []
    for job in jobs:
        state = states[job["id"]]
        row = {key: job[key] for key in ("id", "kind", "system", "parts")}
        rows.append({**row, "state": str(state), "over": state.is_over})
    return {**found, "jobs": rows, **_advise(found, jobs, states)}


def cancel(output: str | Path) -> list[str]:
    """Cancel the jobs of an output, those of its workers too.

    Parameters
    ----------
    output : str or path
        The output.

    Returns
    -------
    list of str
        Ids of the jobs that were not over.

    Raises
    ------
    JobError
        If none was submitted, or the batch system is not here.
    """
    url = as_url(output)
    jobs = _last(read_jobs(url))
    if not jobs:
        raise JobError(
            f"no job was submitted for {redact(url)}: there is none to cancel"
        )
    if jobs[0]["system"] == "gateway":
        if _ask(url, jobs)[jobs[0]["id"]].is_over:
            return []
        stop_gateway(_find_gateway(url))
        return [jobs[0]["id"]]
    queue = QUEUES[jobs[0]["system"]]
    if not queue.is_here:
        raise JobError(
            f"`{queue.cancels[0]}` is not on this machine: cancel where "
            f"{queue.title} is"
        )
    states = _ask(url, jobs)
    alive = [job for job in jobs if not states[job["id"]].is_over]
    # what waits for another first, else it would begin
    queue.cancel([job["id"] for job in reversed(alive)])
    for job in alive:
        if job["kind"] == "driver":
            queue.cancel_workers(job["id"])
    return [job["id"] for job in alive]


def read_jobs(url: str) -> list[Json]:
    """Read what was submitted for an output, oldest first."""
    folder, found = Folder(url) / ".geoscale" / JOBS, []
    for name in folder.names():
        if not name.endswith(".json"):
            continue
        try:
            note = json.loads(folder.get(name) or b"")
            found.append({**note, "id": str(note["id"]), "number": int(note["number"])})
        except (ValueError, KeyError, TypeError):
            continue
        # jobs of PBS that could not be queued again are submitted anew
        more = folder.get(f"{Path(str(note.get('script'))).name}.ids")
        if more and note["system"] == "pbs":
            found += [{**note, "id": one} for one in more.decode().split()]
    order = {"driver": 0, "allocation": 0, "part": 0, "end": 1}
    return sorted(found, key=lambda job: (job["number"], order.get(job["kind"], 2)))


def refuse_twice(url: str) -> None:
    """Refuse an output whose last submission is still in the queue."""
    jobs = _last(read_jobs(url))
    for job, state in zip(jobs, _ask(url, jobs).values(), strict=True):
        if not state.is_over and state is not UNKNOWN:
            raise JobError(
                f"job {job['id']} for {redact(url)} is still in the queue ({state}); "
                f"wait for it, or: geoscale cancel {redact(url)}"
            )


def _last(jobs: list[Json]) -> list[Json]:
    """Jobs of the last submission."""
    number = max((job["number"] for job in jobs), default=0)
    return [job for job in jobs if job["number"] == number]


def _ask(url: str, jobs: list[Json]) -> dict[str, JobState]:
    if not jobs:
        return {}
    ids = [job["id"] for job in jobs]
    if jobs[0].get("system") == "gateway":
        return {one: _ask_driver(url, one) for one in ids}
    queue = QUEUES.get(jobs[0].get("system", ""))
    if queue is None or not queue.is_here:
        return dict.fromkeys(ids, UNKNOWN)
    try:
        found = queue.states(ids)
    except JobError as err:
        return dict.fromkeys(ids, JobState("unknown", str(err)))
    return {one: found.get(one, GONE) for one in ids}


def _ask_driver(url: str, cluster: str) -> JobState:
    """State of a driver in a gateway's cluster: what it left, else the cluster's."""
    folder = Folder(url) / ".geoscale" / JOBS
    left = folder.get(f"gateway-{cluster}.{ENDED}")
    if left is not None:
        told = json.loads(left)
        return JobState(f"ended with {told['exit_code']}", told["said"], is_over=True)
    try:
        return ask_cluster(_find_gateway(url))
    except OutputError:
        return UNKNOWN


def _find_gateway(url: str) -> GatewayProfile:
    found = find_cluster(url)
    if not isinstance(found, GatewayProfile):
        raise OutputError(f"{redact(url)} names no cluster of a gateway")
    return found


def _advise(found: Json, jobs: list[Json], states: Mapping[str, JobState]) -> Json:
    """Say what to do where jobs are over and the map is not complete."""
    if found["complete"] or not all(states[job["id"]].is_over for job in jobs):
        return {}
    if jobs[-1]["system"] == "gateway":
        return {"advice": "its driver is gone: submit it again, or geoscale attach"}
    logs = Path(jobs[-1]["script"]).parent
    text = f"its jobs are over: look at the logs in {logs}, then submit it again"
    late = any("TIMEOUT" in str(states[job["id"]]) for job in jobs)
    if late and not found["done"]:
        hours = float(jobs[0]["walltime_s"]) / 3600
        text = (
            f"no block was made within the wall time of {hours:.2g} h: give the jobs "
            f"more, or choose smaller blocks; the logs are in {logs}"
        )
    return {"advice": text}

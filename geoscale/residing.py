"""Residing: handing a job to a cluster of a gateway, driver and all.

The driver runs in the process of the cluster's scheduler. It goes on where `run` would,
by what lies in the output, so nothing of the process that hands it over has to stay.
"""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoscale import api
from geoscale.clusters import (
    GatewayProfile,
    call_scheduler,
    connect,
    connect_inside,
    end_cluster,
    leave_cluster,
    send_to_scheduler,
)
from geoscale.engine.journal import Journal
from geoscale.errors import GeoscaleError, JobError, StoppedError
from geoscale.job import Job, load_job
from geoscale.launch import allowed_worker_bytes, check_workers, note_cluster
from geoscale.models import find_differences, handshake
from geoscale.outputs import load_begun
from geoscale.plans import InferencePlan
from geoscale.storage import Folder
from geoscale.submitted import ENDED, JOBS, read_jobs, refuse_twice
from geoscale.supply import find_parcels
from geoscale.words import redact
from geoscale.zones import ZonePlans

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Resident:
    """What is going to be handed to a gateway."""

    output: str
    """Where the map goes."""
    profile: GatewayProfile
    """Of the cluster."""
    plan: InferencePlan
    """What its driver runs."""
    trust_code: bool
    """Whether Python code of the card may run."""

    def __str__(self) -> str:
        most = self.profile.maximum or self.profile.workers
        return (
            f"a cluster of {self.profile.address}, {self.profile.workers} to {most} "
            "workers; the driver runs in its scheduler's process"
        )


def prepare(
    what: str | Path | Job | InferencePlan,
    to: str | Path | None,
    profile: GatewayProfile,
    *,
    trust_code: bool,
) -> Resident:
    """Plan a job for a driver inside its cluster; nothing is begun.

    Parameters
    ----------
    what : str, path, Job or InferencePlan
        A job, its YAML file, or a plan.
    to : str or path, optional
        Output, where `what` is a plan that `plan_job` did not make.
    profile : GatewayProfile
        The gateway.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    Resident
        For `send`.

    Raises
    ------
    JobError
        If its imagery is an array of this process, or it has several zones.
    """
    if isinstance(what, InferencePlan):
        plan, place = what, what.to if to is None else to
    else:
        job = what if isinstance(what, Job) else load_job(what)
        made, place = api.plan_job(job, measure=False), job.output.to
        if isinstance(made, ZonePlans):
            raise JobError(
                "a job of several UTM zones is not handed over to a gateway yet: use "
                "`geoscale run --cluster`"
            )
        plan = made
    if place is None:
        raise JobError("a plan needs an output: `submit(plan, to, cluster=…)`")
    if plan.source.get("kind") == "array":
        raise JobError(
            "its imagery is an array in this process, which a driver elsewhere cannot "
            "read: open it from files, or run it with `run(plan, to, client=…)`"
        )
    return Resident(api.as_url(place), profile, plan, trust_code)


def send(resident: Resident) -> None:
    """Begin a cluster, and a driver in it; note both beside the output.

    Parameters
    ----------
    resident : Resident
        From `prepare`.

    Raises
    ------
    JobError, StoppedError, OutputError
        As of `geoscale.connect` and `geoscale.run`; the cluster is ended then.
    """
    url, trust = resident.output, resident.trust_code
    refuse_twice(url)
    with connect(resident.profile.model_dump()) as client:
        plan = api.prepare(resident.plan, url, client=client, trust_code=trust)
        if isinstance(plan, ZonePlans):  # `prepare` has refused them
            raise JobError("several zones")
        plan.validate(allowed_bytes=allowed_worker_bytes(client))
        check_workers(client)
        if told := find_differences(handshake(), call_scheduler(client, handshake)):
            raise StoppedError(
                "the cluster's scheduler, in which the driver is to run, has other "
                f"versions than this process: {', '.join(map(str, told))}; use one "
                "image for scheduler and workers"
            )
        journal = Journal(url)
        journal.check(plan)
        journal.begin(plan)
        note_cluster(url, client)
        send_to_scheduler(client, find_parcels(plan, trust_code=trust))
        name, kept = client.cluster.name, bool(client.cluster.is_kept)
        call_scheduler(client, settle_in, url, name, trust, kept)
        leave_cluster(client)
        number = 1 + max((job["number"] for job in read_jobs(url)), default=0)
        note = {"number": number, "system": "gateway", "kind": "driver", "id": name,
                "parts": 1, "walltime_s": 0, "script": ""}  # fmt: skip
        folder = Folder(url) / ".geoscale" / JOBS
        folder.put(f"gateway-{name}.json", json.dumps(note, indent=1).encode())


async def settle_in(
    url: str, name: str, trust_code: bool, kept: bool, dask_scheduler: Any = None
) -> None:
    """Begin the driver; runs in the scheduler's process.

    Parameters
    ----------
    url : str
        The output, with its plan.
    name : str
        Of the cluster.
    trust_code : bool
        Allow Python code that the card names outside known packages.
    kept : bool
        Whether the cluster stays when the driver ends.
    dask_scheduler : distributed.Scheduler
        Given by Dask.

    Raises
    ------
    OutputError
        If the scheduler does not see the output.
    """
    loop = asyncio.get_running_loop()
    await asyncio.to_thread(load_begun, url)

    def leave() -> None:
        """End the cluster, if it is not kept."""
        if not kept:
            end_cluster(dask_scheduler, loop)

    args = (url, name, trust_code, lambda: connect_inside(dask_scheduler), leave)
    thread = threading.Thread(
        target=drive, args=args, name="geoscale-driver", daemon=True
    )
    thread.start()


def drive(
    url: str,
    name: str,
    trust_code: bool,
    join: Callable[[], Any],
    leave: Callable[[], None],
) -> None:
    """Run an output to its end, and note how it ended.

    Parameters
    ----------
    url : str
        The output.
    name : str
        Of the cluster.
    trust_code : bool
        As for `settle_in`.
    join : callable
        Gives a client of the cluster.
    leave : callable
        Called at the end, whatever it was.
    """
    try:
        plan, place = load_begun(url)
        with join() as client:
            report = api.run(plan, place, client=client, trust_code=trust_code)
        told = {"exit_code": report.exit_code, "said": str(report)}
    except GeoscaleError as err:
        told = {"exit_code": err.exit_code, "said": redact(str(err))}
    except Exception as err:
        _LOG.exception("the driver of %s", redact(url))
        told = {"exit_code": 1, "said": redact(f"{type(err).__name__}: {err}")}
    try:
        folder = Folder(url) / ".geoscale" / JOBS
        folder.put(f"gateway-{name}.{ENDED}", json.dumps(told, indent=1).encode())
    finally:
        leave()

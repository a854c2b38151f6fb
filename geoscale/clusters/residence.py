"""Residence: a driver in the process of its cluster's scheduler, and asking after it.

It takes no worker's place, and ends only with the cluster: no client has to stay.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from geoscale.clusters.gateway import ask_gateway
from geoscale.clusters.others import GatewayProfile
from geoscale.clusters.queues import GONE, JobState
from geoscale.errors import JobError, StoppedError
from geoscale.parcels import CHUNK, Parcel, find_lacking, find_path, receive
from geoscale.words import redact, shorten

if TYPE_CHECKING:
    from distributed import Client, Scheduler


def call_scheduler(client: Client, function: Callable[..., Any], *args: Any) -> Any:
    """Call a function of geoscale in the scheduler's process.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    function : callable
        May be a coroutine function; importable there.
    *args
        Its arguments.

    Returns
    -------
    object
        What it gave.

    Raises
    ------
    StoppedError
        If the scheduler cannot import it.
    """
    try:
        return client.run_on_scheduler(function, *args)
    except (ImportError, AttributeError, TypeError) as err:
        raise StoppedError(
            "the cluster's scheduler cannot run geoscale "
            f"({redact(shorten(str(err)))}); give it the image or environment of the "
            "workers, or run the job from here: geoscale run --cluster"
        ) from None


def send_to_scheduler(client: Client, parcels: Sequence[Parcel]) -> None:
    """Send files to the scheduler's cache, whose driver hands them to workers.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    parcels : sequence of Parcel
        What workers need; what the scheduler sees is not sent.

    Raises
    ------
    WeightsError
        If a file arrives with another content.
    """
    parcels = [one for one in parcels if one.size >= 0]
    if not parcels:
        return
    _, lacking = call_scheduler(client, find_lacking, parcels)
    sender = uuid.uuid4().hex[:12]
    for parcel in (one for one in parcels if one.place in lacking):
        start, path = 0, find_path(parcel)
        with open(path or parcel.source, "rb") as file:
            while data := file.read(CHUNK):
                call_scheduler(client, receive, parcel, sender, start, data)
                start += len(data)


def connect_inside(scheduler: Scheduler) -> Client:
    """Connect to a scheduler from a thread of its own process, with its own keys.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        In this process.

    Returns
    -------
    distributed.Client
        Connected.
    """
    from distributed import Client
    from distributed.security import Security

    own = scheduler.security
    fields = {"tls_ca_file": own.tls_ca_file}
    for part in ("cert", "key"):
        value = getattr(own, f"tls_scheduler_{part}")
        fields[f"tls_client_{part}"] = value or getattr(own, f"tls_client_{part}")
    given = {name: value for name, value in fields.items() if value}
    security = Security(require_encryption=own.require_encryption, **given)
    return Client(scheduler.address, security=security)


def end_cluster(scheduler: Scheduler, loop: asyncio.AbstractEventLoop) -> None:
    """End a gateway's cluster from its scheduler's process; others are left.

    Parameters
    ----------
    scheduler : distributed.Scheduler
        In this process.
    loop : asyncio.AbstractEventLoop
        In which it runs.
    """
    service = scheduler.services.get("gateway")
    if service is not None:
        asyncio.run_coroutine_threadsafe(service.gateway.shutdown(), loop)


def ask_cluster(profile: GatewayProfile) -> JobState:
    """Ask a gateway how a cluster is.

    Parameters
    ----------
    profile : GatewayProfile
        With the cluster's ``name``.

    Returns
    -------
    JobState
        As of a job in a queue; unknown where the gateway cannot be asked.
    """
    try:
        state = ask_gateway(profile)
    except (JobError, StoppedError) as err:
        return JobState("unknown", shorten(str(err)))
    if state is None:
        return GONE
    return JobState(state, is_over=state in ("stopped", "stopping", "failed"))

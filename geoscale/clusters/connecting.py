"""Connecting: a profile gives a Dask client.

Whatever the profile, Dask runs with the same safe settings (`DASK_SETTINGS`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.clusters.allocation import start_allocation
from geoscale.clusters.batch import BatchProfile
from geoscale.clusters.gateway import start_gateway
from geoscale.clusters.jobqueue import start_jobs
from geoscale.clusters.kubernetes import start_kubernetes
from geoscale.clusters.local import start_local, start_local_gpu
from geoscale.clusters.others import (
    GatewayProfile,
    KubernetesProfile,
    LocalGpuProfile,
    SSHProfile,
)
from geoscale.clusters.profiles import (
    LocalProfile,
    Profile,
    SchedulerProfile,
    is_here,
    load_profile,
)
from geoscale.clusters.ssh import start_ssh
from geoscale.clusters.tls import read_security
from geoscale.errors import JobError, StoppedError
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)

DASK_SETTINGS: dict[str, Any] = {
    # blocks are submitted in a window; moving them about only costs
    "distributed.scheduler.work-stealing": False,
    # the driver is told of every lost task, and counts and retries by itself
    "distributed.scheduler.allowed-failures": 0,
    # longer than any hold of the GIL
    "distributed.scheduler.worker-ttl": "10 minutes",
    "distributed.comm.retry.count": 5,
    "distributed.comm.timeouts.connect": "60s",
    # results are small: spilling and pausing could only hide a leak
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
    "distributed.worker.memory.terminate": 0.95,
}
"""Settings of Dask for every cluster that geoscale starts or joins."""

_CHATTY = ("distributed", "distributed.nanny", "distributed.worker", "bokeh")


@contextmanager
def connect(
    profile: str | Path | int | Mapping[str, Any], *, threads: int = 2
) -> Iterator[Client]:
    """Start or join a cluster; what was started is stopped at the end.

    Parameters
    ----------
    profile : str, Path, int or mapping
        As for `load_profile`.
    threads : int
        Threads of a local worker where the profile leaves them open: the
        job's ``inference.in_flight``.

    Yields
    ------
    distributed.Client
        Connected.

    Raises
    ------
    JobError
        If the profile is wrong.
    StoppedError
        If no scheduler answers.
    """
    import dask
    import distributed  # noqa: F401  its defaults must be there before they are set

    found = load_profile(profile)
    _warn_if_open(found)
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with dask.config.set(DASK_SETTINGS), _open(found, threads) as client:
        yield client


def _open(profile: Profile, threads: int) -> AbstractContextManager[Client]:
    if isinstance(profile, SchedulerProfile):
        return _join(profile)
    if isinstance(profile, GatewayProfile):
        return start_gateway(profile)
    if isinstance(profile, BatchProfile):
        return _start_batch(profile, threads)
    starts: dict[type, Callable[[Any, int], AbstractContextManager[Client]]] = {
        LocalProfile: start_local,
        LocalGpuProfile: start_local_gpu,
        SSHProfile: start_ssh,
        KubernetesProfile: start_kubernetes,
    }
    return starts[type(profile)](profile, threads)


def _start_batch(profile: BatchProfile, threads: int) -> AbstractContextManager[Client]:
    if profile.shape == "array":
        raise JobError(
            "`shape: array` works without Dask, so there is nothing to connect to: use "
            "`geoscale submit`, or another `shape`"
        )
    if profile.shape == "one-allocation":
        return start_allocation(profile, threads)
    return start_jobs(profile, threads)


def _warn_if_open(profile: Profile) -> None:
    if isinstance(profile, SchedulerProfile):
        where, is_open = redact(profile.address), profile.is_open
    elif isinstance(profile, LocalProfile):
        where, is_open = profile.host, profile.insecure and not is_here(profile.host)
    elif isinstance(profile, GatewayProfile):
        where, is_open = profile.address, profile.is_open
    else:
        where = f"the cluster of type `{profile.type}`"
        is_open = getattr(profile, "insecure", False)
    if is_open:
        _LOG.warning(
            "%s is not encrypted: whoever reaches it can read along and run code as "
            "you; use it in networks that you trust only, or let it speak TLS",
            where,
        )


@contextmanager
def _join(profile: SchedulerProfile) -> Iterator[Client]:
    from distributed import Client

    security = read_security(profile)
    try:
        client = Client(profile.address, timeout=profile.timeout_s, security=security)
    except (OSError, TimeoutError, ValueError) as err:
        raise StoppedError(
            f"no Dask scheduler answers at {redact(profile.address)} within "
            f"{profile.timeout_s:g} s ({type(err).__name__}); check that it runs and "
            "that this machine may reach it"
            + (", and that the TLS files are its own" if profile.tls_key else "")
        ) from None
    with client:
        yield client

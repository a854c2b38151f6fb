"""A local cluster: worker processes that end with the command.

It listens on this machine only, or speaks TLS with a key that is made for it.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from geoscale.clusters.profiles import HERE, LocalProfile
from geoscale.clusters.tls import hand_out, make_security
from geoscale.memory import allowed_memory_bytes

if TYPE_CHECKING:
    from distributed import Client


@contextmanager
def start_local(profile: LocalProfile, threads: int) -> Iterator[Client]:
    """Start worker processes on this machine; they end with the block.

    Parameters
    ----------
    profile : LocalProfile
        How many, and where they listen.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected.
    """
    import dask
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    limit = (
        allowed_memory_bytes() // profile.workers
        if profile.memory == "auto"
        else int(parse_bytes(profile.memory))
    )
    security = make_security() if profile.has_tls else None
    # fork after torch or GDAL have started threads would hang
    spawn = {"distributed.worker.multiprocessing-method": "spawn"}
    with dask.config.set(spawn), _without_interrupts():
        cluster = LocalCluster(
            n_workers=profile.workers,
            threads_per_worker=profile.threads_per_worker or threads,
            memory_limit=limit,
            host=profile.host,
            protocol="tls://" if profile.has_tls else "tcp://",
            security=security,
            # Without these, pages about the cluster are served to the network,
            # on port 8787, dashboard or not.
            dashboard_address=f"{HERE}:0",
            scheduler_kwargs={"dashboard": profile.dashboard},
            worker_dashboard_address=f"{HERE}:0",
            local_directory=profile.local_directory,
            processes=True,
            silence_logs=logging.ERROR,
        )
    with cluster, Client(cluster) as client, hand_out(profile, cluster):
        yield client


def count_local_workers(client: Client) -> int:
    """Count the workers that a local cluster has or is starting; else 0.

    Parameters
    ----------
    client : distributed.Client
        Connected.

    Returns
    -------
    int
        0 where the cluster is not on this machine, or was not started here.
    """
    from distributed import LocalCluster

    cluster = client.cluster
    return len(cluster.worker_spec) if isinstance(cluster, LocalCluster) else 0


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Start threads and processes that Ctrl-C does not reach.

    A terminal sends it to every process. The driver alone must answer it: it
    stops the workers in order, and they would print a traceback each. Whatever
    is started here inherits the blocked signal; one that came meanwhile is
    delivered to the driver afterwards.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # Starting it would unblock the signal again.
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

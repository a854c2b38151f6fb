"""A local cluster: worker processes that end with the command.

It listens on this machine only, or speaks TLS with a key that is made for it.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from multiprocessing import resource_tracker
from typing import TYPE_CHECKING

from geoscale.clusters.devices import VISIBLE, list_devices, show_visible
from geoscale.clusters.others import LocalGpuProfile
from geoscale.clusters.profiles import HERE, LocalProfile
from geoscale.clusters.tls import hand_out, make_security
from geoscale.errors import JobError, StoppedError
from geoscale.memory import allowed_memory_bytes

if TYPE_CHECKING:
    from distributed import Client, LocalCluster
    from distributed.security import Security

START_S = 120.0
"""How long worker processes have to start, in s."""


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
    security = make_security() if profile.has_tls else None
    with _start(profile, threads, profile.workers, security=security) as cluster:
        from distributed import Client

        with Client(cluster) as client, hand_out(profile, cluster):
            yield client


@contextmanager
def start_local_gpu(profile: LocalGpuProfile, threads: int) -> Iterator[Client]:
    """Start one worker process for each GPU of this machine; they see no other.

    Parameters
    ----------
    profile : LocalGpuProfile
        Which devices.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected.

    Raises
    ------
    JobError
        If there is no device, or one is named twice.
    """
    devices = profile.devices
    if devices is None:
        devices = list_devices()
        if not devices:
            raise JobError(
                f"no GPU is visible here ({VISIBLE}="
                f"{os.environ.get(VISIBLE, 'unset')}, and nvidia-smi lists none); ask "
                "for a node with GPUs, name `devices`, or use `type: local`"
            )
    with _start(profile, threads, len(devices), devices=devices) as cluster:
        from distributed import Client

        with Client(cluster) as client:
            try:
                client.wait_for_workers(len(devices), timeout=START_S)
            except TimeoutError:
                there = len(client.nthreads())
                raise StoppedError(
                    f"{there} of {len(devices)} workers started within {START_S:g} s; "
                    f"look at this machine's load and memory"
                ) from None
            seen = client.run(show_visible)
            if sorted(seen.values()) != sorted(devices):
                raise JobError(
                    f"workers see {', '.join(map(str, seen.values()))} instead of "
                    f"{', '.join(devices)}; unset `distributed.nanny.environ` of Dask"
                )
            yield client


@contextmanager
def _start(
    profile: LocalProfile | LocalGpuProfile,
    threads: int,
    count: int,
    *,
    devices: Sequence[str] = (),
    security: Security | None = None,
) -> Iterator[LocalCluster]:
    import dask
    from dask.utils import parse_bytes
    from distributed import LocalCluster

    host = getattr(profile, "host", HERE)
    limit = (
        allowed_memory_bytes() // count
        if profile.memory == "auto"
        else int(parse_bytes(profile.memory))
    )
    # fork after torch or GDAL have started threads would hang
    spawn = {"distributed.worker.multiprocessing-method": "spawn"}
    with dask.config.set(spawn), _without_interrupts():
        cluster = LocalCluster(
            n_workers=0 if devices else count,
            threads_per_worker=profile.threads_per_worker or threads,
            memory_limit=limit,
            host=host,
            protocol="tcp://" if security is None else "tls://",
            security=security,
            # Without these, pages about the cluster are served to the network,
            # on port 8787, dashboard or not.
            dashboard_address=f"{HERE}:0",
            scheduler_kwargs={"dashboard": getattr(profile, "dashboard", False)},
            worker_dashboard_address=f"{HERE}:0",
            local_directory=profile.local_directory,
            processes=True,
            silence_logs=logging.ERROR,
        )
        for device in devices:
            ((name, spec),) = cluster.new_worker_spec().items()
            options = {**spec["options"], "env": {VISIBLE: device}}
            cluster.worker_spec[name] = {**spec, "options": options}
        cluster.scale(count)
    with cluster:
        yield cluster


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

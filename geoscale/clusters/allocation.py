"""Scheduler, driver and workers in one job: the workers are started by its launcher.

The driver's process is the scheduler; ``srun`` or ``mpiexec`` starts workers on all
nodes, which find it by a file that only this user can read.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.clusters.batch import BatchProfile
from geoscale.clusters.claim import PROCESSES, claim_arguments
from geoscale.clusters.jobqueue import (
    DEATH_S,
    LOOK_S,
    WORKER_SETTINGS,
    find_own_job,
    find_private_folder,
)
from geoscale.clusters.profiles import HERE
from geoscale.clusters.tls import make_security_in
from geoscale.errors import JobError, StoppedError

if TYPE_CHECKING:
    from distributed import Client

ENDS_S = 20.0
"""How long workers have to end by themselves, in s."""


@contextmanager
def start_allocation(profile: BatchProfile, threads: int) -> Iterator[Client]:
    """Start a scheduler here and workers on the nodes of this job.

    Parameters
    ----------
    profile : BatchProfile
        Whose shape is ``one-allocation``.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected, with one worker at least.

    Raises
    ------
    JobError
        If this is no batch job, or it has no such launcher.
    StoppedError
        If no worker comes.
    """
    from distributed import Client, LocalCluster

    if find_own_job() is None:
        raise JobError(
            "`shape: one-allocation` starts its workers inside a batch job, and this "
            "is none: use `geoscale submit`, or another `shape`"
        )
    with (
        tempfile.TemporaryDirectory(
            prefix="tls-", dir=find_private_folder(profile)
        ) as folder,
        LocalCluster(
            n_workers=0,
            host=None,
            interface=profile.interface,
            protocol="tcp://" if profile.insecure else "tls://",
            security=None if profile.insecure else make_security_in(Path(folder)),
            dashboard_address=f"{HERE}:0",
            scheduler_kwargs={"dashboard": False},
            worker_dashboard_address=f"{HERE}:0",
        ) as cluster,
        Client(cluster) as client,
    ):
        command = _command(profile, threads, cluster.scheduler_address, folder)
        cluster.job_processes = profile.processes
        counts = {
            "GEOSCALE_CPUS": str(profile.cores),
            PROCESSES: str(profile.processes),
        }
        with _launched(command, counts) as process:
            _wait(client, process, command)
            try:
                yield client
            finally:
                _end(client, process)


def _command(
    profile: BatchProfile, threads: int, address: str, folder: str
) -> list[str]:
    """Command that starts every worker of the job."""
    from dask.utils import parse_bytes

    each = int(parse_bytes(profile.memory)) // profile.processes
    command = [*_launcher(profile), profile.python or sys.executable]
    command += ["-m", "distributed.cli.dask_worker", address, "--nanny"]
    command += ["--nworkers", str(profile.processes)]
    command += ["--nthreads", str(profile.threads_per_worker or threads)]
    command += ["--memory-limit", str(each), "--death-timeout", str(DEATH_S)]
    command += ["--no-dashboard", "--dashboard-address", f"{HERE}:0"]
    command += claim_arguments(profile)
    if profile.interface:
        command += ["--interface", profile.interface]
    if profile.scratch:
        command += ["--local-directory", profile.scratch]
    if not profile.insecure:
        cert, key = f"{folder}/cert.pem", f"{folder}/key.pem"
        command += ["--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key]
    return command


def _launcher(profile: BatchProfile) -> list[str]:
    if profile.launcher is not None:
        return shlex.split(profile.launcher)
    if profile.type == "slurm":
        # one worker that dies is no reason to end the others
        count = f"--ntasks={profile.jobs}"
        return [
            "srun",
            count,
            f"--cpus-per-task={profile.cores}",
            "--kill-on-bad-exit=0",
        ]
    return ["mpiexec", "-n", str(profile.jobs)]


@contextmanager
def _launched(
    command: list[str], counts: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    try:
        # a group of its own: Ctrl-C and the signals of a batch system are the driver's
        process = subprocess.Popen(  # noqa: S603  (words of a checked profile)
            command,
            env={**os.environ, **WORKER_SETTINGS, **counts},
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except FileNotFoundError:
        raise JobError(
            f"`{command[0]}` is not on this machine; name what starts a process on "
            "every node of a job: `launcher` in the cluster profile"
        ) from None
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(ENDS_S)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(client: Client, process: subprocess.Popen[bytes], command: list[str]) -> None:
    """Return once a worker is there."""
    until = time.monotonic() + 4 * DEATH_S
    while not client.nthreads():
        code = process.poll()
        if code is not None or time.monotonic() > until:
            ended = "no worker has come" if code is None else f"it ended with {code}"
            raise StoppedError(
                f"`{command[0]}` started no worker: {ended}; look at what it says in "
                "the log of the job, then submit again"
            )
        time.sleep(LOOK_S / 4)


def _end(client: Any, process: subprocess.Popen[bytes]) -> None:
    """Let the workers end, and with them their launcher."""
    try:
        client.retire_workers()
        process.wait(ENDS_S)
    except Exception:  # they end with their scheduler in any case
        return

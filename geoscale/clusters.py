"""Cluster profiles: a small YAML file, an address or a number gives a Dask client.

Whatever the profile, Dask runs with the same safe settings (`DASK_SETTINGS`).
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import resource_tracker
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from geoscale.card import explain_validation
from geoscale.errors import JobError, StoppedError
from geoscale.memory import allowed_memory_bytes
from geoscale.plain import read_yaml
from geoscale.words import redact, shorten, suggest

if TYPE_CHECKING:
    from distributed import Client

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

LATER = ("slurm", "pbs", "sge", "lsf", "gateway", "gpu", "ssh")
"""Types of profile that are planned."""

_CHATTY = ("distributed", "distributed.nanny", "distributed.worker", "bokeh")


class LocalProfile(BaseModel):
    """Worker processes on this machine, reachable from this machine only."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["local"]
    """``local``."""
    workers: Annotated[int, Field(ge=1, le=512)] = 1
    """Processes; each holds the model once."""
    threads_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Blocks a worker may hold at once; default: the job's ``in_flight``."""
    memory: Annotated[str, Field(pattern=r"^(auto|\d+(\.\d+)? ?([kMGT]i?)?B)$")] = (
        "auto"
    )
    """Limit of one worker, ``4GB``; auto: an equal share of what is allowed."""
    dashboard: bool = False
    """Whether Dask's dashboard is served, on a free port of 127.0.0.1."""
    local_directory: str | None = None
    """Scratch folder of the workers; default: a temporary one."""


class SchedulerProfile(BaseModel):
    """A scheduler that runs already."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: Literal["scheduler"]
    """``scheduler``."""
    address: Annotated[str, Field(pattern=r"^(tcp|tls|ucx|ws|wss|inproc)://\S+$")]
    """``tcp://host:8786``."""
    timeout_s: Annotated[float, Field(gt=0)] = 60.0
    """How long to try, in s."""


Profile = LocalProfile | SchedulerProfile
_TYPES: dict[str, type[LocalProfile] | type[SchedulerProfile]] = {
    "local": LocalProfile,
    "scheduler": SchedulerProfile,
}


def load_profile(profile: str | Path | int | Mapping[str, Any]) -> Profile:
    """Read and check a profile; nothing is started.

    Parameters
    ----------
    profile : str, Path, int or mapping
        YAML file, address of a scheduler, number of local workers, or the
        fields themselves.

    Returns
    -------
    LocalProfile or SchedulerProfile
        Checked.

    Raises
    ------
    JobError
        If there is no such file, or a key is unknown or of the wrong kind.

    Examples
    --------
    >>> load_profile("2").workers
    2
    >>> load_profile("tcp://10.0.0.1:8786").address
    'tcp://10.0.0.1:8786'
    """
    if isinstance(profile, Mapping):
        return _check(dict(profile), "cluster profile")
    text = str(profile)
    if text.lstrip("-").isdigit():
        return _check({"type": "local", "workers": int(text)}, f"{text} local workers")
    if "://" in text:
        return _check({"type": "scheduler", "address": text}, "scheduler")
    return _check(_read(Path(text)), text)


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
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.ERROR)
    with dask.config.set(DASK_SETTINGS), _open(found, threads) as client:
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


def _open(profile: Profile, threads: int) -> AbstractContextManager[Client]:
    if isinstance(profile, LocalProfile):
        return _start_local(profile, threads)
    return _join(profile)


@contextmanager
def _start_local(profile: LocalProfile, threads: int) -> Iterator[Client]:
    import dask
    from dask.utils import parse_bytes
    from distributed import Client, LocalCluster

    limit = (
        allowed_memory_bytes() // profile.workers
        if profile.memory == "auto"
        else int(parse_bytes(profile.memory))
    )
    # fork after torch or GDAL have started threads would hang
    spawn = {"distributed.worker.multiprocessing-method": "spawn"}
    with dask.config.set(spawn), _without_interrupts():
        cluster = LocalCluster(
            n_workers=profile.workers,
            threads_per_worker=profile.threads_per_worker or threads,
            memory_limit=limit,
            host="127.0.0.1",
            # Without these, pages about the cluster are served to the network,
            # on port 8787, dashboard or not.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": profile.dashboard},
            worker_dashboard_address="127.0.0.1:0",
            local_directory=profile.local_directory,
            processes=True,
            silence_logs=logging.ERROR,
        )
    with cluster, Client(cluster) as client:
        yield client


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


@contextmanager
def _join(profile: SchedulerProfile) -> Iterator[Client]:
    from distributed import Client

    try:
        client = Client(profile.address, timeout=profile.timeout_s)
    except (OSError, TimeoutError, ValueError) as err:
        raise StoppedError(
            f"no Dask scheduler answers at {redact(profile.address)} within "
            f"{profile.timeout_s:g} s ({type(err).__name__}); check that it runs and "
            "that this machine may reach it"
        ) from None
    with client:
        yield client


def _read(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise JobError(
            f"cluster profile {path} does not exist; give a YAML file, the address of "
            "a scheduler (tcp://host:8786) or a number of local workers"
        )
    data = read_yaml(path, "cluster profile", JobError)
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise JobError(f"cluster profile {path} is {kind}; it needs `type: local`")
    return data


def _check(data: dict[str, Any], where: str) -> Profile:
    kind = str(data.get("type"))
    if kind in LATER:
        raise JobError(
            f"{where}: clusters of type `{kind}` come with a later version; start one "
            "yourself and give its scheduler: `type: scheduler`, `address: tcp://…`"
        )
    if kind not in _TYPES:
        hint = suggest(kind, _TYPES) or f"; known are {', '.join(_TYPES)}"
        said = (
            f"type `{shorten(kind)}` is unknown"
            if "type" in data
            else "`type` is missing"
        )
        raise JobError(f"{where}: {said}{hint}")
    model = _TYPES[kind]
    try:
        return model.model_validate(data)
    except ValidationError as err:
        raise JobError(f"{where}: {explain_validation(err, model)}") from None

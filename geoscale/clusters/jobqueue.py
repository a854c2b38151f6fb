"""Workers in jobs of a batch system, by dask-jobqueue.

The driver's process holds the scheduler; workers reach it by TLS with a key that is
made for this cluster. A job that ends is replaced as long as the cluster is there.
"""

from __future__ import annotations

import logging
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.clusters.batch import (
    BatchProfile,
    HTCondorProfile,
    LsfProfile,
    PbsProfile,
    SgeProfile,
    SlurmProfile,
)
from geoscale.clusters.claim import PROCESSES, claim_arguments
from geoscale.clusters.profiles import HERE
from geoscale.clusters.queues import QUEUES, name_workers
from geoscale.clusters.tls import make_security_in
from geoscale.durations import format_clock
from geoscale.errors import JobError, StoppedError, require

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)

DEATH_S = 60
"""Seconds after which a worker ends that finds no scheduler."""
SPREAD, SPREAD_S = 0.05, 60
"""Workers leave at moments spread over this part of their wall time, and so many s."""
LOOK_S = 2.0
"""Pause between two looks at whether a worker has come, in s."""
_CLASSES = {
    "slurm": "SLURMCluster",
    "pbs": "PBSCluster",
    "lsf": "LSFCluster",
    "sge": "SGECluster",
    "htcondor": "HTCondorCluster",
}
JOB_IDS = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID")
"""Variables in which batch systems tell a job its id."""
WORKER_SETTINGS = {
    "DASK_DISTRIBUTED__WORKER__MEMORY__TARGET": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__SPILL": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE": "False",
    "DASK_DISTRIBUTED__WORKER__MEMORY__TERMINATE": "0.95",
    "DASK_DISTRIBUTED__WORKER__USE_FILE_LOCKING": "False",
    "DASK_DISTRIBUTED__WORKER__MULTIPROCESSING_METHOD": "spawn",
    "DASK_DISTRIBUTED__COMM__RETRY__COUNT": "5",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "60s",
}
"""Settings of Dask for workers that are started by a command of their own."""


@contextmanager
def start_jobs(profile: BatchProfile, threads: int) -> Iterator[Client]:
    """Submit jobs of workers, and wait for the first; they end with the block.

    Parameters
    ----------
    profile : BatchProfile
        What to ask of the batch system.
    threads : int
        Of a worker, where the profile leaves that open.

    Yields
    ------
    distributed.Client
        Connected, with one worker at least.

    Raises
    ------
    JobError
        If the batch system refuses such jobs; in its words.
    StoppedError
        If no worker comes in time; with what the queue says.
    """
    import dask
    from distributed import Client

    # a lost job is forgotten at once, so that another takes its place
    quick = {"distributed.deploy.lost-worker-timeout": "1s"}
    with dask.config.set(quick), _make_cluster(profile, threads) as cluster:
        check_jobs(profile, cluster.job_script())
        cluster.wait_s = profile.wait_s  # read by the engine where no worker is left
        cluster.job_processes = profile.processes
        count = profile.jobs
        cluster.adapt(minimum_jobs=count, maximum_jobs=count, interval="5s")
        with Client(cluster) as client:
            _wait(client, cluster, profile)
            yield client


def write_worker_script(profile: BatchProfile, threads: int = 2) -> str:
    """Write the script of a job of workers, with placeholders for what is made later.

    Parameters
    ----------
    profile : BatchProfile
        What to ask of the batch system.
    threads : int
        Of a worker, where the profile leaves that open.

    Returns
    -------
    str
        As it would be submitted.
    """
    with _make_options(profile, threads) as options:
        kind = getattr(_require(), _CLASSES[profile.type])
        for name in ("security", "scheduler_options"):
            options.pop(name, None)
        options["log_directory"] = None
        if not profile.insecure:
            options["protocol"] = "tls://"
        job = kind.job_cls("tls://<driver>:<port>", name="<worker>", **options)
        return str(job.job_script())


def check_jobs(profile: BatchProfile, script: str) -> None:
    """Ask the batch system whether it would take a job, where it can tell.

    Raises
    ------
    JobError
        In its own words.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "worker.sh"
        path.write_text(script, encoding="utf-8")
        QUEUES[profile.type].check(str(path))


def find_own_job() -> str | None:
    """Id of the batch job that this process is part of; None outside of one."""
    found = next((os.environ[n] for n in JOB_IDS if os.environ.get(n)), None)
    return None if found is None else found.partition(".")[0]


def _require() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own deprecations
        return require("dask_jobqueue", extra="hpc")


@contextmanager
def _make_cluster(profile: BatchProfile, threads: int) -> Iterator[Any]:
    kind = getattr(_require(), _CLASSES[profile.type])
    queue = QUEUES[profile.type]
    if not queue.is_here:
        raise JobError(
            f"`{queue.submits[0]}` is not on this machine: run this where "
            f"{queue.title} is, such as its login node, or by `geoscale submit` in one "
            "of its jobs"
        )
    with _make_options(profile, threads) as options:
        try:
            cluster = kind(**options)
        except (OSError, RuntimeError, ValueError) as err:
            raise StoppedError(
                f"the Dask scheduler for jobs of {queue.title} cannot start here "
                f"({type(err).__name__}: {err}); look at `interface` in the profile"
            ) from None
        try:
            yield cluster
        finally:
            with suppress(TimeoutError, RuntimeError, OSError):
                cluster.close(timeout=30)


@contextmanager
def _make_options(profile: BatchProfile, threads: int) -> Iterator[dict[str, Any]]:
    """Give settings of dask-jobqueue; keys lie in a private folder meanwhile."""
    threads = profile.threads_per_worker or threads
    host = {} if profile.interface is None else {"interface": profile.interface}
    options: dict[str, Any] = {
        "queue": profile.queue,
        "cores": profile.processes * threads,
        "processes": profile.processes,
        "memory": profile.memory,
        "interface": profile.interface,
        "python": profile.python,
        "death_timeout": DEATH_S,
        "local_directory": profile.scratch,
        "log_directory": profile.logs,
        "job_name": name_workers(find_own_job() or f"p{os.getpid()}"),
        # pages about a worker are for its own machine only
        "worker_extra_args": [
            "--no-dashboard",
            "--dashboard-address",
            f"{HERE}:0",
            *claim_arguments(profile),
        ],
        "job_script_prologue": [
            *profile.environment,
            f"export GEOSCALE_CPUS={profile.cores}",
            *_say_end(profile),
            *([f"export {PROCESSES}={profile.processes}"] if profile.gpus else []),
            *(f"export {name}={value}" for name, value in WORKER_SETTINGS.items()),
        ],
        "scheduler_options": {
            **host,
            "dashboard_address": f"{HERE}:0",
            "dashboard": False,
        },
        **_ADAPTED[type(profile)](profile),
    }
    with tempfile.TemporaryDirectory(
        prefix="tls-", dir=find_private_folder(profile)
    ) as folder:
        if not profile.insecure:
            security = make_security_in(Path(folder))
            options |= {"security": security, "protocol": "tls://"}
        yield options


def _say_end(profile: BatchProfile) -> list[str]:
    """Lines by which workers know when their job ends; read by `engine.leaving`.

    A little earlier for some than for others, so that not all leave at once.
    """
    if isinstance(profile, HTCondorProfile):
        return []  # it reads `$(…)` itself
    spread = max(1, min(SPREAD_S, int(profile.walltime_s * SPREAD)))
    whole = int(profile.walltime_s)
    return [f"export GEOSCALE_ENDS=$(($(date +%s) + {whole} - RANDOM % {spread}))"]


def find_private_folder(profile: BatchProfile) -> Path:
    """Folder that only this user can read, and all nodes see."""
    folder = Path(profile.shared or "~/.geoscale").expanduser()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as err:
        raise JobError(
            f"cluster profile: `shared` {folder} cannot be made ({err.strerror}); name "
            "a folder that all nodes see"
        ) from None
    return folder


def _slurm(profile: BatchProfile) -> dict[str, Any]:
    extra = [f"--gres=gpu:{profile.gpus}"] if profile.gpus else []
    # the driver starts another; one that Slurm brings back would be one too many
    extra.append("--no-requeue")
    return {
        "account": profile.account,
        "walltime": format_clock(profile.walltime_s),
        "job_cpu": profile.cores,
        "job_extra_directives": [*extra, *profile.extra],
    }


def _pbs(profile: BatchProfile) -> dict[str, Any]:
    gpus = f":ngpus={profile.gpus}" if profile.gpus else ""
    memory = profile.memory.replace(" ", "").lower().replace("i", "")
    return {
        "account": profile.account,
        "walltime": format_clock(profile.walltime_s),
        "resource_spec": f"select=1:ncpus={profile.cores}:mem={memory}{gpus}",
        "job_extra_directives": ["-r n", "-V", *profile.extra],
    }


def _lsf(profile: BatchProfile) -> dict[str, Any]:
    minutes = int(-(-profile.walltime_s // 60))
    gpus = [f'-gpu "num={profile.gpus}"'] if profile.gpus else []
    return {
        "project": profile.account,
        "walltime": f"{minutes // 60}:{minutes % 60:02d}",
        "ncpus": profile.cores,
        "lsf_units": "MB",
        "use_stdin": True,
        "job_extra_directives": [*gpus, *profile.extra],
    }


def _sge(profile: BatchProfile) -> dict[str, Any]:
    assert isinstance(profile, SgeProfile)
    extra = ["-V", "-r n", "-S /bin/bash"]
    if profile.cores > 1:
        extra.append(f"-pe {profile.parallel_environment} {profile.cores}")
    spec = []
    if profile.memory_name:
        from dask.utils import parse_bytes

        each = -(-int(parse_bytes(profile.memory)) // profile.cores // 2**20)
        spec.append(f"{profile.memory_name}={each}M")
    if profile.gpus:
        spec.append(f"{profile.gpu_name}={profile.gpus}")
    return {
        "project": profile.account,
        "walltime": format_clock(profile.walltime_s),
        "resource_spec": ",".join(spec) or None,
        "job_extra_directives": [*extra, *profile.extra],
    }


def _htcondor(profile: BatchProfile) -> dict[str, Any]:
    assert isinstance(profile, HTCondorProfile)
    pairs = dict(line.split("=", 1) for line in profile.extra if "=" in line)
    extra = {"request_cpus": str(profile.cores), "getenv": "true"}
    extra["allowed_job_duration"] = str(int(profile.walltime_s))
    if profile.gpus:
        extra["request_gpus"] = str(profile.gpus)
    if profile.account:
        extra["accounting_group"] = profile.account
    extra |= {name.strip(): value.strip() for name, value in pairs.items()}
    return {"disk": profile.disk, "job_extra_directives": extra, "queue": None}


_ADAPTED: dict[type[BatchProfile], Callable[[BatchProfile], dict[str, Any]]] = {
    SlurmProfile: _slurm,
    PbsProfile: _pbs,
    LsfProfile: _lsf,
    SgeProfile: _sge,
    HTCondorProfile: _htcondor,
}


def _wait(client: Client, cluster: Any, profile: BatchProfile) -> None:
    """Return once a worker is there."""
    queue = QUEUES[profile.type]
    until = time.monotonic() + profile.wait_s
    while not client.nthreads():
        if time.monotonic() > until:
            jobs = [str(j.job_id) for j in dict(cluster.workers).values() if j.job_id]
            told = "; ".join(
                f"job {job} {state}" for job, state in queue.states(jobs).items()
            )
            raise StoppedError(
                f"no worker joined within {profile.wait}; {queue.title} says: "
                f"{told or 'nothing, there is no job'}\nlook at the workers' logs"
                + (f" in {profile.logs}" if profile.logs else "")
                + ", ask for less, or wait longer (`wait` in the profile); then run "
                "the same command again"
            )
        time.sleep(LOOK_S)

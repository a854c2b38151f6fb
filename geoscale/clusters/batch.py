"""Profiles of batch systems: Slurm, PBS, LSF, Grid Engine, HTCondor.

One set of words for all of them; `scripts` and `jobqueue` translate.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import (
    AliasChoices,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from geoscale.durations import parse_duration
from geoscale.errors import JobError

Shape = Literal["driver-and-workers", "one-allocation", "array"]
Memory = Annotated[str, Field(pattern=r"^\d+(\.\d+)? ?([kMGT]i?)?B$")]
Word = Annotated[str, Field(pattern=r"^[\w.,:@/=+*-]+$", max_length=200)]
"""What a scheduler is given on a line of its own: no space, no quote, no newline."""
Line = Annotated[str, Field(pattern=r"^[^\n\r\x00]*$", max_length=1000)]
"""A line of a script."""
SHORTEST_S = 60.0
"""Least wall time: a shorter one is over before a model is loaded."""


class Driver(BaseModel):
    """The job that hands out the blocks; it needs little."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    walltime: str | None = None
    """Default: that of the workers."""
    queue: Annotated[
        Word | None, Field(validation_alias=AliasChoices("partition", "queue"))
    ] = None
    """Queue or partition; default: that of the workers."""
    cores: Annotated[int, Field(ge=1, le=1024)] = 1
    """Cores that are asked for."""
    memory: Memory = "4GB"
    """Memory that is asked for."""


class BatchProfile(BaseModel):
    """Jobs of a batch system."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    type: str
    """Which batch system."""
    shape: Shape = "driver-and-workers"
    """``driver-and-workers``: a small job hands out blocks to jobs of workers that come
    and go; ``one-allocation``: all of it in one job; ``array``: a job array without
    Dask, and a job that ends the map."""
    queue: Word | None = None
    """Queue, or partition."""
    account: Word | None = None
    """Who pays: account or project."""
    walltime: str
    """Of a job: ``4h``, ``90m`` or ``04:00:00``."""
    cores: Annotated[int, Field(ge=1, le=1024)]
    """Of a job."""
    memory: Memory
    """Of a job, ``16GB``."""
    gpus: Annotated[int, Field(ge=0, le=64)] = 0
    """Of a job; give it as many processes."""
    processes: Annotated[int, Field(ge=1, le=256)] = 1
    """Worker processes of a job; each holds the model once."""
    threads_per_worker: Annotated[int, Field(ge=1, le=64)] | None = None
    """Blocks a worker may hold at once; default: the job's ``in_flight``."""
    jobs: Annotated[int, Field(ge=1, le=100_000)] = 1
    """Jobs of workers, tasks of the allocation, or parts of the array."""
    driver: Driver = Driver()
    """The job of the driver, and that which ends an array."""
    environment: tuple[Line, ...] = ()
    """Lines of shell that make a worker's environment: ``module load``, ``source``."""
    python: Word | None = None
    """Interpreter there; default: this one."""
    scratch: Word | None = None
    """Local folder for the workers, such as ``/tmp``."""
    shared: str | None = None
    """Private folder that all nodes see, which gets the keys of TLS; default:
    ``~/.geoscale``."""
    logs: str | None = None
    """Folder of the logs; default: beside the output."""
    interface: Word | None = None
    """Network that workers and driver speak by, ``ib0``; default: the host's."""
    wait: str = "1h"
    """How long to wait for workers where there are none, before the run stops."""
    restarts: Annotated[int, Field(ge=0, le=10_000)] = 100
    """How often a job that makes progress may be queued again before its wall time."""
    extra: tuple[Line, ...] = ()
    """Further options of the scheduler for every job, ``--constraint=a100``."""
    launcher: Line | None = None
    """What starts the workers of one allocation; default: ``srun`` or ``mpiexec``."""
    insecure: bool = False
    """Do without TLS: whoever reaches the scheduler's port can run code as you."""

    @field_validator("walltime", "wait")
    @classmethod
    def _is_time(cls, value: str) -> str:
        _seconds(value)
        return value

    @field_validator("environment", "extra", mode="before")
    @classmethod
    def _lines(cls, value: object) -> object:
        return tuple(value.splitlines()) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _check_sense(self) -> Self:
        for name, value in (
            ("walltime", self.walltime),
            ("driver.walltime", self.driver.walltime),
        ):
            if value is not None and _seconds(value) < SHORTEST_S:
                raise ValueError(
                    f"`{name}: {value}` is over before a model is loaded; give a "
                    "minute at least"
                )
        if self.shape == "array" and self.jobs < 2:
            raise ValueError("`shape: array` needs two `jobs` at least, its parts")
        return self

    @property
    def walltime_s(self) -> float:
        """Wall time of a job, in s."""
        return _seconds(self.walltime)

    @property
    def driver_s(self) -> float:
        """Wall time of the driver's job, in s."""
        if self.shape == "one-allocation":
            return self.walltime_s
        return _seconds(self.driver.walltime or self.walltime)

    @property
    def wait_s(self) -> float:
        """How long to wait for workers, in s."""
        return _seconds(self.wait)


def _seconds(text: str) -> float:
    try:
        return parse_duration(text, "time")
    except JobError as err:
        raise ValueError(str(err)) from None


def find_margin(walltime_s: float) -> float:
    """Time before the end of a job in which it winds up, in s.

    Examples
    --------
    >>> find_margin(120), find_margin(3600), find_margin(86400)
    (30.0, 180.0, 300.0)
    """
    return min(300.0, max(0.05 * walltime_s, min(30.0, walltime_s / 3)))


class SlurmProfile(BatchProfile):
    """Jobs of Slurm."""

    type: Literal["slurm"]
    """``slurm``."""
    queue: Annotated[
        Word | None, Field(validation_alias=AliasChoices("partition", "queue"))
    ] = None
    """Partition; ``queue`` means the same."""


class PbsProfile(BatchProfile):
    """Jobs of PBS Professional or OpenPBS."""

    type: Literal["pbs"]
    """``pbs``."""


class LsfProfile(BatchProfile):
    """Jobs of IBM Spectrum LSF."""

    type: Literal["lsf"]
    """``lsf``."""


class SgeProfile(BatchProfile):
    """Jobs of Grid Engine."""

    type: Literal["sge"]
    """``sge``."""
    parallel_environment: Word = "smp"
    """Gives several cores of one host: ``qconf -spl`` lists what there is."""
    memory_name: Word | None = None
    """Resource that means memory at your site, ``h_vmem``; default: none is asked."""
    gpu_name: Word = "gpu"
    """Resource that means GPUs at your site."""


class HTCondorProfile(BatchProfile):
    """Jobs of HTCondor."""

    shape: Literal["driver-and-workers", "array"] = "driver-and-workers"
    """HTCondor has no launcher for several nodes."""

    type: Literal["htcondor"]
    """``htcondor``."""
    disk: Memory = "4GB"
    """Scratch that is asked for."""

"""Job scripts of batch systems, as text: what is submitted is what is printed.

A script runs one command, which is the same whenever it runs: it goes on where it
stopped. Some time before its wall time the command ends with exit code 75, if it has
made progress; only then is the job queued again. So nothing goes round for ever.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from geoscale.clusters.batch import (
    BatchProfile,
    HTCondorProfile,
    LsfProfile,
    PbsProfile,
    SgeProfile,
    SlurmProfile,
    find_margin,
)
from geoscale.durations import format_clock

SIGNALLED_S = 600.0
"""Least wall time at which Slurm is to give notice of its end, which it may do a minute
too early; the command knows it by itself, but not that an operator shortens it."""

Kind = Literal["driver", "allocation", "part", "end"]
"""``driver``: hands out blocks; ``allocation``: with workers in the same job; ``part``:
one of an array; ``end``: of an array."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """What a job is to do."""

    kind: Kind
    """Which job it is."""
    name: str
    """Name in the queue."""
    what: str
    """Job file, or output that holds a plan."""
    cluster: str
    """Profile, where the command needs it."""
    folder: str
    """Gets scripts and logs; every node sees it."""
    options: tuple[str, ...] = ()
    """Further options of ``geoscale run``."""

    @property
    def path(self) -> str:
        """Where the script is kept."""
        return f"{self.folder}/{self.kind}.sh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a job asks for."""

    seconds: float
    cores: int
    memory: int
    gpus: int
    queue: str | None
    tasks: int


def write_script(profile: BatchProfile, script: Script) -> str:
    """Write the script of a job.

    Parameters
    ----------
    profile : BatchProfile
        Batch system, and what to ask of it.
    script : Script
        What the job is to do.

    Returns
    -------
    str
        Ends with a newline.
    """
    asked = find_asked(profile, script.kind)
    lines = ["#!/bin/bash", *_HEADERS[type(profile)](profile, script, asked)]
    lines += [*profile.environment]
    return "\n".join([*lines, *_body(profile, script, asked)]) + "\n"


def find_asked(profile: BatchProfile, kind: Kind) -> Asked:
    """Resources of a job: drivers need little, others what workers do."""
    from dask.utils import parse_bytes

    # what ends an array may have to make blocks of parts that failed
    small = kind == "driver"
    return Asked(
        seconds=profile.driver_s if kind in ("driver", "end") else profile.walltime_s,
        cores=profile.driver.cores if small else profile.cores,
        memory=int(parse_bytes(profile.driver.memory if small else profile.memory)),
        gpus=0 if small else profile.gpus,
        queue=(profile.driver.queue if small else None) or profile.queue,
        tasks=profile.jobs if kind == "allocation" else 1,
    )


def _body(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    command = [profile.python or sys.executable, "-m", "geoscale.cli", "run"]
    command += [script.what]
    if script.kind in ("driver", "allocation"):
        command += ["--cluster", script.cluster]
    words = shlex.join(command)
    if script.kind == "part":
        words += f' --shard "{_INDEX[profile.type]}/{profile.jobs}"'
    words += "".join(f" {shlex.quote(option)}" for option in script.options)
    left = int(asked.seconds - find_margin(asked.seconds))
    forward = 'kill -USR1 "$run"' if isinstance(profile, SlurmProfile) else ":"
    return [
        f"export GEOSCALE_CPUS={asked.cores}",
        f'{words} --batch --deadline "$(({left} - SECONDS))s" &',
        "run=$!",
        "cancelled=",
        f"trap '{forward}' USR1",
        "trap 'cancelled=yes' TERM",
        'while wait "$run"; code=$?; kill -0 "$run" 2>/dev/null; do :; done',
        'wait "$run"; code=$?',
        'if [ "$code" -eq 75 ] && [ -z "$cancelled" ]; then',
        *(f"    {line}" for line in _again(profile, script)),
        "fi",
        'exit "$code"',
    ]


def _again(profile: BatchProfile, script: Script) -> list[str]:
    """Lines that queue the job again; it has made progress, and is not at its end."""
    most = profile.restarts
    if isinstance(profile, SlurmProfile):
        return [
            f'if [ "${{SLURM_RESTART_COUNT:-0}}" -lt {most} ]; then',
            '    scontrol requeue "$SLURM_JOB_ID" && sleep 60',
            "fi",
        ]
    if isinstance(profile, SgeProfile):
        return ["exit 99  # Grid Engine queues such a job again"]
    if isinstance(profile, PbsProfile):
        index = "" if script.kind != "part" else f",GEOSCALE_PART={_INDEX['pbs']}"
        again = f"GEOSCALE_RESTART=$((${{GEOSCALE_RESTART:-0}} + 1)){index}"
        path = shlex.quote(script.path)
        return [
            f'if [ "${{GEOSCALE_RESTART:-0}}" -lt {most} ]; then',
            f'    qsub -v "{again}" {path} >> {path}.ids',
            "fi",
        ]
    return ["exit 75  # the directives above queue such a job again"]


def _slurm(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    log = "%x-%A-%a.log" if script.kind == "part" else "%x-%j.log"
    margin = int(find_margin(asked.seconds))
    found = [f"--job-name={script.name}", f"--time={format_clock(asked.seconds)}"]
    found += [f"--partition={asked.queue}"] if asked.queue else []
    found += [f"--account={profile.account}"] if profile.account else []
    found += [f"--ntasks={asked.tasks}", f"--cpus-per-task={asked.cores}"]
    if script.kind == "allocation":
        found += [f"--mem-per-cpu={_mega(asked.memory // asked.cores)}M"]
        found += [f"--gpus-per-task={asked.gpus}"] if asked.gpus else []
    else:
        found += [f"--mem={_mega(asked.memory)}M"]
        found += [f"--gres=gpu:{asked.gpus}"] if asked.gpus else []
    if script.kind == "part":
        found += [f"--array=0-{profile.jobs - 1}"]
    found += [f"--output={script.folder}/{log}", "--open-mode=append", "--requeue"]
    if asked.seconds >= SIGNALLED_S:
        found += [f"--signal=B:USR1@{margin}"]
    return [f"#SBATCH {line}" for line in (*found, *profile.extra)]


def _pbs(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    chunk = f"select={asked.tasks}:ncpus={asked.cores}:mem={_mega(asked.memory)}mb"
    chunk += f":ngpus={asked.gpus}" if asked.gpus else ""
    found = [f"-N {script.name}", f"-l {chunk}"]
    found += [f"-l walltime={format_clock(asked.seconds)}"]
    found += [f"-q {asked.queue}"] if asked.queue else []
    found += [f"-A {profile.account}"] if profile.account else []
    found += [f"-o {script.folder}/", "-j oe", "-r y", "-V"]
    return [f"#PBS {line}" for line in (*found, *profile.extra)]


def _lsf(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    array = f"[1-{profile.jobs}]" if script.kind == "part" else ""
    log = "%J-%I.log" if array else "%J.log"
    minutes = int(-(-asked.seconds // 60))
    found = [f'-J "{script.name}{array}"', f"-W {minutes // 60}:{minutes % 60:02d}"]
    found += [f"-q {asked.queue}"] if asked.queue else []
    found += [f"-P {profile.account}"] if profile.account else []
    found += [f"-n {asked.tasks * asked.cores}"]
    found += [
        f'-R "span[ptile={asked.cores}]"' if asked.tasks > 1 else '-R "span[hosts=1]"'
    ]
    found += [f'-R "rusage[mem={_mega(asked.memory)}MB]"']
    found += [f'-gpu "num={asked.gpus}"'] if asked.gpus else []
    found += [f"-o {script.folder}/{script.name}-{log}", "-r", '-Q "75"']
    return [f"#BSUB {line}" for line in (*found, *profile.extra)]


def _sge(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    assert isinstance(profile, SgeProfile)
    found = [f"-N {script.name}", "-S /bin/bash", "-cwd", "-V", "-r y", "-j y"]
    found += [f"-o {script.folder}/", f"-l h_rt={format_clock(asked.seconds)}"]
    found += [f"-q {asked.queue}"] if asked.queue else []
    found += [f"-P {profile.account}"] if profile.account else []
    slots = asked.tasks * asked.cores
    if slots > 1:
        found += [f"-pe {profile.parallel_environment} {slots}"]
    if profile.memory_name:
        # it is asked for each slot
        each = _mega(asked.memory // asked.cores)
        found += [f"-l {profile.memory_name}={each}M"]
    found += [f"-l {profile.gpu_name}={asked.gpus}"] if asked.gpus else []
    found += [f"-t 1-{profile.jobs}"] if script.kind == "part" else []
    return [f"#$ {line}" for line in (*found, *profile.extra)]


def _htcondor(profile: BatchProfile, script: Script, asked: Asked) -> list[str]:
    """Nothing: HTCondor reads a file of its own, see `write_submit`."""
    return []


def write_submit(profile: HTCondorProfile, script: Script) -> str:
    """Write the submit description of HTCondor that goes with a script."""
    asked = find_asked(profile, script.kind)
    log = f"{script.folder}/{script.name}-$(Cluster)-$(Process)"
    found = {
        "universe": "vanilla",
        "executable": script.path,
        "getenv": "true",
        "output": f"{log}.out",
        "error": f"{log}.err",
        "log": f"{script.folder}/{script.name}.log",
        "request_cpus": str(asked.cores),
        "request_memory": f"{_mega(asked.memory)} MB",
        "request_disk": profile.disk.replace(" ", ""),
        "allowed_job_duration": str(int(asked.seconds)),
        # a job that ends with 75 goes on later
        "on_exit_remove": f"(ExitCode =!= 75) || (NumJobStarts > {profile.restarts})",
    }
    if script.kind == "part":
        found["environment"] = '"GEOSCALE_PART=$(Process)"'
    if asked.gpus:
        found["request_gpus"] = str(asked.gpus)
    if profile.account:
        found["accounting_group"] = profile.account
    lines = [*(f"{name} = {value}" for name, value in found.items()), *profile.extra]
    many = f" {profile.jobs}" if script.kind == "part" else ""
    return "\n".join([*lines, f"queue{many}"]) + "\n"


_HEADERS: dict[type[BatchProfile], Callable[[BatchProfile, Script, Asked], list[str]]]
_HEADERS = {
    SlurmProfile: _slurm,
    PbsProfile: _pbs,
    LsfProfile: _lsf,
    SgeProfile: _sge,
    HTCondorProfile: _htcondor,
}
_INDEX = {
    "slurm": "$SLURM_ARRAY_TASK_ID",
    "pbs": "${GEOSCALE_PART:-$PBS_ARRAY_INDEX}",
    "lsf": "$((LSB_JOBINDEX - 1))",
    "sge": "$((SGE_TASK_ID - 1))",
    "htcondor": "$GEOSCALE_PART",
}
"""Number of a part of an array, from 0."""


def _mega(size: int) -> int:
    """Whole MiB, rounded up."""
    return -(-size // 2**20)

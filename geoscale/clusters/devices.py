"""GPUs of this machine, by what the environment says of them: one process for each.

Neither torch nor CUDA is loaded here: a driver that was touched before a worker starts
would be held by the wrong process.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence

from geoscale.errors import JobError

VISIBLE = "CUDA_VISIBLE_DEVICES"
"""Variable by which CUDA is shown some devices only."""
RANKS = (
    "SLURM_LOCALID",
    "OMPI_COMM_WORLD_LOCAL_RANK",
    "MPI_LOCALRANKID",
    "PMI_LOCAL_RANK",
)
"""Variables that number the processes of one job on one machine, from 0."""
_NAME = re.compile(r"\d+|(GPU|MIG)-[0-9a-fA-F-]+|MIG-GPU-[0-9a-fA-F-]+/\d+/\d+")
_ASK_S = 20.0


def list_devices(environ: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """List the GPUs that CUDA would see, as ``CUDA_VISIBLE_DEVICES`` names them.

    Parameters
    ----------
    environ : mapping
        Of the process.

    Returns
    -------
    tuple of str
        Numbers, ``GPU-…`` or ``MIG-…``; empty where there is none.

    Raises
    ------
    JobError
        If the variable names a device twice.

    References
    ----------
    .. [1] CUDA C++ Programming Guide, "CUDA Environment Variables": devices that follow
       an index that does not exist are invisible, too.

    Examples
    --------
    >>> list_devices({"CUDA_VISIBLE_DEVICES": "2, 3"})
    ('2', '3')
    >>> list_devices({"CUDA_VISIBLE_DEVICES": "0,-1,1"}), list_devices({VISIBLE: ""})
    (('0',), ())
    """
    told = environ.get(VISIBLE)
    if told is None:
        return _ask_driver()
    found: list[str] = []
    for name in (part.strip() for part in told.split(",")):
        if not _NAME.fullmatch(name):
            break
        if name in found:
            raise JobError(
                f"{VISIBLE}={told} names {name} twice, and one process has a GPU for "
                "itself; name each once"
            )
        found.append(name)
    return tuple(found)


def choose_device(
    environ: Mapping[str, str] = os.environ, *, slot: int = 0, processes: int = 1
) -> str | None:
    """Choose the GPU of one of several processes that a job starts on this machine.

    Parameters
    ----------
    environ : mapping
        Of the process.
    slot : int
        Which of the processes that one command started this is.
    processes : int
        How many it starts.

    Returns
    -------
    str or None
        None where no device is named, or only one to a command of one process: then
        the batch system has chosen.

    Raises
    ------
    JobError
        If there are more processes than devices.

    Examples
    --------
    >>> choose_device({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_LOCALID": "1"})
    '3'
    >>> choose_device({"CUDA_VISIBLE_DEVICES": "2", "SLURM_LOCALID": "1"}) is None
    True
    >>> choose_device({"CUDA_VISIBLE_DEVICES": "0,1"}, slot=1, processes=2)
    '1'
    """
    if VISIBLE not in environ:
        return None
    devices = list_devices(environ)
    if not devices or len(devices) == processes == 1:
        return None
    told = next((environ[name] for name in RANKS if environ.get(name)), "")
    rank = int(told) if told.isdigit() else 0
    # as many as this command has processes are its own; more are the machine's
    number = slot if len(devices) == processes else rank * processes + slot
    if number >= len(devices):
        raise JobError(
            f"process {number} of this machine finds {len(devices)} GPUs "
            f"({VISIBLE}={environ[VISIBLE]}), and two would share one; ask for as many "
            "processes as GPUs"
        )
    return devices[number]


def show_visible() -> str | None:
    """Show which devices this process sees; runs on workers."""
    return os.environ.get(VISIBLE)


def check_names(names: Sequence[str]) -> None:
    """Refuse names of devices that CUDA would not know, or that come twice.

    Raises
    ------
    ValueError
        Naming the first.
    """
    for number, name in enumerate(names):
        if not _NAME.fullmatch(name):
            raise ValueError(
                f"`{name}` is no device; write a number, or GPU-… or MIG-… as "
                "`nvidia-smi -L` lists them"
            )
        if name in names[:number]:
            raise ValueError(f"device {name} is named twice; each has one process")


def _ask_driver() -> tuple[str, ...]:
    """UUIDs of all GPUs, from the driver's own program; none without one."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    try:
        done = subprocess.run(  # noqa: S603  (the driver's program)
            [program, "--query-gpu=uuid", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            timeout=_ASK_S,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return ()
    names = [line.strip() for line in done.stdout.splitlines()]
    return tuple(name for name in names if _NAME.fullmatch(name))

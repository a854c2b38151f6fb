"""Devices: asked for by name, never swapped for another in silence."""

from __future__ import annotations

import ctypes
import logging
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from geoscale.errors import GeoscaleError, PlanError
from geoscale.memory import allowed_cpus

if TYPE_CHECKING:
    import torch

_LOG = logging.getLogger(__name__)


class DeviceLostError(GeoscaleError):
    """The device or its driver failed: every later call in this process would.

    The process must be replaced before the block is tried again.
    """

    kind = "process"
    exit_code = 3


def pick_device(name: str) -> torch.device:
    """Turn a device's name into a device that is there.

    Parameters
    ----------
    name : str
        ``cpu``, ``cuda``, ``cuda:N``, ``mps`` or ``auto`` (CUDA, else MPS, else
        CPU; the choice is logged).

    Returns
    -------
    torch.device
        Usable now.

    Raises
    ------
    PlanError
        If it is absent: asked-for CUDA never becomes CPU in silence.
    """
    import torch

    if name == "auto":
        name = "cpu"
        if torch.cuda.is_available():
            name = "cuda"
        elif torch.backends.mps.is_available():
            name = "mps"
        _LOG.info("device auto: %s", name)
    try:
        device = torch.device(name)
    except RuntimeError as err:
        raise PlanError(
            f"device `{name}` is unknown; use cpu, cuda, cuda:N, mps or auto"
        ) from err
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise PlanError(
            f"device `{name}` is not there: torch {torch.__version__} sees "
            f"{torch.cuda.device_count()} CUDA device(s); install a CUDA build of "
            "torch, ask for a GPU node, or say device: cpu"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise PlanError("device `mps` is not there; say device: cpu")
    if device.type not in ("cpu", "cuda", "mps"):
        raise PlanError(f"device `{name}` is not supported; use cpu, cuda, mps or auto")
    return device


def name_kind(name: str) -> str:
    """Tell ``cpu``, ``cuda`` or ``mps``; importing torch only where it is needed.

    Parameters
    ----------
    name : str
        As for `pick_device`.

    Returns
    -------
    str
        Kind of the device that `pick_device` gives.

    Raises
    ------
    PlanError
        If it is absent.
    """
    if name == "cpu" or (name == "auto" and not _may_have_gpu()):
        return "cpu"
    return str(pick_device(name).type)


def _may_have_gpu() -> bool:
    """Whether a driver that torch could use is installed: CUDA's, ROCm's, Apple's."""
    if platform.system() != "Linux" or Path("/dev/kfd").exists():
        return True
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


class Gpus(NamedTuple):
    """GPUs as torch sees them."""

    cuda: str
    """CUDA that torch was built for; empty: for none."""
    names: list[str]
    """Name and memory of each."""
    has_driver: bool
    """Whether a driver is installed."""


def describe_gpus() -> Gpus:
    """Name the GPUs that torch can use in this process.

    Returns
    -------
    Gpus
        Without names where there is none, or torch cannot use it.
    """
    import torch

    cuda, count = torch.cuda, torch.cuda.device_count()
    found = [cuda.get_device_properties(number) for number in range(count)]
    names = [f"{one.name} ({one.total_memory / 1e9:.0f} GB)" for one in found]
    version: Any = torch.version
    return Gpus(str(version.cuda or ""), names, _may_have_gpu())


def make_cuda_repeatable() -> None:
    """No TF32, no algorithm search: both change bits between runs or devices."""
    import torch

    # By the old switches first, so that those still answer: inductor reads them, and
    # torch refuses to tell them once only the new ones were set (pytorch#166387).
    torch.set_float32_matmul_precision("highest")
    conv: Any = torch.backends.cudnn
    conv.allow_tf32 = False
    conv.conv.fp32_precision = conv.rnn.fp32_precision = "ieee"
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = True


def uses_tf32() -> bool:
    """Tell whether float32 on CUDA would be rounded to TF32 in this process."""
    import torch

    conv: Any = torch.backends.cudnn
    parts = (torch.backends.cuda.matmul.fp32_precision, conv.conv.fp32_precision)
    return "tf32" in parts


def name_machine(device: str, threads: int | None) -> str:
    """Name what decides a speed here: the processor, its cores or the GPU.

    Examples
    --------
    >>> name_machine("cpu", 2).endswith("2 threads")
    True
    """
    if device.startswith(("cuda", "auto")):
        import torch

        if torch.cuda.is_available():
            return name_processor(device)
    return f"{_cpu_name()}, {threads or allowed_cpus()} threads"


def name_processor(device: str) -> str:
    """Name the GPU or the CPU that a device is; last bits of a map hang on it.

    Parameters
    ----------
    device : str
        As for `pick_device`.

    Returns
    -------
    str
        As its driver or the system names it.

    Raises
    ------
    PlanError
        If it is absent.
    """
    kind = name_kind(device)
    if kind != "cuda":
        return kind if kind == "mps" else _cpu_name()
    import torch

    number = int(device.partition(":")[2] or 0)
    return str(torch.cuda.get_device_name(number))


def _cpu_name() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    lines = text.splitlines()
    parts = [
        next((x.partition(":")[2].strip() for x in lines if x.startswith(word)), "")
        for word in ("model name", "cpu family", "model\t")
    ]
    return " ".join(part for part in parts if part) or platform.machine()

"""What a GPU is doing, as NVML says it; nothing where there is no NVML.

Only the first device that this process sees is looked at: a process has one. Figures
are shown and kept, and decide nothing.
"""

from __future__ import annotations

import importlib
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoscale.types import Json

EVERY_S = 1.0
"""Time between two looks, in s; NVML itself measures over up to a second."""


class Gauge:
    """Looks at the GPU of this process, once a second at most.

    Parameters
    ----------
    nvml : module, optional
        What speaks NVML; default ``pynvml`` if it is installed.
    environ : mapping
        Of the process: which device CUDA shows first.
    clock : callable
        Seconds that pass.
    """

    def __init__(
        self,
        nvml: Any = None,
        environ: Mapping[str, str] = os.environ,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._looked = float("-inf")
        self._nvml, self._handle, self._name = _open(nvml, environ)

    def read(self) -> Json:
        """Look at the device.

        Returns
        -------
        dict
            ``gpu``: its UUID, how busy it is in percent or None, memory in use by any
            process and in all, in bytes. Empty where there is no NVML, it does not
            answer, or it was looked at a moment ago.
        """
        if self._handle is None or self._clock() - self._looked < EVERY_S:
            return {}
        self._looked = self._clock()
        memory = _ask(self._nvml.nvmlDeviceGetMemoryInfo, self._handle)
        if memory is None:
            return {}
        # a part of a device (MIG) has memory of its own, and no utilisation
        rates = _ask(self._nvml.nvmlDeviceGetUtilizationRates, self._handle)
        busy = None if rates is None else int(rates.gpu)
        return {"gpu": [self._name, busy, int(memory.used), int(memory.total)]}


@dataclass(slots=True)
class GpuUse:
    """What is known of a device during a run."""

    looks: int = 0
    """How often its utilisation was told."""
    busy: int | None = None
    """Last utilisation, in percent; None where it is not told."""
    busy_sum: int = 0
    """Sum of all, in percent."""
    used: int = 0
    """Memory in use at the last look, in bytes."""
    peak: int = 0
    """Most of it, in bytes."""
    total: int = 0
    """Memory of the device, in bytes."""

    @property
    def mean(self) -> float | None:
        """Mean utilisation, in percent."""
        return self.busy_sum / self.looks if self.looks else None

    def note(self, busy: int | None, used: int, total: int) -> None:
        """Learn of another look."""
        self.busy, self.used, self.total = busy, used, total
        self.peak = max(self.peak, used)
        if busy is not None:
            self.looks, self.busy_sum = self.looks + 1, self.busy_sum + busy

    def to_dict(self) -> Json:
        """Figures for programs: percent and bytes."""
        mean = None if self.mean is None else round(self.mean, 1)
        found = {"busy": self.busy, "mean_busy": mean, "used_bytes": self.used}
        return found | {"peak_bytes": self.peak, "total_bytes": self.total}


def note_gpu(gpus: dict[str, GpuUse], stats: Mapping[str, Any]) -> None:
    """Learn what the stats of a block say of its device, if they do.

    Parameters
    ----------
    gpus : dict
        UUID → what is known; one more where a device is new.
    stats : mapping
        Of a block.
    """
    if "gpu" in stats:
        name, *figures = stats["gpu"]
        gpus.setdefault(str(name), GpuUse()).note(*figures)


def sum_gpus(stats: Iterable[Mapping[str, Any]]) -> dict[str, Json]:
    """Add up what blocks say of their devices.

    Parameters
    ----------
    stats : iterable of mapping
        Of finished blocks.

    Returns
    -------
    dict
        UUID → `GpuUse.to_dict`; empty where none was looked at.
    """
    gpus: dict[str, GpuUse] = {}
    for one in stats:
        note_gpu(gpus, one)
    return {name: use.to_dict() for name, use in gpus.items()}


def say_now(gpus: Iterable[GpuUse]) -> str:
    """Say in a few words how busy devices are and what memory is in use.

    Parameters
    ----------
    gpus : iterable of GpuUse
        Of a run.

    Returns
    -------
    str
        Empty without devices.

    Examples
    --------
    >>> one = GpuUse()
    >>> one.note(87, 12_300_000_000, 80_000_000_000)
    >>> say_now([one]), say_now([])
    ('GPU 87 % 12.3 of 80.0 GB', '')
    """
    found = list(gpus)
    if not found:
        return ""
    busy = [one.busy for one in found if one.busy is not None]
    fullest = max(found, key=lambda one: one.used / (one.total or 1))
    parts = ["GPU" if len(found) == 1 else f"{len(found)} GPUs"]
    if busy:
        low, high = min(busy), max(busy)
        parts.append(f"{low} %" if low == high else f"{low}-{high} %")
    parts.append(f"{fullest.used / 1e9:.1f} of {fullest.total / 1e9:.1f} GB")
    return " ".join(parts)


def say_after(told: Mapping[str, Json]) -> list[str]:
    """Say for each device how busy it was and the most memory that was in use.

    Parameters
    ----------
    told : mapping
        UUID → `GpuUse.to_dict`.

    Returns
    -------
    list of str
        A line each, by UUID.
    """
    lines = []
    for name, one in sorted(told.items()):
        mean = one.get("mean_busy")
        busy = "" if mean is None else f"busy {mean:.0f} %, "
        peak, total = one["peak_bytes"] / 1e9, one["total_bytes"] / 1e9
        lines.append(f"{name}  {busy}at most {peak:.1f} of {total:.1f} GB")
    return lines


def _open(nvml: Any, environ: Mapping[str, str]) -> tuple[Any, Any, str]:
    """Library, handle and UUID of the device; None where it cannot be had."""
    if nvml is None:
        try:
            nvml = importlib.import_module("pynvml")
        except ImportError:
            return None, None, ""
    if _ask(nvml.nvmlInit, otherwise=False) is False:
        return None, None, ""
    handle = _find(nvml, environ)
    name = None if handle is None else _ask(nvml.nvmlDeviceGetUUID, handle)
    if name is None:
        return nvml, None, ""
    return nvml, handle, name.decode() if isinstance(name, bytes) else str(name)


def _find(nvml: Any, environ: Mapping[str, str]) -> Any:
    """Handle of the first device that CUDA shows."""
    first = environ.get("CUDA_VISIBLE_DEVICES", "0").partition(",")[0].strip()
    if first.startswith(("GPU-", "MIG-")):
        for told in (first, first.encode()):  # old versions of the library want bytes
            handle = _ask(nvml.nvmlDeviceGetHandleByUUID, told)
            if handle is not None:
                return handle
        return None
    if not first.isdigit():
        return None
    count = _ask(nvml.nvmlDeviceGetCount) or 0
    handles = [_ask(nvml.nvmlDeviceGetHandleByIndex, i) for i in range(count)]
    kinds = {_ask(nvml.nvmlDeviceGetName, one) for one in handles if one is not None}
    # CUDA numbers the fastest first, NVML by slot: no figures are better than another's
    if len(kinds) > 1 and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        return None
    return handles[int(first)] if int(first) < count else None


def _ask(call: Callable[..., Any], *given: Any, otherwise: Any = None) -> Any:
    """Ask NVML; whatever it says instead of an answer is no reason to stop a run."""
    try:
        return call(*given)
    except Exception:
        return otherwise

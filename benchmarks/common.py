"""What every benchmark shares: options, context, alternation, results as JSON."""

from __future__ import annotations

import gc
import importlib.metadata
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
RESULTS = ROOT / "results"
LONGEST_S = 3600
"""After this a run in a process of its own is given up, in s."""
PEERS = (
    "monai",
    "xbatcher",
    "terratorch",
    "py-spy",
    "ukis-csmask",
    "openvino",
    "obstore",
    "async-geotiff",
    "rioxarray",
)


@dataclass(frozen=True)
class Options:
    """What the command line says; None leaves the choice to the benchmark."""

    size: int | None = None
    repeat: int | None = None
    quick: bool = False
    results: Path = RESULTS
    workloads: tuple[str, ...] = ()
    device: str | None = None

    def pick_size(self, usual: int, quick: int = 512) -> int:
        return self.size or (quick if self.quick else usual)

    def pick_repeat(self, usual: int) -> int:
        return self.repeat or (1 if self.quick else usual)


def scratch() -> Path:
    """Folder for input that is kept between runs and output that is not."""
    default = Path(tempfile.gettempdir()) / "geoscale-benchmarks"
    path = Path(os.environ.get("GEOSCALE_BENCH_SCRATCH", default))
    path.mkdir(parents=True, exist_ok=True)
    return path


def test_data() -> Path:
    """Folder of the test data; it may be missing."""
    default = ROOT.parents[1] / "shared" / "data"
    return Path(os.environ.get("GEOSCALE_TEST_DATA", default)).resolve()


def context() -> dict[str, Any]:
    """Everything without which a figure means nothing."""
    from geoscale.memory import allowed_cpus, allowed_memory_bytes
    from geoscale.models import handshake

    versions = {k: v for k, v in handshake().items() if v is not None}
    for name in PEERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git_commit(),
        "cpus": allowed_cpus(),
        "cpu": cpu_name(),
        "memory_gb": round(allowed_memory_bytes() / 1e9, 1),
        "threads": count_threads(),
        "cuda": cuda_name(),
        "python": platform.python_version(),
        "versions": versions,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def count_threads() -> dict[str, Any]:
    """Threads of the numeric libraries in this process."""
    import torch

    return {
        "torch": torch.get_num_threads(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
    }


def cuda_name() -> str | None:
    """Name of the first CUDA device; None without any."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.machine()
    names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.machine()


def git_commit() -> str:
    """Commit of the tree, with a plus where the package differs from it.

    ``GEOSCALE_BENCH_COMMIT`` says it where the tree was copied without its history.
    """
    if said := os.environ.get("GEOSCALE_BENCH_COMMIT"):
        return said
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        changed = _git("status", "--porcelain", "--", "geoscale", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found + ("+" if changed else "")


def _git(*args: str) -> str:
    done = subprocess.run(
        ["git", *args], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def save(name: str, options: Options, result: dict[str, Any]) -> Path:
    """Write a benchmark's result; it replaces the one before."""
    options.results.mkdir(parents=True, exist_ok=True)
    path = options.results / f"{name}.json"
    load = round(os.getloadavg()[0], 2)
    result = {"name": name, "quick": options.quick, "load_after": load} | result
    path.write_text(json.dumps(result, indent=1, default=str) + "\n", encoding="utf-8")
    return path


@dataclass
class Spent:
    """Wall and CPU time of one call, in s."""

    wall: float
    cpu: float
    value: Any = None


def timed(call: Callable[[], Any]) -> Spent:
    """Time a call: wall clock, and CPU of this process with its dead children."""
    gc.collect()
    cpu, start = cpu_seconds(), time.perf_counter()
    value = call()
    return Spent(time.perf_counter() - start, cpu_seconds() - cpu, value)


def cpu_seconds() -> float:
    parts = [
        resource.getrusage(w) for w in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    return sum(p.ru_utime + p.ru_stime for p in parts)


def alternate(
    calls: dict[str, Callable[[], Any]], repeat: int, *, warm: bool = True
) -> dict[str, list[Spent]]:
    """Run the calls in turn, A B A B, so that a busy neighbour meets all alike."""
    if warm:
        for call in calls.values():
            call()
    found: dict[str, list[Spent]] = {name: [] for name in calls}
    for _ in range(repeat):
        for name, call in calls.items():
            found[name].append(timed(call))
    return found


def median(values: list[float]) -> float:
    return float(statistics.median(values))


def rounded(values: list[float], digits: int = 3) -> list[float]:
    return [round(v, digits) for v in values]


def peak_mb() -> float:
    """Peak memory of this process, in MB.

    Not ``ru_maxrss``: Linux counts in it what the parent held at the fork.
    """
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        kib = next(int(x.split()[1]) for x in lines if x.startswith("VmHWM"))
    except (OSError, StopIteration):
        kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(kib * 1024 / 1e6, 1)


def in_subprocess(
    module: str, *args: str, env: dict[str, str] | None = None
) -> dict[str, Any]:
    """Run a module that prints one JSON line at the end; give that, or the error."""
    try:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", module, *args],
            cwd=ROOT.parent,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | (env or {}),
            timeout=LONGEST_S,
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {LONGEST_S} s"}
    lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
    if done.returncode or not lines:
        tail = (done.stderr.strip().splitlines() or ["no output"])[-1]
        return {"error": f"exit {done.returncode}: {tail[:300]}"}
    return dict(json.loads(lines[-1]))


def say(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", flush=True)

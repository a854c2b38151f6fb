"""A job taken apart: its kernel, its patches in memory, its network alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import geoscale as gs
from benchmarks.common import scratch
from benchmarks.workloads import Workload
from geoscale.assemble import make_kernel
from geoscale.engine.block import Kernel
from geoscale.engine.patchwork import take_patch
from geoscale.memory import allowed_cpus
from geoscale.plans import InferencePlan


def make_plan(workload: Workload, items: Path, **more: Any) -> InferencePlan:
    """Plan a workload through the public verbs."""
    stack = gs.open_stack(str(items), bands=list(workload.card.input.bands))
    return gs.plan(stack, workload.card, **(workload.options | more))


@dataclass
class JobRun:
    """One end-to-end run."""

    report: Any
    blocks_s: float
    totals: dict[str, float] = field(default_factory=dict)
    stored_bytes: int = 0


def run_job(plan: InferencePlan, **options: Any) -> JobRun:
    """Run a plan into a fresh output; it is deleted, its counters are kept."""
    import json
    import time

    folder = Path(tempfile.mkdtemp(prefix="out-", dir=scratch()))
    out, last, start = folder / "map.zarr", [0.0], time.perf_counter()

    def note(_tally: Any, _outcome: Any) -> None:
        last[0] = time.perf_counter() - start

    report = gs.run(plan, out, progress=note, **options)
    assert report.complete, str(report)
    final = json.loads((out / ".geoscale" / "final.json").read_text(encoding="utf-8"))
    stored = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    shutil.rmtree(folder)
    return JobRun(report, last[0], final["totals"], stored)


def local_kernel(plan: InferencePlan) -> Kernel:
    """Kernel as a run in this process has it; the network is loaded once."""
    return make_kernel(plan, source=plan.live, threads=allowed_cpus())


def collect_batches(kernel: Kernel) -> list[np.ndarray]:
    """Every batch that the job runs, as the engine fills them; float32."""
    plan, size = kernel.plan, kernel.predictor.batch
    found = []
    for task in plan.iter_tasks():
        pixels = kernel.source.read(task.read, task.times)
        channels, usable = kernel.prepare.prepare(pixels.data, pixels.valid)
        keep = usable[task.core.within(task.read)]
        wanted = [
            p
            for p in plan.lattice.touching(task.core)
            if keep[p.gives.within(task.core)].any()
        ]
        for first in range(0, len(wanted), size):
            shape = (size, channels.shape[0], *plan.lattice.patch_shape)
            batch = np.zeros(shape, np.float32)
            for i, patch in enumerate(wanted[first : first + size]):
                take_patch(channels, task.read, patch.window, plan.shape, batch[i])
            found.append(batch)
    return found


def forward_kind(kernel: Kernel) -> str:
    """How `pure_forward` reaches into this predictor; ``predict``: it cannot."""
    predictor: Any = kernel.predictor
    for attribute, kind in (
        ("_session", "ONNX Runtime session"),
        ("_request", "OpenVINO request"),
        ("_forward", "torch module"),
    ):
        if hasattr(predictor, attribute):
            return kind
    return "predict"


def pure_forward(kernel: Kernel, batches: list[np.ndarray]) -> Callable[[], None]:
    """The call into the runtime over batches in memory: no checks, no copies.

    Of a runtime whose inside is not known here, `predict` is called: that flatters
    the job by what its checks cost, and the result says so.
    """
    reach = {
        "ONNX Runtime session": _reach_session,
        "OpenVINO request": _reach_request,
        "torch module": _reach_module,
    }.get(forward_kind(kernel))
    if reach is None:
        return predict_all(kernel, batches)
    return reach(kernel.predictor, batches)


def _reach_session(predictor: Any, batches: list[np.ndarray]) -> Callable[[], None]:
    def run() -> None:
        session = predictor._session
        name = session.get_inputs()[0].name
        for batch in batches:
            session.run(None, {name: batch})

    return run


def _reach_request(predictor: Any, batches: list[np.ndarray]) -> Callable[[], None]:
    # it compiles for the shape of the first batch
    predictor.predict(batches[0])

    def run() -> None:
        for batch in batches:
            predictor._request.infer([batch], share_inputs=True)

    return run


def _reach_module(predictor: Any, batches: list[np.ndarray]) -> Callable[[], None]:
    import torch

    layout = getattr(predictor, "_format", torch.contiguous_format)
    device = getattr(predictor, "_device", torch.device("cpu"))
    tensors = [
        torch.from_numpy(b).to(device).contiguous(memory_format=layout) for b in batches
    ]

    def run() -> None:
        with torch.inference_mode():
            for x in tensors:
                predictor._forward(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    return run


def predict_all(kernel: Kernel, batches: list[np.ndarray]) -> Callable[[], None]:
    """The predictor as the engine calls it: copies, softmax, checks included."""

    def run() -> None:
        for batch in batches:
            kernel.predictor.predict(batch)

    return run

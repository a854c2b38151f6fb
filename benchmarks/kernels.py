"""A job taken apart: its kernel, its patches in memory, its network alone."""

from __future__ import annotations

import dataclasses
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
from geoscale.engine.block import Kernel, infer_block
from geoscale.engine.shared import SharedScores
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


class _Recorder:
    """A predictor that keeps what it is given and answers nothing."""

    def __init__(self, predictor: Any, classes: int) -> None:
        self.batch, self.model_id = predictor.batch, predictor.model_id
        self.batches: list[np.ndarray] = []
        self._classes = classes

    def predict(self, patches: np.ndarray) -> np.ndarray:
        self.batches.append(patches)
        shape = (len(patches), self._classes, *patches.shape[2:])
        return np.broadcast_to(np.float32(0), shape)


def collect_batches(kernel: Kernel) -> list[np.ndarray]:
    """Every batch that the job runs, as the engine fills them; float32."""
    recorder = _Recorder(kernel.predictor, len(kernel.plan.card.output.classes))
    deaf = dataclasses.replace(kernel, predictor=recorder, shared=SharedScores())
    for task in kernel.plan.iter_tasks():
        infer_block(deaf, task)
    return recorder.batches


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

    from geoscale.models.own_thread import call

    layout = getattr(predictor, "_format", torch.contiguous_format)
    device = getattr(predictor, "_device", torch.device("cpu"))
    tensors = [
        torch.from_numpy(b).to(device).contiguous(memory_format=layout) for b in batches
    ]

    def forward() -> None:
        with torch.inference_mode():
            for x in tensors:
                predictor._forward(x)
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    # where the predictor computes too: a second team of threads would slow both
    return forward if device.type == "cuda" else lambda: call(forward)


def predict_all(kernel: Kernel, batches: list[np.ndarray]) -> Callable[[], None]:
    """The predictor as the engine calls it: copies, softmax, checks included."""

    def run() -> None:
        for batch in batches:
            kernel.predictor.predict(batch)

    return run

"""GPU: COG in → verified Zarr out on one device, against the network alone, and MONAI.

Everything is in one process and in turn. Network pixels that the job needs are cut
before, and lie in pinned memory of the host, or on the device.
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

import geoscale as gs
from benchmarks.common import (
    Options,
    alternate,
    context,
    cuda_name,
    median,
    rounded,
    say,
    scratch,
    timed,
)
from benchmarks.kernels import collect_batches, local_kernel, make_plan, run_job
from benchmarks.peer_recipes import PATCH, Scene, read_whole, write_tiff
from benchmarks.workloads import Workload, get_workload
from geoscale.memory import allowed_cpus
from geoscale.models import ModelSettings, get_predictor
from geoscale.models.own_thread import call_on
from geoscale.plans import InferencePlan

SIZE = 8_192
CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("unet", {}),
    ("unet", {"precision": "bfloat16"}),
    ("landcover", {}),
    ("landcover", {"precision": "bfloat16"}),
    ("tiny", {}),
)
"""Network and what is asked of it; the last costs nothing, so that the host is left."""
BATCHES: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("float32", "planes", (16, 18, 25)),
    ("float32", "pixels", (16,)),
    ("bfloat16", "pixels", (25,)),
)
"""Of the U-Net: arithmetic, order in memory, patches of 512 px at once."""
PEER_BATCH = 64
"""Patches of 256 px that MONAI is given at once: as many pixels as geoscale takes."""


def run(options: Options) -> dict[str, Any]:
    """Measure every case, then the peer on the same scene."""
    name = cuda_name()
    if name is None:
        raise RuntimeError("no CUDA device is here")
    size, repeat = options.pick_size(SIZE), options.pick_repeat(3)
    before, rows, labels = context(), [], dict[str, np.ndarray]()
    batches: list[dict[str, Any]] = []
    if not options.workloads or "unet" in options.workloads:
        batches = [_rate(*case) for case in _list_batches()]
    for workload, more in CASES:
        if options.workloads and workload not in options.workloads:
            continue
        rows.append(_measure(workload, size, repeat, more, labels))
    peers = []
    if not options.workloads or "unet" in options.workloads:
        peers = [_peer(size, repeat, low, labels) for low in ("float32", "bfloat16")]
    return {
        "context": before,
        "device": _describe(name),
        "size_px": size,
        "repeat": repeat,
        "rows": rows,
        "peers": peers,
        "batches": batches,
    }


def _describe(name: str) -> dict[str, Any]:
    """What decides a speed beside the versions of packages."""
    import torch

    found: Any = torch.cuda.get_device_properties(0)
    versions: Any = torch.version
    return {
        "gpu": name,
        "memory_gb": round(found.total_memory / 1e9, 1),
        "multiprocessors": found.multi_processor_count,
        "cuda": versions.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cores": allowed_cpus(),
    }


def _list_batches() -> list[tuple[str, str, int]]:
    return [(low, order, n) for low, order, counts in BATCHES for n in counts]


def _rate(low: Any, order: str, batch: int) -> dict[str, Any]:
    """Network pixels per second of one batch that is on the device."""
    import torch

    settings = ModelSettings(device="cuda", precision=low, patch=512, batch=batch)
    predictor: Any = get_predictor(get_workload("unet").card, settings)
    layout = torch.channels_last if order == "pixels" else torch.contiguous_format
    usual = predictor._format
    predictor._network.to(memory_format=layout)
    torch.manual_seed(1)
    x = torch.randn(batch, 6, 512, 512, device="cuda").contiguous(memory_format=layout)

    def run() -> None:
        with torch.inference_mode():
            for _ in range(3):
                predictor._forward(x)
        torch.cuda.synchronize()

    spent = alternate({"": lambda: call_on("cuda", run)}, 3)[""]
    predictor._network.to(memory_format=usual)
    mpx = 3 * batch * 512**2 / 1e6
    row = {"precision": low, "order": order, "batch": batch}
    return row | {"mpx_s": round(mpx / median([s.wall for s in spent]), 1)}


def _workload(name: str) -> Workload:
    return dataclasses.replace(get_workload(name), imagery="six")


def _measure(
    name: str, size: int, repeat: int, more: dict[str, Any], labels: dict[str, Any]
) -> dict[str, Any]:
    """The job, the network from the host, the network from the device, in turn."""
    import torch

    workload = _workload(name)
    items = workload.items(size)
    planned = timed(lambda: make_plan(workload, items, device="cuda", **more))
    plan: InferencePlan = planned.value
    kernel = local_kernel(plan)
    predictor: Any = kernel.predictor
    batches = [torch.from_numpy(b).pin_memory() for b in collect_batches(kernel)]
    calls: dict[str, Callable[[], Any]] = {"job": lambda: run_job(plan)}
    if hasattr(predictor, "_forward"):
        calls |= _network_alone(predictor, batches)
    found = alternate(calls, repeat)
    jobs = [spent.value for spent in found["job"]]
    mpx = jobs[0].report.pixels / 1e6
    told = predictor.describe()
    row = {
        "workload": name,
        "asked": more,
        "runtime": told["runtime"],
        "precision": told["precision"],
        "batch": told["batch"],
        "patch": plan.inference.patch,
        "stride": plan.inference.stride,
        "block": plan.inference.block,
        "useful_mpx": round(mpx, 2),
        "recompute": round(sum(b[:, 0].numel() for b in batches) / 1e6 / mpx, 3),
        "plan_s": round(planned.wall, 2),
        "agreement": _agree(plan, name, labels),
        "predictor": told,
        "phases_s": {k: round(v, 3) for k, v in jobs[-1].totals.items() if "_s" in k},
        "blocks_s": round(median([j.blocks_s for j in jobs]), 3),
        "gpus": jobs[-1].report.gpus,
    }
    for k, spent in found.items():
        row[f"{k}_s"] = rounded([s.wall for s in spent])
        row[f"{k}_mpx_s"] = round(mpx / median([s.wall for s in spent]), 2)
    row["job_cpu_s"] = round(median([s.cpu for s in found["job"]]), 2)
    del batches, calls
    torch.cuda.empty_cache()
    say(f"{name} {more}: " + ", ".join(f"{k} {row[f'{k}_mpx_s']}" for k in found))
    return row


def _network_alone(predictor: Any, batches: list[Any]) -> dict[str, Callable[[], None]]:
    """The forward call over batches of the host, and over the same on the device."""
    import torch

    device, layout = predictor._device, predictor._format
    there = [b.to(device).contiguous(memory_format=layout) for b in batches]

    def from_host() -> None:
        with torch.inference_mode():
            for batch in batches:
                x = batch.to(device, non_blocking=True)
                predictor._forward(x.contiguous(memory_format=layout))
        torch.cuda.synchronize(device)

    def on_device() -> None:
        with torch.inference_mode():
            for x in there:
                predictor._forward(x)
        torch.cuda.synchronize(device)

    # where the predictor computes: cuDNN's plans are kept by thread
    return {
        "from_host": lambda: call_on("cuda", from_host),
        "on_device": lambda: call_on("cuda", on_device),
    }


def _agree(plan: InferencePlan, name: str, labels: dict[str, Any]) -> float | None:
    """Share of labels that equal those of the workload's first case, float32."""
    folder = Path(tempfile.mkdtemp(prefix="map-", dir=scratch()))
    assert gs.run(plan, folder / "map.zarr").complete
    found = gs.open_output(str(folder / "map.zarr"), raw=True).classes.values.squeeze()
    shutil.rmtree(folder)
    if name not in labels:
        labels[name] = found
        return None
    return round(float((found == labels[name]).mean()), 6)


def _peer(size: int, repeat: int, low: str, labels: dict[str, Any]) -> dict[str, Any]:
    """MONAI over the whole scene on the device, as its documentation writes it."""
    import torch
    from monai.inferers import sliding_window_inference

    from geoscale.models.build import build_module
    from geoscale.models.weights import resolve_weights

    workload = _workload("unet")
    items = workload.items(size)
    path, _ = resolve_weights(workload.card)
    layout = torch.contiguous_format if low == "float32" else torch.channels_last
    net = build_module(workload.card, path).cuda().eval().to(memory_format=layout)
    half = torch.autocast("cuda", dtype=torch.bfloat16)
    folder = Path(tempfile.mkdtemp(prefix="peer-", dir=scratch()))
    made: list[np.ndarray] = []

    class Net:
        card = workload.card

    scene = Scene(items, size, Net(), folder / "map")  # type: ignore[arg-type]

    def scores(x: Any) -> Any:
        with nullcontext() if low == "float32" else half:
            return net(x.contiguous(memory_format=layout)).float().softmax(1)

    def slide(x: Any) -> Any:
        return sliding_window_inference(
            x, (PATCH, PATCH), PEER_BATCH, scores, overlap=0.25, mode="gaussian"
        )

    def monai() -> None:
        with torch.inference_mode():
            found = slide(torch.from_numpy(read_whole(scene))[None].cuda())
            made[:] = [found[0].argmax(0).to(torch.uint8).cpu().numpy()]
        write_tiff(scene, made[0])

    torch.backends.cudnn.deterministic = False  # as it is where nobody asks
    try:
        part = torch.zeros(1, 6, 8 * PATCH, 8 * PATCH, device="cuda")
        with torch.inference_mode():
            slide(part)
        spent = alternate({"monai": monai}, max(1, repeat - 1), warm=False)["monai"]
    finally:
        torch.backends.cudnn.deterministic = True
        shutil.rmtree(folder)
        torch.cuda.empty_cache()
    same = float((made[0] == labels["unet"]).mean()) if "unet" in labels else None
    row = {
        "peer": "monai",
        "workload": "unet",
        "precision": low,
        "mpx_s": round(size**2 / 1e6 / median([s.wall for s in spent]), 2),
        "wall_s": rounded([s.wall for s in spent]),
        "agreement": None if same is None else round(same, 6),
        "how": "sliding_window_inference, image and sums on the device, roi 256, "
        f"overlap 0.25, gaussian, batch {PEER_BATCH}; read whole before, GeoTIFF "
        "written after",
    }
    say(f"monai {low}: {row['mpx_s']} Mpx/s")
    return row

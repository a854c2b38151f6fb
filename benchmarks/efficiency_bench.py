"""Efficiency: COG in → verified Zarr out, against the network alone, in one run."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.common import Options, alternate, context, median, rounded, say, timed
from benchmarks.kernels import (
    collect_batches,
    forward_kind,
    local_kernel,
    make_plan,
    predict_all,
    pure_forward,
    run_job,
)
from benchmarks.workloads import get_workload
from geoscale.errors import GeoscaleError

# Network and how it is run. Edges in px give each job at least four blocks, so that
# reading the next block and writing the last one can hide behind the network.
CASES: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("landcover", 3072, {}),
    ("landcover", 6144, {}),
    ("unet", 3072, {}),
    ("unet", 3072, {"runtime": "auto", "precision": "auto"}),
    ("ukis", 3072, {}),
    ("ukis", 3072, {"runtime": "auto", "precision": "auto"}),
    ("siamese", 4000, {}),
    ("siamese50", 4000, {}),
)
TARGET = 0.95


def run(options: Options) -> dict[str, Any]:
    """Measure every case; one that geoscale refuses says why."""
    before = context()
    repeat = options.pick_repeat(5)
    rows = []
    for name, usual, chosen in CASES:
        if options.workloads and name not in options.workloads:
            continue
        more = chosen | ({"device": options.device} if options.device else {})
        size = options.pick_size(usual)
        try:
            rows.append(measure(name, size, repeat, more))
        except GeoscaleError as err:
            why = f"{type(err).__name__}: {err}"
            rows.append({"workload": name, "size_px": size, "asked": more, "why": why})
            say(f"{name} {more}: {why}")
    seen = {"commit": before["commit"], "when": before["when"], "repeat": repeat}
    rows = keep(options, [row | seen for row in rows])
    return {"context": before, "repeat": repeat, "target": TARGET, "rows": rows}


def keep(options: Options, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Put rows of this run among those of workloads that were not asked for."""
    path = options.results / "efficiency.json"
    if not options.workloads or not path.is_file():
        return rows
    old = json.loads(path.read_text(encoding="utf-8"))
    seen = {k: old["context"][k] for k in ("commit", "when")}
    others = [
        {**seen, "repeat": old["repeat"], **row}
        for row in old["rows"]
        if row["workload"] not in options.workloads
    ]
    order = [name for name, _, _ in CASES]
    return sorted([*others, *rows], key=lambda row: order.index(row["workload"]))


def measure(name: str, size: int, repeat: int, more: dict[str, Any]) -> dict[str, Any]:
    """End to end, the network alone, and the predictor alone, in turn."""
    workload = get_workload(name)
    items = workload.items(size)
    planned = timed(lambda: make_plan(workload, items, **more))
    plan = planned.value
    loaded = timed(lambda: local_kernel(plan))
    kernel = loaded.value
    batches = collect_batches(kernel)
    found = alternate(
        {
            "end_to_end": lambda: run_job(plan),
            "forward": pure_forward(kernel, batches),
            "predict": predict_all(kernel, batches),
        },
        repeat,
    )
    jobs = [spent.value for spent in found["end_to_end"]]
    pixels = jobs[0].report.pixels
    walls = {k: [s.wall for s in v] for k, v in found.items()}
    ratios = [f / e for f, e in zip(walls["forward"], walls["end_to_end"], strict=True)]
    kept = median(
        [f / p for f, p in zip(walls["forward"], walls["predict"], strict=True)]
    )
    row = {
        "workload": name,
        "size_px": size,
        "asked": more,
        "blocks": len(plan.numbers()),
        "forward_kind": forward_kind(kernel),
        "useful_mpx": round(pixels / 1e6, 3),
        "efficiency": round(median(ratios), 4),
        "efficiency_runs": rounded(ratios),
        "predict_efficiency": round(kept, 4),
        "cache": "page cache warm; the network is loaded before",
        "plan_s": round(planned.wall, 3),
        "model_load_s": round(loaded.wall, 3),
        "patches": len(batches) * kernel.predictor.batch,
        "recompute": round(sum(b[:, 0].size for b in batches) / max(1, pixels), 3),
        "inference": plan.inference.model_dump(),
        "predictor": kernel.predictor.describe(),
        "output": plan.output.model_dump(),
        "stored_bytes": jobs[0].stored_bytes,
        "blocks_s": round(median([j.blocks_s for j in jobs]), 3),
        "phases_s": {
            k: round(median([j.totals[k] for j in jobs]), 3)
            for k in jobs[0].totals
            if k.endswith("_s")
        },
        "counters": {k: v for k, v in jobs[0].totals.items() if not k.endswith("_s")},
    }
    # What a busy neighbour disturbs least: the best run of each, and CPU seconds.
    row["efficiency_best"] = round(min(walls["forward"]) / min(walls["end_to_end"]), 4)
    row["efficiency_cpu"] = round(
        median([s.cpu for s in found["forward"]])
        / median([s.cpu for s in found["end_to_end"]]),
        4,
    )
    for k, spent in found.items():
        row[f"{k}_s"] = rounded([s.wall for s in spent])
        row[f"{k}_cpu_s"] = round(median([s.cpu for s in spent]), 3)
        row[f"{k}_mpx_s"] = round(pixels / 1e6 / median([s.wall for s in spent]), 3)
    say(f"{name}: {row['end_to_end_mpx_s']} Mpx/s, efficiency {row['efficiency']}")
    return row

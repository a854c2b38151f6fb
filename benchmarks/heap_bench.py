"""Heap: torch on a CPU with its freed memory kept, and with the system's ways."""

from __future__ import annotations

from typing import Any

from benchmarks.common import Options, context, in_subprocess, median, say

TARGET = "benchmarks.heap_target"
WAYS = {"kept": "keep", "system": "system"}


def run(options: Options) -> dict[str, Any]:
    """Both ways in turn, each in a process of its own."""
    before, repeat = context(), options.pick_repeat(3)
    count = 2 if options.quick else 8
    rows = [measure(name, repeat, count) for name in ("landcover", "unet")]
    return {"context": before, "repeat": repeat, "rows": rows}


def measure(workload: str, repeat: int, count: int) -> dict[str, Any]:
    """Median of the runs of each way, and their ratio."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    for _ in range(repeat):
        for way, value in WAYS.items():
            made = in_subprocess(
                TARGET, workload, str(count), env={"GEOSCALE_MALLOC": value}
            )
            if "error" in made:
                return {"workload": workload, "error": made["error"]}
            found[way].append(made)
    row: dict[str, Any] = {"workload": workload}
    row |= {k: found["kept"][0][k] for k in ("patch", "batch")}
    for way, runs in found.items():
        row[f"{way}_mpx_s"] = round(median([r["mpx_s"] for r in runs]), 3)
        row[f"{way}_peak_mb"] = round(median([r["peak_mb"] for r in runs]))
    row["speed_ratio"] = round(row["kept_mpx_s"] / row["system_mpx_s"], 3)
    say(f"{workload}: {row}")
    return row

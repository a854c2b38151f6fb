"""Cost curve: seconds and peak memory against pixels; a line, and a flat line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, context, in_subprocess, median, say, scratch
from benchmarks.workloads import (
    Workload,
    curve_card,
    describe_items,
    sample,
    write_mirrored,
)

SIZES = (1_000, 2_000, 5_000, 10_000, 14_144, 20_000)
"""Edges in px: 1, 4, 25, 100, 200 and 400 Mpx."""
QUICK = (512, 1_024, 2_048)
BANDS = ("blue", "green", "red")
FLAT_FROM_MPX = 20
"""Below this a scene has fewer blocks than are worked on at a time."""


def curve_workload() -> Workload:
    """Three bands, one 1 x 1 convolution: what is measured is everything else."""
    options = {"patch_px": 512, "stride_px": 512, "block_px": 1024}
    return Workload("curve", curve_card(BANDS), options)


def run(options: Options) -> dict[str, Any]:
    """Measure every size; `--size` is the largest edge."""
    before = context()
    sizes = QUICK if options.quick else SIZES
    if options.size:
        sizes = (*(s for s in sizes if s < options.size), options.size)
    repeat = options.pick_repeat(3)
    rows = [measure(size, repeat) for size in sizes]
    return {
        "context": before,
        "repeat": repeat,
        "rows": rows,
        "fit": fit(rows),
        "memory": growth(rows),
        "network": "one 1 x 1 convolution, 3 bands to 5 classes; patch 512, crop",
    }


def measure(size: int, repeat: int) -> dict[str, Any]:
    """Lay out a scene, run it, delete it: the largest takes gigabytes."""
    row: dict[str, Any] = {"size_px": size, "mpx": size**2 / 1e6}
    folder = scratch() / f"curve-{size}"
    try:
        items = curve_items(folder, size)
        row["source_bytes"] = sum(f.stat().st_size for f in folder.glob("*.tif"))
        runs = [
            in_subprocess("benchmarks.curve_target", str(items)) for _ in range(repeat)
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    good = [r for r in runs if "wall_s" in r]
    if not good:
        return row | runs[0]
    row |= {k: good[0][k] for k in ("blocks", "stored_bytes", "inference")}
    row |= {
        "wall_s": round(median([r["wall_s"] for r in good]), 3),
        "cpu_s": round(median([r["cpu_s"] for r in good]), 3),
        "peak_mb": max(r["peak_mb"] for r in good),
        "idle_mb": good[0]["idle_mb"],
        "wall_s_runs": [r["wall_s"] for r in good],
    }
    say(f"curve {row['mpx']:.0f} Mpx: {row['wall_s']} s, {row['peak_mb']} MB")
    return row


def curve_items(folder: Path, size: int) -> Path:
    """Mirrored bands, written in strips, and the item that names them."""
    folder.mkdir(parents=True, exist_ok=True)
    pixels, note = sample()
    for name, band in zip(BANDS, pixels, strict=False):
        write_mirrored(folder / f"{name}.tif", band, size)
    path = folder / "items.json"
    path.write_text(json.dumps(describe_items(size, note, BANDS)), encoding="utf-8")
    return path


def fit(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Least-squares line of seconds over megapixels, and how straight it is."""
    good = [r for r in rows if "wall_s" in r]
    if len(good) < 3:
        return {}
    x = np.array([r["mpx"] for r in good])
    y = np.array([r["wall_s"] for r in good])
    slope, start = np.polyfit(x, y, 1)
    off = y - (slope * x + start)
    spread = ((y - y.mean()) ** 2).sum()
    return {
        "s_per_mpx": round(float(slope), 5),
        "start_s": round(float(start), 3),
        "r2": round(float(1 - (off**2).sum() / spread), 6) if spread else 1.0,
        "largest_residual_s": round(float(np.abs(off).max()), 3),
    }


def growth(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Memory of the largest scene over that of the first with blocks to spare."""
    good = [r for r in rows if "peak_mb" in r]
    large = [r for r in good if r["mpx"] >= FLAT_FROM_MPX] or good[-2:]
    if len(large) < 2:
        return {}
    first, last = large[0], large[-1]
    grown = last["peak_mb"] - first["peak_mb"]
    return {
        "from_mpx": first["mpx"],
        "to_mpx": last["mpx"],
        "ratio": round(last["peak_mb"] / first["peak_mb"], 4),
        "mb_per_mpx": round(grown / (last["mpx"] - first["mpx"]), 4),
    }

"""Peers: the same scene, weights, cores and precision, in turn, each in a process."""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Options,
    context,
    in_subprocess,
    median,
    rounded,
    say,
    scratch,
)
from benchmarks.contender import OURS
from benchmarks.peer_recipes import PEERS
from benchmarks.quality import judge
from benchmarks.workloads import get_peer_workload

SIZES = {"ukis": 4096, "landcover": 2048, "unet": 2048}
"""Workloads, and edges of their scenes in px: some seconds for the fastest, not for
its imports, and minutes for the slowest."""
MEMORY_SIZES = (5_000, 10_000)
TARGETS = {"geoscale": 1.2, "geoscale auto": 1.8, "geoscale auto precision": 3.0}
KEPT = ("load_s", "plan_s", "cpu_s", "peak_mb")


def run(options: Options) -> dict[str, Any]:
    """Speed and quality of every workload, then memory on large scenes."""
    before = context()
    repeat = options.pick_repeat(3)
    names = options.workloads or tuple(SIZES)
    folder = Path(tempfile.mkdtemp(prefix="peers-", dir=scratch()))
    try:
        found = [
            compare(name, options.pick_size(SIZES[name]), repeat, folder)
            for name in names
        ]
        seen = {"commit": before["commit"], "when": before["when"], "repeat": repeat}
        found = [one | seen for one in found]
        made = {"context": before, "repeat": repeat, "targets": TARGETS}
        if options.workloads and (old := load(options)):
            return made | keep(old, found)
        sizes = (1024, 2048) if options.quick else MEMORY_SIZES
        memory = measure_memory(sizes, before["memory_gb"] * 1e3, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return made | {"workloads": found, "memory": memory | seen}


def load(options: Options) -> dict[str, Any]:
    """What an earlier run found; empty where there was none."""
    path = options.results / "peers.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def keep(old: dict[str, Any], found: list[dict[str, Any]]) -> dict[str, Any]:
    """Put workloads of this run among those, and the memory, of an earlier one."""
    seen = {k: old["context"][k] for k in ("commit", "when")}
    seen["repeat"] = old["repeat"]
    names = [one["workload"] for one in found]
    others = [seen | one for one in old["workloads"] if one["workload"] not in names]
    order = list(SIZES)
    return {
        "workloads": sorted(
            [*others, *found], key=lambda one: order.index(one["workload"])
        ),
        "memory": seen | old["memory"],
    }


def contenders(workload: str) -> list[str]:
    """Ours between the peers, so that neither side has the quieter minutes."""
    peers = [p for p in PEERS if p != "ukis-csmask" or workload == "ukis"]
    return [*peers[:3], *OURS, *peers[3:]]


def compare(workload: str, size: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Run every contender in turn, `repeat` times."""
    get_peer_workload(workload).items(size)
    reference = in_subprocess("benchmarks.quality", workload, str(size))
    say(f"{workload}: reference {reference.get('error', reference.get('kind'))}")
    names = contenders(workload)
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for turn in range(repeat):
        for name in names:
            if any("wall_s" not in r for r in runs[name]):
                continue  # refused or failed once: it would again
            made = start(workload, name, size, folder)
            if turn == 0 and "map" in made and "path" in reference:
                made |= judge(
                    workload, made["map"], Path(reference["path"]), made["borders"]
                )
            drop(made)
            runs[name].append(made)
            say(f"{workload} {name}: {told(made)}")
    rows = [summarise(name, size, found) for name, found in runs.items()]
    return {
        "workload": workload,
        "size_px": size,
        "reference": reference.get("what", reference.get("error")),
        "rows": rows,
        "summary": compare_to_peers(rows),
    }


def start(workload: str, name: str, size: int, folder: Path) -> dict[str, Any]:
    """Run a contender once in a process of its own."""
    out = Path(tempfile.mkdtemp(dir=folder)) / "map"
    return in_subprocess("benchmarks.contender", workload, name, str(size), str(out))


def drop(made: dict[str, Any]) -> None:
    """Delete a map that has been looked at."""
    path = made.pop("map", None)
    if path is not None:
        shutil.rmtree(Path(path).parent, ignore_errors=True)


def told(made: dict[str, Any]) -> str:
    if "wall_s" not in made:
        return str(made.get("refused") or made.get("error"))[:160]
    return f"{made['wall_s']} s, {made['peak_mb']} MB, {made.get('agreement', '')}"


def summarise(name: str, size: int, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: medians, and what the first run's map is worth."""
    good = [r for r in runs if "wall_s" in r]
    row: dict[str, Any] = {"contender": name, "ours": name in OURS}
    if len(good) < len(runs) or not good:
        bad = next((r for r in runs if "wall_s" not in r), {})
        return row | {"why": bad.get("refused") or bad.get("error")}
    walls = [r["wall_s"] for r in good]
    row |= {k: v for k, v in good[0].items() if k not in {*KEPT, "wall_s", "borders"}}
    row |= {k: round(median([r[k] for r in good]), 3) for k in KEPT if k in good[0]}
    border_lines = row.pop("borders", None)
    return row | {
        "wall_s": rounded(walls),
        "mpx_s": round(size**2 / 1e6 / median(walls), 4),
        "border_lines": border_lines,
    }


def compare_to_peers(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Speed of ours over the fastest peer's; agreement beside the best peer's."""
    done = [r for r in rows if "mpx_s" in r]
    peers = [r for r in done if not r["ours"]]
    if not peers:
        return {}
    fastest = max(peers, key=lambda r: r["mpx_s"])
    known = [r["agreement"] for r in peers if "agreement" in r]
    return {
        "fastest_peer": fastest["contender"],
        "fastest_mpx_s": fastest["mpx_s"],
        "best_peer_agreement": max(known, default=None),
        "ratios": {
            r["contender"]: round(r["mpx_s"] / fastest["mpx_s"], 3)
            for r in done
            if r["ours"]
        },
        "targets": TARGETS,
    }


def measure_memory(
    sizes: tuple[int, ...], allowed_mb: float, folder: Path
) -> dict[str, Any]:
    """Peak memory with a network that needs none, as the scene grows."""
    names = [n for n in contenders("tiny") if n in PEERS or n == "geoscale"]
    rows: list[dict[str, Any]] = []
    last: dict[str, tuple[int, float]] = {}
    for size in sizes:
        get_peer_workload("tiny").items(size)
        for name in names:
            row: dict[str, Any] = {"contender": name, "ours": name in OURS}
            row |= {"size_px": size, "mpx": size**2 / 1e6}
            need = project(last.get(name), size)
            if need > 0.8 * allowed_mb:
                row["why"] = f"would need about {need:,.0f} of {allowed_mb:,.0f} MB"
            else:
                made = start("tiny", name, size, folder)
                drop(made)
                row |= {k: made[k] for k in ("wall_s", "peak_mb") if k in made}
                row |= {"why": told(made)} if "wall_s" not in made else {}
                last[name] = (size, made.get("peak_mb", 0.0))
            rows.append(row)
            say(f"memory {name} {size} px: {row.get('peak_mb', row.get('why'))}")
    return {"rows": rows, "network": "one 1 x 1 convolution, 6 bands to 5 classes"}


def project(last: tuple[int, float] | None, size: int) -> float:
    """Peak to be expected if all memory grew with the scene, in MB."""
    if last is None:
        return 0.0
    return last[1] * (size / last[0]) ** 2

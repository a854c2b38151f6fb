"""Sections of the page: one function for each benchmark's result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.tables import generic_tables, table

Result = dict[str, Any]
Section = Callable[[Result, Path], list[str]]
MEMORY = (
    "Read, infer, write; each in a process of its own. Peak of the whole process "
    "(VmHWM), imports included. ukis-csmask is left out: it runs its own network only."
)
UNKNOWN_INSIDE = (
    "For runtimes whose inside the benchmark does not know, the network alone includes "
    "checks and copies."
)


LOOKS = (
    "**These are single looks, taken while CUDA was tried for the first time, not a "
    "run of this benchmark**: there was no device any more for that. A row is one run "
    "or the mean of a few; commits lie close together, but are not one. The U-Net's "
    "weights are seeded."
)
LOOKED_AT = {
    "jobs": "whole jobs of 6144 x 6144 px, before and after what they led to",
    "network": "networks alone, batch on the device",
    "reading": "reading alone, 6144 x 6144 px, six bands",
    "small": "whole jobs of 2600 x 2600 px, one run after a warm-up",
}
"""Looks of a result that is no run of the benchmark → what they are of."""


def efficiency(result: Result, folder: Path) -> list[str]:
    head = ["workload", "px", "blocks", "runtime", "patch / stride", "recompute",
            "job Mpx/s", "network Mpx/s", "efficiency", "runs", "of CPU s",
            "commit"]  # fmt: skip
    rows, refused = [], []
    for r in result.get("rows", []):
        if "efficiency" not in r:
            refused.append(f"- {r['workload']} {r.get('asked')}: {r.get('why')}")
            continue
        told, chosen, runs = r["predictor"], r["inference"], r["efficiency_runs"]
        rows.append([
            r["workload"], r["size_px"], r.get("blocks", "?"),
            f"{told['runtime']} {told['precision']}",
            f"{chosen['patch']} / {chosen['stride']}", r["recompute"],
            r["end_to_end_mpx_s"], r["forward_mpx_s"], f"**{r['efficiency']}**",
            f"{min(runs)} to {max(runs)}", r["efficiency_cpu"],
            str(r.get("commit", result["context"]["commit"]))[:7],
        ])  # fmt: skip
    lines = [*figure(plots.draw_efficiency(folder, result)), *table(head, rows)]
    kinds = {r.get("forward_kind") for r in result.get("rows", [])}
    if "predict" in kinds:
        lines += ["", UNKNOWN_INSIDE]
    if refused:
        lines += ["", "Refused, in geoscale's words:", "", *refused]
    return lines


def peers(result: Result, folder: Path) -> list[str]:
    head = ["contender", "Mpx/s", "s (runs)", "peak MB", "recompute", "agreement",
            "seam worst / mean", "accuracy / kappa", "load + plan s"]  # fmt: skip
    lines: list[str] = []
    for found in result.get("workloads", []):
        lines += ["", f"### Peers: {found['workload']}", ""]
        lines.append(
            f"Scene of {found['size_px']} px, {found.get('repeat', result['repeat'])} "
            f"runs in turn. Reference of the agreement: {found['reference']}. Commit "
            f"`{str(found.get('commit', result['context']['commit']))[:7]}`."
        )
        rows, how = [], []
        order = sorted(found["rows"], key=lambda r: -r.get("mpx_s", 0))
        for r in order:
            name = f"**{r['contender']}**" if r["ours"] else r["contender"]
            if "mpx_s" not in r:
                how.append(f"- {r['contender']}: not run, {r.get('why')}")
                continue
            rows.append([
                name, r["mpx_s"], ", ".join(map(str, r["wall_s"])), r["peak_mb"],
                r["recompute"], r.get("agreement"),
                pair(r.get("seam_worst"), r.get("seam_mean")),
                pair(r.get("accuracy"), r.get("kappa")),
                pair(r.get("load_s"), r.get("plan_s")),
            ])  # fmt: skip
            how.append(f"- {r['contender']}: {r['how']}.")
        lines += ["", *figure(plots.draw_peers(folder, found)), *table(head, rows)]
        lines += ["", "How each was used:", "", *how]
    return lines + peers_memory(result.get("memory", {}), folder)


def peers_memory(memory: Result, folder: Path) -> list[str]:
    if not memory:
        return []
    sizes = sorted({r["mpx"] for r in memory["rows"]})
    names = dict.fromkeys(r["contender"] for r in memory["rows"])
    cells = {(r["contender"], r["mpx"]): r for r in memory["rows"]}
    rows = []
    for name in names:
        found = [cells.get((name, s), {}) for s in sizes]
        peaks = [r.get("peak_mb") for r in found]
        grown = round(peaks[-1] / peaks[0], 3) if None not in peaks else None
        told = [r.get("peak_mb", r.get("why")) for r in found]
        rows.append([name, *told, grown])
    head = ["contender", *(f"peak MB at {s:.0f} Mpx" for s in sizes), "last / first"]
    return [
        "", "### Peers: memory", "",
        f"Network: {memory['network']}. {MEMORY}", "",
        *figure(plots.draw_memory(folder, memory)), *table(head, rows),
    ]  # fmt: skip


def dataplane(result: Result, folder: Path) -> list[str]:
    lines = [*figure(plots.draw_dataplane(folder, result))]
    for key in ("local", "http"):
        part = result.get(key, {})
        if "mpx_s" not in part:
            lines += ["", f"{key}: {part.get('error', 'missing')}"]
            continue
        lines += ["", f"### Data plane: {key}, {part['size_px']} px", ""]
        head = ["what", "Mpx/s", "s (runs)", "CPU s", "share of base speed"]
        head += ["requests", "MB sent"] if "requests" in part else []
        rows = []
        for name, speed in part["mpx_s"].items():
            row = [name, speed, ", ".join(map(str, part["wall_s"][name])),
                   part["cpu_s"][name], part.get("ratios", {}).get(name)]  # fmt: skip
            if "requests" in part:
                row += [part["requests"][name], round(part["bytes"][name] / 1e6, 1)]
            rows.append(row)
        lines += table(head, rows)
        counts = {
            k: part[k]
            for k in ("source_tiles", "stored_bytes", "written_over_stored",
                      "source_bytes", "read_over_source", "delay_ms")
            if k in part
        }  # fmt: skip
        counts |= part.get("totals", {})
        lines += ["", *(f"- {k}: {v:,}" for k, v in counts.items())]
    return lines


def curve(result: Result, folder: Path) -> list[str]:
    keys = ("size_px", "mpx", "blocks", "wall_s", "cpu_s", "peak_mb", "idle_mb")
    rows = [[r.get(k, r.get("error")) for k in keys] for r in result.get("rows", [])]
    found = {**result.get("fit", {}), **result.get("memory", {})}
    told = {
        "s_per_mpx": "slope, s per Mpx", "start_s": "intercept, s",
        "r2": "r² of the line", "largest_residual_s": "largest residual, s",
        "ratio": "peak memory, last over first", "mb_per_mpx": "memory, MB per Mpx",
        "from_mpx": "memory from, Mpx", "to_mpx": "memory to, Mpx",
    }  # fmt: skip
    lines = [*figure(plots.draw_curve(folder, result)), *table(keys, rows), ""]
    return lines + [f"- {told.get(k, k)}: {v}" for k, v in found.items()]


def scaling(result: Result, folder: Path) -> list[str]:
    rows = result.get("rows", [])
    parts = {str(r.get("part", "rows")): [] for r in rows}
    for r in rows:
        parts[str(r.get("part", "rows"))].append(r)
    made = plots.draw_scaling(folder, parts.get("simulated", []))
    rest = {k: v for k, v in result.items() if k != "rows"}
    return [*figure(made), *generic_tables(rest | parts)]


def readers(result: Result, folder: Path) -> list[str]:
    return generic_tables(result)


def profile(result: Result, folder: Path) -> list[str]:
    if result.get("error"):
        return [str(result["error"])]
    lines: list[str] = []
    for r in result.get("rows", []):
        title = f"### Profile: {r['workload']}, {r['size_px']} px"
        lines += ["", title, ""]
        shares = [[k, f"{v:.1%}"] for k, v in r["shares"].items()]
        largest = r.get("largest", [])
        lines += [
            f"{i}. **{c['cost']}**: {c['share']:.1%} of samples, most in `{c['line']}`"
            for i, c in enumerate(largest, 1)
        ]
        lines += ["", *table(["cost", "share of samples"], shares), ""]
        lines += figure(r["figure"])
    return lines


def gpu(result: Result, folder: Path) -> list[str]:
    """One device; of a result that is only looks, their tables."""
    told = ", ".join(f"{k} {v}" for k, v in result["device"].items())
    lines = [f"Device: {told}.", ""]
    if "looks" in result:
        lines.append(LOOKS)
        for name, rows in result["looks"].items():
            head = list(rows[0])
            body = [[row.get(k) for k in head] for row in rows]
            lines += ["", f"### GPU: {LOOKED_AT[name]}", "", *table(head, body)]
        return lines
    head = ["workload", "runtime", "batch", "patch / stride / block", "recompute",
            "job Mpx/s", "network from host", "network on device", "job / on device",
            "agreement", "GPU busy %"]  # fmt: skip
    rows = []
    for r in result["rows"]:
        alone, busy = r.get("on_device_mpx_s"), list(r["gpus"].values())
        rows.append([
            r["workload"], f"{r['runtime']} {r['precision']}", r["batch"],
            f"{r['patch']} / {r['stride']} / {r['block']}", r["recompute"],
            f"**{r['job_mpx_s']}**", r.get("from_host_mpx_s"), alone,
            round(r["job_mpx_s"] / alone, 3) if alone else None, r["agreement"],
            busy[0]["mean_busy"] if busy else None,
        ])  # fmt: skip
    lines += table(head, rows)
    head = ["peer", "precision", "Mpx/s", "s (runs)", "agreement"]
    rows = [
        [r["peer"], r["precision"], r["mpx_s"], ", ".join(map(str, r["wall_s"])),
         r["agreement"]]
        for r in result["peers"]
    ]  # fmt: skip
    lines += ["", "### GPU: the peer", "", *table(head, rows)]
    lines += ["", *(f"- {r['peer']} {r['precision']}: {r['how']}." for r in
                    result["peers"])]  # fmt: skip
    head = ["precision", "order", "batch", "mpx_s"]
    rows = [[r[k] for k in head] for r in result["batches"]]
    lines += ["", "### GPU: the U-Net alone", ""]
    return lines + table(["precision", "in memory", "batch", "network Mpx/s"], rows)


def figure(name: str | None) -> list[str]:
    return [f"![{name}](results/{name})", ""] if name else []


def pair(a: Any, b: Any) -> str:
    if a is None and b is None:
        return ""
    return " / ".join("-" if v is None else str(v) for v in (a, b))


SECTIONS: dict[str, tuple[str, Section]] = {
    "efficiency": ("Efficiency", efficiency),
    "peers": ("Peers", peers),
    "dataplane": ("Data plane", dataplane),
    "readers": ("Readers", readers),
    "scaling": ("Scaling", scaling),
    "curve": ("Cost curve", curve),
    "gpu": ("GPU", gpu),
    "strides": ("Strides", readers),
    "heap": ("Heap", readers),
    "shards": ("Shards", readers),
    "profile": ("Profile", profile),
}

"""The page: benchmarks/README.md, made of the results and nothing else.

No figure is written here. A benchmark without a result is said to be missing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.common import RESULTS, ROOT
from benchmarks.sections import SECTIONS
from benchmarks.tables import TEXTS, table

Result = dict[str, Any]
HEAD = """\
# Benchmarks

Made by `python -m benchmarks page` from `results/*.json`; no figure is typed by hand.
`make bench` installs what the peers need and runs everything;
`python -m benchmarks NAME` runs one and makes this page anew. Useful pixels are pixels
of the finished map: what overlap computes twice counts once. Targets were set before
these runs.
"""


CUDA = """
No whole run of `python -m benchmarks gpu` is on this page. On a machine with a CUDA
device:

- `python -m benchmarks gpu`: a whole job against the network alone, and against MONAI;
- `python -m benchmarks efficiency --device cuda`: as above, for that device;
- `python -m benchmarks profile`: what the host does while the device computes.

Several GPUs, MIG, ROCm and MPS were not tried. All peers but MONAI are compared on CPU
cores only: their recipes name no device.
"""


def write_page(results: Path = RESULTS) -> Path:
    """Make the page and its figures.

    Results of another folder (``--quick``) get their page there.
    """
    found = load(results)
    lines = [HEAD, *describe_machine(found), *overview(found)]
    for name, (title, section) in SECTIONS.items():
        lines += ["", f"## {title}", "", TEXTS[name].strip(), ""]
        result = found.get(name)
        if result is None:
            lines.append(f"**Missing**: run `python -m benchmarks {name}`.")
            continue
        lines += [*one_line(name, result), "", *section(result, results)]
        lines += read_note(name)
    lines += ["", "## Not run here", "", *not_run(found)]
    path = (ROOT if results == RESULTS else results) / "README.md"
    text = "\n".join(lines)
    if results != RESULTS:
        text = text.replace("](results/", "](")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text.rstrip() + "\n", encoding="utf-8")
    return path


def load(results: Path) -> dict[str, Result]:
    """Every result by its name."""
    return {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("*.json"))
    }


def describe_machine(found: dict[str, Result]) -> list[str]:
    """Where results were made; more than one machine is said."""
    # the device's machine is another one, and told where its figures are
    contexts = [
        r["context"] for name, r in found.items() if r.get("context") and name != "gpu"
    ]
    if not contexts:
        return ["There are no results yet."]
    newest = max(contexts, key=lambda c: str(c.get("when")))
    keys = ("cpu", "cpus", "memory_gb", "python")
    places = {tuple(str(c.get(k)) for k in keys) for c in contexts}
    rows = [
        f"{cpu}, {cpus} cores, {memory} GB, Python {python}"
        for cpu, cpus, memory, python in sorted(places)
    ]
    versions = newest.get("versions", {})
    told = ", ".join(f"{k} {v}" for k, v in versions.items() if k != "python")
    return [f"Machine: {'; '.join(rows)}.", "", f"Versions: {told}."]


def one_line(name: str, result: Result) -> list[str]:
    """When, of which commit, how long, how busy the machine was, how to repeat it."""
    context, minutes = result.get("context", {}), result.get("took_s", 0) / 60
    if "looks" in result:
        said = f"{context['cpu']}, {context['cpus']} cores"
        of = f"commit `{context['commit']}` · {said}"
        packages = ", ".join(f"{k} {v}" for k, v in context["versions"].items())
        return [f"{context['when']} · {of} · Python {context['python']}, {packages}"]
    threads = context.get("threads", {}).get("torch")
    load_1 = f"{context.get('load_1min')} before, {result.get('load_after')} after"
    parts = [
        f"`python -m benchmarks {name}`",
        str(context.get("when")),
        f"commit `{context.get('commit')}`",
        f"{threads} threads",
        f"load {load_1}",
        f"took {minutes:.1f} min",
    ]
    quick = ["", "**A quick run on small scenes: does it run, not how fast.**"]
    return [" · ".join(parts), *(quick if result.get("quick") else [])]


def read_note(name: str) -> list[str]:
    """What was read in a result, in words; notes hold no figures of their own."""
    path = ROOT / "notes" / f"{name}.md"
    return ["", path.read_text(encoding="utf-8").strip()] if path.is_file() else []


def overview(found: dict[str, Result]) -> list[str]:
    """Every target, what was measured, and whether it was met."""
    rows = [row for name in SECTIONS for row in verdicts(name, found.get(name))]
    if not rows:
        return []
    head = ["what", "target", "measured", ""]
    return ["", "## Targets", "", *table(head, rows)]


def verdicts(name: str, result: Result | None) -> list[list[str]]:
    """Rows of the overview for one benchmark."""
    if result is None:
        return []
    judge = {
        "efficiency": judge_efficiency,
        "peers": judge_peers,
        "dataplane": judge_dataplane,
        "scaling": judge_scaling,
    }.get(name)
    listed = judge(result) if judge else judge_listed(name, result)
    return [
        [
            what,
            f"≥ {goal:g}",
            told(what, value),
            "met" if value >= goal else "**not met**",
        ]
        for what, goal, value in listed
    ]


def told(what: str, value: float) -> str:
    """A measured value; labels that agree need their digits."""
    if "agreement" in what:
        return f"{value:.6f}"
    return f"{value:.3g}" if value < 100 else f"{value:,.0f}"


Judged = list[tuple[str, float, float]]


def judge_efficiency(result: Result) -> Judged:
    goal = result.get("target", 0.95)
    rows = [r for r in result.get("rows", []) if "efficiency" in r]
    return [(f"efficiency, {plots.case_name(r)}", goal, r["efficiency"]) for r in rows]


def judge_peers(result: Result) -> Judged:
    out: Judged = []
    for found in result.get("workloads", []):
        name, summary = found["workload"], found.get("summary", {})
        for ours, ratio in summary.get("ratios", {}).items():
            what = f"{name}: {ours} over the fastest peer"
            out.append((what, summary["targets"][ours], ratio))
        best = summary.get("best_peer_agreement")
        mine = [r for r in found["rows"] if r["contender"] == "geoscale"]
        if best is not None and mine and "agreement" in mine[0]:
            what = f"{name}: agreement, against the best peer's"
            out.append((what, best, mine[0]["agreement"]))
    rows = [r for r in result.get("memory", {}).get("rows", []) if "peak_mb" in r]
    large = [r for r in rows if r["mpx"] == max(x["mpx"] for x in rows)]
    ours = [r["peak_mb"] for r in large if r["ours"]]
    peers = [r["peak_mb"] for r in large if not r["ours"]]
    if ours and peers:
        what = f"memory at {large[0]['mpx']:.0f} Mpx: leanest peer over geoscale"
        out.append((what, 1.0, min(peers) / ours[0]))
    return out


def judge_dataplane(result: Result) -> Judged:
    out: Judged = []
    for key, goal in result.get("targets", {}).items():
        part = result.get(key, {})
        value = part.get("ratios", {}).get("geoscale")
        if value is not None:
            out.append((f"data plane, {key}: over {part['base']}", goal, value))
    return out


def judge_scaling(result: Result) -> Judged:
    """Two real workers over one, and blocks per second of one scheduler."""
    rows = result.get("rows", [])
    out: Judged = [
        (f"scaling: 2 workers over 1, {r.get('placing', '')}", 1.85, r["speedup"])
        for r in rows
        if "speedup" in r
    ]
    speeds = [r["blocks_s"] for r in rows if r.get("part") == "simulated"]
    if speeds:
        out.append(("scaling: most blocks/s of one scheduler", 1000.0, max(speeds)))
    return out


def judge_listed(name: str, result: Result) -> Judged:
    """``verdicts``: [{what, target, value}], as any other benchmark may give them."""
    rows = result.get("verdicts", [])
    return [(f"{name}: {r['what']}", r["target"], r["value"]) for r in rows]


def not_run(found: dict[str, Result]) -> Sequence[str]:
    """What no result covers, and the command for it."""
    lines = []
    if "rows" not in found.get("gpu", {}):
        lines += CUDA.strip().splitlines()
    missing = [name for name in SECTIONS if name not in found and name != "gpu"]
    lines += [""] if missing and lines else []
    lines += [f"- `python -m benchmarks {name}`: no result yet" for name in missing]
    return lines or ["Everything on this page was run."]

"""Profile: py-spy over an end-to-end run; who costs what beside the network."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, Options, context, say, scratch
from benchmarks.flame import draw_flame
from benchmarks.workloads import get_workload

RATE = 200
SIZES = {"landcover": 3072, "unet": 3072, "ukis": 2048}
# innermost frame that matches names the cost; file and function as py-spy prints them
COSTS = (
    ("check finite, softmax", r"^(check_\w+|_?activate|pad_to) \(geoscale/models/"),
    ("network", r"^\w+ \(geoscale/models/"),
    (
        "read: decode files",
        r"^(_read_\w+|open_raster|\w*decode\w*) \(",
    ),
    ("read: mosaic, units", r"^\w+ \(geoscale/sources/"),
    ("prepare: normalise", r"^\w+ \(geoscale/preprocess"),
    ("gather: fill batches", r"^take_patch \("),
    ("merge: blend or crop", r"^(_merge|add|finish) \(geoscale/(engine/block|blend)"),
    ("finish: argmax, confidence", r"^\w+ \(geoscale/tasks/"),
    ("lay out the store", r"^(lay_out|create) \(geoscale/sinks/"),
    ("write: encode shards", r"^\w+ \(geoscale/sinks/(zarr|layout)"),
    ("overviews", r"^\w+ \(geoscale/sinks/overviews"),
    ("digests, storage", r"^\w+ \(geoscale/storage"),
    ("verify", r"^\w+ \(geoscale/engine/verify"),
    ("journal, drive", r"^\w+ \(geoscale/(engine/|launch|api|plan)"),
)


def run(options: Options) -> dict[str, Any]:
    """Profile each workload once."""
    tool = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or (
        shutil.which("py-spy")
    )
    if tool is None:
        return {"context": context(), "rows": [], "error": "py-spy is not installed"}
    rows = [
        profile(tool, name, options.pick_size(size), options)
        for name, size in SIZES.items()
        if not options.workloads or name in options.workloads
    ]
    return {"context": context(), "rate_hz": RATE, "rows": rows}


def profile(tool: str, name: str, size: int, options: Options) -> dict[str, Any]:
    """Sample one run; keep the flame graph, and count samples by cost."""
    get_workload(name).items(size)
    raw, figure = scratch() / f"{name}.folded", options.results / f"profile-{name}.svg"
    options.results.mkdir(parents=True, exist_ok=True)
    _record(tool, raw, name, size)
    stacks = parse(raw.read_text(encoding="utf-8"))
    figure.write_text(draw_flame(stacks), encoding="utf-8")
    total = sum(stacks.values())
    found, lines = Counter[str](), Counter[str]()
    inside: dict[str, Counter[str]] = {}
    for stack, count in stacks.items():
        cost, frame = classify(stack)
        found[cost] += count
        inside.setdefault(cost, Counter())[frame] += count
        if cost != "network":
            lines[frame] += count
    beside = [(k, v) for k, v in found.most_common() if k not in ("network", "other")]
    row = {
        "workload": name,
        "size_px": size,
        "samples": total,
        "shares": {k: round(v / total, 4) for k, v in found.most_common()},
        "lines": {k: round(v / total, 4) for k, v in lines.most_common(12)},
        "largest": [
            {
                "cost": cost,
                "share": round(count / total, 4),
                "line": inside[cost].most_common(1)[0][0],
            }
            for cost, count in beside[:3]
        ],
        "figure": figure.name,
    }
    say(f"{name}: {list(row['shares'].items())[:4]}")
    return row


def _record(tool: str, path: Path, name: str, size: int) -> None:
    done = subprocess.run(
        [
            tool, "record", "--rate", str(RATE), "--format", "raw", "-o", str(path),
            "--", sys.executable, "-W", "ignore", "-m", "benchmarks.profile_target",
            name, str(size),
        ],
        cwd=ROOT.parent, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])


def parse(text: str) -> Counter[tuple[str, ...]]:
    """Stacks of the job: those below `profiled_job`, and its threads' own."""
    found = Counter[tuple[str, ...]]()
    for line in text.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = tuple(_short(f) for f in stack.split(";"))
        inside = any(
            f.startswith(("profiled_job", "run_block", "check (geosc")) for f in frames
        )
        if inside:
            found[frames] += int(count)
    return found


def classify(stack: tuple[str, ...]) -> tuple[str, str]:
    """Cost of a stack, and the innermost frame of geoscale in it."""
    ours = [f for f in stack if "(geoscale/" in f]
    frame = ours[-1] if ours else stack[-1]
    for f in reversed(ours):
        plain = re.sub(r":\d+\)$", ")", f)
        for cost, pattern in COSTS:
            if re.search(pattern, plain):
                return cost, frame
    return "other", frame


def _short(frame: str) -> str:
    """``name (…/geoscale/engine/block.py:12)`` without what lies before.

    Newer py-spy says ``Class.name``; the class is dropped.
    """
    frame = re.sub(r"\(\S*?((?:geoscale|benchmarks)/\S+|[^/\s()]+)\)$", r"(\1)", frame)
    return re.sub(r"^(?:[\w<>]+\.)+([\w<>]+ \()", r"\1", frame)

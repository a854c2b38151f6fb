"""Figures of the page: small SVG files, the same bytes for the same results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

OURS, PEER, TARGET = "#1b6e53", "#9aa5ae", "#b3261e"
SHADES = ("#1b6e53", "#3a8fb7", "#d18f00", "#8a5aa8", "#b3561e", "#5d6770", "#7a9a01")
Result = dict[str, Any]


def draw(folder: Path, name: str, paint: Callable[[Any], None], height: float) -> str:
    """Draw one figure; gives its file's name."""
    import matplotlib as mpl

    mpl.use("Agg")
    # text stays text, and ids do not change from run to run
    mpl.rcParams.update({"svg.hashsalt": "geoscale", "svg.fonttype": "none"})
    mpl.rcParams.update({"font.size": 9, "axes.spines.top": False})
    mpl.rcParams.update({"axes.spines.right": False, "font.family": "sans-serif"})
    import matplotlib.pyplot as plt

    figure = plt.figure(figsize=(7.2, height), layout="constrained")
    # white behind it: pages are read in the dark, too
    figure.patch.set_facecolor("white")
    paint(figure)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.svg"
    figure.savefig(path, metadata={"Date": None, "Creator": None})
    plt.close(figure)
    return path.name


def draw_efficiency(folder: Path, result: Result) -> str | None:
    """A bar for each case, its runs as dots, the target as a line."""
    rows = [r for r in result.get("rows", []) if "efficiency" in r]
    if not rows:
        return None

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        labels = [case_name(r) for r in rows]
        axes.barh(labels, [r["efficiency"] for r in rows], color=OURS, height=0.55)
        for i, row in enumerate(rows):
            runs = row.get("efficiency_runs", [])
            axes.plot(runs, [i] * len(runs), "o", color="black", ms=3, alpha=0.6)
        if "target" in result:
            axes.axvline(result["target"], color=TARGET, lw=1, ls="--")
        axes.set_xlabel("seconds of the network alone / seconds of the job")
        axes.set_xlim(0, None)
        axes.invert_yaxis()

    return draw(folder, "efficiency", paint, 0.8 + 0.42 * len(rows))


def case_name(row: Result) -> str:
    """``unet 3072, torch float32``: what an efficiency row ran."""
    told, size = row.get("predictor", {}), row.get("size_px", "")
    return f"{row['workload']} {size}, {told.get('runtime')} {told.get('precision')}"


def draw_peers(folder: Path, found: Result) -> str | None:
    """Speed and agreement of each contender of one workload."""
    rows = [r for r in found.get("rows", []) if "mpx_s" in r]
    if not rows:
        return None
    rows = sorted(rows, key=lambda r: r["mpx_s"])

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
        names = [r["contender"] for r in rows]
        colors = [OURS if r["ours"] else PEER for r in rows]
        bars = left.barh(names, [r["mpx_s"] for r in rows], color=colors, height=0.6)
        left.bar_label(bars, fmt="%.2f", padding=2, fontsize=8)
        left.set_xlabel("useful Mpx/s")
        left.margins(x=0.12)
        known = [(i, r["agreement"]) for i, r in enumerate(rows) if "agreement" in r]
        unlike = [100 * (1 - v) for _, v in known]
        places = [i for i, _ in known]
        right.scatter(unlike, places, color=[colors[i] for i in places], zorder=3)
        right.set_xlim(0, 1.1 * max(unlike, default=1.0) or 1.0)
        right.grid(axis="x", color="#dddddd", lw=0.6)
        right.set_xlabel("labels unlike the reference, %")

    name = f"peers-{found['workload']}"
    return draw(folder, name, paint, 0.9 + 0.34 * len(rows))


def draw_memory(folder: Path, memory: Result) -> str | None:
    """Peak memory of each contender as the scene grows."""
    rows = [r for r in memory.get("rows", []) if "peak_mb" in r]
    if not rows:
        return None

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        names = list(dict.fromkeys(r["contender"] for r in rows))
        for i, name in enumerate(sorted(names, key=lambda n: n != "geoscale")):
            mine = [r for r in rows if r["contender"] == name]
            axes.plot(
                [r["mpx"] for r in mine], [r["peak_mb"] / 1e3 for r in mine],
                "o-", color=SHADES[i % len(SHADES)], label=name,
                lw=2.4 if name == "geoscale" else 1.2, ms=4,
            )  # fmt: skip
        axes.set_xlabel("scene, Mpx")
        axes.set_ylabel("peak memory, GB")
        axes.set_xlim(0, 1.04 * axes.dataLim.x1)
        axes.set_ylim(0, 1.08 * axes.dataLim.y1)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(folder, "peers-memory", paint, 3.0)


def draw_dataplane(folder: Path, result: Result) -> str | None:
    """Speed of ours and of what it is held to, on files and over HTTP."""
    parts = [(k, result.get(k, {}).get("mpx_s", {})) for k in ("local", "http")]
    parts = [(k, v) for k, v in parts if v]
    if not parts:
        return None
    titles = {"local": "local files", "http": "HTTP, waiting on every request"}

    def paint(figure: Any) -> None:
        many = figure.subplots(1, len(parts), squeeze=False)[0]
        for axes, (key, speeds) in zip(many, parts, strict=True):
            colors = [OURS if k.startswith("geoscale") else PEER for k in speeds]
            bars = axes.barh(
                list(speeds), list(speeds.values()), color=colors, height=0.6
            )
            axes.bar_label(bars, fmt="%.1f", padding=2, fontsize=8)
            axes.set_title(titles[key], fontsize=9, loc="left")
            axes.set_xlabel("Mpx/s, six bands")
            axes.margins(x=0.15)
            axes.invert_yaxis()

    return draw(folder, "dataplane", paint, 2.2)


def draw_curve(folder: Path, result: Result) -> str | None:
    """Seconds and memory against pixels, and the line that was fitted."""
    rows = [r for r in result.get("rows", []) if "wall_s" in r]
    if len(rows) < 2:
        return None

    def paint(figure: Any) -> None:
        left, right = figure.subplots(1, 2)
        x = [r["mpx"] for r in rows]
        left.plot(x, [r["wall_s"] for r in rows], "o", color=OURS)
        line = result.get("fit")
        if line:
            ends = [0, max(x)]
            left.plot(
                ends, [line["start_s"] + line["s_per_mpx"] * v for v in ends],
                color=TARGET, lw=1, ls="--",
            )  # fmt: skip
        left.set_ylabel("s")
        right.plot(x, [r["peak_mb"] / 1e3 for r in rows], "o-", color=OURS)
        right.set_ylabel("peak memory, GB")
        for axes in (left, right):
            axes.set_xlabel("Mpx")
            axes.set_xlim(0, 1.04 * max(x))
            axes.set_ylim(0, 1.08 * axes.dataLim.y1)

    return draw(folder, "curve", paint, 2.6)


def draw_scaling(folder: Path, rows: list[Result]) -> str | None:
    """Blocks per second against simulated workers, a line for each way."""
    lines: dict[str, list[tuple[float, float]]] = {}
    for r in rows:
        if "workers" in r and "blocks_s" in r:
            longest = r.get("longest_run")
            ways = {None: "", 1: ", one block a task"}.get(
                longest, f", runs ≤ {longest}"
            )
            name = f"{r.get('delay_s', 0):g} s a block{ways}"
            lines.setdefault(name, []).append((r["workers"], r["blocks_s"]))
    if not lines:
        return None

    def paint(figure: Any) -> None:
        axes = figure.subplots()
        for (name, points), color in zip(lines.items(), SHADES * 3, strict=False):
            axes.plot(*zip(*sorted(points), strict=True), "o-", color=color, label=name)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_xlabel("simulated workers")
        axes.set_ylabel("blocks/s")
        axes.grid(axis="y", color="#dddddd", lw=0.6)
        axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))

    return draw(folder, "scaling", paint, 2.8)

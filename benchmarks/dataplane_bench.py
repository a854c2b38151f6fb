"""Data plane: a job whose network costs nothing, against raw reading and writing."""

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
from benchmarks.latency import serve, take_stats
from benchmarks.workloads import BANDS, six_band_items

TARGET = "benchmarks.dataplane_target"
SIZE, HTTP_SIZE, TILE = 6144, 4096, 512
DELAY_MS = 20.0
READERS = ("stackstac", "odc", "native")


def run(options: Options) -> dict[str, Any]:
    """Local files first, then the same over loopback HTTP with latency."""
    before, repeat = context(), options.pick_repeat(5)
    folder = Path(tempfile.mkdtemp(prefix="dataplane-", dir=scratch()))
    try:
        local = measure_local(options.pick_size(SIZE, 2048), repeat, folder)
        http = measure_http(options.pick_size(HTTP_SIZE, 2048), repeat, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return {
        "context": before,
        "repeat": repeat,
        "targets": {"local": 0.7, "http": 0.8},
        "local": local,
        "http": http,
    }


def measure_local(size: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Raw and ours in turn, each run in a process of its own; page cache warm."""
    items, like = six_band_items(size), folder / "like.zarr"
    first = in_subprocess(TARGET, "geoscale", str(items), "--keep", str(like))
    if "error" in first:
        return {"size_px": size, "error": first["error"]}
    modes = {
        "raw": ("raw", str(items), "--like", str(like)),
        "geoscale": ("geoscale", str(items)),
        "geoscale, no overviews": ("plain", str(items)),
    }
    found = {name: [] for name in modes}
    for _ in range(repeat):
        for name, args in modes.items():
            found[name].append(in_subprocess(TARGET, *args))
            say(f"local {name}: {told(found[name][-1])}")
    ours = found["geoscale"][0]
    files = sum((items.parent / f"{b}.tif").stat().st_size for b in BANDS)
    row = summarise(found, size, "raw")
    if "error" not in ours:
        row |= {
            "stored_bytes": ours["stored_bytes"],
            "written_over_stored": ratio(
                ours["written_calls_bytes"], ours["stored_bytes"]
            ),
            "source_bytes": files,
            "read_over_source": ratio(
                ours["read_calls_bytes"] - ours["stored_bytes"], files
            ),
            "totals": ours["totals"],
            "source_tiles": len(BANDS) * (-(-size // TILE)) ** 2,
        }
    return row


def measure_http(size: int, repeat: int, folder: Path) -> dict[str, Any]:
    """Every byte costs a wait: ours against each reader alone."""
    items = six_band_items(size)
    found: dict[str, list[dict[str, Any]]] = {}
    modes = {"geoscale": "geoscale"} | {r: f"read-{r}" for r in READERS}
    with serve(items.parent, DELAY_MS) as url:
        remote = folder / "items.json"
        remote.write_text(with_hrefs(items, url), encoding="utf-8")
        for _ in range(repeat):
            for name, mode in modes.items():
                take_stats(url)
                made = in_subprocess(
                    TARGET, mode, str(remote), env={"GEOSCALE_ALLOW_PRIVATE": "1"}
                )
                made["server"] = take_stats(url)
                found.setdefault(name, []).append(made)
                say(f"http {name}: {told(made)}, {made['server']}")
    done = {k: wall for k, v in found.items() if (wall := typical(v)) is not None}
    best = min((r for r in READERS if r in done), key=lambda r: done[r], default=None)
    row = summarise(found, size, best)
    row |= {"delay_ms": DELAY_MS, "best_reader": best}
    row["requests"] = {k: v[0]["server"]["requests"] for k, v in found.items()}
    row["bytes"] = {k: v[0]["server"]["bytes"] for k, v in found.items()}
    row["source_tiles"] = len(BANDS) * (-(-size // TILE)) ** 2
    return row


def with_hrefs(items: Path, url: str) -> str:
    """The items with their assets on the server."""
    found = json.loads(items.read_text(encoding="utf-8"))
    for feature in found["features"]:
        for asset in feature["assets"].values():
            asset["href"] = f"{url}/{Path(asset['href']).name}"
    return json.dumps(found)


def summarise(
    found: dict[str, list[dict[str, Any]]], size: int, base: str | None
) -> dict[str, Any]:
    """Seconds of each, and each one's speed as a share of the base's."""
    done = {k: wall for k, v in found.items() if (wall := typical(v)) is not None}
    row: dict[str, Any] = {"size_px": size, "mpx": round(size**2 / 1e6, 3)}
    row["wall_s"] = {
        k: rounded([r["wall_s"] for r in v if "wall_s" in r]) for k, v in found.items()
    }
    row["mpx_s"] = {k: round(size**2 / 1e6 / wall, 2) for k, wall in done.items()}
    row["cpu_s"] = {
        k: round(median([r["cpu_s"] for r in found[k] if "cpu_s" in r]), 3)
        for k in done
    }
    row["errors"] = {k: r["error"] for k, v in found.items() for r in v if "error" in r}
    if base in done:
        row["base"] = base
        row["ratios"] = {k: ratio(done[base], wall) for k, wall in done.items()}
    return row


def typical(runs: list[dict[str, Any]]) -> float | None:
    """Median seconds of the runs that ended well."""
    walls = [r["wall_s"] for r in runs if "wall_s" in r]
    return median(walls) if walls else None


def ratio(a: float, b: float) -> float:
    return round(a / b, 4) if b else 0.0


def told(made: dict[str, Any]) -> str:
    return str(made.get("error") or f"{made['wall_s']} s")

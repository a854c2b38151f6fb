"""A real job for batch systems, and what its output must hold."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from tests.support.cards import SUPPORT, simplecnn_dict

ROOT = SUPPORT.parents[1]
BLOCKS = 16


def write_job(folder: Path, data: Path, name: str = "map") -> Path:
    """sen1floods11's Spain by SimpleCNN, in 16 blocks."""
    card = simplecnn_dict(data)
    card["architecture"] = f"{SUPPORT / 'slow_simplecnn.py'}:SlowSimpleCNN"
    job = {
        "imagery": {
            "files": str(data / "sen1floods11" / "Spain_7370579_S2Hand.tif"),
            "sensor": "sentinel-2",
            "scale": 1e-4,
            "source_nodata": "none",
        },
        "model": json.loads(json.dumps(card)),
        "inference": {"block": 128},
        "output": {"to": f"{name}.zarr"},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(job, sort_keys=False))
    return path


def put_profile(folder: Path, fields: dict[str, Any]) -> Path:
    """Write the profile of a cluster."""
    path = folder / f"{fields['type']}.yaml"
    path.write_text(yaml.safe_dump(fields, sort_keys=False))
    return path


def submit(job: Path, profile: Path) -> Path:
    """Hand a job in as a user does; give its output."""
    done = geoscale("submit", job, "--cluster", profile, "--trust-code")
    assert done.returncode == 0, done.stderr
    return job.with_suffix(".zarr")


def geoscale(*words: object, **more: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does."""
    return subprocess.run(
        [sys.executable, "-m", "geoscale.cli", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **more,
    )


def status(output: Path) -> dict[str, Any]:
    """What `geoscale status` says to a program."""
    return dict(json.loads(geoscale("status", output, "--json").stdout))


def wait(output: Path, until: Callable[[dict[str, Any]], bool], most_s: float) -> Any:
    """Ask for the status until it is as it should be."""
    end = time.monotonic() + most_s
    while not until(found := status(output)):
        assert time.monotonic() < end, f"{json.dumps(found, indent=1)}\n{logs(output)}"
        time.sleep(1)
    return found


def is_over(found: dict[str, Any]) -> bool:
    return all(job["over"] for job in found["jobs"])


def logs(output: Path) -> str:
    """All logs of an output's jobs."""
    found = sorted((output / ".geoscale" / "jobs").glob("*"))
    texts = [f"== {p.name}\n{p.read_text()}" for p in found if p.suffix != ".sh"]
    return "\n".join(texts)


def pixels(output: Path) -> dict[str, bytes]:
    """Stored bytes of the map's layers."""
    found = (p for p in output.rglob("c/**/*") if p.is_file())
    return {str(p.relative_to(output)): p.read_bytes() for p in found}


def count_records(output: Path) -> dict[int, int]:
    """How often each block was recorded as made."""
    found: dict[int, int] = {}
    for path in sorted((output / ".geoscale" / "ledger").glob("*.jsonl")):
        for line in path.read_text().splitlines():
            record = json.loads(line)
            if "d" in record:
                found[record["b"]] = found.get(record["b"], 0) + 1
    return found

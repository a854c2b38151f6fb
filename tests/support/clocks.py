"""Environments of processes whose wall clock is wrong."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def skewed(hours: float) -> dict[str, str]:
    """Variables that shift the wall clock of a Python process and its children."""
    paths = f"{ROOT / 'tests' / 'support' / 'skewed_clock'}:{ROOT}"
    return {"PYTHONPATH": paths, "GEOSCALE_SKEW_S": str(hours * 3600)}

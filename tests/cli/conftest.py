from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_made: dict[str, Any] = {}


def geoscale(*args: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run a command as a user does: in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "geoscale.cli", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=120,
        env=environment(),
        **options,
    )


def environment() -> dict[str, str]:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in paths if p)}


def make_demo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Run the small demo once per session, whatever folder the tests are in."""
    pytest.importorskip("spyndex")
    if not _made:
        folder = tmp_path_factory.mktemp("demo") / "made"
        args = ("demo", "--to", folder, "--size", 600, "--workers", 2, "--json")
        ended = geoscale(*args)
        assert ended.returncode == 0, ended.stderr
        _made.update(json.loads(ended.stdout), folder=folder, said=ended.stderr)
    return _made


@pytest.fixture(scope="session")
def demo(tmp_path_factory):
    return make_demo(tmp_path_factory)

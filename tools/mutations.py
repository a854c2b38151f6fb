"""Take the safeguards out, one at a time, and see the tests turn red.

``python tools/mutations.py [NAME ...]`` works on copies of the tree and prints a table;
it fails if any safeguard can be taken out unseen.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LONGEST_S = 240
DATA = {"GEOSCALE_TEST_DATA": str(ROOT.parent / "shared" / "data")}
"""Where tests look for their data by default; a copy of the tree lies elsewhere."""


@dataclass(frozen=True)
class Mutation:
    """One safeguard, how it is taken out, and who must notice."""

    name: str
    file: str
    old: str
    new: str
    tests: str


LIST = Path(__file__).with_name("safeguards.toml")
MUTATIONS = tuple(
    Mutation(**found)
    for found in tomllib.loads(LIST.read_text(encoding="utf-8"))["safeguard"]
)


def try_one(mutation: Mutation, folder: Path) -> str:
    """Take one safeguard out of a copy of the tree; say what the tests made of it."""
    tree = folder / "tree"
    shutil.rmtree(tree, ignore_errors=True)
    names = ("geoscale", "tests", "tools", "docs", "clusters", "benchmarks")
    for name in names:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, tree / name)
    for path in (*ROOT.glob("*.toml"), *ROOT.glob("*.md")):
        shutil.copy(path, tree)
    path = tree / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        return f"stale: {text.count(mutation.old)} places match in {mutation.file}"
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    command = f"{sys.executable} -m pytest -q -x -p no:cacheprovider {mutation.tests}"
    # a run that hangs without its safeguard has noticed too
    try:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=tree,
            env=DATA | os.environ | {"PYTHONPATH": str(tree)},
            capture_output=True,
            text=True,
            timeout=LONGEST_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "seen (no end)"
    if done.returncode == 1:
        return "seen"
    last = (done.stdout.strip().splitlines() or ["no output"])[-1]
    if "skipped" in last and "passed" not in last:
        return f"skipped: {last}"
    return f"NOT SEEN: exit {done.returncode}, {last}"


def main() -> None:
    """Try those that are named, all by default."""
    wanted = sys.argv[1:]
    left = []
    with tempfile.TemporaryDirectory() as folder:
        for mutation in MUTATIONS:
            if wanted and mutation.name not in wanted:
                continue
            found = try_one(mutation, Path(folder))
            print(f"{mutation.name:<40} {found}", flush=True)
            if not found.startswith("seen"):
                left.append(mutation.name)
    if left:
        sys.exit(f"{len(left)} safeguards can be taken out unseen: {', '.join(left)}")


if __name__ == "__main__":
    main()

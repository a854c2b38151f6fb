"""Small rooms: no module of the package over 400 lines."""

from __future__ import annotations

import sys
from pathlib import Path

LIMIT = 400


def main() -> int:
    """Name the files that are too long; return how many there are."""
    root = Path(__file__).resolve().parents[1] / "geoscale"
    long = {
        path: n
        for path in sorted(root.rglob("*.py"))
        if (n := len(path.read_text(encoding="utf-8").splitlines())) > LIMIT
    }
    for path, n in long.items():
        print(f"{path.relative_to(root.parent)}: {n} lines, {LIMIT} are allowed")
    return len(long)


if __name__ == "__main__":
    sys.exit(main())

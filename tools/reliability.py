"""Run the proofs by breaking things, and write what came out of them.

``python tools/reliability.py`` runs the tests of `PROOFS`, slow ones included, and
makes `docs/reliability-results.md` of what they recorded. No figure is typed by hand.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability-results.md"
PROOFS = {
    "Kills at random": "tests/test_kills.py tests/test_cluster_kills.py",
    "Death at named points": "tests/test_crash_points.py",
    "Any history of an output": "tests/test_state_machine.py",
    "A server that fails": "tests/sources/test_faults.py",
    "Full disks, suspended drivers, long runs": "tests/test_hostile.py",
    "Stopping, hanging, two drivers": "tests/test_stopping.py tests/test_lease.py",
    "Stores that fail": "tests/test_storage.py tests/test_faulty_store.py",
    "Icechunk repositories": "tests/test_icechunk.py",
    "Signatures that end": "tests/test_signing.py",
    "S3, and a proxy that loses answers": "tests/infra/test_s3.py "
    "tests/infra/test_s3_jobs.py",
    "Files that are not there": "tests/sources/test_missing.py",
    "Damaged files, codec by codec": "tests/sources/test_damaged_files.py",
    "Items, jobs, cards and plans of strangers": "tests/test_fuzz.py",
    "Clocks that are wrong": "tests/test_clocks.py",
    "A link that is cut": "tests/infra/test_links.py",
    "The antimeridian, the poles, UTM zones": "tests/sources/test_antimeridian.py "
    "tests/sources/test_utm.py tests/test_zones.py",
    "A million blocks, 450,000 items": "tests/test_million.py",
    "Workers that cannot load, hang or crash": "tests/test_workers.py",
    "Secrets put in and looked for": "tests/cli/test_secrets.py",
    "Safeguards taken out": "tests/test_mutations.py",
}
HEAD = """\
# Reliability: what was tried

Made by `python tools/reliability.py` from what the tests recorded; seeds are printed by
them. *Faults* are kills, damages, wrong answers and the like that were brought about;
*compared* is bytes of decoded arrays or pixels of windows that were held against those
of an undisturbed run; *wrong* has to be 0.
"""


@dataclass
class Row:
    """What the tests of one proof recorded."""

    tests: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    sums: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Run every proof, write the page, fail if any test did."""
    rows = {name: run(paths) for name, paths in PROOFS.items()}
    PAGE.write_text(make_page(rows), encoding="utf-8")
    print(f"page: {PAGE.relative_to(ROOT)}")
    if any(row.failed for row in rows.values()):
        sys.exit("some proofs failed")


def run(paths: str) -> Row:
    """Run some test files, slow tests included."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "not gpu and not infra"]
        if "tests/infra" in paths:
            command[-1] = "not gpu"
        command += ["-p", "no:cacheprovider", f"--junitxml={report}", *paths.split()]
        print(" ".join(command[3:]), flush=True)
        env = {"GEOSCALE_PROOF_SHARE": "1"} | os.environ
        subprocess.run(command, cwd=ROOT, check=False, env=env)
        return read(report)


def read(report: Path) -> Row:
    """Add up what a JUnit report says."""
    row = Row()
    for case in ET.parse(report).getroot().iter("testcase"):
        row.tests += 1
        row.seconds += float(case.get("time", 0))
        row.failed += case.find("failure") is not None or case.find("error") is not None
        row.skipped += case.find("skipped") is not None
        for entry in case.iter("property"):
            name, value = entry.get("name", ""), entry.get("value", "0")
            row.sums[name] = row.sums.get(name, 0) + int(float(value))
    return row


def make_page(rows: dict[str, Row]) -> str:
    """Render the page."""
    head = ["proof", "tests", "failed", "skipped", "faults", "compared", "wrong", "s"]
    lines = [HEAD, "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        told = [row.sums.get(k) for k in ("faults", "compared", "wrong")]
        cells = [name, row.tests, row.failed, row.skipped, *told, f"{row.seconds:.0f}"]
        shown = (
            "" if c is None else f"{c:,}" if isinstance(c, int) else c for c in cells
        )
        lines.append("| " + " | ".join(shown) + " |")
    day = datetime.now(UTC).date().isoformat()
    where = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    lines += [
        "",
        f"{day}, {where}, {platform.system()}.",
        "",
        "Which tests these are:",
        "",
    ]
    lines += [f"- {name}: `{paths}`" for name, paths in PROOFS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Run the proofs by breaking things, and write what came out of them.

``python tools/reliability.py`` runs the tests of `PROOFS`, slow ones included, and
makes `docs/reliability-results.md` of what they recorded. No figure is typed by hand.
Names of proofs, or parts of them, run only those: the others keep what they recorded.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reliability-results.md"
KEPT = PAGE.with_suffix(".json")
"""What each proof recorded when it last ran."""
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
of an undisturbed run; *wrong* has to be 0. *share* is how much was run of the kills,
windows, files and blocks that the proof stands for: 1 is all, CI runs a tenth.
"""


@dataclass
class Row:
    """What the tests of one proof recorded."""

    tests: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    share: str = "1"
    """Of the kills, windows, files and blocks that were asked for."""
    commit: str = ""
    when: str = ""
    sums: dict[str, int] = field(default_factory=dict)


def main() -> None:
    """Run the proofs that are asked for, write the page, fail if any test did."""
    asked = [word.lower() for word in sys.argv[1:]]
    rows = {}
    if KEPT.exists():
        kept = json.loads(KEPT.read_text(encoding="utf-8"))
        rows = {name: Row(**kept[name]) for name in PROOFS if name in kept}
    for name, paths in PROOFS.items():
        if asked and not any(word in name.lower() for word in asked):
            continue
        rows[name] = run(paths)
        # written after each: an interruption loses one proof
        found = {name: asdict(row) for name, row in rows.items()}
        KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
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
        command += ["-p", "no:cacheprovider", "-o", "junit_family=xunit1"]
        command += [f"--junitxml={report}", *paths.split()]
        print(" ".join(command[3:]), flush=True)
        env = {"GEOSCALE_PROOF_SHARE": "1"} | os.environ
        subprocess.run(command, cwd=ROOT, check=False, env=env)
        row = read(report)
    git = ["git", "rev-parse", "--short=12", "HEAD"]
    row.commit = subprocess.run(
        git, cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()
    row.share = env["GEOSCALE_PROOF_SHARE"]
    row.when = datetime.now(UTC).date().isoformat()
    return row


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
    head += ["share", "commit", "day"]
    lines = [HEAD, "| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for name, row in rows.items():
        told = [row.sums.get(k) for k in ("faults", "compared", "wrong")]
        cells = [name, row.tests, row.failed, row.skipped, *told, f"{row.seconds:.0f}"]
        cells += [row.share, f"`{row.commit}`", row.when]
        shown = (
            "" if c is None else f"{c:,}" if isinstance(c, int) else c for c in cells
        )
        lines.append("| " + " | ".join(shown) + " |")
    where = f"Python {platform.python_version()}, {os.cpu_count()} cores"
    lines += [
        "",
        f"{where}, {platform.system()}.",
        "",
        "Which tests these are:",
        "",
    ]
    lines += [f"- {name}: `{paths}`" for name, paths in PROOFS.items()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

"""Running the demo: the same job path that every user's job takes."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from geoscale.demo.scenes import (
    CUT_NOTE,
    LATER_ITEMS,
    NOTE,
    later_bounds,
    write_scenes,
)
from geoscale.errors import OutputError

if TYPE_CHECKING:
    from geoscale.ending import RunReport
    from geoscale.engine.drive import Progress

LAYOUT = 2
"""Raised whenever the demo would write other scenes than before."""

JOB = """\
# The demo's job. Edit it, then run it again:  geoscale run {name}
# (a change that alters the result needs another output)
imagery:
  items: items.json            # six overlapping scenes, one COG per band
model: s2-landcover-unet       # geoscale models show s2-landcover-unet
inference:
  patch: 568                   # px that the network sees at once
  stride: 512                  # px between patches: 28 px of context on each side
  block: 512                   # px of one task: what a worker reads, runs and writes
output:
  to: landcover.zarr
  layers: [classes, confidence]
"""

CHANGE_JOB = """\
# The demo's second job: what changed between two dates? The later date is SIMULATED:
# the same scene, in which a forest stand was given the pixels of bare ground.
imagery:
  items: {items}
grid:
  bounds: {bounds}             # what the later date covers
task: change                   # each date is classified, then both are compared
model: s2-landcover-unet
inference:
  patch: 568
  stride: 512
  block: 512
output:
  to: change-simulated.zarr
  layers: [change, probability, from_class, to_class]
"""
CHANGE_NAME = "change-simulated"
"""Begins the names of all that shows the simulated change."""
SIMULATED = "After (simulated)"
"""What the later date is called on pages."""


@dataclass(slots=True, kw_only=True)
class DemoResult:
    """What the demo made."""

    job: Path
    """The job file."""
    output: Path
    """The map, Zarr."""
    cogs: list[Path] = field(default_factory=list)
    """The map, GeoTIFF."""
    catalogue: Path | None = None
    """STAC of the map."""
    page: Path | None = None
    """The page to look at."""
    change: Path | None = None
    """The change map of the simulated clear-cut, Zarr."""
    change_page: Path | None = None
    """The page that shows it."""
    polygons: Path | None = None
    """Outlines of what changed, GeoJSON."""
    report: RunReport | None = None
    """Of the land-cover run."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Time of every stage, in s."""

    def paths(self) -> dict[str, Path]:
        """List what there is to look at."""
        found = {"page": self.page, "map": self.cogs[0] if self.cogs else None}
        found |= {"STAC": self.catalogue, "Zarr": self.output, "job file": self.job}
        found |= {"change": self.change_page, "outlines": self.polygons}
        return {word: path for word, path in found.items() if path is not None}


def run_demo(
    folder: str | Path,
    *,
    size: int = 2000,
    workers: int = 2,
    say: Callable[[str], None] | None = None,
    progress: Progress | None = None,
) -> DemoResult:
    """Lay out imagery, run the job over it on a local cluster, export and report.

    Parameters
    ----------
    folder : str or Path
        Where everything goes; running it again goes on or finds all done.
    size : int
        Height and width of the imagery, in px.
    workers : int
        Processes of the local cluster.
    say : callable, optional
        Called with a line for every stage.
    progress : callable, optional
        As for `geoscale.run`.

    Returns
    -------
    DemoResult
        Paths, and seconds of every stage.

    Raises
    ------
    OutputError
        If the folder holds something else.
    MissingDependencyError
        If spyndex, which carries the imagery, is not installed.
    """
    from geoscale import api, outputs
    from geoscale.clusters import connect
    from geoscale.report import write_report

    say = say or (lambda _line: None)
    root = Path(folder).expanduser().resolve()
    made = DemoResult(job=root / "job.yaml", output=root / "landcover.zarr")
    with _timed(made, "imagery"):
        say(prepare(root, size))
    with _timed(made, "plan"):
        job = api.load_job(made.job)
        plan = api.plan_job(job)
    say(f"job file: {made.job}\n\n{plan}\n")
    change = root / f"{CHANGE_NAME}.zarr"
    with _timed(made, "cluster"):
        cluster = connect(workers, threads=plan.in_flight)
        client = cluster.__enter__()
    try:
        with _timed(made, "run"):
            made.report = api.run(plan, job.output.to, client=client, progress=progress)
        if not made.report.complete:
            return made
        with _timed(made, "change"):
            say(f"a second date, and what changed since: {CUT_NOTE}")
            second = api.load_job(root / f"{CHANGE_NAME}.yaml")
            ended = api.run_job(second, client=client)
    finally:
        cluster.__exit__(None, None, None)
    with _timed(made, "export"):
        *made.cogs, made.catalogue = outputs.export(made.output, root / "export")
    with _timed(made, "report"):
        notes = [f"{NOTE}."]
        if ended.complete:
            _show_change(made, change, [*notes, f"{CUT_NOTE}."])
        made.page = write_report(
            made.output,
            root / "report.html",
            notes=notes,
            beside=made.change,
            beside_notes=[f"{CUT_NOTE}."],
            later=SIMULATED,
        )
    return made


def _show_change(made: DemoResult, change: Path, notes: list[str]) -> None:
    """Write the page and the outlines of the change map."""
    from geoscale.report import write_report
    from geoscale.results.polygons import polygons

    root = change.parent
    made.change = change
    page = root / f"{CHANGE_NAME}.html"
    made.change_page = write_report(change, page, notes=notes, later=SIMULATED)
    outlines = polygons(change, root / f"{CHANGE_NAME}.geojson", min_area="0.5ha")
    made.polygons = Path(outlines.path)


def prepare(root: Path, size: int) -> str:
    """Write the scenes and the job file, or find them there.

    Parameters
    ----------
    root : Path
        Folder of the demo.
    size : int
        Height and width of the imagery, in px.

    Returns
    -------
    str
        What was done, in words.

    Raises
    ------
    OutputError
        If the folder holds something else, or a demo of another size.
    """
    mark, wanted = root / "demo.json", {"layout": LAYOUT, "size": size}
    if mark.is_file():
        found = json.loads(mark.read_text(encoding="utf-8"))
        if found != wanted:
            raise OutputError(
                f"{root} holds a demo of {found.get('size')} px, not of {size} px; "
                "delete it, or choose another folder with --to"
            )
    elif root.exists() and (root.is_file() or any(root.iterdir())):
        raise OutputError(
            f"{root} is not empty and is no demo; choose another folder with --to"
        )
    job = root / "job.yaml"
    if job.is_file():
        return f"imagery: {root / 'scenes'} (made by an earlier run)"
    root.mkdir(parents=True, exist_ok=True)
    mark.write_text(json.dumps(wanted), encoding="utf-8")
    items = write_scenes(root, size)
    # Last: its presence says that the imagery is whole.
    text = CHANGE_JOB.format(items=LATER_ITEMS, bounds=list(later_bounds(size)))
    (root / f"{CHANGE_NAME}.yaml").write_text(text, encoding="utf-8")
    job.write_text(JOB.format(name=job.name), encoding="utf-8")
    return f"imagery: {items}, 6 overlapping scenes, {size} x {size} px\n  {NOTE}"


@contextmanager
def _timed(made: DemoResult, stage: str) -> Iterator[None]:
    start = time.monotonic()
    try:
        yield
    finally:
        made.seconds[stage] = round(time.monotonic() - start, 2)

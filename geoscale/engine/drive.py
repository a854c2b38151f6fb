"""Drive: rounds of blocks until all are done, quarantined, or nothing can go on.

The driver is disposable. Everything it knows is in the journal, and running
the same command again goes on from there.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

from geoscale.engine.dates import list_unclear
from geoscale.engine.failures import AUTH, LOST, PROCESS, RUN
from geoscale.engine.journal import Journal, Ledger
from geoscale.engine.stopping import Stop
from geoscale.engine.strange import warn_if_strange
from geoscale.engine.verify import Verification, verify_blocks
from geoscale.errors import StoppedError
from geoscale.gauges import GpuUse, note_gpu
from geoscale.plans import InferencePlan
from geoscale.types import Executor, Json, Outcome, Sink

ATTEMPTS = 3
"""Own failures after which a block is quarantined."""
LOSSES = 8
"""Workers that may die under a block that each had for itself, before the block
is held to be the cause."""
REFUSED = 8
"""Refused credentials in a row after which a run stops."""
SHOWN = 100
"""Quarantined blocks that are named to those who look on."""
LOST_AT_START = 32
"""Attempts lost with their workers, with nothing done, after which a run stops."""

Progress = Callable[["Tally", Outcome | None], None]


@dataclass(slots=True)
class Tally:
    """Where a run stands."""

    total: int
    """Blocks of the plan that are to be run, or of this shard."""
    done_before: int = 0
    """Done by earlier runs."""
    computed: int = 0
    """Done by this run."""
    failures: int = 0
    """Failed attempts."""
    pixels: int = 0
    """Core pixels of the blocks computed."""
    patches: int = 0
    """Patches the network saw."""
    quarantined: dict[int, str] = field(default_factory=dict)
    """Block → its last error."""
    kinds: dict[int, str] = field(default_factory=dict)
    """Quarantined block → kind of its last failure."""
    stopped: str = ""
    """Why no more blocks were begun; empty if all were."""
    attempts: dict[int, int] = field(default_factory=dict)
    """Block → own failures in this run."""
    losses: dict[int, int] = field(default_factory=dict)
    """Block → retries lost with a worker that had nothing else."""
    shared: dict[int, int] = field(default_factory=dict)
    """Block → first attempts lost with a worker that had other blocks too."""
    refused: int = 0
    """Attempts in a row that ended because credentials were refused."""
    missing: set[tuple[str, ...]] = field(default_factory=set)
    """Item and bands of assets that could not be had, by any run."""
    strange: int = 0
    """Blocks of this run that are far from what the network was trained on."""
    gpus: dict[str, GpuUse] = field(default_factory=dict)
    """UUID → what this run has seen of the device; empty where NVML is not."""
    started: float = field(default_factory=time.monotonic)
    """When, in seconds of a monotonic clock."""

    @property
    def done(self) -> int:
        """Blocks done by any run."""
        return self.done_before + self.computed

    @property
    def seconds(self) -> float:
        """Time since the start, in s."""
        return time.monotonic() - self.started

    def tries(self, number: int) -> int:
        """Count the attempts at a block that have failed in this run."""
        counts = (self.attempts, self.losses, self.shared)
        return sum(count.get(number, 0) for count in counts)

    def note_missing(self, stats: Mapping[str, Any]) -> None:
        """Count assets that a block lacks; those of several blocks once."""
        for item, bands, _ in stats.get("missing", ()):
            self.missing.add((item, *bands))

    def note(self, outcome: Outcome) -> None:
        """Count one outcome."""
        number = outcome.block
        if outcome.ok:
            self.computed += 1
            self.pixels += int(outcome.stats["core_px"])
            self.patches += int(outcome.stats["patches"])
            self.refused = 0
            self.note_missing(outcome.stats)
            note_gpu(self.gpus, outcome.stats)
            self.strange += int(outcome.stats.get("strange", 0))
            warn_if_strange(self.computed, self.strange, self.total)
            return
        self.failures += 1
        self.refused = self.refused + 1 if outcome.kind == AUTH else 0
        # A first attempt shares its worker: which block it died of is not known.
        first = outcome.kind == LOST and outcome.attempt == 1
        count = self.losses if outcome.kind == LOST else self.attempts
        count = self.shared if first else count
        count[number] = count.get(number, 0) + 1
        spent = self.attempts.get(number, 0) >= ATTEMPTS
        if spent or self.losses.get(number, 0) >= LOSSES:
            self.quarantined[number] = outcome.error
            self.kinds[number] = outcome.kind


def drive(
    plan: InferencePlan,
    journal: Journal,
    executor: Executor,
    *,
    blocks: Sequence[int] | None = None,
    progress: Progress | None = None,
    stop: Stop | None = None,
    ledger: Ledger | None = None,
) -> Tally:
    """Run every block that is not done yet; nothing is finalised.

    Parameters
    ----------
    plan : InferencePlan
        What to run.
    journal : Journal
        Of the output.
    executor : Executor
        Where to run.
    blocks : sequence of int, optional
        Only these; default all of the plan.
    progress : callable, optional
        Called with the tally after every outcome.
    stop : Stop, optional
        Asked before each block whether to begin it.
    ledger : Ledger, optional
        What `Journal.begin` has just read; default: it is read here.

    Returns
    -------
    Tally
        Counters; ``quarantined`` lists the blocks that failed for good.

    Raises
    ------
    StoppedError
        If a failure would meet every block alike.
    """
    ledger, stop = ledger or journal.begin(plan), stop or Stop()
    wanted = [int(n) for n in (plan.numbers() if blocks is None else blocks)]
    todo = [n for n in wanted if n not in ledger.done]
    tally = Tally(total=len(wanted), done_before=len(wanted) - len(todo))
    tally.missing.update(ledger.missing)
    if progress is not None:
        progress(tally, None)
    try:
        while todo and stop.go_on():
            failed = _round(plan, todo, journal, executor, tally, progress, stop)
            todo = [n for n in failed if n not in tally.quarantined]
    finally:
        journal.flush()
    tally.stopped = stop.reason
    return tally


def _round(
    plan: InferencePlan,
    todo: list[int],
    journal: Journal,
    executor: Executor,
    tally: Tally,
    progress: Progress | None,
    stop: Stop,
) -> list[int]:
    """Give each block one attempt; return those that failed."""
    failed = []
    tries = [tally.tries(n) + 1 for n in todo]
    stream = executor.execute(todo, tries, stop)
    # Closing the stream on any way out stops what has not begun.
    with closing(cast("Any", stream)):
        for outcome in stream:
            journal.add(outcome)
            if outcome.late:
                continue  # its digests are valid too; its block was counted
            tally.note(outcome)
            if outcome.ok:
                stop.note(_seconds(outcome))
            else:
                failed.append(outcome.block)
                _stop_if_hopeless(outcome, tally)
            _stop_if_holes(plan, tally)
            journal.tell(partial(_tell, plan, tally))
            if progress is not None:
                progress(tally, outcome)
    return failed


def _tell(plan: InferencePlan, tally: Tally) -> Json:
    """Where this driver stands, for those who look on."""
    shown = sorted(tally.quarantined)[:SHOWN]
    gpus = {name: use.to_dict() for name, use in tally.gpus.items()}
    return ({"gpus": gpus} if gpus else {}) | {
        "total": tally.total,
        "done": tally.done,
        "computed": tally.computed,
        "seconds": round(tally.seconds, 3),
        "pixels": tally.pixels,
        "failures": tally.failures,
        "quarantined": len(tally.quarantined),
        "failed": {
            plan.grid.name(n): {"error": tally.quarantined[n], "kind": tally.kinds[n]}
            for n in shown
        },
    }


def _stop_if_holes(plan: InferencePlan, tally: Tally) -> None:
    allowed = plan.source.get("reading", {}).get("max_missing")
    if allowed is not None and len(tally.missing) > allowed:
        named = ", ".join(" ".join(m) for m in sorted(tally.missing)[:3])
        raise StoppedError(
            f"{len(tally.missing)} assets are missing, imagery.max_missing allows "
            f"{allowed}: {named}…; look whether the archive has moved, or allow more "
            "and run the same command again"
        )


def _seconds(outcome: Outcome) -> float:
    """Time that a block took where it was made, in s."""
    return float(sum(v for k, v in outcome.stats.items() if k.endswith("_s")))


def _stop_if_hopeless(outcome: Outcome, tally: Tally) -> None:
    if outcome.kind == RUN:
        raise StoppedError(
            f"{outcome.error}\nevery block would fail alike, so the run stopped; mend "
            "it and run the same command again: finished blocks are kept"
        )
    if tally.refused >= REFUSED:
        raise StoppedError(
            f"credentials were refused {tally.refused} times in a row, fresh ones too; "
            f"the last: {outcome.error}\nmend the access and run the same command "
            "again: finished blocks are kept"
        )
    if tally.done:
        return
    lost = sum(tally.shared.values()) + sum(tally.losses.values())
    if lost >= LOST_AT_START:
        raise StoppedError(
            f"workers died under the first {lost} attempts and no block was done; look "
            "at the workers' logs: most often the memory limit is too low, or the "
            "model's library crashes there"
        )
    if tally.failures - lost >= max(8, 2 * ATTEMPTS) and outcome.kind != PROCESS:
        raise StoppedError(
            f"the first {tally.failures} attempts all failed, none worked; the last: "
            f"{outcome.error}"
        )


def finalize(
    plan: InferencePlan, journal: Journal, sink: Sink, summary: Json
) -> Verification:
    """Verify every stored bit, then mark the output complete.

    Parameters
    ----------
    plan : InferencePlan
        What there must be.
    journal : Journal
        Of the output.
    sink : Sink
        Where the blocks are.
    summary : dict
        Kept in ``final.json``.

    Returns
    -------
    Verification
        Sound only if the output was marked.
    """
    found = verify_blocks(plan, journal, sink)
    if found.is_sound:
        ledger = journal.read()
        journal.finish(
            summary
            | {
                "plan_hash": plan.hash,
                "blocks": len(ledger.done),
                "verified_objects": found.checked,
                "totals": {k: round(v, 3) for k, v in ledger.totals.items()},
                "no_clear_view": list_unclear(plan, ledger),
                "missing_assets": [row for _, row in sorted(ledger.missing.items())],
            }
        )
    return found

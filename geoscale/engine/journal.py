"""The journal: progress, resume and provenance in the output store.

Beside the arrays, in ``.geoscale/``:

- ``plan.json``, ``blocks.parquet``, ``items.parquet``: the plan, written once, first;
- ``ledger/<epoch>-<run>-<n>.jsonl``: append-only segments of block records,
  each put whole under a name of its own, so that there is nothing to lock;
- ``pulse/<part>.json``: where a driver stands, every few seconds, so that looking at
  a run of a million blocks need not read all of its records; nothing is decided by it;
- ``final.json``: written last; its presence means complete and verified.

Losing the newest segment costs recomputing its blocks, never a hole: a block
counts as done only by its record, never because a chunk exists.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from geoscale.errors import GeoscaleError, OutputError
from geoscale.faults import point
from geoscale.plan_store import (
    iter_tables,
    load_plan,
    name_differences,
    plan_json,
)
from geoscale.plans import BLOCKS, InferencePlan
from geoscale.storage import Folder
from geoscale.types import Json, Outcome
from geoscale.words import redact, shorten

FOLDER = ".geoscale"
Digests = dict[str, set[str | None]]
"""Stored key → digests that it may have; None: nothing is stored."""
SEGMENT_RECORDS = 32
"""Records that a kill may lose, beside the blocks in flight (guarantee G4)…"""
SEGMENT_LEAST_S = 0.25
"""…or those of this time, where blocks are so short that it is more."""
SEGMENT_SECONDS = 2.0
"""Age at which fewer records are stored too."""
PULSE = "pulse"
PULSE_S = 5.0
"""Time between two signs of where a driver stands, in s."""
SAMPLE = 5_000
"""Blocks whose counters and seconds are kept one by one, for plots."""


@dataclass(slots=True)
class Ledger:
    """What the records say, read at one moment; small for a million blocks."""

    done: set[int] = field(default_factory=set)
    """Blocks that are stored."""
    again: set[int] = field(default_factory=set)
    """Blocks with several records: of late duplicates, or made again by a repair."""
    failed: dict[int, Json] = field(default_factory=dict)
    """Block → last failure, for blocks that are not done."""
    failures: dict[int, int] = field(default_factory=dict)
    """Block → its own failures so far."""
    totals: dict[str, float] = field(default_factory=dict)
    """Counters and seconds, added up over the blocks."""
    missing: dict[tuple[str, ...], Json] = field(default_factory=dict)
    """Item and bands of assets that could not be had → ``item``, ``bands``, ``why``
    and how many ``blocks``."""
    clouds: dict[int, list[int]] = field(default_factory=dict)
    """Time step of the output → pixels with imagery but no clear view, and all pixels
    with imagery."""
    sample: list[Json] = field(default_factory=list)
    """Counters and seconds of some blocks, spread evenly over the run."""
    epoch: int = 0
    """Highest epoch seen; each driver takes the next."""
    torn: int = 0
    """Lines that could not be read; their blocks are run again."""
    _step: int = 1

    def add(self, record: Json) -> None:
        """Take one record into account."""
        number = record["b"]
        if record.get("undo"):
            self.done.discard(number)
            self.failures.pop(number, None)
            self.again.add(number)
        elif "d" in record:
            if number in self.done:
                self.again.add(number)
            else:
                self.done.add(number)
                self._count(record["s"])
            self.failed.pop(number, None)
        else:
            if record["k"] != "lost":
                self.failures[number] = self.failures.get(number, 0) + 1
            if number not in self.done:
                self.failed[number] = {
                    "error": record["e"],
                    "kind": record["k"],
                    "attempt": record["a"],
                }

    def _count(self, stats: Json) -> None:
        for name, value in stats.items():
            if isinstance(value, int | float):
                self.totals[name] = self.totals.get(name, 0) + value
        for item, bands, why in stats.get("missing", ()):
            empty = {"item": item, "bands": bands, "why": why, "blocks": 0}
            self.missing.setdefault((item, *bands), empty)["blocks"] += 1
        if told := stats.get("clouds"):
            sums = self.clouds.setdefault(told[0], [0, 0])
            sums[0], sums[1] = sums[0] + told[1], sums[1] + told[2]
        if len(self.done) % self._step:
            return
        self.sample.append(stats)
        if len(self.sample) > SAMPLE:
            del self.sample[::2]
            self._step *= 2


class Segment(NamedTuple):
    """Some records of one driver, stored under one name."""

    epoch: int
    """Of the driver."""
    run: str
    """The driver."""
    number: int
    """Its segments, counted from 0."""

    @property
    def name(self) -> str:
        """Where it is stored."""
        return f"{self.epoch:06d}-{self.run}-{self.number:06d}.jsonl"


class Journal:
    """Plan and ledger of one output.

    Parameters
    ----------
    url : str
        The output.
    clock : callable
        Seconds, for flushing only; nothing is decided by it.
    """

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self.url = url
        self._folder = Folder(url) / FOLDER
        self._ledger = self._folder / "ledger"
        self._clock = clock
        self._pending: list[Json] = []
        self._flushed = clock()
        self._segment = 0
        self._run = uuid.uuid4().hex[:12]
        self._epoch = 0
        self._told = clock()
        self.part = "driver"
        """Which of several drivers this is."""

    def load_plan(self) -> InferencePlan | None:
        """Plan of this output; None where nothing was begun."""
        data = self._folder.get("plan.json")
        table = self._folder.get(BLOCKS)
        if data is None or table is None:
            return None
        try:
            return load_plan(data, table, home=self._folder.url)
        except GeoscaleError:
            raise
        except Exception as err:  # changed or damaged, in whatever way
            why = shorten(f"{type(err).__name__}: {err}", 200)
            raise OutputError(
                f"the plan of {redact(self.url)} cannot be read ({why}); restore "
                "plan.json and blocks.parquet, or write to a new output"
            ) from err

    def load_mark(self) -> str | None:
        """Digest of the job that began this output; None where that is not known."""
        data = self._folder.get("plan.json")
        try:
            found = json.loads(data or b"{}")
        except (RecursionError, ValueError):
            return None
        return found.get("job") if isinstance(found, dict) else None

    def begin(self, plan: InferencePlan) -> Ledger:
        """Start or go on: store the plan or check it, take the next epoch.

        Parameters
        ----------
        plan : InferencePlan
            What is to be run.

        Returns
        -------
        Ledger
            What was done before.

        Raises
        ------
        OutputError
            If the output belongs to another plan; names the fields.
        """
        self.check(plan)
        if self._folder.get("plan.json") is None:
            # The tables first: plan.json is what says that an output was begun.
            for name, data in iter_tables(plan):
                self._folder.put(name, data)
            self._folder.put("plan.json", plan_json(plan))
        ledger = self.read()
        self._epoch = ledger.epoch + 1
        return ledger

    def check(self, plan: InferencePlan) -> None:
        """Refuse an output that another plan began.

        Raises
        ------
        OutputError
            Naming what differs.
        """
        stored = self.load_plan()
        if stored is not None and stored.hash != plan.hash:
            differences = name_differences(plan.identity(), stored.identity())
            raise OutputError(
                f"output {redact(self.url)} was begun by another plan "
                f"({stored.hash[:12]}, this one is {plan.hash[:12]}):\n  "
                + "\n  ".join(differences)
                + "\nchange it back, or choose another output"
            )

    def add(self, outcome: Outcome) -> None:
        """Note how a block ended; stored with the next flush."""
        record: Json = {"b": outcome.block, "a": outcome.attempt}
        if outcome.ok:
            record |= {"d": dict(outcome.digests), "s": dict(outcome.stats)}
        else:
            record |= {"e": redact(outcome.error), "k": outcome.kind}
        self._append(record)

    def undo(self, blocks: Iterable[int]) -> None:
        """Note that blocks are to be made again, and store it at once."""
        for number in blocks:
            self._append({"b": number, "undo": True})
        self.flush()
        self._folder.delete("final.json")

    def flush(self) -> None:
        """Store what is pending as one segment."""
        self._flushed = self._clock()
        if not self._pending:
            return
        name = Segment(self._epoch, self._run, self._segment).name
        text = "".join(
            json.dumps(r, separators=(",", ":")) + "\n" for r in self._pending
        )
        point("ledger.before")
        self._ledger.put(name, text.encode())
        point("ledger.after")
        self._segment += 1
        self._pending.clear()

    def tell(self, progress: Callable[[], Json]) -> None:
        """Store where this driver stands, unless that was just done.

        Parameters
        ----------
        progress : callable
            Gives it, with what is recorded by now as ``done``.
        """
        if self._clock() - self._told < PULSE_S:
            return
        self.flush()
        self._told = self._clock()
        told = {"epoch": self._epoch, "run": self._run, "segments": self._segment}
        data = json.dumps({"part": self.part, **told, **progress()}).encode()
        (self._folder / PULSE).put(f"{self.part}.json", data)

    def pulses(self) -> list[Json]:
        """Where each driver stood when it last told."""
        folder, found = self._folder / PULSE, []
        for name in folder.names():
            with suppress(ValueError):
                told = json.loads(folder.get(name) or b"")
                found += [told] if isinstance(told, dict) else []
        return found

    def segments(self) -> list[Segment]:
        """Names of all segments, oldest epoch first; nothing of them is read."""
        parts = [
            name.removesuffix(".jsonl").split("-")
            for name in self._ledger.names()
            if name.endswith(".jsonl")  # not what is just being stored
        ]
        return [Segment(int(p[0]), p[1], int(p[2])) for p in parts if len(p) == 3]

    def records(self, segments: Iterable[Segment]) -> Iterator[Json]:
        """Read the records of some segments."""
        for one in segments:
            for line in (self._ledger.get(one.name) or b"").splitlines():
                record = _parse(line)
                if record is not None:
                    yield record

    def read(self) -> Ledger:
        """Read every segment, oldest epoch first."""
        ledger = Ledger()
        for record in self._records(ledger):
            ledger.add(record)
        return ledger

    def written(self, ledger: Ledger) -> Iterator[tuple[int, Digests]]:
        """Yield every finished block with what may be stored for it.

        Parameters
        ----------
        ledger : Ledger
            Read just before.

        Yields
        ------
        int, dict
            Number, and stored key → digests of all its completed attempts: a late
            duplicate may have written other, equally valid bytes.
        """
        several: dict[int, Digests] = {}
        for record in self._records(Ledger()):
            number, given = record["b"], record.get("d")
            if number not in ledger.again:
                if given is not None and number in ledger.done:
                    yield number, {key: {digest} for key, digest in given.items()}
            elif record.get("undo"):
                several.pop(number, None)
            elif given is not None:
                keys = several.setdefault(number, {})
                for key, digest in given.items():
                    keys.setdefault(key, set()).add(digest)
        yield from several.items()

    def _records(self, ledger: Ledger) -> Iterator[Json]:
        """Yield the records of all segments; note the epoch and torn lines."""
        for name in self._ledger.names():
            if not name.endswith(".jsonl"):
                continue
            ledger.epoch = max(ledger.epoch, int(name[:6]))
            for line in (self._ledger.get(name) or b"").splitlines():
                record = _parse(line)
                if record is None:
                    ledger.torn += 1
                else:
                    yield record

    def finish(self, summary: Json) -> None:
        """Mark the output complete and verified; the last thing written."""
        self.flush()
        point("final.before")
        self._folder.put("final.json", json.dumps(summary, indent=1).encode())
        point("final.after")

    def final(self) -> Json | None:
        """Summary of a finished output; None where it is not finished."""
        data = self._folder.get("final.json")
        return None if data is None else dict(json.loads(data))

    def _append(self, record: Json) -> None:
        self._pending.append(record)
        if self._is_due(len(self._pending), self._clock() - self._flushed):
            self.flush()

    def _is_due(self, records: int, age: float) -> bool:
        full = records >= SEGMENT_RECORDS and age >= SEGMENT_LEAST_S
        return full or age > SEGMENT_SECONDS


def _parse(line: bytes) -> Json | None:
    """Read one line; None where it is no record, torn perhaps."""
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("b"), int):
        return None
    if record.get("undo"):
        return record
    if "d" in record:
        whole = isinstance(record["d"], dict) and isinstance(record.get("s"), dict)
    else:
        whole = {"e", "k", "a"} <= record.keys()
    return record if whole else None

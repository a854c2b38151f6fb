"""Where a run stands, for those who look on: without reading a million records.

Drivers tell every few seconds what they have recorded; what came after that is read
from the records themselves. So the answer is what the whole ledger says, at the price
of a few segments. Where drivers do not add up, the whole ledger is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from geoscale.engine.journal import Journal, Segment
from geoscale.plans import InferencePlan
from geoscale.types import Json

FEW = 300
"""Segments up to which all records are read."""


def find_progress(journal: Journal, plan: InferencePlan) -> Json:
    """Say how much of a plan is done, what failed, how fast it goes.

    Parameters
    ----------
    journal : Journal
        Of the output.
    plan : InferencePlan
        That it holds.

    Returns
    -------
    dict
        ``blocks``, ``done``, ``left``, ``failed`` (block → why), ``complete``,
        ``runs``; where a driver has told it, ``blocks_per_s`` and ``left_s``, the time
        that the rest takes at that rate, and ``gpus`` (UUID → `GpuUse.to_dict`).
    """
    total = len(plan.numbers())
    final = journal.final()
    segments, pulses = journal.segments(), journal.pulses()
    runs = max((one.epoch for one in segments), default=0)
    if final is not None and final.get("blocks") == total:
        found = _say(total, total, {}, runs)
        return {**found, "complete": True}
    quick = None if len(segments) <= FEW else _sum_up(journal, pulses, segments)
    if quick is None:
        ledger = journal.read()
        failed = {plan.grid.name(n): f for n, f in sorted(ledger.failed.items())}
        found = _say(total, len(ledger.done), failed, runs)
    else:
        found = _say(total, *quick, runs)
    return {**found, "complete": final is not None, **_rate(pulses, found["left"])}


def _say(total: int, done: int, failed: Json, runs: int) -> Json:
    left = total - done
    return {"blocks": total, "done": done, "left": left, "failed": failed, "runs": runs}


def choose(pulses: Sequence[Json]) -> list[Json]:
    """Choose the drivers whose counts add up: the last over all, or every part."""
    valid = [p for p in pulses if _is_whole(p)]
    newest = max(valid, key=lambda p: int(p["epoch"]), default=None)
    if newest is None or newest["part"] == "driver":
        return [] if newest is None else [newest]
    _, _, count = str(newest["part"]).rpartition("-of-")
    parts = {f"shard-{i}-of-{count}" for i in range(int(count))}
    found = [p for p in valid if p["part"] in parts]
    # a run over all after one of these has made blocks that it does not know of
    first = min(int(p["epoch"]) for p in found)
    others = any(p["part"] == "driver" and p["epoch"] >= first for p in valid)
    return found if len(found) == len(parts) and not others else []


def _sum_up(
    journal: Journal, pulses: Sequence[Json], segments: Sequence[Segment]
) -> tuple[int, Json] | None:
    """Blocks done and failed; None where what was told does not say all."""
    chosen = choose(pulses)
    if not chosen:
        return None
    told = {str(p["run"]): int(p["segments"]) for p in chosen}
    last = max(int(p["epoch"]) for p in chosen)
    # What others recorded before them, drivers have counted when they began.
    later = [
        one
        for one in segments
        if (one.number >= told[one.run] if one.run in told else one.epoch > last)
    ]
    if len(later) > FEW:
        return None
    records = list(journal.records(later))
    if any("undo" in r for r in records):
        return None
    # a block may be recorded twice
    done = sum(int(p["done"]) for p in chosen)
    done += len({r["b"] for r in records if "d" in r})
    return done, {name: why for p in chosen for name, why in p["failed"].items()}


def _rate(pulses: Sequence[Json], left: int) -> Json:
    """Rate of the drivers of the last run, or of all parts of it."""
    some = [p for p in choose(pulses) or pulses if _is_whole(p)]
    speed = sum(p["computed"] / p["seconds"] for p in some if p["seconds"])
    if not speed or not left:
        return {}
    seen = {k: v for p in some for k, v in dict(p.get("gpus") or {}).items()}
    gpus = {"gpus": seen} if seen else {}
    rate = {"blocks_per_s": round(speed, 4), "left_s": round(left / speed, 1)}
    return rate | gpus


def _is_whole(pulse: Any) -> bool:
    numbers = ("epoch", "segments", "done", "computed", "seconds")
    return (
        isinstance(pulse, dict)
        and all(isinstance(pulse.get(name), int | float) for name in numbers)
        and isinstance(pulse.get("failed"), dict)
        and {"part", "run"} <= pulse.keys()
    )

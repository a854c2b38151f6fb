"""Verify: does the store hold, bit for bit, what the ledger says was written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice

from geoscale.engine.journal import Journal
from geoscale.plans import InferencePlan
from geoscale.types import Sink


@dataclass(frozen=True, slots=True)
class Damage:
    """One stored object that is not what was written."""

    block: int | None
    """Number of the block; None for metadata and overviews."""
    key: str
    """Stored key."""
    reason: str
    """``changed``, ``missing`` or ``should not exist``."""


@dataclass(slots=True)
class Verification:
    """What was found."""

    checked: int = 0
    """Stored objects compared."""
    damaged: list[Damage] = field(default_factory=list)
    """Objects that differ."""
    missing: list[int] = field(default_factory=list)
    """Blocks without a record."""
    zones: dict[str, Verification] = field(default_factory=dict)
    """Zone → what was found there, where there are several; the rest is over all, its
    numbers of blocks count within their zones."""

    @property
    def is_sound(self) -> bool:
        """Whether every block is there and every bit is right."""
        return not self.damaged and not self.missing

    def blocks(self) -> list[int]:
        """Blocks that have to be made again, ascending."""
        damaged = {d.block for d in self.damaged if d.block is not None}
        return sorted(damaged | set(self.missing))

    def check(
        self, sink: Sink, digests: Mapping[str, str | None], block: int | None = None
    ) -> None:
        """Compare some stored objects with the digests they should have.

        Parameters
        ----------
        sink : Sink
            Where they are stored.
        digests : mapping
            Stored key → digest; None where nothing should be.
        block : int, optional
            Block that they belong to.
        """
        for key, digest in digests.items():
            self.checked += 1
            reason = _compare(sink.fetch_digest(key), {digest})
            if reason is not None:
                self.damaged.append(Damage(block, key, reason))


def verify_blocks(
    plan: InferencePlan, journal: Journal, sink: Sink, *, threads: int = 4
) -> Verification:
    """Compare every stored object with the digests recorded for it.

    Parameters
    ----------
    plan : InferencePlan
        Which blocks there must be.
    journal : Journal
        What was written.
    sink : Sink
        Where.
    threads : int
        Objects read at a time.

    Returns
    -------
    Verification
        What was found; nothing is changed.
    """
    found, ledger = Verification(), journal.read()
    found.missing = [int(n) for n in plan.numbers() if int(n) not in ledger.done]
    jobs = (
        (number, key, digests)
        for number, keys in journal.written(ledger)
        for key, digests in keys.items()
    )

    def _check(job: tuple[int, str, set[str | None]]) -> Damage | None:
        number, key, digests = job
        reason = _compare(sink.fetch_digest(key), digests)
        return None if reason is None else Damage(number, key, reason)

    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        for group in _groups(jobs, 64 * threads):
            for damage in pool.map(_check, group):
                found.checked += 1
                if damage is not None:
                    found.damaged.append(damage)
    return found


def _compare(now: str | None, digests: set[str | None]) -> str | None:
    """Name what is wrong with a stored object, if anything."""
    if now in digests:
        return None
    if now is None:
        return "missing"
    return "should not exist" if digests == {None} else "changed"


def _groups(
    jobs: Iterable[tuple[int, str, set[str | None]]], size: int
) -> Iterator[list[tuple[int, str, set[str | None]]]]:
    # pool.map takes its whole input at once; a million keys would be held.
    source = iter(jobs)
    while group := list(islice(source, size)):
        yield group

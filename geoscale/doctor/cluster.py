"""A cluster: every worker answers, has the same versions and sees the output."""

from __future__ import annotations

import os
import socket
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from geoscale.doctor.finding import Finding
from geoscale.doctor.store import find_place
from geoscale.words import redact

if TYPE_CHECKING:
    from geoscale.storage import Folder
    from geoscale.types import Json

_SETTINGS = {
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": False,
}
"""What a scheduler of somebody else's should have; ours are started with it."""


def check_cluster(
    profile: str | Mapping[str, Any], output: str | None = None
) -> Iterator[Finding]:
    """Connect, ask every worker what it has, and let it read and write the output.

    Parameters
    ----------
    profile : str or mapping
        Profile, address or number of workers.
    output : str, optional
        Where results are to go.

    Yields
    ------
    Finding
        One for the cluster, one for each difference.
    """
    from geoscale.clusters import ask_scheduler, ask_workers, connect, load_profile
    from geoscale.launch import wait_for_workers
    from geoscale.storage import Folder, digest_bytes

    found = load_profile(profile)
    with connect(found.model_dump()) as client:
        workers = wait_for_workers(client)
        name, data = f".geoscale-doctor-{uuid.uuid4().hex[:8]}", os.urandom(1000)
        folder = None if output is None else Folder(find_place(output))
        place = None if folder is None else folder.url
        try:
            if folder is not None:
                folder.put(name, data)
            began = time.time()
            answers = ask_workers(client, look_around, place, name, digest_bytes(data))
            ended = time.time()
            written = set() if folder is None else set(folder.names())
        finally:
            if folder is not None:
                _sweep(folder, name)
        settings = ask_scheduler(client, tuple(_SETTINGS))
    good = {w: a for w, a in answers.items() if isinstance(a, dict)}
    yield from _tell_answers(workers, answers)
    if getattr(found, "is_open", False):
        yield _tell_open(redact(str(getattr(found, "address", ""))))
    yield from compare_versions(
        _look_here(), {w: a["versions"] for w, a in good.items()}
    )
    yield from _tell_storage(place and redact(place), good, written)
    yield from _tell_memory(workers, good)
    yield from _tell_clocks(good, began, ended)
    yield from _tell_settings(settings)


def _sweep(folder: Folder, start: str) -> None:
    for name in folder.names():
        if name.startswith(start):
            folder.delete(name)


def look_around(place: str | None, name: str, digest: str) -> Json:
    """Say what a worker has and sees; runs there.

    Parameters
    ----------
    place : str or None
        Folder of the output.
    name, digest : str
        An object in it.

    Returns
    -------
    dict
        Small enough to send anywhere.
    """
    from geoscale.memory import allowed_cpus, allowed_memory_bytes
    from geoscale.storage import Folder

    found: Json = {
        "host": socket.gethostname(),
        "time": time.time(),
        "versions": _look_here(),
        "memory": allowed_memory_bytes(),
        "cpus": allowed_cpus(),
        "storage": "",
        "wrote": "",
    }
    if place is None:
        return found
    mine = f"{name}-{uuid.uuid4().hex[:8]}"
    try:
        folder = Folder(place)
        if folder.digest(name) != digest:
            found["storage"] = "does not see what the driver wrote"
        folder.put(mine, b"1")
        found["wrote"] = mine
    except Exception as err:  # every file system has errors of its own
        found["storage"] = redact(f"{type(err).__name__}: {err}")
    return found


def _look_here() -> Json:
    """Versions, with the libraries loaded that tell theirs only then."""
    from geoscale.models import handshake
    from geoscale.sources.gdal import gdal_env

    with suppress(ImportError), gdal_env():
        import pyproj  # noqa: F401

        return handshake()
    return handshake()


def _tell_answers(workers: Mapping[str, Any], answers: Json) -> Iterator[Finding]:
    good = [a for a in answers.values() if isinstance(a, dict)]
    hosts = {a["host"] for a in good}
    limits = [int(w.get("memory_limit") or 0) for w in workers.values()]
    text = f"{_count(len(good), 'worker')} of {len(answers)} answer"
    text += f", on {_count(len(hosts), 'host')}"
    if any(limits):
        text += f", {min(n for n in limits if n) / 1e9:.1f} GB or more each"
    yield Finding("ok" if good else "wrong", "cluster", text)
    bad: dict[str, list[str]] = {}
    for worker, answer in answers.items():
        if not isinstance(answer, dict):
            why = redact(" ".join(f"{type(answer).__name__}: {answer}".split()))
            bad.setdefault(why, []).append(worker)
    for why, some in bad.items():
        yield Finding(
            "wrong",
            "cluster",
            f"{_name(some)} cannot say what it has: {why}",
            "look whether it still runs, and install the same geoscale there",
        )


def _tell_open(address: str) -> Finding:
    return Finding(
        "note",
        "tls",
        f"{address} is not encrypted: whoever reaches it can run code as you",
        "use it in networks that you trust only, or give it TLS: docs/clusters.md",
    )


def compare_versions(ours: Json, theirs: Mapping[str, Any]) -> Iterator[Finding]:
    """Find versions that differ.

    Parameters
    ----------
    ours : dict
        Package → version, here.
    theirs : mapping
        Worker → the same, there.

    Yields
    ------
    Finding
        One for each package that differs, naming some workers; wrong where it may
        change a map, since no run would begin.
    """
    from geoscale.models import find_differences
    from geoscale.models.versions import DECISIVE, TALKING, Difference

    by_name: dict[str, list[tuple[str, Difference]]] = {}
    for worker, versions in theirs.items():
        for one in find_differences(ours, versions, (*DECISIVE, *TALKING)):
            by_name.setdefault(one.name, []).append((worker, one))
    for name, rows in by_name.items():
        worker, one = rows[0]
        more = f" and {len(rows) - 1} more" if len(rows) > 1 else ""
        yield Finding(
            "wrong" if name in DECISIVE else "note",
            "versions",
            f"{name} is {one.theirs} on {worker}{more}, {one.ours} here",
            "use one environment for the driver and all workers",
        )
    if theirs and not by_name:
        yield Finding("ok", "versions", "the same here and on every worker")


def _tell_storage(
    place: str | None, good: Mapping[str, Json], written: set[str]
) -> Iterator[Finding]:
    if place is None:
        yield Finding(
            "note",
            "storage",
            "not tried: no output was named",
            "give --output to see whether every worker reaches it",
        )
        return
    bad: dict[str, list[str]] = {}
    for worker, answer in good.items():
        why = answer["storage"]
        if not why and answer["wrote"] not in written:
            why = "what it writes is not seen here"
        if why:
            bad.setdefault(why, []).append(worker)
    for why, some in bad.items():
        yield Finding(
            "wrong",
            "storage",
            f"{_name(some)} at {place}: {why}",
            "put the output on storage that the driver and all workers share, under "
            "the same path",
        )
    if good and not bad:
        yield Finding("ok", "storage", f"every worker reads and writes {place}")


def _tell_memory(
    workers: Mapping[str, Any], good: Mapping[str, Json]
) -> Iterator[Finding]:
    by_host: dict[str, list[tuple[int, int]]] = {}
    for worker, answer in good.items():
        limit = int(workers.get(worker, {}).get("memory_limit") or 0)
        by_host.setdefault(answer["host"], []).append((limit, int(answer["memory"])))
    for host, rows in by_host.items():
        sum_of_limits, allowed = sum(a for a, _ in rows), min(b for _, b in rows)
        if sum_of_limits > 1.05 * allowed:
            yield Finding(
                "note",
                "memory",
                f"workers on {host} are allowed {sum_of_limits / 1e9:.1f} GB by Dask, "
                f"{allowed / 1e9:.1f} GB by their cgroup or batch job",
                "start them with --memory-limit, so that Dask restarts one before the "
                "system kills all",
            )


def _tell_clocks(
    good: Mapping[str, Json], began: float, ended: float
) -> Iterator[Finding]:
    """Say how far clocks are apart; nothing is decided by them."""
    apart = {
        answer["host"]: max(began - answer["time"], answer["time"] - ended, 0.0)
        for answer in good.values()
    }
    if not apart:
        return
    host, most = max(apart.items(), key=lambda pair: pair[1])
    text = "those of the workers agree with this one"
    if most >= 1:
        text = (
            f"that of {host} is {most:.0f} s off; times in logs differ, no result does"
        )
    yield Finding("ok", "clocks", text)


def _tell_settings(settings: Mapping[str, Any] | None) -> Iterator[Finding]:
    if settings is None:
        return
    other = {
        key: wanted
        for key, wanted in _SETTINGS.items()
        if key in settings and settings[key] != wanted
    }
    if other:
        names = {key: key.upper().replace(".", "__").replace("-", "_") for key in other}
        exports = "; ".join(f"export DASK_{names[k]}={v}" for k, v in other.items())
        yield Finding(
            "note",
            "scheduler",
            ", ".join(f"{key} is {settings[key]}" for key in other),
            f"start the scheduler with: {exports}; lost tasks are then told at once",
        )


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _name(workers: Iterable[str]) -> str:
    first, *others = workers
    return f"{first} and {len(others)} more" if others else first

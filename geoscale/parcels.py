"""Parcels: a model's files, for workers that do not see the driver's disk.

What is sent is named by its content: a worker keeps it in its cache, and uses it only
if its sha256 is the one that the plan recorded. Nothing here knows Dask.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from geoscale.errors import WeightsError

CHUNK = 2 << 20
"""Bytes of one message."""
PATIENCE_S = 90.0
"""How long a worker waits for a file of which nothing comes, in s."""
LOOK_S = 0.2
"""Pause between two looks for a file that is coming, in s."""
OLDEST_S = 86_400.0
"""Age at which a file that came only in part is swept away, in s."""


class Parcel(NamedTuple):
    """One file of a model."""

    field: str
    """Of the card that names it: ``weights.href``, ``architecture``, ``callable``."""
    source: str
    """Absolute path of the driver; a worker that sees it there needs nothing."""
    sha256: str
    """Of the content, 64 hex digits."""
    place: str
    """Where it is kept, relative to the cache."""
    size: int
    """In bytes; -1 where the driver does not have it, and so cannot send it."""


class Store(NamedTuple):
    """A cache, as far as one can be told from another."""

    host: str
    """Name of the machine."""
    folder: str
    """Its path there."""


def cache_dir() -> Path:
    """Folder for downloads: ``$GEOSCALE_CACHE`` or ``~/.cache/geoscale``."""
    set_by_user = os.environ.get("GEOSCALE_CACHE")
    return Path(set_by_user or Path.home() / ".cache" / "geoscale").expanduser()


def sha256_file(path: str | Path) -> str:
    """Hash a file without reading it into memory at once.

    Parameters
    ----------
    path : str or Path
        Local file.

    Returns
    -------
    str
        64 hex digits.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def find_path(parcel: Parcel) -> Path | None:
    """Find a file in this process: where the driver has it, or in the cache.

    Parameters
    ----------
    parcel : Parcel
        Which file.

    Returns
    -------
    Path or None
        None where it is in neither place, or another content lies in the cache.
    """
    if os.path.isfile(parcel.source):
        return Path(parcel.source)
    kept = cache_dir() / parcel.place
    if kept.is_file() and sha256_file(kept) == parcel.sha256:
        return kept
    return None


async def find_lacking(parcels: Sequence[Parcel]) -> tuple[Store, list[str]]:
    """Tell which files this worker lacks; runs there, beside its tasks.

    Parameters
    ----------
    parcels : sequence of Parcel
        Those that are needed.

    Returns
    -------
    Store, list of str
        This worker's cache, and the places in it that are empty.
    """
    found = await asyncio.to_thread(
        lambda: [one.place for one in parcels if find_path(one) is None]
    )
    return Store(socket.gethostname(), str(cache_dir())), found


async def receive(parcel: Parcel, sender: str, start: int, data: bytes) -> None:
    """Keep a piece of a file, and at the end the file; runs on workers.

    Parameters
    ----------
    parcel : Parcel
        Which file.
    sender : str
        Word that is the same for all pieces of one sending.
    start : int
        Where the piece begins, in bytes.
    data : bytes
        The piece.

    Raises
    ------
    WeightsError
        If pieces are missing, or the file has another sha256 in the end.
    OSError
        If the disk is full.
    """
    await asyncio.to_thread(_receive, parcel, sender, start, data)


def _receive(parcel: Parcel, sender: str, start: int, data: bytes) -> None:
    target = cache_dir() / parcel.place
    part = _name_part(target, f"{sender}-{os.getpid()}")
    if start == 0:
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target)
    try:
        with open(part, "wb" if start == 0 else "ab") as file:
            if file.tell() != start:
                raise WeightsError(
                    f"{target.name}: {file.tell()} of {start} bytes came so far; it "
                    "is sent anew with the next run"
                )
            file.write(data)
        if start + len(data) < parcel.size:
            return
        found = sha256_file(part)
        if found != parcel.sha256:
            raise WeightsError(
                f"{parcel.source} came with sha256 {found}, but the plan asks for "
                f"{parcel.sha256}: it changed since the job was planned"
            )
        os.replace(part, target)
    except (OSError, WeightsError):
        part.unlink(missing_ok=True)
        raise


def wait_for_files(parcels: Sequence[Parcel], patience_s: float = PATIENCE_S) -> None:
    """Wait in a worker until files are here that the driver is sending.

    Parameters
    ----------
    parcels : sequence of Parcel
        Those that are needed; what the driver cannot send is not waited for.
    patience_s : float
        Longest time in which nothing comes, in s.

    Raises
    ------
    WeightsError
        If nothing comes any more.
    """
    for one in parcels:
        if one.size < 0:
            continue
        size, moved = -1, time.monotonic()
        while find_path(one) is None:
            now = _count_received(one)
            if now != size:
                size, moved = now, time.monotonic()
            if time.monotonic() - moved > patience_s:
                raise WeightsError(
                    f"{one.source} is not seen by this worker, and nothing of it came "
                    f"within {patience_s:g} s; put it where workers see it, or name it "
                    "by its URL (`weights.href`)"
                )
            time.sleep(LOOK_S)


def _name_part(target: Path, word: str) -> Path:
    return target.with_name(f".{target.name}.{word}.part")


def _parts(target: Path) -> list[Path]:
    return list(target.parent.glob(f".{target.name}.*.part"))


def _count_received(parcel: Parcel) -> int:
    """Bytes of a file that have come, to whichever process of this cache."""
    total = 0
    for part in _parts(cache_dir() / parcel.place):
        with suppress(OSError):
            total += part.stat().st_size
    return total


def _sweep(target: Path) -> None:
    """Remove what a driver that died long ago has left."""
    for part in _parts(target):
        with suppress(OSError):
            if time.time() - part.stat().st_mtime > OLDEST_S:
                part.unlink()

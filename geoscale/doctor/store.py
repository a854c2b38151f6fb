"""The store: a small object goes there and back, as blocks and records do."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from geoscale.doctor.finding import Finding
from geoscale.errors import GeoscaleError, OutputError
from geoscale.words import redact

if TYPE_CHECKING:
    from geoscale.storage import Folder

SIZE = 100_000
"""Bytes of the object."""
SLOW_S = 5.0
"""Time of one round trip that a run would feel, in s."""
_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure",
           "abfs": "azure", "abfss": "azure", "adl": "azure"}  # fmt: skip


def check_store(output: str | None = None) -> Iterator[Finding]:
    """Put, get, list, create and delete a small object, and compare its digest.

    Parameters
    ----------
    output : str, optional
        Local path or any fsspec URL; tried there, or beside it on a disk. Default: a
        temporary folder.

    Yields
    ------
    Finding
        One.
    """
    if output is None:
        place = tempfile.mkdtemp(prefix="geoscale-doctor-")
        try:
            yield _try(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    yield _try(find_place(output))


def find_place(output: str) -> str:
    """Choose where to try: the URL itself, or what is there already of a path.

    Parameters
    ----------
    output : str
        Path or URL of an output.

    Returns
    -------
    str
        So that nothing is left behind.
    """
    from geoscale.api import as_url

    url = as_url(output)
    if "://" in url and not url.startswith("file://"):
        return url
    place = Path(url.removeprefix("file://")).parent
    while not place.exists():
        place = place.parent
    return str(place)


def _try(place: str) -> Finding:
    from geoscale.storage import Folder

    shown = redact(place)
    try:
        folder = Folder(place)
    except OutputError as err:
        extra = _EXTRAS.get(place.partition("://")[0].lower())
        fix = f"pip install 'geoscale[{extra}]'" if extra else "check the address"
        return Finding("wrong", "store", redact(str(err)), fix)
    name = f".geoscale-doctor-{uuid.uuid4().hex[:8]}"
    try:
        began = time.perf_counter()
        wrong, told = _go_round(folder, name)
        took = time.perf_counter() - began
    except GeoscaleError as err:
        return Finding("wrong", "store", redact(str(err)))
    except Exception as err:  # every file system has errors of its own
        why = redact(f"{type(err).__name__}: {err}")
        return Finding(
            "wrong",
            "store",
            f"{shown} refuses an object: {why}",
            "check the address, the network and the credentials: a run must put, get, "
            "list and delete objects there",
        )
    if wrong:
        fix = "use a store that is consistent at once: a run would not trust it"
        return Finding("wrong", "store", f"{shown}: {wrong}", fix)
    text = f"{shown} keeps what is written; {told}; {took:.2f} s there and back"
    if took > SLOW_S:
        return Finding(
            "note", "store", text, "each block waits for it: look for one nearer"
        )
    return Finding("ok", "store", text)


def _go_round(folder: Folder, name: str) -> tuple[str, str]:
    """Say what is wrong, else whether a name can be claimed by one of several."""
    from geoscale.storage import digest_bytes

    data, once = os.urandom(SIZE), f"{name}-once"
    try:
        folder.put(name, data)
        if folder.digest(name) != digest_bytes(data):
            return "what is read is not what was written", ""
        if name not in folder.names():
            return "what was written is not listed", ""
        first = folder.create(once, b"1")
        second = folder.create(once, b"2") if first else None
        if second or (first is not None and folder.get(once) != b"1"):
            return "an object that is there is created a second time", ""
    finally:
        for one in (name, once):
            folder.delete(one)
    if folder.exists(name):
        return "what was deleted is still there", ""
    told = "an object is created once" if first else "it cannot create an object once"
    return "", told

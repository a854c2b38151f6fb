"""Small named objects in any fsspec folder: atomic put, get, list, delete.

The journal and the sinks keep their state through this one class. There are
no locks; a put is whole or absent (rename on a local disk, one request on an
object store), and names are unique, so writers never meet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast
from urllib.parse import urlsplit

from geoscale.errors import OutputError
from geoscale.faults import point
from geoscale.patience import ask, free_bytes, miss_bucket
from geoscale.words import redact

T = TypeVar("T")

_NO_LINKS = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EMLINK, errno.ENOSYS}
_CONDITIONAL = {"s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "memory", "faulty"}
"""Schemes of stores that can put an object unless there is one; each is tried."""


class Traffic:
    """What this process has stored; for tests, benchmarks and reports."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.puts = 0
        self.bytes = 0

    def add(self, size: int) -> None:
        """Count one object."""
        with self._lock:
            self.puts += 1
            self.bytes += size


TRAFFIC = Traffic()


class Objects(Protocol):
    """Small named objects, wherever they lie: what a sink asks of a place."""

    url: str

    def put(self, name: str, data: bytes) -> None:
        """Store an object whole or not at all."""
        ...

    def get(self, name: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        ...

    def names(self) -> list[str]:
        """Names directly in this place, sorted."""
        ...

    def find(self, name: str = "") -> list[str]:
        """Names of all objects below a folder, relative to it, sorted."""
        ...

    def delete(self, name: str) -> None:
        """Delete an object; no error where there is none."""
        ...

    def digest(self, name: str) -> str | None:
        """Digest of an object's bytes; None where there is none."""
        ...


class Folder:
    """One folder of an fsspec file system.

    Parameters
    ----------
    url : str
        Local path or any fsspec URL (``s3://bucket/key``).

    Raises
    ------
    OutputError
        If no file system serves the URL's scheme, or the URL carries credentials.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = str(url).rstrip("/")
        if ":" in urlsplit(self.url).netloc.rpartition("@")[0]:
            raise OutputError(
                f"{redact(self.url)} carries credentials, which would be told to every "
                "worker and log; give them by the environment"
            )
        try:
            fs, path = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as err:
            raise OutputError(
                f"output {redact(self.url)} cannot be opened: {err}"
            ) from err
        self._fs: Any = fs
        self.path: str = path
        names = (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        self._schemes = set(names)
        self.is_local: bool = "file" in self._schemes

    def __truediv__(self, name: str) -> Folder:
        """Folder below this one."""
        return Folder(f"{self.url}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Store an object whole or not at all; again where a failure may pass.

        Raises
        ------
        StoppedError
            If there is no room, no right to write or no credentials: no block could
            go on.
        OutputError
            If there is no such bucket.
        StoreError
            If the store failed as often as it was asked.
        """
        target = f"{self.path}/{name}"
        self._ask(lambda: self._put(target, data))
        TRAFFIC.add(len(data))

    def put_file(self, name: str, path: Path) -> None:
        """Store a local file as an object of another store, in pieces if it is large.

        Raises
        ------
        StoreError
            If the store failed as often as it was asked.
        """
        target = f"{self.path}/{name}"
        self._ask(lambda: self._fs.put_file(str(path), target))

    def create(self, name: str, data: bytes) -> bool | None:
        """Store an object unless there is one of that name.

        Parameters
        ----------
        name : str
            Of the object.
        data : bytes
            Unlike anything that others would store there.

        Returns
        -------
        bool or None
            Whether it was stored; None where this file system cannot tell, and it may
            be stored or not.
        """
        target = f"{self.path}/{name}"
        if self.is_local:
            return self._ask(lambda: _create_local(Path(target), data))
        if not _CONDITIONAL & self._schemes:
            return None
        if not self._ask(lambda: self._put_if_none(target, data)):
            # where the answer to a put was lost, what is there may be ours
            return self.get(name) == data
        # a store that does not know the condition takes the same put twice
        return None if self._ask(lambda: self._put_if_none(target, data)) else True

    def get(self, name: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        target = f"{self.path}/{name}"
        try:
            return self._ask(lambda: cast("bytes", self._fs.cat_file(target)), "read")
        except (FileNotFoundError, NotADirectoryError):
            # the latter where a killed writer left a file beside folders
            return None

    def open(self, name: str) -> Any:
        """Open an object for reading at any place of it; closed by its reader."""
        return self._fs.open(f"{self.path}/{name}", "rb")

    def exists(self, name: str = "") -> bool:
        """Whether an object or folder of this name is there."""
        target = f"{self.path}/{name}".rstrip("/")
        self._fs.invalidate_cache()
        return self._ask(lambda: bool(self._fs.exists(target)), "read")

    def names(self) -> list[str]:
        """Names directly in this folder, sorted; empty where it is not there."""
        # A listing that was cached before other machines wrote would lie.
        self._fs.invalidate_cache()
        try:
            found = self._ask(
                lambda: self._fs.ls(self.path, detail=False, refresh=True), "list"
            )
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(p).rstrip("/").rpartition("/")[2] for p in found)

    def find(self, name: str = "") -> list[str]:
        """Names of all objects below a folder, relative to it, sorted."""
        base = f"{self.path}/{name}".rstrip("/")
        self._fs.invalidate_cache()
        found = self._ask(lambda: self._fs.find(base), "list")
        return sorted(str(p)[len(base) + 1 :] for p in found)

    def sweep_partials(self, older_s: float) -> list[str]:
        """Delete abandoned partial files of a local folder; return their names."""
        self.put(".clock", b"")  # the disk's own clock: hosts may disagree
        now = (Path(self.path) / ".clock").stat().st_mtime
        self.delete(".clock")
        old = [
            name
            for name in self.find()
            if name.endswith(".partial") and _age(Path(self.path) / name, now) > older_s
        ]
        for name in old:
            self.delete(name)
        return old

    def delete(self, name: str) -> None:
        """Delete an object; no error where there is none."""
        target = f"{self.path}/{name}"
        try:
            self._ask(lambda: self._fs.rm_file(target), "delete in")
        except FileNotFoundError:
            return

    def delete_all(self) -> None:
        """Delete the folder with everything in it."""
        self._fs.invalidate_cache()
        if self._fs.exists(self.path):
            self._fs.rm(self.path, recursive=True)

    def digest(self, name: str) -> str | None:
        """Digest of an object's bytes; None where there is none."""
        data = self.get(name)
        return None if data is None else digest_bytes(data)

    def free_bytes(self) -> int | None:
        """Bytes free on a local disk; None where that cannot be known."""
        return free_bytes(self.path) if self.is_local else None

    def _ask(self, do: Callable[[], T], to: str = "write to") -> T:
        return ask(do, self.path if self.is_local else self.url, to)

    def _put(self, target: str, data: bytes) -> None:
        if self.is_local:
            _put_local(Path(target), data)
            return
        point("put.before")
        try:
            self._fs.pipe_file(target, data)
        except FileNotFoundError as err:
            # keys need no folder: what is not there is the bucket
            raise miss_bucket(self.url) from err
        point("put.after")

    def _put_if_none(self, target: str, data: bytes) -> bool:
        try:
            self._fs.pipe_file(target, data, mode="create")
        except FileExistsError:
            return False
        return True


def digest_bytes(data: bytes | memoryview) -> str:
    """BLAKE2b of 16 bytes, as hex: the digest of every stored object."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _age(path: Path, now: float) -> float:
    try:
        return now - path.stat().st_mtime
    except FileNotFoundError:
        return 0.0  # renamed meanwhile: it was alive


def _put_local(target: Path, data: bytes) -> None:
    # Same folder, so that the rename is atomic; a unique name, since two hosts
    # may share a process id.
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    point("put.before")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        point("put.torn")
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    point("put.after")


def _create_local(target: Path, data: bytes) -> bool | None:
    """Link a finished file to its name: of all who try at once, one can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        part.write_bytes(data)
        os.link(part, target)
    except FileExistsError:
        return False
    except OSError as err:
        if err.errno in _NO_LINKS:
            return None
        raise
    finally:
        part.unlink(missing_ok=True)
    return True

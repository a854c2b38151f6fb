"""Small named objects in any fsspec folder: atomic put, get, list, delete.

The journal and the sinks keep their state through this one class. There are
no locks; a put is whole or absent (rename on a local disk, one request on an
object store), and names are unique, so writers never meet.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import threading
import uuid
from pathlib import Path
from typing import Any, cast

from geoscale.errors import OutputError, StoppedError
from geoscale.faults import point
from geoscale.words import redact

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_LINKS = {errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.EMLINK, errno.ENOSYS}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}


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


class Folder:
    """One folder of an fsspec file system.

    Parameters
    ----------
    url : str
        Local path or any fsspec URL (``s3://bucket/key``).

    Raises
    ------
    OutputError
        If no file system serves the URL's scheme.
    """

    def __init__(self, url: str) -> None:
        import fsspec

        self.url = str(url).rstrip("/")
        try:
            fs, path = fsspec.core.url_to_fs(self.url)
        except (ValueError, ImportError) as err:
            raise OutputError(
                f"output {redact(self.url)} cannot be opened: {err}"
            ) from err
        self._fs: Any = fs
        self.path: str = path
        self.is_local: bool = "file" in (
            (fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol
        )

    def __truediv__(self, name: str) -> Folder:
        """Folder below this one."""
        return Folder(f"{self.url}/{name}")

    def put(self, name: str, data: bytes) -> None:
        """Store an object whole or not at all.

        Raises
        ------
        StoppedError
            If there is no room or no right to write: no block could go on.
        """
        target = f"{self.path}/{name}"
        try:
            if self.is_local:
                _put_local(Path(target), data)
            else:
                self._fs.pipe_file(target, data)
        except OSError as err:
            raise explain_os_error(err, self.url) from err
        TRAFFIC.add(len(data))

    def create(self, name: str, data: bytes) -> bool | None:
        """Store an object of a local folder unless there is one of that name.

        Returns
        -------
        bool or None
            Whether it was stored; None where nothing was done, since this file system
            cannot tell.
        """
        if not self.is_local:
            return None
        try:
            return _create_local(Path(f"{self.path}/{name}"), data)
        except OSError as err:
            if err.errno in _NO_LINKS:
                return None
            raise explain_os_error(err, self.url) from err

    def get(self, name: str) -> bytes | None:
        """Bytes of an object; None where there is none."""
        try:
            return cast("bytes", self._fs.cat_file(f"{self.path}/{name}"))
        except (FileNotFoundError, NotADirectoryError):
            # the latter where a killed writer left a file beside folders
            return None

    def open(self, name: str) -> Any:
        """Open an object for reading at any place of it; closed by its reader."""
        return self._fs.open(f"{self.path}/{name}", "rb")

    def exists(self, name: str = "") -> bool:
        """Whether an object or folder of this name is there."""
        return bool(self._fs.exists(f"{self.path}/{name}".rstrip("/")))

    def names(self) -> list[str]:
        """Names directly in this folder, sorted; empty where it is not there."""
        try:
            found = self._fs.ls(self.path, detail=False, refresh=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(str(p).rstrip("/").rpartition("/")[2] for p in found)

    def find(self, name: str = "") -> list[str]:
        """Names of all objects below a folder, relative to it, sorted."""
        base = f"{self.path}/{name}".rstrip("/")
        # A listing that was cached before other machines wrote would lie.
        self._fs.invalidate_cache()
        return sorted(str(p)[len(base) + 1 :] for p in self._fs.find(base))

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
        try:
            self._fs.rm_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return

    def delete_all(self) -> None:
        """Delete the folder with everything in it."""
        if self._fs.exists(self.path):
            self._fs.rm(self.path, recursive=True)

    def digest(self, name: str) -> str | None:
        """Digest of an object's bytes; None where there is none."""
        data = self.get(name)
        return None if data is None else digest_bytes(data)

    def free_bytes(self) -> int | None:
        """Bytes free on a local disk; None where that cannot be known."""
        if not self.is_local:
            return None
        place = Path(self.path)
        while not place.exists():
            place = place.parent
        return shutil.disk_usage(place).free


def digest_bytes(data: bytes | memoryview) -> str:
    """BLAKE2b of 16 bytes, as hex: the digest of every stored object."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def explain_os_error(err: OSError, where: str) -> Exception:
    """Turn a full disk or a missing right into a stop; leave the rest as it is.

    Parameters
    ----------
    err : OSError
        What the system said.
    where : str
        The place that was written.

    Returns
    -------
    Exception
        `StoppedError` with what to do, or `err` itself.
    """
    place = redact(where)
    if err.errno in _NO_ROOM:
        free = Folder(where).free_bytes() if "://" not in where else None
        left = f" ({free / 1e6:,.0f} MB free)" if free is not None else ""
        return StoppedError(
            f"no room left at {place}{left}: {os.strerror(err.errno or 0)}; "
            "free some space, then run the same command again"
        )
    if err.errno in _NO_RIGHT:
        return StoppedError(
            f"not allowed to write to {place}: {os.strerror(err.errno or 0)}; "
            "check its owner and mode, then run the same command again"
        )
    return err


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


def _create_local(target: Path, data: bytes) -> bool:
    """Link a finished file to its name: of all who try at once, one can."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        part.write_bytes(data)
        os.link(part, target)
    except FileExistsError:
        return False
    finally:
        part.unlink(missing_ok=True)
    return True

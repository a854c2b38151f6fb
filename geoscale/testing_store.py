"""A store that fails on purpose: every way in which stores and networks really do.

`Faults` lays a file system of the scheme ``faulty`` over a local folder. What it stores
are plain files, so that a test can look past it.
"""

from __future__ import annotations

import errno
import io
import itertools
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsspec import register_implementation
from fsspec.spec import AbstractFileSystem

MODES = ("fail", "lost", "torn", "silent", "late", "twice")
"""What may become of a put; each in the words of `Faults`."""

_KNOWN: dict[str, Faults] = {}
_numbers = itertools.count()


class Faults:
    """A folder as a store, and what goes wrong with it.

    Parameters
    ----------
    root : str or Path
        Local folder that holds what is stored.
    shares : mapping, optional
        Mode → share of the puts that it meets. ``fail``: nothing is stored, an error is
        raised; ``lost``: it is stored, and the answer is lost; ``torn``: half of it is
        stored, an error is raised; ``silent``: half of it is stored, nothing is said;
        ``late``: an error is raised, and it is stored by `deliver`; ``twice``: it is
        stored, and again by `deliver`.
    seed : int
        Of what meets which put.
    """

    def __init__(
        self, root: str | Path, shares: Mapping[str, float] | None = None, seed: int = 0
    ) -> None:
        self.root = Path(root)
        self.shares = dict(shares or {})
        self.script: list[str] = []
        """Modes of the next puts, before chance has its say; empty for none."""
        self.reads = 0.0
        """Share of reads and listings that fail."""
        self.room: int | None = None
        """Bytes that can still be put; None: any number."""
        self.hidden = 0
        """Listings in which a new object is not seen yet."""
        self.longest_s = 0.0
        """Each request takes a random time up to this, in s."""
        self.is_conditional = True
        """Whether puts that ask for no object of the name are told from others."""
        self.is_readonly = False
        """Whether puts are refused."""
        self.seen: Counter[str] = Counter()
        """How often each mode was met, and ``put``, ``read``, ``list``."""
        self._random = random.Random(seed)  # noqa: S311  (repeatable, not secret)
        self._lock = threading.RLock()
        self._held: list[tuple[Path, bytes]] = []
        self._born: dict[Path, int] = {}
        self._name = f"f{next(_numbers)}-{uuid.uuid4().hex[:6]}"
        _KNOWN[self._name] = self

    def url(self, name: str) -> str:
        """URL of something in the folder."""
        return f"faulty://{self._name}/{name}"

    def reseed(self, seed: int) -> None:
        """Let chance begin anew."""
        self._random.seed(seed)

    @contextmanager
    def calm(self) -> Iterator[None]:
        """Let nothing go wrong for a while.

        Yields
        ------
        None
            While puts, reads and listings are what they should be.
        """
        names = ("shares", "reads", "room", "hidden", "longest_s", "is_readonly")
        kept = {name: getattr(self, name) for name in names}
        self.shares, self.reads, self.room = {}, 0.0, None
        self.hidden, self.longest_s, self.is_readonly = 0, 0.0, False
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(self, name, value)

    def deliver(self) -> int:
        """Store what came late or comes twice, whatever was stored since.

        Returns
        -------
        int
            How many objects.
        """
        with self._lock:
            held, self._held = self._held, []
            self._random.shuffle(held)
            for path, data in held:
                self._store(path, data)
            return len(held)

    def put(self, path: Path, data: bytes, *, new: bool) -> None:
        """Put an object, if nothing goes wrong.

        Parameters
        ----------
        path : Path
            Where its file lies.
        data : bytes
            What is to be stored.
        new : bool
            Whether only if there is none.

        Raises
        ------
        OSError
            If something goes wrong.
        """
        self._wait()
        with self._lock:
            mode = self._choose()
            if self.is_readonly:
                raise PermissionError("Forbidden")
            if mode == "fail":
                raise OSError(errno.EIO, "made to fail: slow down")
            if new and self.is_conditional and path.exists():
                raise FileExistsError("the condition did not hold")
            if self.room is not None and len(data) > self.room:
                self.seen["full"] += 1
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._do(mode, path, data)

    def read(self, path: Path) -> bytes:
        """Bytes of an object."""
        self._wait()
        self._fail_to_read("read")
        return path.read_bytes()

    def list_folder(self, folder: Path) -> list[Path]:
        """Files and folders directly below one."""
        return self._list(lambda: folder.iterdir())

    def list_all(self, folder: Path) -> list[Path]:
        """Files anywhere below a folder."""
        return [p for p in self._list(lambda: folder.rglob("*")) if p.is_file()]

    def _list(self, find: Callable[[], Iterable[Path]]) -> list[Path]:
        self._wait()
        self._fail_to_read("list")
        with self._lock:
            found = [p for p in find() if not p.name.endswith(".writing")]
            return sorted(p for p in found if self._is_visible(p))

    def _choose(self) -> str:
        self.seen["put"] += 1
        if self.script:
            mode = self.script.pop(0)
            self.seen[mode] += bool(mode)
            return mode
        at = self._random.random()
        for mode, share in self.shares.items():
            if at < share:
                self.seen[mode] += 1
                return mode
            at -= share
        return ""

    def _do(self, mode: str, path: Path, data: bytes) -> None:
        if mode in ("late", "twice"):
            self._held.append((path, data))
        if mode in ("torn", "silent"):
            self._store(path, data[: len(data) // 2])
        elif mode != "late":
            self._store(path, data)
        if mode == "torn":
            raise OSError(errno.EIO, "made to fail: half of it is there")
        if mode in ("late", "lost"):
            raise TimeoutError(errno.ETIMEDOUT, "made to fail: no answer")

    def _store(self, path: Path, data: bytes) -> None:
        if self.room is not None:
            self.room -= len(data)
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._born[path] = self.seen["list"]
        part = path.with_name(f".{uuid.uuid4().hex}.writing")
        part.write_bytes(data)
        part.replace(path)

    def _is_visible(self, path: Path) -> bool:
        return self.seen["list"] > self._born.get(path, -self.hidden) + self.hidden

    def _fail_to_read(self, what: str) -> None:
        with self._lock:
            self.seen[what] += 1
            if self._random.random() < self.reads:
                self.seen["unread"] += 1
                raise OSError(errno.EIO, "made to fail: slow down")

    def _wait(self) -> None:
        if self.longest_s:
            with self._lock:
                pause = self._random.uniform(0, self.longest_s)
            time.sleep(pause)


class FaultyStore(AbstractFileSystem):  # type: ignore[misc]
    """The file system ``faulty://``; made by fsspec, spoilt by `Faults`."""

    protocol = "faulty"
    cachable = False

    def pipe_file(
        self, path: str, value: bytes, mode: str = "overwrite", **_: Any
    ) -> None:
        """Store an object in one request."""
        faults, target = _find(path)
        faults.put(target, bytes(value), new=mode == "create")

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **_: Any
    ) -> bytes:
        """Bytes of an object, or of a part of it."""
        faults, target = _find(path)
        return faults.read(target)[slice(start, end)]

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        """List a folder."""
        faults, target = _find(path)
        base = self._strip_protocol(path).rstrip("/")
        found = [_describe(f"{base}/{p.name}", p) for p in faults.list_folder(target)]
        return found if detail else [one["name"] for one in found]

    def find(self, path: str, **_: Any) -> list[str]:
        """List all objects below a folder in one request, as object stores do."""
        faults, target = _find(path)
        base = self._strip_protocol(path).rstrip("/")
        return [f"{base}/{p.relative_to(target)}" for p in faults.list_all(target)]

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        """Size and kind of an object or folder."""
        target = _find(path)[1]
        if not target.exists():
            raise FileNotFoundError(path)
        return _describe(self._strip_protocol(path), target)

    def rm_file(self, path: str) -> None:
        """Delete an object."""
        _find(path)[1].unlink()

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        if mode != "rb":
            raise NotImplementedError("objects are put whole; use pipe_file")
        return io.BytesIO(self.cat_file(path))


def _find(path: str) -> tuple[Faults, Path]:
    name, _, rest = FaultyStore._strip_protocol(path).partition("/")
    try:
        faults = _KNOWN[name]
    except KeyError:
        raise FileNotFoundError(f"no store {name} in this process") from None
    return faults, faults.root / rest


def _describe(name: str, path: Path) -> dict[str, Any]:
    kind = "directory" if path.is_dir() else "file"
    return {"name": name, "size": path.stat().st_size, "type": kind}


register_implementation("faulty", FaultyStore, clobber=True)

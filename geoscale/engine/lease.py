"""The lease of an output: two drivers of one map would do everything twice.

No harm comes of two, since every block may be made any number of times; only work
does. So the lease needs no lock and no common clock: whoever holds it changes one
object every few seconds, and whoever wants it watches, by its own clock, whether
that object still changes. On the same host a dead process is known at once.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from geoscale.errors import OutputError
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

BEAT_S = 5.0
"""Seconds between two signs of life."""
TTL_S = 20.0
"""Seconds without one after which a driver is held to be gone."""
SETTLE_S = 0.2
"""Seconds after which two who took a lease at once see who has it, where the file
system does not let one of them fail."""

_LOG = logging.getLogger(__name__)


class Lease:
    """Held while a driver runs; use it as a context.

    Parameters
    ----------
    url : str
        The output.
    name : str
        Parts of a job array have one each.
    clock, sleep : callable
        Seconds that pass, and waiting for some.
    on_lost : callable, optional
        Called with why, once another driver has taken over, which held this one,
        suspended perhaps, to be gone.
    process : dict, optional
        Who this is; default: this process.
    """

    def __init__(
        self,
        url: str,
        name: str = "driver",
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
        on_lost: Callable[[str], object] | None = None,
        process: Json | None = None,
    ) -> None:
        self._url, self._folder = url, Folder(url) / ".geoscale"
        self._key = f"lease-{name}.json"
        self._clock, self._sleep = clock, sleep
        self._me = {"run": uuid.uuid4().hex} | (process or describe_process())
        self._on_lost = on_lost
        self._beats = 0
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.is_lost = False
        """Whether another driver took over."""

    def __enter__(self) -> Lease:
        """Take the lease and keep it alive."""
        self.take()
        self._thread = threading.Thread(
            target=self._keep, name="geoscale-lease", daemon=True
        )
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the lease back, unless another has it."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(BEAT_S)
        if not self.is_lost and self._is_mine(self._load()):
            self._folder.delete(self._key)

    def take(self) -> None:
        """Take the lease, if need be after watching whether its holder is alive.

        Raises
        ------
        OutputError
            If another driver works on this output.
        """
        found = self._load()
        if found is not None and not is_dead(found, self._me):
            self._watch(found)
        elif found is None and self._create():
            return
        self.beat()
        self._sleep(SETTLE_S)
        now = self._load()
        if not self._is_mine(now):
            raise self._refuse(now or {})

    def beat(self) -> None:
        """Give a sign of life, unless the lease is another's."""
        if self._beats and not self._is_mine(self._load()):
            self.is_lost = True
            return
        self._beats += 1
        self._folder.put(self._key, self._sign())

    def _create(self) -> bool:
        """Take a free lease where of all who try one succeeds; else nothing."""
        made = self._folder.create(self._key, self._sign())
        if made is False:
            raise self._refuse(self._load() or {})
        self._beats += made is True
        return made is True

    def _sign(self) -> bytes:
        return json.dumps(self._me | {"beat": self._beats}).encode()

    def _keep(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                self.beat()
            except Exception as err:  # the run itself will meet what is wrong
                _LOG.warning("lease of %s: %s", redact(self._url), redact(str(err)))
            if self.is_lost:
                if self._on_lost is not None:
                    self._on_lost("another run has taken over the output")
                return

    def _watch(self, found: Json) -> None:
        """Return once the lease has not changed for its time to live."""
        _LOG.warning(
            "%s has a lease of %s; waiting %.0f s whether that run is alive",
            redact(self._url), _say_who(found), TTL_S,
        )  # fmt: skip
        until = self._clock() + TTL_S
        while self._clock() < until:
            self._sleep(1.0)
            now = self._load()
            if now is None:
                return
            if now != found:
                raise self._refuse(now)

    def _refuse(self, holder: Json) -> OutputError:
        return OutputError(
            f"another run works on {redact(self._url)}: {_say_who(holder)}; wait for "
            "it or stop it; to share the work, give each its own --shard I/N"
        )

    def _is_mine(self, found: Json | None) -> bool:
        return found is not None and found.get("run") == self._me["run"]

    def _load(self) -> Json | None:
        data = self._folder.get(self._key)
        if data is None:
            return None
        try:
            found: Any = json.loads(data)
        except ValueError:
            return {}
        return dict(found) if isinstance(found, dict) else {}


def describe_process() -> Json:
    """Tell which process this is, so that its host can say whether it lives."""
    return {
        "host": socket.gethostname(),
        "boot": _read("/proc/sys/kernel/random/boot_id"),
        "space": _read_link("/proc/self/ns/pid"),  # containers number anew
        "pid": os.getpid(),
        "started": _started(os.getpid()),
    }


def is_dead(holder: Json, me: Json) -> bool:
    """Whether a lease's holder is known to be gone: a process of this very host.

    Parameters
    ----------
    holder : dict
        As stored.
    me : dict
        This process.

    Returns
    -------
    bool
        False where that cannot be known.
    """
    here = ("host", "boot", "space")
    if not holder.get("boot") or any(holder.get(k) != me.get(k) for k in here):
        return False
    return _started(int(holder.get("pid", -1))) != holder.get("started")


def _started(pid: int) -> str:
    """When a process began, in ticks since the host did; empty where there is none."""
    # the name may hold spaces and brackets: what follows it is counted
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    # a zombie is gone, though its number is not free yet
    return "" if not fields or fields[0] == "Z" else fields[19]


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def _read_link(path: str) -> str:
    try:
        return os.readlink(path)
    except OSError:
        return ""


def _say_who(holder: Json) -> str:
    return f"process {holder.get('pid', '?')} on {holder.get('host', 'another host')}"

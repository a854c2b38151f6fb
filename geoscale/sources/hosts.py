"""Servers, as this process sees them: so many requests at a time, none while down.

A server that fails for everybody is asked by one thread now and then, not by all
threads of all workers at each of their retries.
"""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from geoscale.errors import ReadError
from geoscale.sources.parallel import PerProcess

CONNECTIONS = 32
"""Reads of one server at a time in this process."""
FAILURES = 8
"""Failures in a row, of whatever threads, after which a server is left alone."""
FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 60.0
"""How long it is left alone at first, and at most; doubled each time, in s."""
PATIENCE_S = 600.0
"""How long one read waits for a server that is down, in s."""


class Host:
    """One server.

    Parameters
    ----------
    name : str
        For messages.
    clock, sleep : callable
        Seconds that pass, and waiting for some.
    """

    def __init__(
        self,
        name: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.name = name
        self._clock, self._sleep = clock, sleep
        self._slots = threading.BoundedSemaphore(CONNECTIONS)
        self._lock = threading.Lock()
        self._failed = 0
        self._pauses = 0
        self._closed_until = 0.0
        self._is_probed = False

    @contextlib.contextmanager
    def visit(self) -> Iterator[None]:
        """Wait for a turn.

        Yields
        ------
        None
            While the server may be asked.

        Raises
        ------
        ReadError
            If it has been down for too long.
        """
        is_probe = self._wait()
        try:
            with self._slots:
                yield
        finally:
            if is_probe:  # whatever came of it, another may ask next
                self._is_probed = False

    def note(self, *, ok: bool) -> None:
        """Learn how a request ended: any answer is good, failing to give one is not."""
        with self._lock:
            if ok:
                self._failed = self._pauses = 0
                self._closed_until = 0.0
                return
            self._failed += 1
            if self._failed < FAILURES:
                return
            pause = min(LONGEST_PAUSE_S, FIRST_PAUSE_S * 2**self._pauses)
            # workers must not come back in step
            pause *= random.uniform(0.5, 1.0)  # noqa: S311
            self._pauses += 1
            self._closed_until = self._clock() + pause

    def _wait(self) -> bool:
        """Wait for a turn; tell whether it is to find out if the server is back."""
        began = self._clock()
        while True:
            with self._lock:
                now = self._clock()
                if self._failed < FAILURES:
                    return False
                if now >= self._closed_until and not self._is_probed:
                    # one asks whether it is back; the others go on waiting
                    self._is_probed = True
                    return True
                rest = max(self._closed_until - now, 0.1)
            if now - began > PATIENCE_S:
                raise ReadError(
                    f"{self.name} has failed {self._failed} times in a row and was "
                    f"waited for {PATIENCE_S:.0f} s; run the same command again when "
                    "it is back"
                )
            self._sleep(min(rest, 1.0))


class _Hosts:
    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._hosts: dict[str, Host] = {}

    def get(self, name: str) -> Host:
        with self._lock:
            return self._hosts.setdefault(name, Host(name))


HOSTS = PerProcess(_Hosts)
"""Servers of this process, as ``HOSTS.value``."""


def find_host(href: str) -> Host | None:
    """Server of an href; None for a local file.

    Parameters
    ----------
    href : str
        Path or URL.

    Returns
    -------
    Host or None
        Shared by all threads of this process.

    Examples
    --------
    >>> find_host("/data/a.tif") is None
    True
    >>> find_host("https://u:p@e.org/a.tif").name
    'e.org'
    """
    if "://" not in href:
        return None
    parts = urlsplit(href)
    if parts.scheme == "file":
        return None
    return HOSTS.value.get(parts.netloc.rpartition("@")[2])

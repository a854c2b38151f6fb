"""The courier: sends a model's files to workers that do not see them.

Through the scheduler, in pieces, once to each cache that lacks them; also to workers
that come later, as long as a run lasts. They travel beside the tasks, so that a worker
whose only thread waits for a file still gets it.
"""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Self

from geoscale.parcels import (
    CHUNK,
    Parcel,
    Store,
    find_lacking,
    find_path,
    receive,
)
from geoscale.words import redact

if TYPE_CHECKING:
    from distributed import Client

_LOG = logging.getLogger(__name__)

LOOK_S = 2.0
"""Pause between two looks for new workers, in s."""
ANSWER_S = 120.0
"""How long workers have for one message, in s."""


class Courier:
    """Sends files while it is open; use it as a context.

    Parameters
    ----------
    client : distributed.Client
        Connected.
    parcels : sequence of Parcel
        What workers need.
    """

    def __init__(self, client: Client, parcels: Sequence[Parcel]) -> None:
        self._client = client
        self._parcels = {one.place: one for one in parcels if one.size >= 0}
        self._known: set[str] = set()
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Self:
        if self._parcels:
            self._look()
            self._thread = threading.Thread(
                target=self._watch, name="geoscale-courier", daemon=True
            )
            self._thread.start()
        return self

    def __exit__(self, *args: object) -> None:
        self._over.set()
        if self._thread is not None:
            # a message on its way may take long, and nobody needs it any more
            self._thread.join(timeout=LOOK_S)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_S) and self._client.status == "running":
            try:
                self._look()
            except Exception as error:  # the run itself sees what ails the cluster
                _LOG.debug("looking for new workers: %s", redact(str(error)))

    def _look(self) -> None:
        there = set(self._client.nthreads())
        new, self._known = there - self._known, there
        if new:
            self._deliver(new)

    def _deliver(self, workers: Iterable[str]) -> None:
        """Send to one worker of each cache, then to whoever still lacks a file."""
        lacking = self._ask(workers)
        for once in (True, False):
            for place, parcel in self._parcels.items():
                need = {w: store for w, (store, places) in lacking.items()
                        if place in places}  # fmt: skip
                chosen = {store: w for w, store in need.items()}.values()
                self._send(parcel, list(chosen if once else need))
            lacking = self._ask(lacking)

    def _ask(self, workers: Iterable[str]) -> dict[str, tuple[Store, list[str]]]:
        """Workers that lack files, with their caches; who fails is seen later on."""
        told = self._call(find_lacking, list(workers), list(self._parcels.values()))
        return {w: t for w, t in told.items() if isinstance(t, tuple) and t[1]}

    def _send(self, parcel: Parcel, workers: list[str]) -> None:
        if not workers:
            return
        sender, start = uuid.uuid4().hex[:12], 0
        _LOG.info("sending %s to %d workers", parcel.source, len(workers))
        with open(find_path(parcel) or parcel.source, "rb") as file:
            while workers and (data := file.read(CHUNK)) and not self._over.is_set():
                told = self._call(receive, workers, parcel, sender, start, data)
                for worker in workers:
                    if worker not in told or isinstance(told[worker], Exception):
                        why = told.get(worker, "it went away")
                        text = redact(f"{parcel.source} did not reach {worker}: {why}")
                        _LOG.warning("%s", text)
                workers = [w for w in workers if told.get(w, "gone") is None]
                start += len(data)

    def _call(
        self, function: Callable[..., Any], workers: list[str], *args: Any
    ) -> dict[str, Any]:
        """Call a function on some workers, in their event loops and not as a task."""
        if not workers:
            return {}
        return dict(
            self._client.run(
                function,
                *args,
                workers=workers,
                on_error="return",
                callback_timeout=ANSWER_S,
            )
        )

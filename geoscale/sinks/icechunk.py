"""Blocks into an Icechunk repository: written by workers, committed by the driver.

A worker writes a block's shards under names that no snapshot knows yet, and hands back
some 500 bytes that tell of them. The driver merges those of many blocks and commits
them at once, so that a reader sees all blocks of a commit or none.
"""

from __future__ import annotations

import json
import pickle
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from geoscale.errors import OutputError, StoppedError, require
from geoscale.sinks.layout import ROOT, parse_json
from geoscale.sinks.repository import (
    BRANCH,
    Snapshot,
    create_repository,
    open_repository,
    request,
)
from geoscale.sinks.zarr import ZarrSink
from geoscale.template import OutputTemplate
from geoscale.types import Array
from geoscale.windows import Window
from geoscale.words import redact

_TRIES = 5


class IcechunkSink(ZarrSink):
    """Stores finished blocks in an Icechunk repository; see `EpochSink`.

    Parameters
    ----------
    url : str
        Local folder or ``s3://`` URL.
    template : OutputTemplate
        What the store holds.
    """

    def __init__(self, url: str, template: OutputTemplate) -> None:
        super().__init__(url, template)
        self._opened: Any = None
        self._base: Any = None
        self._opening = threading.Lock()

    def __reduce__(self) -> tuple[object, ...]:
        """Send the URL and the template only; a worker opens its own repository."""
        return IcechunkSink, (self.url, self.template)

    @property
    def folder(self) -> Any:
        """What readers see: the last commit."""
        with self._opening:
            if self._folder is None:
                session = self._repository().readonly_session(BRANCH)
                self._folder = Snapshot(session.store, self.url)
            return self._folder

    def create(self) -> None:
        """Commit all metadata and coordinates; keep what is already there.

        Raises
        ------
        OutputError
            If the folder holds something else, or an output of another layout.
        StoppedError
            If there is no room or no right to write.
        """
        self._opened = create_repository(self.url)
        self._commit(lambda _: super(IcechunkSink, self).create(), "layout")

    def write_apart(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> tuple[dict[str, str | None], bytes]:
        """Write one block where nobody sees it yet.

        Parameters
        ----------
        time : int
            Number of the time step.
        core : Window
            Pixels of the block.
        layers : mapping
            Array per layer, in the layer's dtype, (y, x) or (class, y, x).

        Returns
        -------
        dict
            Stored key → digest; None where all is fill value.
        bytes
            For `commit`; holds no secret.

        Raises
        ------
        SinkError
            If the block does not fit the store; nothing is written then.
        StoppedError
            If there is no room or no right to write.
        """
        with self._opening:
            if self._base is None:
                self._base = self._repository().writable_session(BRANCH)
            fork = self._base.fork()
        digests = self._write_to(Snapshot(fork.store, self.url), time, core, layers)
        return digests, pickle.dumps(fork)

    def write(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> dict[str, str | None]:
        """Write one block and commit it alone; in the driver only."""
        digests, changes = self.write_apart(time, core, layers)
        self.commit([changes], "1 block")
        return digests

    def commit(self, changes: Sequence[bytes], message: str) -> None:
        """Show blocks, all of them at once; in the driver only.

        Parameters
        ----------
        changes : sequence of bytes
            From `write_apart`; those of a block that was made twice may both be there.
        message : str
            Of the commit.

        Raises
        ------
        StoppedError
            If another program goes on committing.
        """

        def _merge(session: Any) -> None:
            # bytes of our own workers, as everything that Dask brings
            session.merge(*(pickle.loads(part) for part in changes))  # noqa: S301

        self._commit(_merge, message)

    def drop(self, key: str) -> None:
        """Delete a stored shard; it reads as fill value until written again."""
        self._commit(lambda _: self.folder.delete(key), f"drop {key}")

    def sweep(self, *, older_s: float = 86_400.0) -> list[str]:
        """Delete nothing: chunks that no commit names are Icechunk's to collect."""
        return []

    def finalize(self, attrs: Mapping[str, Any] | None = None) -> None:
        """Commit attributes of the root; in the driver only.

        Parameters
        ----------
        attrs : mapping, optional
            JSON-able attributes to set on the root group.

        Raises
        ------
        OutputError
            If the store was not created.
        """

        def _set(_: Any) -> None:
            root = parse_json(self.folder.get(ROOT))
            if root is None:
                raise OutputError(
                    f"output {redact(self.url)} is not there; run the job first"
                )
            root["attributes"] = {**root.get("attributes", {}), **(attrs or {})}
            self.folder.put(ROOT, json.dumps(root, indent=2).encode())

        self._commit(_set, "complete")

    def _commit(self, change: Any, message: str) -> None:
        """Change a session at the tip, and commit it, unless nothing changes."""
        conflict = require("icechunk", extra="icechunk").ConflictError
        for _ in range(_TRIES):
            session = request(
                lambda: self._repository().writable_session(BRANCH), self.url
            )
            self._folder = Snapshot(session.store, self.url)
            try:
                change(session)
                if session.has_uncommitted_changes:
                    request(lambda s=session: s.commit(message), self.url)
                return
            except conflict:
                continue  # a lost answer of ours, or a driver that was held to be gone
            finally:
                self._folder = None
        raise StoppedError(
            f"another program commits to {redact(self.url)} all the time; one driver "
            "at a time may: stop the other, then run the same command again"
        )

    def _repository(self) -> Any:
        if self._opened is None:
            self._opened = open_repository(self.url)
        return self._opened

"""Icechunk repositories: opening them, and their contents as small named objects.

A repository lies in the output's own folder; beside it, in ``.geoscale/``, are the plan
and the ledger, as for every output. Credentials come from the environment of whatever
process opens it.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from geoscale.errors import OutputError, require
from geoscale.patience import ask, miss_bucket
from geoscale.storage import Folder, digest_bytes
from geoscale.words import redact

BRANCH = "main"
"""What readers open."""
MARK = ".geoscale/icechunk.json"
"""Tells that the output is a repository of geoscale's."""

_GONE = re.compile(r"not found|NoSuchKey|range was invalid|InvalidRange", re.I)
_REFUSED = re.compile(
    r"AccessDenied|Forbidden|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken"
)


def has_repository(url: str) -> bool:
    """Whether an output is an Icechunk repository."""
    return Folder(url).exists(MARK)


def create_repository(url: str) -> Any:
    """Open an output's repository, or make it where there is nothing.

    Parameters
    ----------
    url : str
        Local folder or ``s3://`` URL.

    Returns
    -------
    icechunk.Repository
        On which geoscale may commit.

    Raises
    ------
    OutputError
        If there is something else.
    """
    ic, folder = _library(), Folder(url)
    if folder.exists(MARK):
        return open_repository(url)
    names = folder.names()
    storage = make_storage(url)
    if names and not request(lambda: ic.Repository.exists(storage), url):
        raise OutputError(
            f"output {redact(url)} exists and is something else: it holds "
            f"`{names[0]}`; choose a new path, or empty it yourself"
        )
    found = request(lambda: ic.Repository.open_or_create(storage), url)
    # a creation that was interrupted has the empty first snapshot and nothing more
    if len(list(found.ancestry(branch=BRANCH))) > 1:
        raise OutputError(
            f"output {redact(url)} is an Icechunk repository that geoscale did not "
            "make; choose a new path"
        )
    folder.put(MARK, b"{}")
    return found


def open_repository(url: str) -> Any:
    """Open the repository of an output.

    Raises
    ------
    OutputError
        If there is none.
    """
    ic, storage = _library(), make_storage(url)
    try:
        return request(lambda: ic.Repository.open(storage), url)
    except FileNotFoundError:
        raise OutputError(
            f"output {redact(url)} is no Icechunk repository; run the job first"
        ) from None


def open_snapshot(url: str) -> Any:
    """Open what readers see now: the last commit, as a store of zarr's."""
    repository = open_repository(url)
    return request(lambda: repository.readonly_session(BRANCH).store, url)


def make_storage(url: str, environ: Mapping[str, str] | None = None) -> Any:
    """Tell Icechunk where an output lies; credentials stay in the environment.

    Parameters
    ----------
    url : str
        Local folder or ``s3://`` URL.
    environ : mapping, optional
        Default: this process's.

    Returns
    -------
    icechunk.Storage
        Holds no secret.

    Raises
    ------
    OutputError
        If Icechunk outputs cannot lie there.
    """
    ic, folder = _library(), Folder(url)
    environ = os.environ if environ is None else environ
    if folder.is_local:
        return ic.local_filesystem_storage(folder.path)
    parts = urlsplit(url)
    if parts.scheme != "s3":
        raise OutputError(
            f"output {redact(url)}: Icechunk repositories are kept in local folders "
            "and on s3://; choose one of these, or leave `store` out"
        )
    endpoint = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    return ic.s3_storage(
        bucket=parts.netloc,
        prefix=parts.path.strip("/"),
        region=environ.get("AWS_REGION") or environ.get("AWS_DEFAULT_REGION"),
        endpoint_url=endpoint,
        allow_http=bool(endpoint and endpoint.startswith("http:")),
        force_path_style=endpoint is not None,
        from_env=True,
    )


class Snapshot:
    """Keys of a session of a repository, as a sink knows objects.

    Parameters
    ----------
    store : icechunk.IcechunkStore
        Of a session; what is put is seen by nobody before it is committed.
    url : str
        The output, for messages.
    """

    def __init__(self, store: Any, url: str) -> None:
        self.url = url
        self._store = store

    def put(self, name: str, data: bytes) -> None:
        """Store an object in the session."""
        from zarr.core.buffer import default_buffer_prototype

        buffer = default_buffer_prototype().buffer.from_bytes(data)
        self._run(lambda: self._store.set(name, buffer))

    def get(self, name: str) -> bytes | None:
        """Bytes of an object; None where there is none, or it cannot be had."""
        from zarr.core.buffer import default_buffer_prototype

        prototype = default_buffer_prototype()
        try:
            found = self._run(lambda: self._store.get(name, prototype))
        except FileNotFoundError:
            return None  # the snapshot names a chunk that was cut or is gone
        return None if found is None else bytes(found.to_bytes())

    def names(self) -> list[str]:
        """Names at the root, sorted."""
        return sorted(self._run(lambda: _gather(self._store.list_dir(""))))

    def find(self, name: str = "") -> list[str]:
        """Names of all objects below a folder, relative to it, sorted."""
        base = f"{name.rstrip('/')}/" if name else ""
        # only arrays and groups can be listed, not what lies below them
        found = self._run(lambda: _gather(self._store.list_prefix(base.split("/")[0])))
        return sorted(key[len(base) :] for key in found if key.startswith(base))

    def delete(self, name: str) -> None:
        """Delete an object in the session."""
        self._run(lambda: self._store.delete(name))

    def digest(self, name: str) -> str | None:
        """Digest of an object's bytes; None where there is none."""
        data = self.get(name)
        return None if data is None else digest_bytes(data)

    def _run(self, make: Any) -> Any:
        async def wait() -> Any:
            return await make()

        return request(lambda: asyncio.run(wait()), self.url)


def request(do: Any, url: str) -> Any:
    """Ask something of a repository, again where a failure may pass.

    Parameters
    ----------
    do : callable
        Does the same each time it is called.
    url : str
        The output, for messages.

    Returns
    -------
    object
        What `do` returned.

    Raises
    ------
    FileNotFoundError
        If an object is not there, or cut short.
    StoppedError, OutputError, StoreError
        As `geoscale.patience.ask`.
    """
    ic = _library()

    def _do() -> Any:
        try:
            return do()
        except ic.ConflictError:
            raise
        except ic.IcechunkError as err:
            raise _translate(err, url) from err

    return ask(_do, url)


def _translate(err: Exception, url: str) -> Exception:
    """Give an error of Icechunk the type that a file system would."""
    text = str(err)
    said = " ".join(text.partition("|")[0].split()).removeprefix("x ")
    if "NoSuchBucket" in text:
        return miss_bucket(url)
    if _REFUSED.search(text):
        return PermissionError(said)
    if "repository doesn't exist" in text or _GONE.search(text):
        return FileNotFoundError(said)
    return OSError(errno.EIO, said)


async def _gather(keys: Any) -> list[str]:
    return [key async for key in keys]


def _library() -> Any:
    found = require("icechunk", extra="icechunk")
    if "ICECHUNK_LOG" not in os.environ:
        # it warns at every opening of a local folder that two must not commit at
        # once; the lease sees to that
        found.set_logs_filter("error")
    return found

"""Asking a store again: what may pass, what will not, and how long to wait.

A put that fails may fail for a moment, for this object, or for everything that is
to come. Only the first is worth trying again; the last ends the run at once, with
what to do.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

from geoscale.errors import GeoscaleError, OutputError, StoppedError, StoreError
from geoscale.words import redact

T = TypeVar("T")

TRIES = 5
"""How often a store is asked before a block is given up for now."""
FIRST_S, LONGEST_S = 0.5, 30.0
"""Longest pause after the first failure, doubled each time, and at most, in s."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NO_RIGHT = {errno.EACCES, errno.EPERM, errno.EROFS}
# What a network disk says while its server is away; the rest of a local disk's errors
# stay as they are.
_PASSES_LOCALLY = {
    errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT,
    errno.ECONNRESET, errno.ECONNABORTED, errno.EHOSTDOWN, errno.EHOSTUNREACH,
}  # fmt: skip
_ANSWERS = (
    FileNotFoundError, FileExistsError, NotADirectoryError, IsADirectoryError,
)  # fmt: skip
_NO_BUCKET = {"NoSuchBucket", "InvalidBucketName", "ContainerNotFound"}
# by name, since each store's library has its own and none of them is imported here
_LIBRARIES = {
    "adlfs", "aiobotocore", "aiohttp", "azure", "botocore", "gcsfs", "google",
    "obstore", "requests", "urllib3",
}  # fmt: skip
_NO_CREDENTIALS = {
    "ClientAuthenticationError", "CredentialRetrievalError", "DefaultCredentialsError",
    "NoCredentialsError", "PartialCredentialsError", "PermissionDeniedError",
    "RefreshError", "TokenRetrievalError", "UnauthenticatedError",
    "UnauthorizedSSOTokenError",
}  # fmt: skip


class Patience:
    """How often this process asked a store again; for tests and reports."""

    def __init__(self) -> None:
        self.again = 0


PATIENCE = Patience()


def ask(
    do: Callable[[], T],
    where: str,
    to: str = "write to",
    *,
    sleep: Callable[[float], object] = time.sleep,
) -> T:
    """Ask a store for something, again where a failure may pass.

    Parameters
    ----------
    do : callable
        Does the same each time it is called.
    where : str
        Path or URL, for messages.
    to : str
        What is done there, for messages: ``read``, ``write to``.
    sleep : callable
        Waits for some seconds.

    Returns
    -------
    object
        What `do` returned.

    Raises
    ------
    StoppedError
        If there is no room, no right or no credentials.
    OutputError
        If there is no such bucket.
    StoreError
        If the store failed every time.
    """
    for attempt in range(1, TRIES + 1):
        try:
            return do()
        except GeoscaleError:
            raise  # it says already what to do
        except Exception as err:
            found = explain_store_error(err, where, to)
            if found is not None:
                raise found from err
            if not may_pass(err, is_local="://" not in where):
                raise
            if attempt == TRIES:
                raise StoreError(
                    f"{redact(where)} failed {TRIES} times, the last with "
                    f"{_say(err)}; wait until it answers, then run the same command "
                    "again"
                ) from err
        PATIENCE.again += 1
        # full jitter: thousands of workers must not come back in step
        sleep(random.uniform(0, min(LONGEST_S, FIRST_S * 2 ** (attempt - 1))))  # noqa: S311
    raise AssertionError("unreachable: the last attempt returns or raises")


def may_pass(err: BaseException, *, is_local: bool) -> bool:
    """Whether the same request may succeed later.

    Parameters
    ----------
    err : BaseException
        What a file system raised.
    is_local : bool
        Whether it is a local one, whose errors mostly stay.

    Examples
    --------
    >>> may_pass(OSError(errno.EIO, "slow down"), is_local=False)
    True
    >>> may_pass(FileNotFoundError("a"), is_local=False)
    False
    """
    if isinstance(err, _ANSWERS):
        return False
    if isinstance(err, OSError):
        return not is_local or err.errno in _PASSES_LOCALLY
    return any(k.__module__.partition(".")[0] in _LIBRARIES for k in type(err).__mro__)


def explain_store_error(
    err: BaseException, where: str, to: str = "write to"
) -> Exception | None:
    """Say what to do about a failure that every later request would meet, too.

    Parameters
    ----------
    err : BaseException
        What a file system raised.
    where : str
        The place that was asked.
    to : str
        What was to be done there.

    Returns
    -------
    Exception or None
        `StoppedError` or `OutputError` with what to do; None for the rest.
    """
    place, code = redact(where), getattr(err, "errno", None)
    if code in _NO_ROOM:
        free = None if "://" in where else free_bytes(where)
        left = f" ({free / 1e6:,.0f} MB free)" if free is not None else ""
        return StoppedError(
            f"no room left at {place}{left}: {os.strerror(code)}; "
            "free some space, then run the same command again"
        )
    if any(_store_code(e) in _NO_BUCKET for e in _chain(err)):
        return miss_bucket(where)
    if any(type(e).__name__ in _NO_CREDENTIALS for e in _chain(err)):
        return StoppedError(
            f"no usable credentials for {place}: {_say(err)}; give them by the "
            "environment of the driver and of every worker, then run the same command "
            "again"
        )
    if code in _NO_RIGHT or isinstance(err, PermissionError):
        mend = (
            "the credentials must allow to list, get, put and delete there"
            if "://" in where
            else "check its owner and mode"
        )
        said = os.strerror(code) if code else _say(err)
        return StoppedError(
            f"not allowed to {to} {place}: {said}; {mend}, then run the same "
            "command again"
        )
    return None


def miss_bucket(where: str) -> OutputError:
    """Say that the bucket of a URL is not there.

    Parameters
    ----------
    where : str
        URL of something in it.

    Returns
    -------
    OutputError
        With what to do.
    """
    bucket = where.partition("://")[2].partition("/")[0]
    return OutputError(
        f"there is no bucket `{bucket}`, which {redact(where)} names; make it, or "
        "correct the name or the endpoint"
    )


def free_bytes(path: str) -> int:
    """Bytes free on the disk of a local path, which need not exist."""
    place = Path(path)
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def _chain(err: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = err
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _store_code(err: BaseException) -> str:
    """Code of a store's own answer, as its library keeps it."""
    answer = getattr(err, "response", None)
    if isinstance(answer, dict):
        return str(answer.get("Error", {}).get("Code", ""))
    if "<Code>" in str(err):  # obstore keeps the text alone
        return str(err).partition("<Code>")[2].partition("<")[0]
    return str(getattr(err, "error_code", ""))


def _say(err: BaseException) -> str:
    text = " ".join(str(err).split())[:300] or "no message"
    return redact(f"{type(err).__name__}: {text}")

"""GDAL, tamed: one set of settings, pinned drivers, lent handles, retries.

Every pixel of a raster file comes through `read_with_retries`. It applies the
same GDAL settings in whatever process or thread it runs, and a failure ends in
the right bytes or in `ReadError`, never in zeros.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from geoscale.errors import ReadError
from geoscale.sources.handles import Handle, HandlePool
from geoscale.sources.hosts import find_host
from geoscale.sources.hrefs import Access, to_gdal_path
from geoscale.sources.parallel import PerProcess
from geoscale.sources.signing import renew, sign
from geoscale.words import redact

T = TypeVar("T")

SETTINGS: dict[str, str | int] = {
    # several threads turn a broken download into zeros without an error
    "GDAL_NUM_THREADS": "1",
    "GDAL_HTTP_MULTIRANGE": "SERIAL",
    "GDAL_HTTP_CONNECTTIMEOUT": "10",
    "GDAL_HTTP_TIMEOUT": "120",
    "GDAL_HTTP_LOW_SPEED_TIME": "30",
    "GDAL_HTTP_LOW_SPEED_LIMIT": "1000",
    "GDAL_HTTP_MAX_RETRY": "4",
    "GDAL_HTTP_RETRY_DELAY": "0.5",
    "GDAL_HTTP_MERGE_CONSECUTIVE_RANGES": "YES",
    "GDAL_CACHEMAX": 128 * 2**20,  # rasterio wants bytes
    "CPL_VSIL_CURL_CACHE_SIZE": "67108864",
    "CPL_VSIL_CURL_USE_HEAD": "NO",
    "VSI_CACHE": "FALSE",
}
"""GDAL settings of every read; reasons in the project's documentation."""

_PERMANENT = re.compile(
    r"\b(400|404|410|416)\b|not recognized as being in a supported|"
    r"no such file|permission denied|invalid band|out of memory",
    re.I,
)
_AUTH = re.compile(
    r"\b(401|403)\b|access ?denied|authenticat|invalid ?credential", re.I
)
AUTH = "auth"
"""Kind of a read that is refused with fresh credentials too."""
_LAST_CODE = re.compile(r"HTTP (?:response|error) code\s*:\s*(\d{3})", re.I)
_POOL = PerProcess(HandlePool)


class Counts:
    """What this process has opened and read; for tests and reports."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.opened = 0
        self.reads = 0
        self.retries = 0
        self.tiles = 0
        """Tiles of files that GDAL was asked for, one layer each."""
        self.warped_tiles = 0
        """Tiles of output grids that GDAL was asked to warp, with all their bands."""
        self.tile_hits = 0
        """Tiles of both kinds that were decoded before, or by another thread."""
        self.bytes_decoded = 0
        """Bytes of the tiles that GDAL was asked for."""

    def add(self, name: str, count: int = 1) -> None:
        """Count events."""
        with self._lock:
            setattr(self, name, getattr(self, name) + count)


COUNTS = Counts()


@contextlib.contextmanager
def gdal_env(path: str = "", attempt: int = 1) -> Iterator[None]:
    """Apply the settings of reading to this thread.

    Parameters
    ----------
    path : str
        What will be read; decides about side-car files.
    attempt : int
        From the second on, nothing that GDAL cached about `path` is believed.
    """
    import rasterio

    settings: dict[str, str | int] = dict(SETTINGS)
    is_remote = path.startswith("/vsi")
    # Listing a bucket costs seconds; a local ENVI file needs its .hdr found.
    settings["GDAL_DISABLE_READDIR_ON_OPEN"] = "EMPTY_DIR" if is_remote else "TRUE"
    if path.startswith("/vsis3/"):
        settings |= find_s3_endpoint(os.environ)
    if attempt > 1 and is_remote:
        settings["CPL_VSIL_CURL_NON_CACHED"] = path.partition("?")[0]
    with rasterio.Env(**settings):
        yield


def find_s3_endpoint(environ: Mapping[str, str]) -> dict[str, str]:
    """Tell GDAL of the S3 server that every other library takes from the environment.

    Parameters
    ----------
    environ : mapping
        With ``AWS_ENDPOINT_URL_S3`` or ``AWS_ENDPOINT_URL``, perhaps.

    Returns
    -------
    dict
        GDAL settings; empty where GDAL's own are set, or there is nothing to tell.

    Examples
    --------
    >>> find_s3_endpoint({"AWS_ENDPOINT_URL": "http://127.0.0.1:9000"})["AWS_HTTPS"]
    'NO'
    """
    url = environ.get("AWS_ENDPOINT_URL_S3") or environ.get("AWS_ENDPOINT_URL")
    if not url or "AWS_S3_ENDPOINT" in environ:
        return {}
    parts = urlsplit(url)
    return {
        "AWS_S3_ENDPOINT": parts.netloc + parts.path.rstrip("/"),
        "AWS_HTTPS": "YES" if parts.scheme == "https" else "NO",
        # such servers have no name for each bucket
        "AWS_VIRTUAL_HOSTING": environ.get("AWS_VIRTUAL_HOSTING", "FALSE"),
    }


def open_raster(
    href: str,
    access: Access | None = None,
    attempt: int = 1,
    overview: int | None = None,
) -> Any:
    """Open a raster file for reading with one of the allowed drivers.

    Parameters
    ----------
    href : str
        Unsigned path or URL.
    access : Access, optional
        What is allowed, and how to sign.
    attempt : int
        Which try this is.
    overview : int, optional
        Number of an overview, from 0, to be opened instead of the file itself.

    Returns
    -------
    rasterio.DatasetReader
        The caller closes it.

    Raises
    ------
    SourceError
        If the href is refused.
    rasterio.errors.RasterioIOError
        If it cannot be opened.
    """
    import rasterio

    access = access or Access()
    path = to_gdal_path(href, access)
    if access.signer is not None:
        path = to_gdal_path(sign(href, access.signer), access)
    COUNTS.add("opened")
    with gdal_env(path, attempt):
        how = {} if overview is None else {"overview_level": overview}
        return rasterio.open(path, driver=_driver(path), sharing=False, **how)


def _driver(path: str) -> str:
    # Never left to GDAL: a file named .tif may hold a VRT that reads any file.
    if path.startswith("/vsi"):
        name = path.partition("?")[0].lower()
        return "JP2OpenJPEG" if name.endswith((".jp2", ".j2k")) else "GTiff"
    try:
        with open(path, "rb") as file:
            head = file.read(12)
    except OSError:
        return "GTiff"
    if head[4:8] == b"jP  " or head[:4] == b"\xff\x4f\xff\x51":
        return "JP2OpenJPEG"
    if head[:2] not in (b"II", b"MM") and envi_header(path):
        return "ENVI"
    return "GTiff"


def envi_header(path: str) -> str | None:
    """Path of the ENVI header beside a local file, or None."""
    stem = os.path.splitext(path)[0]
    for name in (path, stem):
        for end in (".hdr", ".HDR"):
            if os.path.isfile(name + end) and name + end != path:
                return name + end
    return None


def read_with_retries(
    href: str, access: Access, read: Callable[[Handle], T], *, first: int = 1
) -> T:
    """Run a read on a handle of a file that is this thread's; retry what may pass.

    Parameters
    ----------
    href : str
        Unsigned path or URL.
    access : Access
        What is allowed, how to sign, how often to try.
    read : callable
        Takes a `Handle`, which is its own until it returns; called again after a
        failure.
    first : int
        Number of the first attempt; from 2 on, caches are not believed.

    Returns
    -------
    object
        What `read` returned.

    Raises
    ------
    ReadError
        If the file cannot be read; the href in it is redacted.
    SourceError
        If the href is refused.
    """
    from rasterio.errors import RasterioError

    path = to_gdal_path(href, access)
    key, host = (href, access), find_host(href)
    last, refusals = access.attempts + first - 1, 0
    for attempt in range(first, last + 1):
        try:
            with contextlib.ExitStack() as stack:
                if host is not None:
                    stack.enter_context(host.visit())
                stack.enter_context(gdal_env(path, attempt))
                handle = stack.enter_context(_lend(key, path, attempt))
                COUNTS.add("reads")
                found = read(handle)
            if host is not None:
                host.note(ok=True)
            return found
        except (RasterioError, OSError, _cpl_error()) as err:
            drop_handle(key)
            why = explain(err)
            is_refused = bool(_AUTH.search(why))
            if is_refused:
                refusals += 1
                renew(access.signer)
            # Where a signature ends while a file is being opened or read, GDAL says no
            # more than that it is of no known format, or that bytes are missing.
            is_signed = access.signer is not None and attempt == first
            may_pass = is_signed or is_transient(why, path, refusals=refusals)
            if host is not None:
                # to say that something is not there is an answer
                host.note(ok=not may_pass or is_refused)
            if attempt == last or not may_pass:
                raise ReadError(
                    f"cannot read {redact(href)} after {attempt} "
                    f"{'try' if attempt == 1 else 'tries'}: {redact(why)}",
                    kind=_name_kind(why, may_pass=may_pass, path=path),
                ) from None
        COUNTS.add("retries")
        if is_refused or is_signed:
            continue  # a fresh signature is good at once
        # full jitter: thousands of workers must not come back in step
        time.sleep(random.uniform(0, min(30.0, access.backoff_s * 2**attempt)))  # noqa: S311
    raise AssertionError("unreachable: the last attempt returns or raises")


def is_transient(why: str, path: str, *, refusals: int = 0) -> bool:
    """Whether the same read may succeed later.

    Parameters
    ----------
    why : str
        What GDAL said.
    path : str
        GDAL path.
    refusals : int
        How often the credentials of this read were refused.

    Examples
    --------
    >>> is_transient("HTTP response code: 503", "/vsicurl/https://x")
    True
    >>> is_transient("HTTP response code: 404", "/vsicurl/https://x")
    False
    """
    if not path.startswith("/vsi"):
        # a network disk may hiccup; a broken local file stays broken
        return "Input/output error" in why or "Stale file" in why
    if _AUTH.search(why):
        return refusals <= 1  # once more, with a fresh signature
    return not _PERMANENT.search(why)


def _name_kind(why: str, *, may_pass: bool, path: str) -> str:
    if path.startswith("/vsi") and _AUTH.search(why):
        return AUTH
    return "transient" if may_pass else "permanent"


def explain(err: BaseException) -> str:
    """Join what a chain of GDAL errors says, in one line."""
    said: list[str] = []
    seen: BaseException | None = err
    while seen is not None:
        text = " ".join(str(seen).split())
        if text and text not in said and not text.startswith("Read failed. See"):
            said.append(text)
        seen = seen.__cause__ or seen.__context__
    return "; ".join(said)[:500] or type(err).__name__


@functools.cache
def _cpl_error() -> type[Exception]:
    # errors of GDAL that rasterio lets through have only this private base
    module = importlib.import_module("rasterio._err")
    found = getattr(module, "CPLE_BaseError", None)
    return found if isinstance(found, type) else OSError


def _lend(
    key: tuple[str, Access], path: str, attempt: int
) -> contextlib.AbstractContextManager[Handle]:
    stamp = _stamp(path)

    def make() -> Handle:
        return Handle(
            open_raster(*key, attempt),
            stamp,
            lambda level: _open_overview(key, path, attempt, level),
        )

    # an idle handle may be what failed before
    return _POOL.value.lend(key, stamp, make, new=attempt > 1)


def _open_overview(
    key: tuple[str, Access], path: str, attempt: int, level: int
) -> Any | None:
    """Open an overview, or give None where the file has not so many."""
    from rasterio.errors import RasterioIOError

    try:
        return open_raster(*key, attempt, level)
    except RasterioIOError as err:
        if "overview level" not in explain(err):
            raise
    if path.startswith("/vsi") and attempt == 1:
        # GDAL takes a directory that did not arrive for one that is not there
        return _open_overview(key, path, 2, level)
    return None


def _stamp(path: str) -> tuple[int, ...] | None:
    """Tell a local file from another that took its name."""
    if path.startswith("/vsi"):
        return None
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def drop_handle(key: tuple[str, Access]) -> None:
    """Close this process's handles of a file, those in use as soon as they are not."""
    _POOL.value.drop(key)


def close_handles() -> None:
    """Close every file that this process keeps open."""
    _POOL.value.clear()

"""Files from elsewhere: fetched, looked at, hashed."""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import urllib.request
from pathlib import Path
from typing import Any

from geoscale.errors import WeightsError
from geoscale.words import redact

_LOG = logging.getLogger(__name__)

_CHUNK = 1 << 20
_TIMEOUT_S = 60


def check_first_bytes(path: Path) -> None:
    """Refuse files that only look like weights, by their first bytes.

    Parameters
    ----------
    path : Path
        Local file.

    Raises
    ------
    WeightsError
        If it is missing, empty, a Git-LFS pointer or a web page.
    """
    if path.is_dir():
        raise WeightsError(f"weights {path} are a folder; name the file inside it")
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            head = file.read(512)
    except FileNotFoundError:
        raise WeightsError(
            f"weights {path} do not exist; put the file there or mend `weights.href`"
        ) from None
    except OSError as err:
        raise WeightsError(f"weights {path} cannot be read: {err}") from err
    if not size:
        raise WeightsError(f"weights {path} are empty (0 bytes); fetch them again")
    if head.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path} is a Git-LFS pointer ({size} bytes), not the weights; "
            "run `git lfs pull` where it came from"
        )
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:15]
    if start.lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        raise WeightsError(
            f"{path} is HTML or XML, first bytes {start.decode(errors='replace')!r}; "
            "the server gave a page (login, error), not the weights: fetch them again"
        )


def fetch_bytes(url: str, limit: int) -> bytes:
    """Read the start of what lies at an address.

    Parameters
    ----------
    url : str
        http or https.
    limit : int
        Bytes to read at most.

    Returns
    -------
    bytes
        Body, cut at the limit.

    Raises
    ------
    OSError
        If the server cannot be reached or refuses.
    """
    with _open(url) as reply:
        return bytes(reply.read(limit))


def fetch_file(url: str, to: Path) -> str:
    """Download a URL into a file and give its sha256.

    Parameters
    ----------
    url : str
        http or https.
    to : Path
        File to write.

    Returns
    -------
    str
        sha256 of what came.

    Raises
    ------
    WeightsError
        If the server refuses, the body is cut short, or the disk is full.
    """
    _LOG.info("downloading %s", redact(url))
    digest, size = hashlib.sha256(), 0
    try:
        with _open(url) as reply, open(to, "wb") as file:
            promised = reply.headers.get("Content-Length")
            while chunk := reply.read(_CHUNK):
                file.write(chunk)
                digest.update(chunk)
                size += len(chunk)
            file.flush()
            os.fsync(file.fileno())
    except (OSError, http.client.HTTPException) as err:
        raise WeightsError(
            f"weights at {redact(url)} cannot be fetched: {redact(str(err))}; on nodes "
            "without internet fetch them first on one that has it (same GEOSCALE_CACHE)"
        ) from err
    if promised is not None and int(promised) != size:
        raise WeightsError(
            f"weights at {redact(url)}: {size} of {promised} bytes came; try again"
        )
    return digest.hexdigest()


def _open(url: str) -> Any:
    if not url.startswith(("http://", "https://")):
        raise OSError(f"only http and https are fetched, not {redact(url)}")
    headers = {"User-Agent": "geoscale"}
    try:
        request = urllib.request.Request(url, headers=headers)  # noqa: S310
        return urllib.request.urlopen(request, timeout=_TIMEOUT_S)  # noqa: S310
    except (ValueError, http.client.HTTPException) as err:
        raise OSError(f"{type(err).__name__}: {redact(str(err))}") from err

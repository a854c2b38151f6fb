"""Secrets: taken out of every text that is said, logged or stored.

Signed URLs, user info, headers, and what the environment holds under a name that
says secret. Log records of libraries that like to print URLs are cleaned where they
are made, whoever handles them.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote, urlsplit, urlunsplit

LIBRARIES = frozenset(
    (
        "adlfs", "aiobotocore", "aiohttp", "asyncio", "azure", "boto3", "botocore",
        "dask", "dask_gateway", "distributed", "fsspec", "gcsfs", "geoscale",
        "httpcore", "httpx",
        "odc", "planetary_computer", "pystac", "pystac_client", "rasterio", "requests",
        "s3fs", "s3transfer", "stackstac", "tornado", "urllib3", "zarr",
    )
)  # fmt: skip
"""Packages whose log records are cleaned."""
SHORTEST = 8
"""Characters that a value must have to be known again in a text."""

# Repeats before a fixed word are bounded: without end, each letter of a long word
# would be tried as the first.
_URL = re.compile(r"[a-z][a-z0-9+.-]{0,40}://[^\s\"'<>\\]+", re.I)
_QUERY = re.compile(r"\?[^\s\"'<>\\?]*=[^\s\"'<>\\]*")
# In a name, at its end or before another word: AZURE_STORAGE_KEY, GDAL_HTTP_HEADERS.
_SECRET_NAME = re.compile(
    r"(^|_)(SECRET|TOKEN|PASSWORD|PASSWD|USERPWD|PWD|KEY|SAS|CREDENTIALS?|HEADERS?|"
    r"SIGNATURE|AUTH|BEARER|COOKIE|CONNECTION_STRING)(_|$)",
    re.I,
)
_SECRET_PART = re.compile("key|sig|secret|token|password", re.I)
_NOT_SECRET = frozenset(("PWD", "OLDPWD"))
_HEADER = re.compile(
    r"\b((?:proxy-)?authorization|cookie|[\w-]{0,40}api-?key|[\w-]{0,40}subscription-key|"
    r"x-amz-security-token)(\"?'?\s*[:=]\s*(?:b(?=[\"']))?\"?'?)((?:basic|bearer|digest|aws4-\S+)\s+)?"
    r"[^\s\"',}\]]+",
    re.I,
)
_REQUEST = re.compile(
    r"\b(GET|HEAD|PUT|POST|DELETE|PATCH|OPTIONS)( /[^\s?\"]*)\?[^\s\"]*"
)
_PAIR = re.compile(
    r"(\b|%3F|%26)(sig|signature|(?:access_|sas_|session_)?token|password|passwd|"
    r"(?:account|secret|access)_?-?key|x-(?:amz|goog)-(?:signature|credential|"
    r"security-token)|awsaccesskeyid|client_secret)(=|%3D)[^\s\"'&,;)}\]]+",
    re.I,
)


def redact(text: str) -> str:
    """Strip what may be secret from a text.

    Of every URL the user info, query and fragment; the values of headers and of
    parameters that carry credentials; and the values of environment variables whose
    names say that they are secret.

    Examples
    --------
    >>> redact("GET https://me:pw@x.org/a.tif?sig=abc failed")
    'GET https://x.org/a.tif?… failed'
    >>> redact("sent Authorization: Bearer abc.def, sig=1234")
    'sent Authorization: Bearer …, sig=…'

    GDAL names files without their host, and with the query:

    >>> redact("a.tif?sig=abc, band 1: IReadBlock failed")
    'a.tif?… band 1: IReadBlock failed'
    """
    text = _URL.sub(lambda match: _redact_url(match[0]), str(text))
    text = _REQUEST.sub(r"\1\2?…", text)
    text = _QUERY.sub("?…", text)
    text = _HEADER.sub(r"\1\2\3…", text)
    text = _PAIR.sub(r"\1\2\3…", text)
    for value in _list_values(os.environ):
        text = text.replace(value, "…")
    return text


def clean_logs() -> None:
    """Clean the log records of `LIBRARIES` in this process, from now on.

    A filter on a logger would miss the loggers below it, one on a handler the
    handlers that are added later. Calling it again changes nothing.
    """
    before = logging.getLogRecordFactory()
    if getattr(before, "is_clean", False):
        return

    def make(*args: Any, **kwargs: Any) -> logging.LogRecord:
        """Make a record as before, and clean it."""
        record = before(*args, **kwargs)
        if record.name.partition(".")[0] in LIBRARIES:
            _clean(record)
        return record

    make.is_clean = True  # type: ignore[attr-defined]
    logging.setLogRecordFactory(make)


def _clean(record: logging.LogRecord) -> None:
    try:
        text = record.getMessage()
    except (TypeError, ValueError, KeyError):
        return  # the handler will complain of it
    found = redact(text)
    if found != text:
        record.msg, record.args = found, None
    if record.exc_info and record.exc_info[0] is not None:
        said = logging.Formatter().formatException(record.exc_info)
        record.exc_text = redact(said)


def _redact_url(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "…"
    host = parts.netloc.rpartition("@")[2]
    bare = urlunsplit((parts.scheme, host, parts.path, "", ""))
    return bare + ("?…" if parts.query else "")


def is_secret(name: str) -> bool:
    """Tell whether a variable's name says that its value is secret.

    Examples
    --------
    >>> is_secret("AWS_SECRET_ACCESS_KEY"), is_secret("OMP_NUM_THREADS")
    (True, False)
    """
    return name not in _NOT_SECRET and bool(_SECRET_NAME.search(name))


def _list_values(environ: Mapping[str, str]) -> Iterator[str]:
    """Yield values that must not be shown, and parts of them, the longest first."""
    found = set()
    for name, value in environ.items():
        if not is_secret(name):
            continue
        found |= {v for v in (value, *_split(value)) if len(v) >= SHORTEST}
    for value in sorted(found, key=len, reverse=True):
        if not value.startswith("/") or not os.path.exists(value):
            yield value
            if (quoted := quote(value, safe="")) != value:
                yield quoted


def _split(value: str) -> Iterator[str]:
    """Yield what is secret in headers, `user:password` and connection strings."""
    for part in re.split(r"[\s;,&]+", value):
        yield part.rpartition(":")[2] if "://" not in part else part
        name, _, rest = part.partition("=")
        if rest and _SECRET_PART.search(name):
            yield rest

"""Which addresses may be opened, and how they are stored: unsigned, never `/vsi`.

Item metadata come from strangers. An href is data until this module has read
it; what passes is a plain local file or a URL of a known scheme, and nothing
that makes GDAL read another file, run a VRT or look into a private network.
"""

from __future__ import annotations

import functools
import ipaddress
import os
import posixpath
import re
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from geoscale.errors import SourceError
from geoscale.words import redact

_VSI = {
    "http": "/vsicurl/http://",
    "https": "/vsicurl/https://",
    "s3": "/vsis3/",
    "gs": "/vsigs/",
    "az": "/vsiaz/",
}
_CONTROL = re.compile(r"[\x00-\x1f\x7f<>|]")
_SCHEME = re.compile(r"^([a-z][a-z0-9+.-]*):", re.I)
_USER_INFO = (
    "it carries user info, which would be stored; give credentials by environment "
    "(GDAL_HTTP_USERPWD, or what the store's library reads)"
)
_SIGNATURE = re.compile(
    r"^(sig|se|sp|sv|sr|st|skoid|sktid|skt|ske|sks|skv|token|expires|signature|"
    r"key-pair-id|policy|awsaccesskeyid|googleaccessid|access_token|api_?key|"
    r"x-(amz|goog)-.*)$",
    re.I,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """How a source may reach its files; travels in the source's spec."""

    allow_private: bool = False
    """Whether http hosts in private networks and loopback may be asked."""
    local: bool = True
    """Whether local files may be read; False for items of a remote search."""
    signer: str | None = None
    """Name of what signs hrefs when they are opened, or None."""
    attempts: int = 4
    """Tries for a transient failure."""
    backoff_s: float = 0.5
    """Longest first pause between tries, in seconds; doubles each time."""


def resolve_href(href: str, base: str) -> str:
    """Make a relative href absolute, against the file that holds the item.

    Parameters
    ----------
    href : str
        As the item gives it.
    base : str
        Path or URL of the items file; empty where there is none.

    Returns
    -------
    str
        Absolute path or URL, without signature.

    Examples
    --------
    >>> resolve_href("./B02.tif", "https://x.org/a/item.json?sig=1")
    'https://x.org/a/B02.tif'
    """
    href = strip_signature(href.strip())
    if _SCHEME.match(href) or href.startswith("/") or not base:
        return href
    if "://" in base:
        parts = urlsplit(base)
        folder = posixpath.dirname(parts.path)
        path = posixpath.normpath(posixpath.join(folder, href))
        return urlunsplit((parts.scheme, parts.netloc, path, "", ""))
    return os.path.normpath(os.path.join(os.path.dirname(os.path.abspath(base)), href))


def strip_signature(href: str) -> str:
    """Drop signature parameters from a URL's query; keep the others.

    Raises
    ------
    SourceError
        If the URL carries user info: what is planned is stored.

    Examples
    --------
    >>> strip_signature("https://x.org/a.tif?v=2&sig=abc&se=2025-01-01")
    'https://x.org/a.tif?v=2'
    """
    if "://" not in href:
        return href
    if "@" in href.partition("://")[2].partition("/")[0]:
        raise _refuse(href, _USER_INFO)
    if "?" not in href:
        return href
    try:
        parts = urlsplit(href)
        pairs = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:
        raise _refuse(href, "it is not a URL") from None
    kept = [(name, value) for name, value in pairs if not _SIGNATURE.match(name)]
    return urlunsplit((*parts[:3], urlencode(kept), ""))


def expiry(href: str) -> datetime | None:
    """Tell until when a signed URL is good, where its query says so.

    Returns
    -------
    datetime or None
        UTC; None where the URL is not signed or does not say.
    """
    if "?" not in href:
        return None
    try:
        query = {k.lower(): v for k, v in parse_qsl(urlsplit(href).query)}
        if "se" in query:
            when = datetime.fromisoformat(query["se"].replace("Z", "+00:00"))
            return when if when.tzinfo else when.replace(tzinfo=UTC)
        if query.get("expires", "").isdigit():
            return datetime.fromtimestamp(int(query["expires"]), tz=UTC)
    except (ValueError, OverflowError):
        return None
    return None


def to_gdal_path(href: str, access: Access) -> str:
    """Check an href and turn it into the path that GDAL opens.

    Parameters
    ----------
    href : str
        Local path, or URL with scheme http, https, s3, gs, az or file.
    access : Access
        What is allowed.

    Returns
    -------
    str
        Absolute local path, or ``/vsicurl/…``, ``/vsis3/…``.

    Raises
    ------
    SourceError
        If the href is refused; says why and what would be taken.

    Examples
    --------
    >>> to_gdal_path("s3://bucket/a/b.tif", Access())
    '/vsis3/bucket/a/b.tif'
    """
    if not href or _CONTROL.search(href):
        raise _refuse(href, "it is empty or holds control characters or markup")
    plain = unquote(href).lower().replace("\\", "/")
    if "/vsi" in plain or plain.startswith("vrt:"):
        raise _refuse(href, "it names a GDAL virtual file system or VRT")
    scheme = _SCHEME.match(href)
    if scheme is None:
        return _local_path(href, href, access)
    kind = scheme[1].lower()
    if kind == "file":
        return _local_path(unquote(urlsplit(href).path), href, access)
    if kind not in _VSI or "://" not in href:
        raise _refuse(href, f"scheme `{kind}` is not one of http(s), s3, gs, az, file")
    return _remote_path(href, kind, access)


def _remote_path(href: str, kind: str, access: Access) -> str:
    try:
        parts = urlsplit(href)
        host = parts.hostname or ""
        parts.port  # noqa: B018  a bad port raises here
    except ValueError:
        raise _refuse(href, "it is not a URL") from None
    if "@" in parts.netloc:
        raise _refuse(href, _USER_INFO)
    if not host or "%" in host:
        raise _refuse(href, "its host is missing or encoded")
    if ".." in unquote(parts.path).split("/"):
        raise _refuse(href, "its path climbs with `..`")
    if kind in ("http", "https") and not _may_be_private(access):
        _refuse_private(href, host)
    if kind not in ("http", "https"):
        return _VSI[kind] + parts.netloc + unquote(parts.path)
    query = f"?{parts.query}" if parts.query else ""
    return (
        _VSI[kind] + parts.netloc + quote(parts.path, safe="/%:,;=+()@!$&'*~") + query
    )


def _local_path(path: str, href: str, access: Access) -> str:
    if not access.local:
        raise _refuse(href, "a remote search may not name local files")
    # absolute, so that no prefix of a GDAL driver (`NETCDF:…`) can be read in it
    path = os.path.expanduser(path)
    return _real(path) if os.path.isabs(path) else os.path.realpath(path)


# asked for every window, and a look at each folder above each time
_real = functools.lru_cache(maxsize=4096)(os.path.realpath)


def _may_be_private(access: Access) -> bool:
    return access.allow_private or os.environ.get("GEOSCALE_ALLOW_PRIVATE") == "1"


def _refuse_private(href: str, host: str) -> None:
    for address in _addresses(host):
        if not address.is_global:
            raise _refuse(
                href,
                "its host is in a private network; if that is meant, set "
                "imagery.allow_private: true, or GEOSCALE_ALLOW_PRIVATE=1",
            )


@functools.lru_cache(maxsize=1024)
def _addresses(
    host: str,
) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, ...]:
    try:
        return (_unmapped(ipaddress.ip_address(host)),)
    except ValueError:
        pass
    if host.rstrip(".") == "localhost" or host.endswith(".localhost"):
        return (ipaddress.ip_address("127.0.0.1"),)
    try:
        # curl takes 2130706433, 0x7f.1 and 0177.0.0.1 for 127.0.0.1
        return (ipaddress.ip_address(socket.inet_aton(host)),)
    except OSError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError:
        # Behind a proxy names may not resolve here; the proxy decides then.
        return ()
    hosts = {str(entry[4][0]).partition("%")[0] for entry in found}
    return tuple(_unmapped(ipaddress.ip_address(h)) for h in sorted(hosts))


def _unmapped(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    mapped = getattr(address, "ipv4_mapped", None)
    return mapped if mapped is not None else address


def _refuse(href: str, why: str) -> SourceError:
    shown = redact(href)
    shown = re.sub(r"[^\x20-\x7e]", "?", shown)[:200]
    return SourceError(f"href `{shown}` is refused: {why}")

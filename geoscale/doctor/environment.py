"""Environment variables that trap: of GDAL, PROJ, clouds, proxies and threads."""

from __future__ import annotations

import importlib.util
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path

from geoscale.doctor.finding import Finding
from geoscale.memory import allowed_cpus

_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_AWS = (
    "AWS_ACCESS_KEY_ID", "AWS_PROFILE", "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI",
)  # fmt: skip
_NO = ("", "0", "NO", "FALSE", "OFF")


def check_environment(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Look for settings that make reading slow, wrong or talkative.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.

    Yields
    ------
    Finding
        One for proxies, one for each trap.
    """
    environ = os.environ if environ is None else environ
    yield from _check_gdal(environ)
    yield _check_proxies(environ)
    yield from _check_aws(environ)
    yield from _check_threads(environ)


def _check_gdal(environ: Mapping[str, str]) -> Iterator[Finding]:
    if environ.get("GDAL_NUM_THREADS", "1").upper() not in ("1", ""):
        yield Finding(
            "note",
            "gdal",
            f"GDAL_NUM_THREADS={environ['GDAL_NUM_THREADS']} is set",
            "unset it: with several threads GDAL may turn a broken download into "
            "zeros (geoscale reads with 1 in any case)",
        )
    loud = [
        name
        for name in ("CPL_CURL_VERBOSE", "CPL_DEBUG")
        if environ.get(name, "").upper() not in _NO
    ]
    if loud:
        yield Finding(
            "note",
            "gdal",
            f"{' and '.join(loud)} set: GDAL prints URLs and headers to stderr, past "
            "everything that takes secrets out",
            f"unset {' '.join(loud)}",
        )


def _check_proxies(environ: Mapping[str, str]) -> Finding:
    """Say which proxies are set; their values may hold passwords."""

    def has(name: str) -> bool:
        return bool(environ.get(name) or environ.get(name.lower()))

    names = [name for name in _PROXIES if has(name)]
    if not names:
        return Finding("ok", "proxies", "none")
    text = f"{', '.join(names)} set"
    if has("NO_PROXY"):
        return Finding("ok", "proxies", f"{text}, and NO_PROXY")
    return Finding(
        "note",
        "proxies",
        f"{text}, NO_PROXY is not",
        "put into NO_PROXY what is to be reached directly: this machine, the archive "
        "or the object store of your own network",
    )


def _check_aws(environ: Mapping[str, str]) -> Iterator[Finding]:
    files = (
        environ.get("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials"),
        environ.get("AWS_CONFIG_FILE", "~/.aws/config"),
    )
    has_file = any(Path(name).expanduser().is_file() for name in files)
    has_keys = has_file or any(environ.get(name) for name in _AWS)
    is_unsigned = environ.get("AWS_NO_SIGN_REQUEST", "").upper() not in _NO
    if has_keys and is_unsigned:
        yield Finding(
            "note",
            "aws",
            "AWS_NO_SIGN_REQUEST is set, though there are credentials: GDAL does not "
            "use them",
            "unset AWS_NO_SIGN_REQUEST if imagery lies in private buckets",
        )
    elif not has_keys and not is_unsigned:
        yield Finding(
            "note",
            "aws",
            "no AWS credentials, and AWS_NO_SIGN_REQUEST is not set: s3:// imagery "
            "waits half a minute for credentials and is then refused",
            "for public buckets: export AWS_NO_SIGN_REQUEST=YES; for others give "
            "credentials; without s3:// it does not matter",
        )


def _check_threads(environ: Mapping[str, str]) -> Iterator[Finding]:
    allowed = allowed_cpus()
    for name in _THREADS:
        wanted = environ.get(name, "")
        if wanted.isdigit() and int(wanted) > allowed:
            yield Finding(
                "note",
                "threads",
                f"{name}={wanted} is more than the {allowed} CPUs of this process",
                "unset it, or libraries fight for the CPUs",
            )


def check_proj(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Find a database of PROJ that belongs to another install.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.

    Yields
    ------
    Finding
        One for each variable that names a folder.
    """
    environ = os.environ if environ is None else environ
    own = max((n for n in map(read_layout, _list_own()) if n is not None), default=None)
    for name in ("PROJ_LIB", "PROJ_DATA"):
        place = environ.get(name)
        if not place:
            continue
        database = Path(place) / "proj.db"
        layout = read_layout(database)
        if layout is None:
            what = "is not there" if not database.is_file() else "is none"
            yield Finding(
                "wrong",
                "proj",
                f"{name}={place} holds no proj.db that can be read ({database} {what})",
                f"unset {name}: the packages bring their own",
            )
        elif own is not None and layout < own:
            yield Finding(
                "wrong",
                "proj",
                f"{name}={place} belongs to an older PROJ (layout {layout}, the "
                f"packages need {own}): no CRS would be found",
                f"unset {name}: the packages bring their own",
            )
        else:
            yield Finding(
                "note",
                "proj",
                f"{name}={place} is used instead of the packages' own",
                f"unset {name} if a CRS is not found or a version is complained about",
            )


def read_layout(database: Path) -> tuple[int, int] | None:
    """Version of a PROJ database's layout; None where it is none.

    Parameters
    ----------
    database : Path
        File ``proj.db``.

    Returns
    -------
    tuple of int or None
        Major and minor number.
    """
    if not database.is_file():
        return None
    query = "SELECT key, value FROM metadata WHERE key LIKE 'DATABASE.LAYOUT.VERSION.%'"
    try:
        with closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as file:
            rows = {
                key.rpartition(".")[2]: int(value) for key, value in file.execute(query)
            }
    except (sqlite3.Error, ValueError):
        return None
    if not {"MAJOR", "MINOR"} <= rows.keys():
        return None
    return rows["MAJOR"], rows["MINOR"]


def _list_own() -> Iterator[Path]:
    """Databases that wheels bring along; those of other installs lie elsewhere."""
    for package, folder in (
        ("rasterio", "proj_data"),
        ("pyproj", "proj_dir/share/proj"),
    ):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield Path(spec.origin).parent / folder / "proj.db"

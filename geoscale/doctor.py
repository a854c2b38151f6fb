"""The doctor: what this machine and a cluster's workers have, and what is wrong.

Every finding that is not fine says how to mend it. Nothing is changed, and no
value that may hold a secret is shown.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from geoscale.errors import GeoscaleError
from geoscale.words import redact

if TYPE_CHECKING:
    from geoscale.types import Json

Level = Literal["ok", "note", "wrong"]

LITTLE_MEMORY = 2_000_000_000
"""A worker with a model of common size needs this much, in bytes."""
LITTLE_DISK = 2_000_000_000
"""Below this a run may well fill the disk, in bytes."""
MUST_AGREE = ("geoscale", "python", "numpy", "torch", "zarr", "dask", "distributed")
"""What must be of one version on the driver and on every worker."""
OPTIONAL = {"onnxruntime": "onnx", "openvino": "openvino"}
"""Package → extra that brings it."""
_PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    """``ok``; ``note``: may matter; ``wrong``: will fail."""
    name: str
    """What was looked at."""
    found: str
    """What is there."""
    fix: str = ""
    """What to do about it."""


def examine(
    *, cluster: str | None = None, output: str | None = None
) -> Iterator[Finding]:
    """Look at everything; a check that breaks is a finding, too.

    Parameters
    ----------
    cluster : str, optional
        Profile, address or number of workers whose versions are compared.
    output : str, optional
        Where results are to go; tried by writing beside it.

    Yields
    ------
    Finding
        In the order in which they were looked at.
    """
    checks: list[tuple[str, Callable[[], Iterator[Finding]]]] = [
        ("versions", check_versions),
        ("gdal", check_gdal),
        ("proxies", check_proxies),
        ("torch", check_torch),
        ("cpus", check_cpus),
        ("memory", check_memory),
        ("disk", lambda: check_disk(output)),
        ("store", lambda: check_store(output)),
    ]
    if cluster is not None:
        checks.append(("cluster", lambda: check_cluster(cluster)))
    for name, check in checks:
        try:
            yield from check()
        except GeoscaleError as err:
            yield Finding("wrong", name, redact(str(err)))
        except Exception as err:
            text = redact(f"{type(err).__name__}: {err}")
            yield Finding("wrong", name, text, "mend it, then ask the doctor again")


def check_versions() -> Iterator[Finding]:
    """Name versions; find packages that are missing.

    Yields
    ------
    Finding
        One or more.
    """
    from geoscale.models import handshake

    found = handshake()
    system = f"{platform.system()} {platform.machine()}"
    yield Finding("ok", "geoscale", f"{found.pop('geoscale')} on {system}")
    yield Finding("ok", "python", str(found.pop("python")))
    found.pop("gdal", None)
    here = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("ok", "packages", here)
    for name in (name for name, version in found.items() if not version):
        if name in OPTIONAL:
            fix = f"if wanted: pip install 'geoscale[{OPTIONAL[name]}]'"
            yield Finding("note", name, "is not installed (optional)", fix)
        else:
            yield Finding("wrong", name, "is not installed", f"pip install {name}")


def check_gdal(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Name GDAL and PROJ; find settings that make them fail.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.

    Yields
    ------
    Finding
        Versions, then traps.
    """
    import pyproj

    from geoscale.models import handshake
    from geoscale.sources.gdal import gdal_env

    environ = os.environ if environ is None else environ
    with gdal_env():
        gdal = handshake()["gdal"]
    yield Finding("ok", "gdal", f"GDAL {gdal}, PROJ {pyproj.proj_version_str}")
    if environ.get("GDAL_NUM_THREADS", "1").upper() not in ("1", ""):
        yield Finding(
            "note",
            "gdal",
            f"GDAL_NUM_THREADS={environ['GDAL_NUM_THREADS']} is set",
            "unset it: with several threads GDAL may turn a broken download into "
            "zeros (geoscale reads with 1 in any case)",
        )
    for name in ("PROJ_LIB", "PROJ_DATA"):
        place = environ.get(name)
        if place and not (Path(place) / "proj.db").is_file():
            yield Finding(
                "wrong",
                "proj",
                f"{name}={place} holds no proj.db",
                f"unset {name}: the packages bring their own",
            )
        elif place:
            yield Finding(
                "note",
                "proj",
                f"{name}={place} is used instead of the packages' own",
                f"unset {name} if a CRS is not found or a version is complained about",
            )


def check_proxies(environ: Mapping[str, str] | None = None) -> Iterator[Finding]:
    """Say which proxies are set; their values may hold passwords.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.

    Yields
    ------
    Finding
        One.
    """
    environ = os.environ if environ is None else environ
    names = [n for n in _PROXIES if environ.get(n) or environ.get(n.lower())]
    text = f"{', '.join(names)} set" if names else "none"
    yield Finding("ok", "proxies", text)


def check_torch() -> Iterator[Finding]:
    """Name torch and the device that ``auto`` would take.

    Yields
    ------
    Finding
        One or more.
    """
    from importlib.metadata import version

    from geoscale.models.device import pick_device

    found = version("torch")
    yield Finding("ok", "torch", f"{found}, device auto is {pick_device('auto')}")
    if tuple(int(n) for n in found.split("+")[0].split(".")[:2]) < (2, 10):
        yield Finding(
            "wrong",
            "torch",
            f"{found} is older than 2.10: its .pt files are not safe to load",
            "pip install 'torch>=2.10'",
        )


def check_cpus() -> Iterator[Finding]:
    """Compare the CPUs that this process may use with those there are.

    Yields
    ------
    Finding
        One or more.
    """
    from geoscale.memory import allowed_cpus

    allowed, there = allowed_cpus(), os.cpu_count() or 1
    of = "" if allowed == there else f" of {there} (affinity or cgroup quota)"
    yield Finding("ok", "cpus", f"{allowed}{of}")
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    if wanted.isdigit() and int(wanted) > allowed:
        yield Finding(
            "note",
            "cpus",
            f"OMP_NUM_THREADS={wanted} is more than {allowed}",
            "unset it, or libraries fight for the CPUs",
        )


def check_memory() -> Iterator[Finding]:
    """Say how much memory this process may use, as its cgroup and Slurm have it.

    Yields
    ------
    Finding
        One or more.
    """
    import psutil

    from geoscale.memory import allowed_memory_bytes

    allowed, there = allowed_memory_bytes(), psutil.virtual_memory().total
    of = "" if allowed == there else f" of {there / 1e9:.1f} GB (cgroup or batch limit)"
    text = f"{allowed / 1e9:.1f} GB{of}"
    if allowed < LITTLE_MEMORY:
        fix = "ask for 2 GB or more: a model alone takes 1.2 GB"
        yield Finding("wrong", "memory", text, fix)
    else:
        yield Finding("ok", "memory", text)


def check_disk(output: str | None = None) -> Iterator[Finding]:
    """Say how much room there is, for the output and for scratch files.

    Parameters
    ----------
    output : str, optional
        Where results are to go; default the working folder.

    Yields
    ------
    Finding
        One for each place on a local disk.
    """
    from geoscale.storage import Folder

    places = {"disk": output or str(Path.cwd()), "scratch": tempfile.gettempdir()}
    for name, place in places.items():
        folder = Folder(place)
        free = folder.free_bytes()
        if free is None:
            yield Finding("ok", name, f"{redact(place)}: not a local disk")
            continue
        few = free < LITTLE_DISK
        fix = "free some space, or choose another place" if few else ""
        text = f"{free / 1e9:,.1f} GB free at {folder.path}"
        yield Finding("note" if few else "ok", name, text, fix)


def check_store(output: str | None = None) -> Iterator[Finding]:
    """Write, read, list and delete a small object.

    Parameters
    ----------
    output : str, optional
        Tried beside it; default in a temporary folder.

    Yields
    ------
    Finding
        One.
    """
    if output is None:
        place = tempfile.mkdtemp(prefix="geoscale-doctor-")
        try:
            yield _try_store(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        return
    from geoscale.api import as_url

    parent = as_url(output).rpartition("/")[0]
    yield _try_store(parent)


def _try_store(place: str) -> Finding:
    from geoscale.storage import Folder

    folder, name = Folder(place), f".geoscale-doctor-{uuid.uuid4().hex[:8]}"
    data = os.urandom(1000)
    folder.put(name, data)
    try:
        same, listed = folder.get(name) == data, name in folder.names()
    finally:
        folder.delete(name)
    shown = redact(folder.url)
    if not (same and listed):
        word = "comes back changed" if not same else "is not listed"
        fix = "use a store that is consistent at once"
        return Finding("wrong", "store", f"what is written to {shown} {word}", fix)
    return Finding("ok", "store", f"{shown} keeps what is written")


def check_cluster(profile: str) -> Iterator[Finding]:
    """Connect, and compare the versions of every worker with this process.

    Parameters
    ----------
    profile : str
        Profile, address or number of workers.

    Yields
    ------
    Finding
        One for the cluster, one for each difference.
    """
    from geoscale.clusters import connect
    from geoscale.launch import wait_for_workers
    from geoscale.models import handshake

    with connect(profile) as client:
        workers = wait_for_workers(client)
        versions = client.run(handshake)
        limits = [int(w.get("memory_limit") or 0) for w in workers.values()]
    text = "1 worker answers" if len(workers) == 1 else f"{len(workers)} workers answer"
    if any(limits):
        text += f", {min(n for n in limits if n) / 1e9:.1f} GB or more each"
    yield Finding("ok", "cluster", text)
    yield from compare_versions(handshake(), versions)


def compare_versions(ours: Json, theirs: Mapping[str, Any]) -> Iterator[Finding]:
    """Find versions that differ.

    Parameters
    ----------
    ours : dict
        Package → version, here.
    theirs : mapping
        Worker → the same, there.

    Yields
    ------
    Finding
        One for each package that differs, naming one worker.
    """
    same = True
    for package in MUST_AGREE:
        bad = {
            w: v.get(package)
            for w, v in theirs.items()
            if v.get(package) != ours[package]
        }
        if not bad:
            continue
        same = False
        worker, version = next(iter(bad.items()))
        more = f" and {len(bad) - 1} more" if len(bad) > 1 else ""
        yield Finding(
            "wrong",
            "versions",
            f"{package} is {version} on {worker}{more}, {ours[package]} here",
            "use one environment for the driver and all workers",
        )
    if same:
        yield Finding("ok", "versions", "the same here and on every worker")

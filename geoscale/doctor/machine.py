"""Versions, devices, CPUs, memory and disks of this machine."""

from __future__ import annotations

import os
import platform
import tempfile
from collections.abc import Iterator
from pathlib import Path

from geoscale.doctor.finding import Finding
from geoscale.words import redact

LITTLE_MEMORY = 2_000_000_000
"""A worker with a model of common size needs this much, in bytes."""
LITTLE_DISK = 2_000_000_000
"""Below this a run may well fill the disk, in bytes."""
FEW_FILES = 1024
"""Open files that a process should be allowed."""
OPTIONAL = {"onnxruntime": "onnx", "openvino": "openvino"}
"""Package → extra that brings it."""
_NETWORK = ("nfs", "lustre", "gpfs", "beegfs", "cifs", "smb", "ceph", "fuse.sshfs")


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
    for library in ("gdal", "proj"):  # no packages; told below
        found.pop(library, None)
    here = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    yield Finding("ok", "packages", here)
    for name in (name for name, version in found.items() if not version):
        if name in OPTIONAL:
            fix = f"if wanted: pip install 'geoscale[{OPTIONAL[name]}]'"
            yield Finding("note", name, "is not installed (optional)", fix)
        else:
            yield Finding("wrong", name, "is not installed", f"pip install {name}")


def check_gdal() -> Iterator[Finding]:
    """Name the versions of GDAL and PROJ, the libraries.

    Yields
    ------
    Finding
        One.
    """
    import pyproj

    from geoscale.models import handshake
    from geoscale.sources.gdal import gdal_env

    with gdal_env():
        gdal = handshake()["gdal"]
    yield Finding("ok", "gdal", f"GDAL {gdal}, PROJ {pyproj.proj_version_str}")


def check_torch() -> Iterator[Finding]:
    """Name torch, its GPUs and the device that ``auto`` would take.

    Yields
    ------
    Finding
        One or more.
    """
    from importlib.metadata import version

    from geoscale.models.device import describe_gpus, pick_device

    found = version("torch")
    yield Finding("ok", "torch", f"{found}, device auto is {pick_device('auto')}")
    gpus = describe_gpus()
    if gpus.names:
        text = f"CUDA {gpus.cuda}: {', '.join(gpus.names)}"
        yield Finding("ok", "gpu", text)
    elif gpus.has_driver:
        build = f"for CUDA {gpus.cuda}" if gpus.cuda else "without CUDA"
        yield Finding(
            "note",
            "gpu",
            f"a GPU driver is installed, but torch ({build}) sees no GPU",
            "if this machine has one: install a build of torch for its driver, and "
            "look at CUDA_VISIBLE_DEVICES; jobs of `device: cuda` are refused",
        )
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
    files = _count_files()
    if files is not None and files < FEW_FILES:
        yield Finding(
            "note",
            "files",
            f"a process may open {files} files",
            f"ulimit -n {4 * FEW_FILES}: every thread keeps some of the imagery open",
        )


def _count_files() -> int | None:
    """How many files this process may open; None where there is no limit."""
    try:
        import resource
    except ImportError:  # not on every system
        return None
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else int(soft)


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
        kind = _name_file_system(folder.path)
        fix = ""
        if free < LITTLE_DISK:
            fix = "free some space, or choose another place"
        elif kind and name == "scratch":
            fix = "set TMPDIR to a disk of this machine: workers keep locks there"
        text = f"{free / 1e9:,.1f} GB free at {folder.path} ({kind or 'local'})"
        yield Finding("note" if fix else "ok", name, text, fix)


def _name_file_system(path: str) -> str:
    """Name the network file system that a path is on; empty for a local one."""
    import psutil

    place, found = Path(path).resolve(), ("", "")
    for part in psutil.disk_partitions(all=True):
        mount = Path(part.mountpoint)
        if place.is_relative_to(mount) and len(part.mountpoint) >= len(found[0]):
            found = part.mountpoint, part.fstype
    return found[1] if found[1].startswith(_NETWORK) else ""

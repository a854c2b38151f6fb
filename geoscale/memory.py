"""What a block is projected to need, and what this process is allowed."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

TILE_CACHE_BYTES = 128 * 2**20
"""Decoded tiles of source files that a process keeps, in bytes: what two rows of
blocks share of six 16 bit bands over some 20,000 px."""
COMPOSITE_BYTES = 32 * 2**20
"""Most that all dates of some rows take while their median is made, in bytes."""
SHARED_BYTES = 128 * 2**20
"""Scores of patches between blocks that a process keeps where patches are blended,
in bytes: a row of 256 px patches with five classes over some 15,000 px."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockMemory:
    """Projected peak host memory of one worker process, by cause, in bytes."""

    reserved: int
    """The process with the model and its libraries loaded."""
    read: int
    """Blocks as read, with their halo, and the mosaic being built."""
    prepared: int
    """Their float32 copies for the network."""
    batch: int
    """One batch: input, output and, on a CPU, the activations between."""
    merged: int
    """Accumulator, weights and finished layers."""
    cache: int
    """Decoded tiles, and scores that blocks share."""

    @property
    def total(self) -> int:
        """Sum of all causes, in bytes."""
        return (
            self.reserved
            + self.read
            + self.prepared
            + self.batch
            + self.merged
            + self.cache
        )


def project_block_memory(
    read_shape: tuple[int, int, int],
    core_shape: tuple[int, int, int],
    *,
    itemsize: int,
    channels: int,
    batch_bytes: int,
    reserved: int,
    in_flight: int = 1,
) -> BlockMemory:
    """Project the peak host memory of a worker that runs blocks.

    Counts, all at once: for every block in flight the window as read (twice:
    GDAL's result and the mosaic it goes into), its float32 copy (twice: before
    and after normalisation) and validity; for the one block that is inferring
    a batch, the score accumulator and its argmax; finished layers for all.

    Parameters
    ----------
    read_shape : tuple of int, (time x band, y, x)
        Shape of the window with its halo, in px.
    core_shape : tuple of int, (class, y, x)
        Shape of what the block merges, in px.
    itemsize : int
        Size of one stored value of the source, in bytes.
    channels : int
        Channels of the network.
    batch_bytes : int
        Size of one batch through the network, in bytes.
    reserved : int
        Memory of an idle worker with the model loaded, in bytes.
    in_flight : int
        Blocks a process works on at a time.

    Returns
    -------
    BlockMemory
        Upper bound, by cause.

    Raises
    ------
    ValueError
        If any shape is empty or any size negative.

    Notes
    -----
    What is kept between blocks is the caller's to add, as `cache`.
    Memory of a GPU is not counted: it is bounded by the batch size, which the
    predictor halves when the device runs out.

    References
    ----------
    .. [1] Cubed, "Memory", for the split into allowed, reserved and projected,
       https://cubed-dev.github.io/cubed/user-guide/memory.html

    Examples
    --------
    >>> project_block_memory((4, 10, 10), (2, 8, 8), itemsize=2, channels=4,
    ...                      batch_bytes=100, reserved=1000).total
    8404
    """
    if min(*read_shape, *core_shape) < 1:
        raise ValueError(f"empty shape: read {read_shape}, core {core_shape}")
    if min(itemsize, batch_bytes, reserved) < 0 or in_flight < 1:
        raise ValueError("sizes must not be negative, in_flight at least 1")
    layers, height, width = read_shape
    read_px = height * width
    classes, core_y, core_x = core_shape
    core_px = core_y * core_x
    return BlockMemory(
        reserved=reserved,
        read=in_flight * (2 * layers * read_px * itemsize + 2 * read_px),
        prepared=in_flight * 2 * channels * read_px * 4,
        batch=batch_bytes,
        # scores, a second copy while dividing or quantising, weights and labels
        merged=in_flight * (2 * classes * core_px * 4 + 4 * core_px + 16 * core_px),
        cache=0,
    )


def allowed_memory_bytes(
    *,
    environ: Mapping[str, str] | None = None,
    root: str = "/sys/fs/cgroup",
    own: str = "/proc/self/cgroup",
) -> int:
    """Memory that this process may use, in bytes.

    The least of the machine's memory, the limits of this process's own cgroup
    and of every parent (a batch system puts a job in a sub-cgroup, which
    reading the root alone misses), and what Slurm says.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.
    root, own : str
        Where the kernel shows cgroups; other places are for tests.

    Returns
    -------
    int
        Bytes.
    """
    import psutil

    environ = os.environ if environ is None else environ
    limits = [int(psutil.virtual_memory().total), *_cgroup_limits(root, own)]
    per_node = environ.get("SLURM_MEM_PER_NODE")
    per_cpu = environ.get("SLURM_MEM_PER_CPU")
    cpus = environ.get("SLURM_CPUS_ON_NODE", "1")
    if per_node and per_node.isdigit() and int(per_node):
        limits.append(int(per_node) * 2**20)
    elif per_cpu and per_cpu.isdigit() and cpus.isdigit():
        limits.append(int(per_cpu) * int(cpus) * 2**20)
    return min(limits)


def _cgroup_limits(root: str, own: str) -> list[int]:
    try:
        lines = Path(own).read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    limits = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        names, base = (
            (("memory.max",), Path(root))
            if not controllers
            else (("memory.limit_in_bytes",), Path(root) / "memory")
        )
        if controllers and "memory" not in controllers.split(","):
            continue
        folder = base / path.lstrip("/")
        for place in (folder, *folder.parents):
            if not place.is_relative_to(base):
                break
            limits += [n for name in names if (n := _read_limit(place / name))]
    return limits


def _read_limit(file: Path) -> int | None:
    try:
        text = file.read_text(encoding="ascii").strip()
    except OSError:
        return None
    # v1 writes a number near 2**63 for "no limit"
    return int(text) if text.isdigit() and 0 < int(text) < 2**60 else None


def allowed_cpus(
    *,
    environ: Mapping[str, str] | None = None,
    root: str = "/sys/fs/cgroup",
    own: str = "/proc/self/cgroup",
) -> int:
    """Whole CPUs that this process may use: its affinity and its cgroup's quota.

    In a batch job it is no more than what the job asked for (``GEOSCALE_CPUS``), though
    the batch system may leave it all of the host.

    Parameters
    ----------
    environ : mapping, optional
        Environment; default the process's own.
    root, own : str
        Where the kernel shows cgroups; other places are for tests.

    Returns
    -------
    int
        At least 1.
    """
    try:
        cpus = float(len(os.sched_getaffinity(0)))
    except AttributeError:  # not on every system
        cpus = float(os.cpu_count() or 1)
    for folder in _cgroup_folders(root, own):
        try:
            quota, period = (folder / "cpu.max").read_text(encoding="ascii").split()
        except (OSError, ValueError):
            continue
        if quota != "max":
            cpus = min(cpus, int(quota) / int(period))
    asked = (os.environ if environ is None else environ).get("GEOSCALE_CPUS", "")
    if asked.isdigit():
        cpus = min(cpus, int(asked))
    return max(1, int(cpus))


def _cgroup_folders(root: str, own: str) -> list[Path]:
    """Folders of this process's own cgroup (version 2) and all its parents."""
    try:
        lines = Path(own).read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    base = Path(root)
    paths = [line.split(":", 2)[2] for line in lines if line.startswith("0::")]
    folders = [base / path.lstrip("/") for path in paths]
    return [p for f in folders for p in (f, *f.parents) if p.is_relative_to(base)]

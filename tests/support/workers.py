"""Real workers, each with an environment of its own, on a real scheduler."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def empty_cluster(*, dashboard: bool = False) -> Iterator[Any]:
    """A scheduler in this process, without workers."""
    import dask
    from distributed import LocalCluster

    from geoscale.clusters import DASK_SETTINGS

    with (
        dask.config.set(DASK_SETTINGS),
        LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": dashboard},
        ) as cluster,
    ):
        yield cluster


@contextmanager
def start_worker(
    cluster: Any,
    folder: Path,
    *,
    path: str = "",
    host: str = "127.0.0.1",
    nanny: bool = False,
    **environ: str,
) -> Iterator[Path]:
    """One worker process; gives the file with all that it prints."""
    log = folder / f"worker-{len(list(folder.glob('worker-*.log')))}.log"
    paths = [path, str(ROOT), os.environ.get("PYTHONPATH", "")]
    before = len(cluster.scheduler.workers)
    with log.open("w") as file:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "distributed.cli.dask_worker",
                cluster.scheduler_address,
                "--nthreads", "2", "--no-dashboard",
                "--nanny" if nanny else "--no-nanny", "--host", host,
                "--memory-limit", "0",
                "--local-directory", str(folder / "scratch"),
            ],
            cwd=folder,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ
            | {"PYTHONPATH": os.pathsep.join(p for p in paths if p)}
            | environ,
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while len(cluster.scheduler.workers) <= before:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.05)
        yield log
    finally:
        # a nanny that is killed would leave its worker behind
        process.terminate() if nanny else process.kill()
        process.wait()


def fake_package(folder: Path, name: str, version: str) -> str:
    """A folder for PYTHONPATH in which a package is of another version."""
    found = folder / f"other-{name}"
    info = found / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
    )
    return str(found)

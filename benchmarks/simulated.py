"""A cluster without work: sleeping blocks on many workers that share processes.

`python -m benchmarks.simulated ADDRESS WORKERS URL HASH DELAY` hosts workers.
Scheduler and driver share one process, as with ``geoscale run --workers``; the
workers live in another, so that on two cores they do not take the driver's.
"""

from __future__ import annotations

import asyncio
import logging
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import ROOT, scratch
from geoscale.engine import distributed as engine
from geoscale.engine import remote
from geoscale.engine.block import Kernel
from geoscale.engine.drive import Tally, drive
from geoscale.engine.journal import Journal
from geoscale.engine.runs import LONGEST, Pace
from geoscale.planner import make_plan
from geoscale.plans import Inference, InferencePlan, Output
from geoscale.preprocess import Preprocessor
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import FakePredictor, FakeSource, toy_card
from geoscale.types import Json, Pixels

QUIET = {
    # What a worker does beside its tasks it does on its own machine; here, hundreds
    # in one process would measure themselves.
    "distributed.worker.profile.enabled": False,
    "distributed.admin.system-monitor.interval": "60s",
}
SWITCH_S = 0.0005
BLOCK_PX = 16
NOTE_EVERY = 500


class SleepingSource(FakeSource):
    """Gives pixels that are nowhere valid, after a while."""

    delay = 0.0

    def spec(self) -> Json:
        """Describe nothing: summing what is nowhere would fill the memory."""
        return {"kind": "fake", "sum": 0.0}

    def read(self, window: Any, times: Any) -> Pixels:
        if self.delay:
            time.sleep(self.delay)
        shape = window.shape
        return Pixels(np.zeros((1, 1, *shape), np.float32), np.zeros((1, *shape), bool))


class NoSink:
    """Stores nothing, and says so for one key a block."""

    def write(self, time: int, core: Any, layers: Any) -> dict[str, str | None]:
        return {f"classes/c/{time}/{core.y0}/{core.x0}": "0" * 32}


def sleeping_plan(blocks: int) -> tuple[InferencePlan, SleepingSource]:
    """Plan of at least so many blocks without a valid pixel."""
    side = BLOCK_PX * int(np.ceil(np.sqrt(blocks)))
    data = np.broadcast_to(np.float32(1), (1, 1, side, side))
    source = SleepingSource(data, np.broadcast_to(np.bool_(False), (1, side, side)))
    plan = make_plan(
        source,
        toy_card(patch={"size": 24}),
        weights_sha256="0" * 64,
        inference=Inference(block=BLOCK_PX, in_flight=1),
        output=Output(layers=("classes",)),
    )
    return plan, source


def sleeping_kernel(
    plan: InferencePlan, source: SleepingSource, delay: float
) -> Kernel:
    source.delay = delay
    return Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(plan.card),
        predictor=FakePredictor(),
        task=Segmentation(plan.card, plan.output.layers),
        device_lock=threading.Lock(),
        sink=NoSink(),  # type: ignore[arg-type]
    )


def build_nothing(url: str, plan_hash: str) -> Kernel:
    """Refuse: hosts hold their kernel before they join."""
    raise AssertionError(f"no kernel held for {url}")


def hold(url: str, plan_hash: str, delay: float) -> None:
    """Give this process its kernel, with room for every worker it hosts.

    The gate is one of a process; here a process stands for many.
    """
    plan = Journal(url).load_plan()
    assert plan is not None
    _, source = sleeping_plan(1)
    kernel = sleeping_kernel(plan, source, delay)
    remote._held[url, plan_hash] = remote._Held(kernel, 10_000)


async def host(address: str, count: int) -> None:
    """Run so many workers of one thread until this process is ended."""
    import dask
    from distributed import Worker

    from geoscale.clusters import DASK_SETTINGS

    # Hundreds of threads would else make the event loop wait 5 ms for each turn.
    sys.setswitchinterval(SWITCH_S)
    with dask.config.set(DASK_SETTINGS | QUIET):
        workers = [
            Worker(address, nthreads=1, memory_limit=0, dashboard=False, name=f"w{i}")
            for i in range(count)
        ]
        await asyncio.gather(*workers)
        await asyncio.gather(*(w.finished() for w in workers))


@contextmanager
def simulated_cluster(workers: int, *held: str) -> Iterator[Any]:
    """Scheduler here, workers in a process of their own; gives the client."""
    import dask
    from distributed import Client, LocalCluster

    from geoscale.clusters import DASK_SETTINGS

    with dask.config.set(DASK_SETTINGS):
        cluster = LocalCluster(
            n_workers=0,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            silence_logs=logging.ERROR,
        )
    with (
        tempfile.TemporaryDirectory(dir=scratch()) as folder,
        dask.config.set(DASK_SETTINGS),
        cluster,
        Client(cluster) as client,
    ):
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.simulated"]
        process = subprocess.Popen(
            [*command, cluster.scheduler_address, str(workers), *held],
            cwd=ROOT.parent,
            env=os.environ | {"DASK_TEMPORARY_DIRECTORY": folder},
            stderr=subprocess.DEVNULL,
        )
        try:
            client.wait_for_workers(workers, timeout=120)
            yield client
        finally:
            # First, so that nobody complains of workers that went away.
            client.close()
            cluster.close()
            process.kill()
            process.wait()


def measure(workers: int, blocks: int, delay: float, longest: int = LONGEST) -> Any:
    """Run sleeping blocks through executor, drive and journal."""
    with tempfile.TemporaryDirectory(dir=scratch()) as folder:
        url = str(Path(folder) / "map.zarr")
        plan, _ = sleeping_plan(blocks)
        journal = Journal(url)
        journal.begin(plan)
        with simulated_cluster(workers, url, plan.hash, str(delay)) as client:
            executor = engine.DaskExecutor(
                client, build_nothing, url, plan.hash, in_flight=1
            )
            executor.pace = Pace(longest)
            return _watch(plan, journal, executor, client, blocks) | {
                "workers": workers,
                "delay_s": delay,
                "longest_run": longest,
            }


def _watch(
    plan: InferencePlan, journal: Journal, executor: Any, client: Any, blocks: int
) -> dict[str, Any]:
    import psutil

    scheduler = client.cluster.scheduler
    me, marks, tasks = psutil.Process(), [], []
    lengths: list[int] = []
    submit = executor._submit

    def note_runs(runs: list[Any]) -> Any:
        lengths.extend(len(run.blocks) for run in runs)
        return submit(runs)

    executor._submit = note_runs

    def note(tally: Tally, _outcome: Any) -> None:
        if tally.computed % NOTE_EVERY == 0:
            tasks.append(len(scheduler.tasks))
            marks.append((tally.computed, tally.seconds, me.memory_info().rss / 1e6))

    numbers = [int(n) for n in plan.numbers()[:blocks]]
    cpu, start = me.cpu_times(), time.perf_counter()
    tally = drive(plan, journal, executor, blocks=numbers, progress=note)
    wall = time.perf_counter() - start
    after = me.cpu_times()
    spent = after.user + after.system - cpu.user - cpu.system
    assert tally.computed == len(numbers)
    third = len(marks) // 3
    steady = marks[third:] if third else marks
    return {
        "blocks": tally.computed,
        "seconds": round(wall, 2),
        "blocks_s": round(tally.computed / wall, 1),
        "tasks": len(lengths),
        "tasks_s": round(len(lengths) / wall, 1),
        "run_mean": round(tally.computed / len(lengths), 1),
        "run_longest": max(lengths),
        "driver_ms": round(1000 * spent / tally.computed, 3),
        "driver_cpus": round(spent / wall, 2),
        "rss_mb": [round(m[2], 1) for m in marks[:: max(1, len(marks) // 10)]],
        "rss_growth_mb": round(steady[-1][2] - steady[0][2], 1) if steady else None,
        "scheduler_tasks_max": max(tasks, default=0),
        "failures": tally.failures,
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    ADDRESS, WORKERS, URL, HASH, DELAY = sys.argv[1:6]
    hold(URL, HASH, float(DELAY))
    asyncio.run(host(ADDRESS, int(WORKERS)))

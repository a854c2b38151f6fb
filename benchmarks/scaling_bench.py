"""Scaling: two real workers against one, and how far one scheduler goes."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from benchmarks.common import Options, context, median, rounded, say, scratch
from benchmarks.kernels import make_plan
from benchmarks.simulated import measure
from benchmarks.workloads import get_workload
from geoscale.assemble import build_kernel, make_sink
from geoscale.clusters import connect
from geoscale.ending import finish_run
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.drive import drive
from geoscale.engine.journal import Journal
from geoscale.engine.runs import LONGEST
from geoscale.launch import describe_run, pick_in_flight
from geoscale.memory import allowed_cpus
from geoscale.plans import InferencePlan

REAL_PX, BLOCK_PX, WARM_BLOCKS = 6144, 512, 4
WORKERS = (1, 4, 16, 64, 256)
DELAY_S = 0.1
BLOCKS, FEWER = 20_000, 4_000
GPUS, MPX_S = 100, (20, 100)
HOW = {
    "real": (
        "worker processes of one model thread: the kernel is told that it shares the "
        "CPUs with as many processes as there are, and Dask starts workers with "
        "OMP_NUM_THREADS=1; `pinned` keeps all threads of a worker on one CPU, `free` "
        "lets its reading and writing use another. Both clusters are up, and each has "
        "run some blocks of the same plan, before anything is timed"
    ),
    "simulated": (
        "workers of one thread, all in one process beside that of driver and "
        "scheduler; run_block with a source that sleeps and a sink that stores "
        "nothing, about 0.5 ms of CPU a block; the journal is on the local disk. "
        "driver_ms is CPU of the process with driver, scheduler and client: what is "
        "left when workers have machines of their own"
    ),
}


def run(options: Options) -> dict[str, Any]:
    """Measure both parts, and derive the size of blocks for many GPUs."""
    before = context()
    simulated = run_simulated(options.quick)
    real = run_real(options)
    rows = [*real, *simulated]
    return {
        "context": before,
        "how": HOW,
        "repeat": options.pick_repeat(3),
        "rows": rows,
        "rule": size_blocks(simulated),
    }


def run_real(options: Options) -> list[dict[str, Any]]:
    """One worker and two, in turn."""
    workload = get_workload("landcover")
    size = options.pick_size(REAL_PX, quick=1024)
    plan = make_plan(workload, workload.items(size), block_px=BLOCK_PX)
    repeat = options.pick_repeat(3)
    rows = []
    with ExitStack() as stack:
        threads = plan.in_flight
        clients = {n: stack.enter_context(connect(n, threads=threads)) for n in (1, 2)}
        for client in clients.values():
            run_plan(plan, client, WARM_BLOCKS)
        for placing in ("pinned", "free"):
            found: dict[int, list[dict[str, float]]] = {n: [] for n in clients}
            for n, client in clients.items():
                place_workers(client, n, pinned=placing == "pinned")
            for _ in range(repeat):
                for n, client in clients.items():
                    found[n].append(run_plan(plan, client))
            row = compare(found) | {
                "part": "real",
                "workload": workload.name,
                "placing": placing,
                "size_px": size,
                "blocks": len(plan.numbers()),
                "inference": plan.inference.model_dump(),
            }
            say(f"real, {placing}: 2 workers are {row['speedup']} times as fast as 1")
            rows.append(row)
    return rows


def compare(found: dict[int, list[dict[str, float]]]) -> dict[str, Any]:
    """Ratios of one worker's time to two workers', with and without the end."""
    row: dict[str, Any] = {}
    for name, key in (("speedup", "blocks_s"), ("speedup_with_end", "total_s")):
        ratios = [a[key] / b[key] for a, b in zip(found[1], found[2], strict=True)]
        row[name] = round(median(ratios), 3)
        row[f"{name}_runs"] = rounded(ratios)
        for n, runs in found.items():
            row[f"{key}_{n}"] = rounded([r[key] for r in runs], 2)
    cpu = {n: [r["cpu_s"] for r in runs] for n, runs in found.items()}
    row |= {f"cpu_s_{n}": rounded(values, 2) for n, values in cpu.items()}
    # What a busy neighbour disturbs least: the ratio if the work is shared evenly.
    row["speedup_by_cpu"] = round(2 * median(cpu[1]) / median(cpu[2]), 3)
    return row


def run_plan(
    plan: InferencePlan, client: Any, first: int | None = None
) -> dict[str, float]:
    """Run a plan into a fresh output; seconds of its blocks, and with its end."""
    with fresh_folder() as folder:
        url = str(folder / "map.zarr")
        make_sink(plan, url).create()
        journal = Journal(url)
        journal.begin(plan)
        executor = DaskExecutor(
            client,
            build_kernel,
            url,
            plan.hash,
            in_flight=pick_in_flight(plan, client),
            extra=(False, allowed_cpus()),
        )
        blocks = [int(n) for n in plan.numbers()[:first]]
        cpu, start = sum(client.run(time.process_time).values()), time.perf_counter()
        tally = drive(plan, journal, executor, blocks=blocks)
        done = time.perf_counter()
        cpu = sum(client.run(time.process_time).values()) - cpu
        assert tally.computed == len(blocks)
        if first is None:
            assert finish_run(plan, url, tally, describe_run(plan, client)).complete
        end = time.perf_counter()
    return {"blocks_s": done - start, "total_s": end - start, "cpu_s": cpu}


@contextmanager
def fresh_folder() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="scaling-", dir=scratch()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def place_workers(client: Any, workers: int, *, pinned: bool) -> None:
    """Keep each worker on one CPU of its own, or set it free again."""
    cpus = sorted(os.sched_getaffinity(0))
    for i, address in enumerate(client.nthreads()):
        mine = {cpus[i % len(cpus)]} if pinned else set(cpus)
        client.run(place_process, mine, workers=[address])


def place_process(cpus: set[int]) -> None:
    """Move every thread of this process; threads to come inherit it."""
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), cpus)


def run_simulated(quick: bool) -> list[dict[str, Any]]:
    """Sleeping blocks, then blocks without sleep, adaptive and one a task."""
    counts = (1, 16) if quick else WORKERS
    cases = []
    for n in counts:
        # some seconds of sleep for each worker, or what memory is judged by
        blocks = BLOCKS if n == max(WORKERS) else int(n * 10 / DELAY_S)
        blocks = min(blocks, 300 if quick else BLOCKS)
        cases += [(n, blocks, DELAY_S, LONGEST), (n, min(blocks, FEWER), DELAY_S, 1)]
    for n in counts[-1:] if quick else (16, 256):
        cases += [(n, 1000 if quick else BLOCKS, 0.0, LONGEST)]
        cases += [(n, 300 if quick else FEWER, 0.0, 1)]
    rows = []
    for workers, blocks, delay, longest in cases:
        row = measure(workers, blocks, delay, longest) | {"part": "simulated"}
        if delay:
            row["of_ideal"] = round(row["blocks_s"] * delay / workers, 3)
        say(
            f"{workers} simulated workers, {delay:g} s a block, runs of at most "
            f"{longest}: {row['blocks_s']} blocks/s, {row['driver_ms']} ms of driver"
        )
        rows.append(row)
    return rows


def size_blocks(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Smallest blocks that keep the driver below half of what it can pass.

    One GPU makes a number of Mpx/s; all of them together end that many blocks
    a second: ``gpus x Mpx/s / Mpx per block``.
    """
    found = {}
    for name, longest in (("runs", LONGEST), ("one a task", 1)):
        idle = [r for r in rows if not r["delay_s"] and r["longest_run"] == longest]
        most = [r for r in idle if r["workers"] == max(x["workers"] for x in idle)]
        ceiling = max(r["blocks_s"] for r in most)
        found[name] = {
            "ceiling_blocks_s": ceiling,
            "driver_alone_blocks_s": round(1000 / most[0]["driver_ms"], 1),
            "sizes": [
                {
                    "mpx_s_per_gpu": speed,
                    "block_px": least_block(GPUS * speed, ceiling / 2),
                }
                for speed in MPX_S
            ],
        }
    say(f"blocks for {GPUS} GPUs: {found['runs']['sizes']}")
    return {"gpus": GPUS, "share_of_ceiling": 0.5, "by": found}


def least_block(mpx_s: float, blocks_s: float) -> int:
    """Side of a block in px, a multiple of 256, of which few enough end a second."""
    return 256 * math.ceil(math.sqrt(mpx_s * 1e6 / blocks_s) / 256)

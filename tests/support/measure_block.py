"""Run a few blocks in a process of its own and print what they took of memory.

`python -m tests.support.measure_block MODEL SIDE BLOCK MERGE LAYERS IN_FLIGHT BLOCKS`
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import sys
import tempfile

import numpy as np
import psutil

from benchmarks.common import peak_mb

REST = 50
"""Blocks after which what the process holds is noted."""


class Mallinfo(ctypes.Structure):
    """`struct mallinfo2` of glibc; see mallinfo(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd",
            "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost",
        )
    ]  # fmt: skip


def count_held_bytes() -> int:
    """Bytes that were allocated and not freed; 0 where the C library is another."""
    try:
        mallinfo = ctypes.CDLL(None).mallinfo2
    except AttributeError:
        return 0
    mallinfo.restype = Mallinfo
    told = mallinfo()
    return int(told.uordblks + told.hblkhd)


def main() -> None:
    model, side, block, merge, layers, in_flight, blocks = sys.argv[1:8]
    from geoscale import api
    from geoscale.assemble import make_kernel, make_sink
    from geoscale.engine.loop import LoopExecutor
    from geoscale.testing import FakeSource

    card = api.load_model(model)
    shape = (1, len(card.input.bands), int(side), int(side))
    rng = np.random.default_rng(0)
    data = rng.random(shape, np.float32) * np.float32(0.3)
    source = FakeSource(data, np.ones((1, int(side), int(side)), bool))
    plan = api.plan(
        source,
        card,
        block_px=int(block),
        merge=merge,
        in_flight=int(in_flight),
        output={"layers": layers.split(","), "overviews": False},
    )
    with tempfile.TemporaryDirectory() as folder:
        sink = make_sink(plan, f"{folder}/out.zarr")
        sink.create()
        kernel = make_kernel(plan, source=source, sink=sink, threads=2)
        start = psutil.Process(os.getpid()).memory_info().rss
        numbers = [int(n) for n in plan.numbers()]
        numbers = (numbers * (1 + int(blocks) // len(numbers)))[: int(blocks)]
        rss, held, objects = [], [], []
        for first in range(0, len(numbers), REST):
            group = numbers[first : first + REST]
            for outcome in LoopExecutor(kernel, int(in_flight)).execute(group):
                assert outcome.ok, outcome.error
                rss.append(psutil.Process(os.getpid()).memory_info().rss)
            # no block is worked on now: what is held stays for good
            gc.collect()
            held.append(count_held_bytes())
            objects.append(sys.getallocatedblocks())
    peak = round(peak_mb() * 1e6)
    need = plan.memory()
    print(
        json.dumps(
            {
                "start": start,
                "peak": peak,
                "source": data.nbytes,
                "projected": need.total,
                "reserved": need.reserved,
                "rss": rss,
                "held": held,
                "objects": objects,
            }
        )
    )


if __name__ == "__main__":
    main()

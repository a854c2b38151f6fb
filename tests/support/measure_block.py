"""Run a few blocks in a process of its own and print what they took of memory.

`python -m tests.support.measure_block MODEL SIDE BLOCK MERGE LAYERS IN_FLIGHT BLOCKS`
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile

import numpy as np
import psutil


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
        rss = []
        for outcome in LoopExecutor(kernel, int(in_flight)).execute(numbers):
            assert outcome.ok, outcome.error
            rss.append(psutil.Process(os.getpid()).memory_info().rss)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
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
            }
        )
    )


if __name__ == "__main__":
    main()

"""A whole toy run: fake scene and network, real plan, journal, sink, executors.

`python -m tests.support.toy URL loop|dask [delay]` is a driver that tests kill.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import numpy as np

from geoscale.engine.block import Kernel
from geoscale.engine.drive import Tally, drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sinks.layout import open_output
from geoscale.sinks.zarr import ZarrSink
from geoscale.tasks.segmentation import Segmentation
from geoscale.template import OutputTemplate
from geoscale.testing import FakePredictor, FakeSource, scene, toy_card

SHAPE = (250, 243)
BLOCK = 32


def toy_source() -> FakeSource:
    source = scene(SHAPE, bands=2, nodata=0.2, seed=5)
    source.valid[:, :40, :70] = False
    return source


def toy_plan(block: int = BLOCK, **inference) -> InferencePlan:
    return make_plan(
        toy_source(),
        toy_card(bands=2, patch={"size": 24}),
        weights_sha256="0" * 64,
        inference=Inference(block=block, **inference),
        output=Output(layers=("classes", "confidence", "scores")),
    )


def toy_sink(plan: InferencePlan, url: str) -> ZarrSink:
    task = Segmentation(plan.card, plan.output.layers)
    return ZarrSink(
        url,
        OutputTemplate(
            geobox=plan.geobox,
            times=plan.times,
            layers=task.layers,
            block_px=plan.inference.block,
            chunk_px=plan.output.chunk,
            classes=plan.card.output.classes,
        ),
    )


class SlowPredictor(FakePredictor):
    def __init__(self, delay: float, **kind) -> None:
        super().__init__(**kind)
        self.delay = delay

    def predict(self, patches):
        time.sleep(self.delay)
        return super().predict(patches)


def toy_kernel(
    plan: InferencePlan, url: str, delay: float = 0.0, source: FakeSource | None = None
) -> Kernel:
    return Kernel(
        plan=plan,
        source=source or toy_source(),
        prepare=Preprocessor.from_card(plan.card),
        predictor=SlowPredictor(delay),
        task=Segmentation(plan.card, plan.output.layers),
        device_lock=threading.Lock(),
        sink=toy_sink(plan, url),
    )


def build_toy_kernel(url: str, plan_hash: str, delay: float = 0.0) -> Kernel:
    """What Dask workers call; leaves its process id so that a test may kill it."""
    plan = Journal(url).load_plan()
    assert plan is not None
    assert plan.hash == plan_hash
    pids = Path(f"{url}.pids")
    pids.mkdir(exist_ok=True)
    (pids / str(os.getpid())).touch()
    return toy_kernel(plan, url, delay)


def run_toy(url: str, *, in_flight: int = 1, delay: float = 0.0) -> Tally:
    plan, journal = toy_plan(), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    tally = drive(plan, journal, LoopExecutor(toy_kernel(plan, url, delay), in_flight))
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()
    return tally


def run_toy_dask(url: str, *, workers: int = 2, delay: float = 0.0) -> Tally:
    from geoscale.clusters import connect
    from geoscale.engine.distributed import DaskExecutor

    plan, journal = toy_plan(), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    with connect(workers, threads=2) as client:
        executor = DaskExecutor(
            client, build_toy_kernel, url, plan.hash, extra=(delay,), stall_s=60
        )
        tally = drive(plan, journal, executor)
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()
    return tally


def stored_bytes(url: str) -> dict[str, bytes]:
    """Every array of an output, decoded, and every attribute."""
    dataset = open_output(url)
    found = {name: np.asarray(dataset[name]).tobytes() for name in dataset.variables}
    return found | {"attrs": repr(sorted(dataset.attrs)).encode()}


if __name__ == "__main__":
    URL, MODE = sys.argv[1:3]
    DELAY = float(sys.argv[3]) if len(sys.argv) > 3 else 0.0
    print("start", flush=True)
    done = (run_toy if MODE == "loop" else run_toy_dask)(URL, delay=DELAY)
    print(f"computed {done.computed} of {done.total}", flush=True)

"""A whole toy run: fake scene and network, real plan, journal, sink, executors.

`python -m tests.support.toy URL loop|alone|tcp://… [delay [block]]` is a driver
that tests kill.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
import time
from pathlib import Path

import numpy as np
from affine import Affine

from geoscale.engine import lease
from geoscale.engine.block import Kernel
from geoscale.engine.drive import Tally, drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.stopping import Stop
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sinks.layout import open_output
from geoscale.sinks.zarr import ZarrSink
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.tasks.segmentation import Segmentation
from geoscale.template import OutputTemplate
from geoscale.testing import FakePredictor, FakeSource, scene, toy_card
from geoscale.types import Source

SHAPE = (250, 243)
BLOCK = 32


def toy_source() -> FakeSource:
    source = scene(SHAPE, bands=2, nodata=0.2, seed=5)
    source.valid[:, :40, :70] = False
    return source


def toy_files(folder: Path, side: int = 64) -> RasterSource:
    """The same scene in files, one for each square: opened, cached, mosaicked."""
    import rasterio

    whole, items = toy_source(), []
    affine = whole.geobox.affine
    data = np.where(whole.valid[:, None], whole.data, 0.0)[0]
    for y in range(0, SHAPE[0], side):
        for x in range(0, SHAPE[1], side):
            part = data[:, y : y + side, x : x + side]
            path, where = folder / f"{y}-{x}.tif", affine @ Affine.translation(x, y)
            with rasterio.open(
                path, "w", driver="GTiff", dtype="float32", count=2, nodata=0,
                height=part.shape[1], width=part.shape[2], crs="EPSG:32633",
                transform=where,
            ) as file:  # fmt: skip
                file.write(part)
            assets = {
                name: Asset(
                    href=str(path), band_index=number, nodata=0.0, dtype="float32",
                    crs="EPSG:32633", transform=tuple(where)[:6],
                    shape=part.shape[1:],
                )
                for number, name in enumerate(whole.bands, start=1)
            }  # fmt: skip
            date = "2024-06-01T00:00:00+00:00"
            items.append(Item(id=path.stem, datetime=date, assets=assets))
    return RasterSource(items, whole.bands, whole.geobox)


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
    """Takes its time, until the file `hurry` is there."""

    def __init__(self, delay: float, hurry: Path | None = None, **kind) -> None:
        super().__init__(**kind)
        self.delay, self.hurry = delay, hurry

    def predict(self, patches):
        if self.hurry is None or not self.hurry.exists():
            time.sleep(self.delay)
        return super().predict(patches)


class TellingSink(ZarrSink):
    """Notes in a file which process has written which block."""

    def write(self, time, core, layers):
        digests = super().write(time, core, layers)
        with open(f"{self.url}.written", "a", encoding="utf-8") as file:
            file.write(f"{os.getpid()} {core.y0}-{core.x0}\n")
        return digests


def written(url: str) -> list[tuple[int, str]]:
    """Process and block of every write so far, by `TellingSink`."""
    try:
        lines = Path(f"{url}.written").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [(int(line.split()[0]), line.split()[1]) for line in lines]


def toy_kernel(
    plan: InferencePlan,
    url: str,
    delay: float = 0.0,
    source: Source | None = None,
    predictor: FakePredictor | None = None,
) -> Kernel:
    return Kernel(
        plan=plan,
        source=source or toy_source(),
        prepare=Preprocessor.from_card(plan.card),
        predictor=predictor or SlowPredictor(delay, Path(f"{url}.hurry")),
        task=Segmentation(plan.card, plan.output.layers),
        device_lock=threading.Lock(),
        sink=toy_sink(plan, url),
    )


def build_toy_kernel(url: str, plan_hash: str, delay: float = 0.0) -> Kernel:
    """What Dask workers call."""
    plan = Journal(url).load_plan()
    assert plan is not None
    assert plan.hash == plan_hash
    return toy_kernel(plan, url, delay)


def build_telling_kernel(url: str, plan_hash: str, delay: float = 0.0) -> Kernel:
    """The same, and every write is noted."""
    kernel = build_toy_kernel(url, plan_hash, delay)
    sink = kernel.sink
    assert sink is not None
    return dataclasses.replace(kernel, sink=TellingSink(url, sink.template))


def run_toy(
    url: str, *, in_flight: int = 1, delay: float = 0.0, block: int = BLOCK
) -> Tally:
    plan, journal = toy_plan(block), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    tally = drive(plan, journal, LoopExecutor(toy_kernel(plan, url, delay), in_flight))
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()
    return tally


def run_toy_at(url: str, address: str, *, delay: float, block: int = BLOCK) -> Tally:
    """Run on a cluster that is there; says when it begins."""
    from geoscale.clusters import connect
    from geoscale.engine.distributed import DaskExecutor

    plan, journal = toy_plan(block), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    profile = {"type": "scheduler", "address": address, "timeout_s": 4}
    stall_s = float(os.environ.get("GEOSCALE_TOY_STALL", "60"))
    with connect(profile) as client:
        executor = DaskExecutor(
            client,
            build_telling_kernel,
            url,
            plan.hash,
            extra=(delay,),
            stall_s=stall_s,
        )
        print("start", flush=True)
        tally = drive(plan, journal, executor)
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()
    return tally


def run_toy_alone(url: str, *, delay: float) -> Tally:
    """Run here under a lease, which `GEOSCALE_TOY_TTL` may make short."""
    lease.TTL_S = float(os.environ.get("GEOSCALE_TOY_TTL", lease.TTL_S))
    lease.BEAT_S = lease.TTL_S / 4
    plan, journal, stop = toy_plan(), Journal(url), Stop()
    sink = toy_sink(plan, url)
    sink.create()
    with lease.Lease(url, on_lost=stop.ask):
        print("start", flush=True)
        executor = LoopExecutor(toy_kernel(plan, url, delay))
        tally = drive(plan, journal, executor, stop=stop)
        if not tally.stopped:
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


def main(url: str, mode: str, delay: float = 0.0, block: int = BLOCK) -> Tally:
    if "://" in mode:
        return run_toy_at(url, mode, delay=delay, block=block)
    if mode == "alone":
        return run_toy_alone(url, delay=delay)
    print("start", flush=True)
    return run_toy(url, delay=delay)


if __name__ == "__main__":
    done = main(*sys.argv[1:3], *map(float, sys.argv[3:4]), *map(int, sys.argv[4:5]))
    print(f"computed {done.computed} of {done.total}; {done.stopped}", flush=True)

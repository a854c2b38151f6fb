"""What a job costs, counted: nothing is loaded, run or written twice."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

import geoscale as gs
from geoscale.engine.block import Kernel, run_block
from geoscale.engine.journal import Journal
from geoscale.models import clear, loads
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.sources.gdal import COUNTS
from geoscale.storage import TRAFFIC
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import FakePredictor, scene, toy_card
from geoscale.windows import Window
from tests.support.toy import toy_sink

STACK = Window(0, 0, 150, 170)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    folder = tmp_path_factory.mktemp("counters")
    prepare(folder, 1100)
    return folder


def plan_scenes(scenes, **options):
    bands = ["blue", "green", "red", "nir"]
    stack = gs.open_stack(str(scenes / "items.json"), bands=bands)
    size = {"patch_px": 312, "stride_px": 256, "block_px": 256, **options}
    return gs.plan(stack, "s2-landcover-unet", **size)


def test_each_worker_process_loads_the_model_once(scenes, tmp_path):
    with gs.connect(2) as client:
        client.wait_for_workers(2)
        assert gs.run(plan_scenes(scenes), tmp_path / "out.zarr", client=client)
        found = client.run(loads)
    assert len(found) == 2
    # a worker that got no block of so small a job has loaded none
    assert set(found.values()) <= {0, 1}
    assert 1 in found.values()


def test_a_process_that_runs_two_plans_of_a_model_loads_it_once(scenes, tmp_path):
    clear()
    for name in ("a", "b"):
        assert gs.run(plan_scenes(scenes), tmp_path / f"{name}.zarr").complete
    assert loads() == 1


def test_what_is_written_is_the_output_and_little_more(scenes, tmp_path):
    before = TRAFFIC.bytes
    plan = plan_scenes(scenes, output={"layers": ["classes", "confidence", "scores"]})
    assert gs.run(plan, tmp_path / "out.zarr").complete
    written = TRAFFIC.bytes - before
    stored = sum(
        f.stat().st_size for f in (tmp_path / "out.zarr").rglob("*") if f.is_file()
    )
    assert stored > 1_000_000
    assert written <= 1.05 * stored


def test_each_source_tile_is_decoded_about_once(scenes, tmp_path):
    plan = plan_scenes(scenes, in_flight=2)
    before = COUNTS.tiles
    assert gs.run(plan, tmp_path / "out.zarr").complete
    decoded = COUNTS.tiles - before
    unique = sum(count_tiles(path) for path in (scenes / "scenes").rglob("*.tif"))
    assert decoded <= 1.1 * unique


def count_tiles(path: Path) -> int:
    import rasterio

    with rasterio.open(path) as file:
        rows, columns = file.block_shapes[0]
        return -(-file.height // rows) * -(-file.width // columns)


def toy_job(tmp_path, merge, *, in_flight=1):
    source = scene(STACK.shape, bands=2, seed=5)
    source.valid[:, 60:, :64] = False
    plan = make_plan(
        source,
        toy_card(bands=2, patch={"size": 24}),
        weights_sha256="0" * 64,
        inference=Inference(block=40, merge=merge, in_flight=in_flight),
        output=Output(layers=("classes", "confidence", "scores")),
    )
    url = str(tmp_path / "out.zarr")
    task = Segmentation(plan.card, plan.output.layers)
    toy_sink(plan, url).create()
    return Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(plan.card),
        predictor=FakePredictor(),
        task=task,
        device_lock=threading.Lock(),
        sink=toy_sink(plan, url),
    )


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_patches_run_are_those_with_a_valid_pixel_each_once(tmp_path, merge):
    kernel = toy_job(tmp_path, merge)
    plan, valid = kernel.plan, kernel.source.valid[0]
    outcomes = [run_block(kernel, int(n)) for n in plan.numbers()]
    assert all(outcome.ok for outcome in outcomes)
    ran = sum(outcome.stats["patches"] for outcome in outcomes)
    wanted = {
        patch.window
        for task in plan.iter_tasks()
        for patch in plan.lattice.touching(task.core)
        if valid[patch.gives.within(STACK)].any()
    }
    assert ran == len(wanted)
    if merge == "blend":
        shared = sum(outcome.stats["shared_patches"] for outcome in outcomes)
        assert shared > len(wanted) / 4
        assert plan.count_patches() > plan.count_distinct_patches() >= len(wanted)
    assert kernel.predictor.calls == sum(
        -(-outcome.stats["patches"] // kernel.predictor.batch) for outcome in outcomes
    )


def test_an_empty_block_costs_no_call(tmp_path):
    kernel = toy_job(tmp_path, "crop")
    number = next(
        t.number for t in kernel.plan.iter_tasks() if (t.core.y0, t.core.x0) == (80, 0)
    )
    outcome = run_block(kernel, number)
    assert outcome.ok
    assert outcome.stats["patches"] == kernel.predictor.calls == 0


def test_sharing_patches_changes_no_bit(tmp_path):
    kernel = toy_job(tmp_path, "blend")
    together = [run_block(kernel, int(n)).digests for n in kernel.plan.numbers()]
    alone = []
    for n in kernel.plan.numbers():
        kernel.shared.clear()
        alone.append(run_block(kernel, int(n)).digests)
    assert together == alone


def test_the_journal_adds_up_what_blocks_counted(scenes, tmp_path):
    out = tmp_path / "out.zarr"
    plan = plan_scenes(scenes)
    assert gs.run(plan, out).complete
    totals = Journal(str(out)).read().totals
    assert totals["patches"] == plan.count_distinct_patches()
    assert totals["core_px"] == np.prod(plan.shape)

"""Promises: nothing is read early, and no block needs more than was projected."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  (the accessor)
import pytest

import geoscale as gs
from geoscale.errors import MemoryPlanError
from geoscale.testing import FakeSource, scene

ROOT = Path(__file__).resolve().parents[1]
CARD = "s2-landcover-unet"


def measure(*args):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.measure_block", *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.splitlines()[-1])


def refusing_source(side=600):
    source = scene((side, side), bands=4)
    return FakeSource(source.data, source.valid, refuse=True)


def test_plan_reads_no_pixel():
    source = refusing_source()
    plan = gs.plan(source, CARD)
    assert "InferencePlan" in str(plan)
    assert source.reads == 0


def test_predict_reads_no_pixel_until_it_is_computed():
    source = refusing_source()
    lazy = gs.predict(source, CARD)
    assert lazy.dims == ("time", "y", "x")
    assert lazy.dtype == np.uint8
    with pytest.raises(AssertionError, match="a pixel was read"):
        lazy.compute(scheduler="synchronous")


def test_predict_gives_what_a_job_stores(tmp_path):
    source = scene((600, 500), bands=4)
    source.data[:] = np.random.default_rng(1).random(source.data.shape) * 0.3
    plan = gs.plan(source, CARD, block_px=200)
    assert gs.run(plan, tmp_path / "out.zarr").complete
    stored = gs.open_output(str(tmp_path / "out.zarr"))
    lazy = gs.predict(source, CARD, block_px=200)
    np.testing.assert_array_equal(lazy.values, stored.classes.values)
    np.testing.assert_array_equal(lazy.x.values, stored.x.values)
    assert lazy.odc.geobox == plan.geobox
    scores = gs.predict(source, CARD, layer="scores", block_px=200)
    assert scores.shape == (1, 9, 600, 500)
    best = np.asarray(scores[0].values).argmax(0)
    assert (best == stored.classes.values[0]).mean() > 0.99


def test_a_block_too_large_for_memory_is_refused_with_what_to_do():
    plan = gs.plan(refusing_source(), CARD, block_px=600)
    with pytest.raises(MemoryPlanError, match=r"needs? .*GB.*smaller.*than 600 px"):
        plan.validate(allowed_bytes=10**9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("side", "block", "merge", "layers", "in_flight"),
    [
        (700, 256, "crop", "classes", 1),
        (1500, 1024, "crop", "classes,confidence", 1),
        (1500, 1024, "blend", "classes,confidence,scores", 2),
        (2400, 2048, "blend", "classes,confidence,scores", 1),
    ],
)
def test_the_measured_peak_is_at_most_the_projection(
    side, block, merge, layers, in_flight
):
    found = measure(CARD, side, block, merge, layers, in_flight, 3)
    # the fake source holds the whole scene, which a real one does not
    peak = found["peak"] - found["source"]
    print(f"peak {peak / 1e6:.0f} MB of {found['projected'] / 1e6:.0f} projected")
    assert peak <= found["projected"]
    grown = found["peak"] - found["start"]
    assert grown <= found["projected"] - found["reserved"]


@pytest.mark.slow
def test_memory_is_flat_over_500_blocks():
    # allocator and runtime take 150 to 200 blocks to reach their working set
    found = measure(CARD, 768, 192, "crop", "classes,confidence", 2, 700)
    held = np.array(found["held"][3:], float)
    leaked, objects = (
        np.polyfit(np.arange(len(x)), x, 1)[0] / 50
        for x in (held, found["objects"][3:])
    )
    early, late = (max(found["rss"][k : k + 250]) for k in (200, 450))
    print(
        f"{leaked:.0f} bytes, {objects:.1f} objects a block; "
        f"peaks {early / 1e6:.0f}, {late / 1e6:.0f} MB"
    )
    # a leak of 2 kB a block shows in what is held, a heap that frays in the peaks
    assert leaked < 2000
    assert objects < 20
    assert late <= 1.05 * early
    assert late <= found["projected"]

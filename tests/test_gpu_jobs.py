"""Whole jobs on a CUDA device, held against the same jobs on this machine's CPU."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

import geoscale as gs
from geoscale.clusters import connect
from geoscale.clusters.devices import list_devices
from geoscale.demo.scenes import write_scenes
from geoscale.gauges import Gauge
from tests.support.pairs import SIAMESE, seeded
from tests.support.toy import stored_bytes

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.gpu

SIZE = 900
OPTIONS = {"patch_px": 248, "stride_px": 192, "block_px": 384}


@pytest.fixture(scope="module")
def items(tmp_path_factory):
    """Six overlapping scenes of COGs, real pixels."""
    pytest.importorskip("spyndex")
    return write_scenes(tmp_path_factory.mktemp("scenes"), SIZE)


def landcover(items, to, *, device="cuda", client=None, **options):
    stack = gs.open_stack(str(items))
    plan = gs.plan(stack, "s2-landcover-unet", device=device, **OPTIONS | options)
    report = gs.run(plan, to, client=client)
    assert report.complete, str(report)
    assert gs.verify(to).is_sound
    return plan, report


@pytest.fixture(scope="module")
def on_cuda(items, tmp_path_factory):
    """The job in a loop on the GPU: the map that the others are held against."""
    to = tmp_path_factory.mktemp("cuda") / "map.zarr"
    _, report = landcover(items, to)
    return to, report


def read(to):
    return gs.open_output(str(to), raw=True)


def test_a_job_on_cuda_gives_the_cpus_labels(items, on_cuda, tmp_path):
    landcover(items, tmp_path / "cpu.zarr", device="cpu")
    here, there = read(tmp_path / "cpu.zarr"), read(on_cuda[0])
    assert len(np.unique(here.classes)) > 3
    assert (here.classes.values == there.classes.values).mean() >= 0.9999
    final = json.loads((on_cuda[0] / ".geoscale" / "final.json").read_text())
    blocks = (-(-SIZE // OPTIONS["block_px"])) ** 2
    assert final["totals"]["canvas"] == blocks
    assert "canvas_fallback" not in final["totals"]


@pytest.mark.parametrize(
    "options",
    [{"block_px": 192}, {"block_px": 960}, {"in_flight": 4}, {"in_flight": 1}],
)
def test_blocks_and_their_number_change_no_byte_on_cuda(
    items, on_cuda, tmp_path, options
):
    # a batch is shared evenly by the patches of a block: with its size set it is one
    same = {"batch": 4}
    landcover(items, tmp_path / "one.zarr", **same)
    landcover(items, tmp_path / "other.zarr", **same, **options)
    one, other = read(tmp_path / "one.zarr"), read(tmp_path / "other.zarr")
    for name in one.data_vars:
        np.testing.assert_array_equal(one[name].values, other[name].values, name)


def test_a_run_says_what_it_ran_on_and_how_busy_that_was(on_cuda):
    pytest.importorskip("pynvml")
    to, report = on_cuda
    final = json.loads((to / ".geoscale" / "final.json").read_text())
    assert final["device"] == "cuda"
    assert final["processors"] == [torch.cuda.get_device_name(0)]
    (uuid,) = report.gpus
    use = report.gpus[uuid]
    assert uuid in list_devices({}) or uuid.startswith("MIG-")
    assert 0 < use["peak_bytes"] <= use["total_bytes"]
    assert uuid in str(report)
    told = Gauge().read()["gpu"]
    assert told[0] == uuid
    assert told[3] == use["total_bytes"]


def test_a_worker_with_a_gpu_of_its_own_gives_the_same_bytes(items, on_cuda, tmp_path):
    with connect({"type": "local-gpu"}) as client:
        assert len(client.scheduler_info()["workers"]) == len(list_devices())
        landcover(items, tmp_path / "workers.zarr", client=client)
    assert stored_bytes(str(tmp_path / "workers.zarr")) == stored_bytes(str(on_cuda[0]))


def test_auto_measures_what_runs_on_cuda(items, on_cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSCALE_CACHE", str(tmp_path / "cache"))
    plan, _ = landcover(items, tmp_path / "auto.zarr", runtime="auto", precision="auto")
    rows = plan.tuning["rows"]
    tried = {(r["runtime"], r["precision"]) for r in rows if not r["said"]}
    assert ("torch", "float32") in tried
    assert {("torch", "bfloat16"), ("torch", "float16")} & tried
    assert plan.tuning["machine"] == torch.cuda.get_device_name(0)
    said = {r["runtime"]: r["said"] for r in rows if r["said"]}
    assert "openvino" not in said  # no candidate on this device
    same = (
        read(tmp_path / "auto.zarr").classes.values == read(on_cuda[0]).classes.values
    )
    assert same.mean() >= 0.99


def test_two_dates_in_a_siamese_network_change_alike_on_cuda(items, tmp_path):
    pytest.importorskip("torchgeo")
    card = seeded(tmp_path, SIAMESE).to_dict()
    card["input"] |= {"bands": ["blue", "green", "red"], "units": "reflectance"}
    card["input"]["normalization"] = {
        "type": "mean-std", "mean": [0.1] * 6, "std": [0.05] * 6,
    }  # fmt: skip
    first = json.loads(items.read_text())
    later = json.loads(items.read_text())["features"]
    for item in later:
        item["id"] += "-later"
        item["properties"]["datetime"] = "2025-06-15T10:00:31Z"
    both = items.with_name("both.json")
    both.write_text(json.dumps(first | {"features": first["features"] + later}))
    found = {}
    for device in ("cpu", "cuda"):
        stack = gs.open_stack(str(both), bands=["blue", "green", "red"])
        plan = gs.plan(stack, card, device=device, block_px=400)
        to = tmp_path / f"{device}.zarr"
        assert gs.run(plan, to).complete
        found[device] = read(to)
    same = found["cpu"].change.values == found["cuda"].change.values
    assert same.mean() >= 0.9999
    step = (
        found["cpu"].probability.values.astype(int) - found["cuda"].probability.values
    )
    assert np.abs(step).max() <= 1


def test_the_check_up_names_the_gpu():
    done = subprocess.run(
        [sys.executable, "-m", "geoscale.cli", "doctor"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    told = " ".join(done.stdout.split())
    assert "device auto is cuda" in told
    assert torch.cuda.get_device_name(0) in told

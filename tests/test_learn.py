"""What a change job learns from its whole area: found once, kept, whatever the cut."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from scipy.ndimage import fourier_shift
from skimage.filters import threshold_otsu
from sklearn.metrics import roc_auc_score

import geoscale as gs
from geoscale.contrast.cards import close_card, comparison_card
from geoscale.contrast.vectors import fit_vectors
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, PlanError
from geoscale.faults import KILLED
from geoscale.imports import load_object
from geoscale.job import parse_job
from geoscale.learn import learn
from geoscale.testing import FakeSource
from tests.support.held import Held


@pytest.fixture
def job(data_dir, tmp_path):
    """Make a job of the Taizhou pair."""

    def make(to="out", block=None, **change):
        files = [str(data_dir / "taizhou" / name) for name in ("2000TM", "2003TM")]
        names = ["blue", "green", "red", "nir", "swir16", "swir22"]
        imagery = {
            "files": files,
            "band_names": names,
            "times": ["2000-03-17", "2003-02-06"],
        }
        data = {
            "imagery": imagery,
            "task": "change",
            "change": {"method": "cva", **change},
            "output": {"to": str(tmp_path / to), "overviews": False},
            "inference": {"device": "cpu"} | ({"block": block} if block else {}),
        }
        return parse_job(data, where="test", base=tmp_path)

    return make


def layers(to):
    found = xr.open_zarr(to, mask_and_scale=False, decode_times=False)
    return {name: found[name].values[0] for name in ("change", "probability")}


def auc(labels, scores):
    known = labels >= 0
    return roc_auc_score(labels[known], scores[known])


@pytest.mark.parametrize(
    ("method", "least"),
    [("cva", 0.990), pytest.param("irmad", 0.994, marks=pytest.mark.slow)],
)
def test_taizhou_is_the_same_to_the_last_bit_for_every_cut(
    job,
    taizhou,
    tmp_path,
    method,
    least,
):
    before, after, labels = taizhou
    maps = []
    for block in (64, 100, 400):
        asked = job(f"out{block}", block, method=method)
        assert gs.run_job(asked).complete
        maps.append(layers(tmp_path / f"out{block}"))
    for name in ("change", "probability"):
        for other in maps[1:]:
            np.testing.assert_array_equal(other[name], maps[0][name])
    assert auc(labels, maps[0]["probability"]) >= least
    plan = Journal(str(tmp_path / "out64")).load_plan()
    told = plan.statistics
    assert (told["pixels"], told["places"], told["by"]) == (160_000, 4, "otsu")
    if method == "cva":
        m = fit_vectors(Held(before, after), "abcdef")
        assert told["threshold"] == find_by_skimage(m, before, after)
    share = (maps[0]["change"] == 1).mean()
    assert 0.05 < share < 0.10
    assert f"threshold {told['threshold']:.3g}" in plan.explain()


def find_by_skimage(vectors, before, after):
    from geoscale.contrast.pairs import Pair
    from geoscale.windows import Window

    shape = before.shape[1:]
    pair = Pair(Window(0, 0, *shape), before, after, np.ones(shape, bool))
    return threshold_otsu(vectors(pair))


def noisy(shape=(300, 280), seed=0, bands=3, scale=1):
    """Two dates of one ground, of which a square changed."""
    rng = np.random.default_rng(seed)
    few = (bands, *(-(-n // scale) for n in shape))
    ground = rng.normal(1000, 300, few).repeat(scale, 1).repeat(scale, 2)
    ground = ground[:, : shape[0], : shape[1]]
    data = np.stack([ground, 1.2 * ground + rng.normal(50, 30, ground.shape)])
    data[1, :, 40:90, 100:170] += 2500
    return FakeSource(data.astype(np.float32), np.ones((2, *shape), bool))


def test_a_given_magnitude_is_kept_and_no_histogram_is_needed():
    plan = gs.plan(noisy(), None, change={"method": "cva", "magnitude": 2.25})
    assert plan.card.architecture_args["threshold"] == 2.25
    assert (plan.statistics["by"], plan.statistics["threshold"]) == ("job", 2.25)


def test_no_block_or_order_changes_a_number():
    plans = [
        gs.plan(noisy(), None, change={"method": "irmad"}, block_px=block)
        for block in (32, 256)
    ]
    args = [plan.card.architecture_args for plan in plans]
    assert args[0] == args[1]
    assert plans[0].is_learned


def test_planning_without_measuring_reads_nothing():
    source = noisy()
    refusing = FakeSource(source.data, source.valid, refuse=True)
    plan = gs.plan(refusing, None, change={"method": "cva"}, measure=False)
    assert refusing.reads == 0
    assert not plan.is_learned
    assert "first pass" in plan.explain()


def test_a_run_that_goes_on_keeps_what_the_first_learned(tmp_path):
    source, to = noisy(), tmp_path / "out"
    asked = {"change": {"method": "cva"}, "block_px": 128, "measure": False}
    gs.run(gs.plan(source, None, **asked), to)
    first = Journal(str(to)).load_plan()
    refusing = FakeSource(source.data, source.valid, refuse=True)
    again = learn(gs.plan(refusing, None, **asked), str(to))
    assert again.hash == first.hash
    assert again.statistics == first.statistics
    assert gs.run(gs.plan(refusing, None, **asked), to).complete


def test_last_bits_of_another_machine_do_not_stop_a_run(tmp_path):
    asked = {"change": {"method": "cva"}, "block_px": 128}
    plan = gs.plan(noisy(), None, **asked)
    gs.run(plan, tmp_path / "out")
    other = {"threshold": plan.card.architecture_args["threshold"] * (1 + 1e-15)}
    elsewhere = dataclasses.replace(plan, card=close_card(plan.card, other))
    assert elsewhere.hash != plan.hash
    assert gs.run(elsewhere, tmp_path / "out").complete
    assert Journal(str(tmp_path / "out")).load_plan().hash == plan.hash


def test_another_job_on_the_output_is_refused(tmp_path):
    asked = {"block_px": 128, "measure": False}
    gs.run(gs.plan(noisy(), None, change={"method": "cva"}, **asked), tmp_path / "out")
    other = gs.plan(noisy(), None, change={"method": "irmad"}, **asked)
    with pytest.raises(PlanError, match="begun by another plan"):
        gs.run(other, tmp_path / "out")


@pytest.mark.parametrize(
    ("method", "processes"),
    [("cva", False), pytest.param("irmad", True, marks=pytest.mark.slow)],
)
def test_workers_give_the_same_bits(method, processes):
    kind = {"processes": processes, "dashboard_address": None}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, **kind) as cluster,
        Client(cluster) as client,
    ):
        plan = gs.plan(noisy(), None, change={"method": method}, measure=False)
        here = learn(plan)
        there = learn(plan, client=client)
        assert there.card.architecture_args == here.card.architecture_args
        assert there.statistics == here.statistics


def test_later_parts_wait_for_what_the_first_learns(tmp_path):
    source = noisy()
    refusing = FakeSource(source.data, source.valid)
    plans = [
        gs.plan(one, None, change={"method": "cva"}, block_px=128, measure=False)
        for one in (source, refusing)
    ]
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(gs.run, plans[1], tmp_path / "out", shard=(1, 2))
        time.sleep(0.3)
        assert (later.done(), refusing.reads) == (False, 0)
        gs.run(plans[0], tmp_path / "out", shard=(0, 2))
        later.result(timeout=60)
    assert gs.status(tmp_path / "out")["complete"]


def test_nothing_in_common_is_said():
    source = noisy()
    source.valid[0, :150] = False
    source.valid[1, 150:] = False
    with pytest.raises(PlanError, match=r"only 0 pixels .* valid at both dates"):
        gs.plan(source, None, change={"method": "cva"})


def test_a_mask_by_a_model_is_not_looked_through():
    plan = gs.plan(noisy(), None, change={"method": "cva"}, measure=False)
    judged = dataclasses.replace(plan, source={**plan.source, "judging": {}})
    with pytest.raises(PlanError, match="mask that a model makes"):
        learn(judged)


def test_three_dates_are_too_many():
    source = noisy()
    three = FakeSource(
        np.concatenate([source.data, source.data[:1]]), np.ones((3, 300, 280), bool)
    )
    with pytest.raises(PlanError, match="cva compares two dates, the stack has 3"):
        gs.plan(three, None, change={"method": "cva"})


def test_an_area_of_interest_is_all_that_counts():
    plan = gs.plan(noisy(), None, change={"method": "cva"})
    west, south, east, north = _lonlat(noisy().geobox, (0, 0, 150, 280))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    inside = gs.plan(
        noisy(),
        None,
        change={"method": "cva"},
        aoi={"type": "Polygon", "coordinates": [ring]},
    )
    assert inside.statistics["pixels"] < 0.6 * plan.statistics["pixels"]
    assert inside.card.architecture_args["mean"] != plan.card.architecture_args["mean"]


def _lonlat(geobox, rows):
    from odc.geo.geom import box

    y0, x0, y1, x1 = rows
    a = geobox.affine
    left, top = a * (x0, y0)
    right, bottom = a * (x1, y1)
    found = box(left, bottom, right, top, geobox.crs).to_crs("EPSG:4326").boundingbox
    return tuple(found)


def shifted(y, x, seed=3):
    """Two dates of smooth ground; the second lies y, x beside."""
    rng = np.random.default_rng(seed)
    ground = np.cumsum(np.cumsum(rng.normal(0, 1, (1, 256, 256)), 1), 2)
    ground -= ground.mean()
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(ground[0]), (y, x))).real[None]
    data = np.stack([ground, moved]) + rng.normal(0, 0.01, (2, 1, 256, 256))
    return FakeSource(data.astype(np.float32), np.ones((2, 256, 256), bool))


def test_a_shift_is_reported_and_warned_about():
    plan = gs.plan(shifted(0.35, -0.6), None, change={"method": "cva"})
    told = plan.statistics["shifts"][0]
    assert told["y"] == pytest.approx(0.35, abs=0.05)
    assert told["x"] == pytest.approx(-0.6, abs=0.05)
    assert any("register the scenes" in note for note in plan.notes)
    assert "px beside" in plan.explain()
    calm = gs.plan(shifted(0.1, 0.2), None, change={"method": "cva"})
    assert not any("beside" in note for note in calm.notes)
    assert calm.statistics["shifts"][0]["places"] == 1
    off = gs.plan(
        shifted(0.35, -0.6), None, change={"method": "cva", "coregister": "none"}
    )
    assert "shifts" not in off.statistics


def test_what_is_only_reported_does_not_name_another_result():
    one, two = (
        gs.plan(noisy(), None, change={"method": "cva", "coregister": how})
        for how in ("none", "report")
    )
    assert one.hash == two.hash
    other = gs.plan(noisy(), None, change={"method": "cva", "magnitude": 9})
    assert other.hash != one.hash


def test_half_a_pixel_is_corrected_where_the_job_says_so(write_pair, tmp_path):
    imagery = write_pair(0.35, -0.6)
    maps = {}
    for block, how in ((64, "shift"), (100, "shift"), (100, "report")):
        made = gs.open_stack(imagery)
        change = {"method": "cva", "coregister": how, "magnitude": 1.0}
        plan = gs.plan(made, None, change=change, block_px=block, measure=False)
        to = tmp_path / f"{how}{block}"
        assert gs.run(plan, to).complete
        maps[how, block] = layers(to)
    for name in ("change", "probability"):
        one, other = maps["shift", 64][name], maps["shift", 100][name]
        np.testing.assert_array_equal(one, other)
    stored = Journal(str(tmp_path / "shift64")).load_plan()
    assert stored.source["kind"] == "shifted"
    assert stored.source["shift"] == pytest.approx([0.35, -0.6], abs=0.05)
    assert ", corrected" in stored.explain()
    inside = np.s_[3:-3, 3:-3]
    before = maps["report", 100]["probability"][inside]
    after = maps["shift", 64]["probability"][inside]
    assert after.mean() < 0.6 * before.mean()
    # a run that goes on takes the shift that was found, and reads nothing to find it
    change["coregister"] = "shift"
    stack = gs.open_stack(imagery)
    again = gs.plan(stack, None, change=change, block_px=64, measure=False)
    assert gs.run(again, tmp_path / "shift64").complete


@pytest.fixture
def write_pair(tmp_path):
    """Write two files of smooth ground; the second shows it y, x beside."""
    rasterio = pytest.importorskip("rasterio")

    def write(y, x):
        source, paths = shifted(y, x), []
        for k, day in enumerate(("2020-06-01", "2021-06-01")):
            path = tmp_path / f"{day}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", dtype="float32", count=1, height=256,
                width=256, crs="EPSG:32633", transform=source.geobox.affine,
            ) as file:  # fmt: skip
                file.write(source.data[k])
            paths.append(str(path))
        return {"files": paths}

    return write


def test_places_that_disagree_have_no_single_shift():
    source = shifted(0.0, 0.0)
    wide = np.concatenate([source.data, source.data[:, :, :, ::-1]], axis=3)
    wide = np.concatenate([wide, wide], axis=3)
    wide[1] = np.concatenate(
        [np.roll(wide[1, :, :, :512], 3, axis=1), wide[1, :, :, 512:]], axis=2
    )
    pair = FakeSource(wide, np.ones((2, 256, 1024), bool))
    with pytest.raises(PlanError, match="no single shift corrects that"):
        gs.plan(pair, None, change={"method": "cva", "coregister": "shift"})


def test_without_texture_nothing_is_corrected_and_that_is_said():
    data = np.ones((2, 1, 64, 64), np.float32)
    data[1] += np.random.default_rng(0).random((64, 64), np.float32)
    change = {"method": "network", "coregister": "shift"}
    plan = gs.plan(
        FakeSource(data, np.ones((2, 64, 64), bool)), toy_pair(), change=change
    )
    assert plan.statistics["shifts"][0]["places"] == 0
    assert any("no shift was corrected" in note for note in plan.notes)
    assert "not known" in plan.explain()


def toy_pair():
    card = comparison_card("cva", ["b0"])
    numbers = {"mean": [[0.0], [0.0]], "std": [[1.0], [1.0]], "threshold": 2.0}
    return close_card(card, numbers)


def test_a_network_is_planned_without_reading_and_its_shift_is_reported(tmp_path):
    source = shifted(0.35, -0.6)
    plan = gs.plan(source, toy_pair())
    assert (source.reads, plan.is_learned, plan.statistics) == (0, True, None)
    gs.run(plan, tmp_path / "out")
    stored = Journal(str(tmp_path / "out")).load_plan()
    assert stored.hash == plan.hash
    assert stored.statistics["shifts"][0]["x"] == pytest.approx(-0.6, abs=0.05)
    report = json.loads((tmp_path / "out" / ".geoscale" / "final.json").read_text())
    assert report["learned"]["shifts"] == stored.statistics["shifts"]


NETWORKS = {
    "geoscale.models.unet:SmallUNet": (
        {"in_channels": 3, "classes": 2, "width": 8}, "encode2"
    ),
    "torchgeo.models:resnet18": ({"in_chans": 3}, "layer2"),
}  # fmt: skip


@pytest.fixture(params=[0, pytest.param(1, marks=pytest.mark.slow)])
def encoder(request, tmp_path):
    """Card of a network with seeded weights, as a user may write it; and a layer."""
    import torch
    from safetensors.torch import save_file

    path, (args, layer) = list(NETWORKS.items())[request.param]
    torch.manual_seed(5)
    network = load_object(path)(**args)
    save_file(network.state_dict(), tmp_path / "net.safetensors")
    return layer, {
        "name": "encoder",
        "architecture": path,
        "architecture_args": args,
        "weights": {"href": str(tmp_path / "net.safetensors")},
        "input": {
            "bands": ["b0", "b1", "b2"],
            "units": "raw",
            "normalization": {"type": "mean-std", "mean": [1000] * 3, "std": [300] * 3},
            "patch": {"size": 96, "multiple_of": 32},
        },
        "output": {"classes": [{"value": 0, "name": "a"}, {"value": 1, "name": "b"}]},
    }


def test_features_find_the_square_and_no_cut_changes_a_bit(encoder, tmp_path):
    layer, card = encoder
    change = {"method": "features", "layer": layer}
    maps, thresholds = [], set()
    for block in (70, 170):
        source = noisy((130, 170), scale=8)
        plan = gs.plan(
            source, card, task="change", change=change, block_px=block, device="cpu"
        )
        thresholds.add(plan.card.architecture_args["threshold"])
        gs.run(plan, tmp_path / str(block))
        maps.append(layers(tmp_path / str(block)))
    assert len(thresholds) == 1
    np.testing.assert_array_equal(maps[0]["probability"], maps[1]["probability"])
    inside, outside = (maps[0]["probability"][where] for where in SQUARE)
    assert np.median(inside) > 127 > np.median(outside)
    assert "features threshold" in plan.explain()


SQUARE = np.s_[45:85, 105:165], np.s_[110:, :80]


@pytest.mark.parametrize(
    ("change", "model", "error", "said"),
    [
        ({"method": "features"}, "s2-landcover-unet", JobError, "needs `change.layer`"),
        ({"method": "cva", "layer": "x"}, None, JobError, "`change.layer` is for"),
        (
            {"method": "classes", "magnitude": 2},
            "s2-landcover-unet",
            JobError,
            "`change.magnitude` is for",
        ),
        ({}, None, JobError, "`model` is missing"),
        ({"method": "cva", "magnitude": 0}, None, JobError, "magnitude"),
    ],
)
def test_what_does_not_go_together_is_refused(change, model, error, said):
    with pytest.raises(error, match=said):
        gs.plan(noisy(), model, task="change", change=change)


def test_a_job_without_a_model_is_refused_when_it_is_read(job, tmp_path):
    data = {"imagery": {"files": "*.tif"}, "output": "x"}
    with pytest.raises(JobError, match=r"job.yaml: `model` is missing: .* cva"):
        parse_job(data, where="job.yaml", base=tmp_path)


def test_zones_do_not_share_numbers(job):
    asked = job()
    asked = asked.model_copy(
        update={"grid": asked.grid.model_copy(update={"crs": "utm"})}
    )
    with pytest.raises(JobError, match=r"`change.method: cva` takes numbers of the"):
        gs.plan_job(asked)


def test_the_floor_of_a_network_takes_its_bands():
    bands = ["b2", "b0", "b1"]
    card = comparison_card("irmad", bands).model_copy(update={"name": "net"})
    plan = gs.plan(noisy(), card, change={"method": "cva"})
    assert (plan.card.name, plan.card.input.bands) == ("cva", tuple(bands))


DEATHS = ("put.before:1", "put.after:3", "block.begin:1", "block.written:3")
"""Before the plan is stored, after it, before the first block, after some."""


@pytest.mark.slow
def test_a_job_that_is_killed_goes_on_with_what_it_learned(data_dir, tmp_path):
    def run(to, at=""):
        job = tmp_path / f"{to}.yaml"
        pair = [str(data_dir / "taizhou" / name) for name in ("2000TM", "2003TM")]
        job.write_text(
            f"imagery: {{files: {pair}, times: [2000-03-17, 2003-02-06]}}\n"
            f"task: change\nchange: {{method: irmad}}\noutput: {to}\n"
            "inference: {block: 128, device: cpu}\n"
        )
        command = [sys.executable, "-m", "geoscale.cli", "run", str(job)]
        return subprocess.run(
            command, env=os.environ | {"GEOSCALE_CRASH_AT": at}, check=False,
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip

    clean = run("clean")
    assert clean.returncode == 0, clean.stderr
    for at in DEATHS:
        died = run("out", at)
        assert died.returncode == KILLED, died.stderr
    assert run("out").returncode == 0
    plans = [Journal(str(tmp_path / to)).load_plan() for to in ("clean", "out")]
    assert plans[0].hash == plans[1].hash
    assert plans[0].statistics == plans[1].statistics
    one, other = (layers(tmp_path / to) for to in ("clean", "out"))
    np.testing.assert_array_equal(one["probability"], other["probability"])

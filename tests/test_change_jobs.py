"""Change over real pairs of images, as jobs."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time

import numpy as np
import pytest
import yaml
from affine import Affine

import geoscale as gs
from geoscale.clusters import connect
from geoscale.errors import GeoscaleError, JobError
from geoscale.job import parse_job
from tests.support.cards import dynamic_world, dynamic_world_dict
from tests.support.cluster import hit
from tests.support.pairs import SIAMESE, seeded
from tests.support.toy import stored_bytes

CLEAR = ("S2L1C_20150711T100008.tif", "S2L1C_20150830T100547.tif")
CHIP = {"sensor": "sentinel-2", "scale": 1e-4, "source_nodata": "none"}


def eolearn(data_dir, names=CLEAR):
    return {"files": [str(data_dir / "eolearn" / n) for n in names], **CHIP}


def run(job, base, **options):
    made = parse_job(job, where="job", base=base)
    return gs.run_job(made, trust_code=True, **options)


@pytest.fixture
def job(data_dir, tmp_path):
    card = json.loads(json.dumps(dynamic_world_dict(data_dir)))
    return {
        "imagery": eolearn(data_dir),
        "model": card,
        "task": "change",
        "inference": {"block": 101},
        "output": {"to": str(tmp_path / "change.zarr")},
    }


def test_dynamic_world_of_two_clear_dates(job, data_dir, tmp_path):
    """The classes are those of two maps, and no cut changes a byte."""
    job["change"], found = {"threshold": 0.35}, []
    for block in (64, 101):
        job["inference"]["block"] = block
        job["output"]["to"] = str(tmp_path / f"{block}.zarr")
        assert run(job, tmp_path).complete
        found.append(gs.open_output(job["output"]["to"], raw=True))
    one, other = found
    for name in ("change", "probability", "from_class", "to_class"):
        np.testing.assert_array_equal(one[name].values, other[name].values)
    for name, layer in zip(CLEAR, ("from_class", "to_class"), strict=True):
        stack = gs.open_stack(imagery=eolearn(data_dir, [name]))
        plan = gs.plan(stack, dynamic_world(data_dir), block_px=101)
        assert gs.run(plan, tmp_path / f"{layer}.zarr", trust_code=True).complete
        alone = gs.open_output(str(tmp_path / f"{layer}.zarr")).classes.values
        np.testing.assert_array_equal(one[layer].values, alone)
    # nothing happened there in seven weeks; one pixel in twenty flickers, and none of
    # them is change from a probability of one half
    flickers = one.from_class.values != one.to_class.values
    assert 0.03 < flickers.mean() < 0.07
    assert (one.change.values == 1).any()
    assert one.probability.values.max() < 127


def test_periods_are_compared_by_their_names(job, data_dir, tmp_path):
    folder = data_dir / "eolearn"
    names = sorted(path.name for path in folder.glob("S2L1C_*.tif"))
    job["imagery"] = eolearn(data_dir, names) | {
        "periods": {"after": "2015-08-30/2015-09", "before": "2015-07-01/2015-07-15"},
        "composite": "first",
    }
    assert run(job, tmp_path).complete
    found = gs.open_output(job["output"]["to"])
    (told,) = found.attrs["compared_dates"]
    assert (told["from_period"], told["to_period"]) == ("before", "after")
    assert (told["from"][:10], told["to"][:10]) == ("2015-07-01", "2015-08-30")
    gs.export(job["output"]["to"], tmp_path / "out", layers=["change", "to_class"])
    (item,) = (tmp_path / "out").glob("change_*.json")
    fields = json.loads(item.read_text())
    assert fields["properties"]["start_datetime"] == "2015-07-01T00:00:00Z"
    assert fields["properties"]["end_datetime"] == "2015-08-30T00:00:00Z"
    assert fields["properties"]["mlm:tasks"] == ["change-detection"]
    classes = {
        name: [c["name"] for c in asset["classification:classes"]]
        for name, asset in fields["assets"].items()
        if name != "zarr"
    }
    assert classes["change"] == ["unchanged", "changed", "nodata"]
    assert classes["to_class"][:2] == ["water", "trees"]


def test_zones_compare_the_same_dates(job, tmp_path):
    job["grid"] = {"crs": "utm", "resolution": 10}
    job["change"] = {"threshold": 0.4}
    plans = gs.plan_job(parse_job(job, where="job", base=tmp_path))
    (plan,) = (plans[name] for name in plans)
    assert (plan.change.method, plan.change.threshold) == ("classes", 0.4)
    assert [t[:10] for t in plan.times] == ["2015-08-30"]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"method": "cva"}, "method: cva"),
        ({"method": "irmad"}, "method: irmad"),
        ({"coregister": "shift"}, "coregister: shift"),
    ],
)
def test_zones_have_no_numbers_of_their_own(job, tmp_path, change, what):
    """There would be seams; what the job may say instead is told."""
    job["grid"], job["change"] = {"crs": "utm", "resolution": 10}, change
    words = rf"`change.{what}` takes numbers of the whole area.*set grid.crs to one"
    with pytest.raises(JobError, match=words):
        gs.plan_job(parse_job(job, where="job", base=tmp_path))


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ({"files": CLEAR[:1]}, "change is between two dates, the stack has 1"),
        ({"change": {"method": "network"}}, "needs a card of `task: change`"),
        ({"change": {"method": "netwrk"}}, "`change.method`"),
        ({"task": "segmentation", "change": {"threshold": 0.3}}, "say `task: change`"),
        ({"output": {"layers": ["classes"]}}, "`classes` of change is not known"),
    ],
)
def test_the_command_says_what_to_mend(job, data_dir, tmp_path, part, says):
    job["imagery"] = eolearn(data_dir, part.pop("files", CLEAR))
    job["output"] |= part.pop("output", {})
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(job | part))))
    with pytest.raises(GeoscaleError, match=says):
        gs.run_job(path, trust_code=True)


def test_bands_that_differ_between_dates_are_refused(data_dir, tmp_path):
    """The later date lacks the infrared."""
    import rasterio

    names = []
    for number, bands in enumerate((["B2", "B3", "B4", "B8"], ["B2", "B3", "B4"])):
        path = tmp_path / f"S2_2015070{number + 1}T100000.tif"
        with rasterio.open(
            path, "w", driver="GTiff", dtype="uint16", count=len(bands), height=8,
            width=8, crs="EPSG:32633", transform=Affine(10, 0, 5e5, 0, -10, 5e6),
        ) as file:  # fmt: skip
            file.write(np.ones((len(bands), 8, 8), np.uint16))
            for i, band in enumerate(bands, 1):
                file.set_band_description(i, band)
        names.append(str(path))
    stack = gs.open_stack(imagery={"files": names, **CHIP})
    with pytest.raises(GeoscaleError, match=r"1 of 2 items lack `nir`: S2_20150702"):
        gs.plan(stack, "s2-landcover-unet", task="change")


LENGTHS = """
import torch
from torch import nn

class Lengths(nn.Module):
    def __init__(self):
        super().__init__()
        self.least = nn.Parameter(torch.zeros(1))

    def forward(self, before, after):
        change = (after - before).square().sum(1, keepdim=True).sqrt()
        return {"note": before, "logit": change - self.least}
"""


@pytest.fixture(scope="module")
def taizhou(data_dir, tmp_path_factory):
    """A user's own network of two arguments, z-scored bands, and the labels."""
    import rasterio
    import torch
    from PIL import Image
    from safetensors.torch import save_file

    folder, home = data_dir / "taizhou", tmp_path_factory.mktemp("taizhou")
    dates, label = [], np.full((400, 400), 255, np.uint8)
    for year in (2000, 2003):
        look = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE")  # its header
        with look, rasterio.open(folder / f"{year}TM") as file:
            dates.append(file.read())
            profile = {"crs": file.crs, "transform": file.transform}
        with rasterio.open(
            home / f"L7_{year}0601T000000.tif", "w", driver="GTiff", dtype="uint8",
            count=6, height=400, width=400, **profile,
        ) as file:  # fmt: skip
            file.write(dates[-1])
            for band in range(6):
                file.set_band_description(band + 1, f"b{band}")
    for value, name in enumerate(("unchanged", "change")):
        label[np.asarray(Image.open(folder / f"{name}.bmp").convert("L")) > 0] = value
    with rasterio.open(
        home / "label.tif", "w", driver="GTiff", dtype="uint8", count=1, height=400,
        width=400, nodata=255, **profile,
    ) as file:  # fmt: skip
        file.write(label, 1)
    (home / "lengths.py").write_text(LENGTHS)
    save_file({"least": torch.tensor([4.0])}, home / "lengths.safetensors")
    pixels = np.concatenate(dates).astype(float)
    card = {
        "name": "lengths",
        "task": "change",
        "architecture": f"{home / 'lengths.py'}:Lengths",
        "weights": {"href": str(home / "lengths.safetensors")},
        "input": {
            "bands": [f"b{i}" for i in range(6)],
            "frames": 2,
            "pair": "two",
            "units": "raw",
            "normalization": {
                "type": "mean-std",
                "mean": pixels.mean((1, 2)).tolist(),
                "std": pixels.std((1, 2)).tolist(),
            },
            "patch": {"size": 128, "halo": 0},
        },
        "output": {"single": True, "take": "logit", "activation": "sigmoid"},
    }
    return home, card


@pytest.mark.parametrize("stored", ["uint8", "float16"])
def test_a_network_of_two_arguments_is_run_and_evaluated(taizhou, tmp_path, stored):
    home, card = taizhou
    job = {
        "imagery": {"files": str(home / "L7_*.tif"), "source_nodata": "none"},
        "model": card,
        "inference": {"block": 128},
        "output": {"to": str(tmp_path / "change.zarr"), "scores_dtype": stored},
    }
    assert run(job, tmp_path).complete
    found = gs.evaluate(job["output"]["to"], home / "label.tif")
    assert [one.name for one in found.classes] == ["unchanged", "changed"]
    assert found.score("changed").auc >= 0.990
    assert found.score("changed").f1 > 0.8
    stack = gs.open_stack(imagery=job["imagery"])
    options = {"block_px": 200, "trust_code": True}
    lazy = gs.predict(stack, card, layer="change", **options)
    made = gs.open_output(job["output"]["to"]).change
    np.testing.assert_array_equal(lazy.values, made.values)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_do_not_change_a_byte(data_dir, tmp_path, workers):
    card = siamese(tmp_path)
    found = {}
    for kind, block in (("loop", 101), ("workers", 32)):
        stack = gs.open_stack(imagery=eolearn(data_dir))
        plan = gs.plan(stack, card, block_px=block)
        made = tmp_path / f"{kind}.zarr"
        if kind == "loop":
            assert gs.run(plan, made).complete
        else:
            with connect(workers, threads=1) as client:
                assert gs.run(plan, made, client=client).complete
        found[kind] = gs.open_output(str(made), raw=True)
    for name in ("change", "probability"):
        one, other = (found[kind][name].values for kind in ("loop", "workers"))
        np.testing.assert_array_equal(one, other)


def siamese(folder):
    """The siamese network over three bands of Sentinel-2."""
    card = seeded(folder, SIAMESE).to_dict()
    card["input"] |= {"bands": ["B4", "B3", "B2"], "sensor": "sentinel-2"}
    card["input"]["normalization"] = {
        "type": "mean-std", "mean": [1200.0] * 6, "std": [600.0] * 6,
    }  # fmt: skip
    return card


@pytest.mark.slow
def test_a_change_job_that_is_killed_equals_the_clean_run(data_dir, tmp_path, proof):
    card = siamese(tmp_path)
    commands = {}
    for name in ("clean", "killed"):
        job = {
            "imagery": eolearn(data_dir),
            "model": card,
            "inference": {"block": 8},
            "output": {"to": f"{name}.zarr"},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(json.loads(json.dumps(job))))
        commands[name] = [sys.executable, "-m", "geoscale.cli", "run", str(path)]
    subprocess.run(commands["clean"], check=True, stdout=subprocess.DEVNULL)
    clean = stored_bytes(str(tmp_path / "clean.zarr"))
    rng, kills = random.Random(5), 0
    ledger = tmp_path / "killed.zarr" / ".geoscale" / "ledger"
    while kills < 5:
        process = subprocess.Popen(
            commands["killed"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = _recorded(ledger)
        while process.poll() is None and _recorded(ledger) <= before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.3))
        assert process.poll() is None, "the blocks were too few for five kills"
        hit(process.pid)
        process.wait()
        kills += 1
    done = subprocess.run(
        commands["killed"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert stored_bytes(str(tmp_path / "killed.zarr")) == clean
    proof(faults=kills, compared=sum(map(len, clean.values())))


def _recorded(ledger):
    return sum(path.stat().st_size for path in ledger.glob("*.jsonl"))

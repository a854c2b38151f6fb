"""Maps over time: dates of pixels, scenes that vote, clouds told by a model."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
import xarray as xr

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.engine.journal import Journal
from geoscale.errors import CardError, JobError, SourceError
from geoscale.job import parse_job
from geoscale.judging import with_judge
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.patches import take_patch
from geoscale.preprocess import Preprocessor
from geoscale.sinks.overviews import find_method
from geoscale.sources.clear import Mask, grow
from geoscale.sources.opening import source_of
from geoscale.tasks.vote import Vote
from geoscale.testing import toy_card
from geoscale.windows import Window
from tests.sources.test_composite import bohinj
from tests.support.cards import classes as name_classes

__all__ = ["bohinj"]

MASK = {"asset": "cloud", "keep": [0]}
DAYS = ["2015-07-11", "2015-07-31", "2015-08-20", "2015-08-30", "2015-09-09"]


def small(folder, name="small", frames=1, seed=5):
    """One convolution with seeded weights: quick, and it sees its neighbours."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    args = {"out_channels": 3, "kernel_size": 3, "padding": 1}
    args["in_channels"] = 3 * frames
    network = torch.nn.Conv2d(**args)
    path = folder / f"{name}.safetensors"
    save_file(network.state_dict(), path)
    return {
        "name": name,
        "architecture": "torch.nn:Conv2d",
        "architecture_args": args,
        "weights": {"href": str(path)},
        "input": {
            "bands": ["B2", "B4", "B8"],
            "frames": frames,
            "normalization": {
                "type": "mean-std",
                "mean": [0.2] * 3 * frames,
                "std": [0.1] * 3 * frames,
            },
            "patch": {"size": 64, "halo": 1},
        },
        "output": {"classes": name_classes("a", "b", "c")},
    }


def save(items, folder):
    """Write items where a job finds them, and give their name there."""
    (folder / "items.json").write_text(json.dumps({"features": items}))
    return "items.json"


@pytest.fixture
def make(bohinj, tmp_path):
    """Run a job of the five dates and give its report and its output."""
    items, scenes, clouds = bohinj
    items = save(items, tmp_path)

    def run(name, *, model=None, block=64, output=None, task=None, **imagery):
        job = parse_job(
            {
                "imagery": {"items": items, **imagery},
                "model": model or small(tmp_path),
                "inference": {"block": block},
                "task": task,
                "output": {"to": name, **(output or {})},
            },
            where="job",
            base=tmp_path,
        )
        report = gs.run_job(job, trust_code=True)
        assert report.complete
        return report, str(tmp_path / name)

    return run, scenes, clouds


def layer(url, name, group=None):
    with xr.open_zarr(url, decode_cf=False, group=group) as found:
        return found[name].values


def test_the_output_tells_the_dates_of_its_pixels(make):
    run, _, clouds = make
    names = ["observations", "observed"]
    report, url = run("map", composite="last", mask=MASK, layers=names)
    clear = ~clouds
    some, count = clear.any(axis=0), clear.sum(axis=0)
    assert (layer(url, "observations")[0] == count).all()
    days = np.array(DAYS, "M8[D]")
    last = 4 - clear[::-1].argmax(axis=0)
    with xr.open_zarr(url) as found:
        assert found["observed"].dtype.kind == "M"
        seen = found["observed"].values[0].astype("M8[D]")
    assert (seen[some] == days[last][some]).all()
    assert np.isnat(seen[~some]).all()
    # what no date shows is nodata, counted and said
    hidden = int((~some).sum())
    assert hidden
    assert (layer(url, "classes")[0] == 255).sum() == hidden
    assert f"all: {hidden:,} of 10,100 px with imagery" in str(report)
    final = json.loads((gs_path(url) / "final.json").read_text())
    assert final["no_clear_view"] == [
        {
            "time": "2015-07-11T10:00:00",
            "periods": ["all"],
            "no_clear_view_px": hidden,
            "imagery_px": 10_100,
        }
    ]
    from geoscale.report.page import gather_facts

    assert gather_facts(url)["unclear"] == list(report.unclear)


def gs_path(url):
    from pathlib import Path

    return Path(url) / ".geoscale"


def test_dates_are_not_averaged(make):
    from geoscale.sinks.overviews import reduce_nearest, write_overviews

    run, _, _ = make
    _, url = run("map", composite="last", mask=MASK, layers=["observed"])
    write_overviews(url, smallest_px=64)
    fine, coarse = (layer(url, "observed", g)[0] for g in (None, "overviews/2"))
    assert fine.dtype == np.uint16
    assert (coarse == reduce_nearest(fine, 65535)).all()
    assert len(np.unique(fine)) > 2
    assert set(np.unique(coarse)) <= set(np.unique(fine))


def test_pairs_tell_the_dates_of_both(make, tmp_path):
    """Two dates as channels: an axis of their own, the earlier first."""
    run, _, clouds = make
    periods = {"before": "2015-07", "after": "2015-08/2015-09"}
    model = small(tmp_path, frames=2)
    names = ["observations", "observed"]
    report, url = run(
        "pairs", model=model, composite="first", mask=MASK, periods=periods,
        layers=names, block=101,
    )  # fmt: skip
    counts = layer(url, "observations")
    assert counts.shape == (1, 2, 101, 100)
    halves = [~clouds[:2], ~clouds[2:]]
    for k, clear in enumerate(halves):
        assert (counts[0, k] == clear.sum(axis=0)).all()
    hidden = int((~(halves[0].any(axis=0) & halves[1].any(axis=0))).sum())
    assert f"before and after: {hidden:,} of" in str(report)
    assert (layer(url, "classes")[0] == 255).sum() == hidden
    cog, catalogue = gs.export(url, tmp_path / "cogs", layers=["observed"])
    with rasterio.open(cog) as file:
        assert file.descriptions == ("earlier", "later")
        assert (file.read() == layer(url, "observed")[0]).all()
    item = next(p for p in (tmp_path / "cogs").rglob("*.json") if p != catalogue)
    bands = json.loads(item.read_text())["assets"]["observed"]["bands"]
    assert [one["name"] for one in bands] == ["observed-earlier", "observed-later"]


def test_dates_that_are_compared_tell_both(make):
    """One after the other, not as channels: the same axis."""
    run, _, clouds = make
    periods = {"before": "2015-07", "after": "2015-08/2015-09"}
    _, url = run(
        "change", task="change", composite="median", mask=MASK, periods=periods,
        layers=["observations"],
    )  # fmt: skip
    counts = layer(url, "observations")[0]
    assert (counts == np.stack([(~clouds[:2]).sum(0), (~clouds[2:]).sum(0)])).all()
    hidden = clouds[:2].all(axis=0) | clouds[2:].all(axis=0)
    assert ((layer(url, "change")[0] == 255) == hidden).all()
    final = json.loads((gs_path(url) / "final.json").read_text())
    assert final["no_clear_view"][0]["no_clear_view_px"] == hidden.sum()


def two_dates(folder):
    """A small network after torchgeo's FTW U-Net: its card's input, seeded weights."""
    import segmentation_models_pytorch as smp
    import torch
    from safetensors.torch import save_file

    ftw = find_card("torchgeo:Unet_Weights.SENTINEL2_2CLASS_FTW").to_dict()
    args = {
        "encoder_name": "resnet18",
        "encoder_weights": None,
        "encoder_depth": 3,
        "decoder_channels": [16, 8, 8],
        "in_channels": 8,
        "classes": 2,
    }
    torch.manual_seed(3)
    network = smp.Unet(**args)
    save_file(network.state_dict(), folder / "ftw.safetensors")
    ftw["input"]["patch"] = {"size": 128, "multiple_of": 8, "fixed": False}
    return {
        "name": "ftw-like",
        "architecture": "segmentation_models_pytorch:Unet",
        "architecture_args": args,
        "weights": {"href": str(folder / "ftw.safetensors")},
        "input": ftw["input"],
        "output": ftw["output"],
    }


@pytest.mark.slow
def test_a_network_of_two_dates_gets_two_composites(make, tmp_path):
    """As torchgeo's FTW U-Net: harvest before planting in its channels."""
    run, scenes, clouds = make
    model = two_dates(tmp_path)
    card = ModelCard.from_dict(model)
    assert card.input.frames == 2
    periods = {"before": "2015-07", "after": "2015-08/2015-09"}
    output = {"layers": ["scores"], "scores_dtype": "float16"}
    _, url = run(
        "ftw", model=model, composite="first", mask=MASK, periods=periods,
        output=output, block=101,
    )  # fmt: skip
    images, valid = [], []
    for part in (slice(0, 2), slice(2, 5)):
        best = clouds[part].argmin(axis=0)
        one = np.take_along_axis(scenes[part], best[None, None], 0)[0]
        images.append(one[[3, 2, 1, 7]].astype(np.float32))
        valid.append(~clouds[part].all(axis=0))
    keep = valid[0] & valid[1]
    data = np.where(np.stack(valid)[:, None], np.stack(images), 0).astype(np.float32)
    x, usable = Preprocessor.from_card(card).prepare(data, np.stack(valid))
    assert (usable == keep).all()
    mean, std = card.input.normalization.mean[0], card.input.normalization.std[0]
    later = (images[1][0] - mean) / std
    np.testing.assert_allclose(x[0][keep], later[keep], rtol=1e-5)
    found = layer(url, "scores")[0]
    assert np.isnan(found[:, ~keep]).all()
    # one patch that holds everything, mirrored at its edges as the engine mirrors it
    plan, whole = Journal(url).load_plan(), Window(0, 0, 101, 100)
    (patch,) = plan.lattice.touching(whole)
    batch = np.empty((1, 8, *plan.lattice.patch_shape), np.float32)
    take_patch(x, whole, patch.window, (101, 100), batch[0])
    settings = ModelSettings(batch=1, patch=plan.lattice.patch_shape)
    scores = get_predictor(card, settings).predict(batch)[0]
    scores = scores[:, *whole.within(patch.window)]
    np.testing.assert_allclose(found[:, keep], scores[:, keep], atol=2e-3)


def vote_of(maps, classes):
    """Most frequent class, its share and the count; 255 is no vote."""
    votes = np.stack([(maps == k).sum(axis=0) for k in range(classes)])
    total = votes.sum(axis=0)
    share = votes.max(axis=0).astype(np.float32) / np.maximum(total, 1).astype("f4")
    best = np.where(total > 0, votes.argmax(axis=0), 255)
    quantised = np.where(total > 0, np.rint(share * np.float32(254)), 255)
    return best, quantised, np.where(total > 0, total, 65535)


def test_scenes_vote(make):
    run, _, clouds = make
    _, each = run("each", periods="each scene", mask=MASK)
    maps = layer(each, "classes")
    assert (maps == 255).tolist() == clouds.tolist()
    output = {"layers": ["classes", "confidence", "observations"]}
    for block in (64, 128):
        report, url = run(
            f"vote{block}", composite="vote", mask=MASK, output=output, block=block
        )
        best, share, count = vote_of(maps, 3)
        assert (layer(url, "classes")[0] == best).all()
        assert (layer(url, "confidence")[0] == share).all()
        assert (layer(url, "observations")[0] == count).all()
    hidden = int(clouds.all(axis=0).sum())
    assert f"all: {hidden:,} of 10,100 px with imagery" in str(report)
    assert len(np.unique(share)) > 3


def test_scenes_vote_by_period(make):
    run, _, clouds = make
    periods = {"july": "2015-07", "cloudy": "2015-08-20", "late": "2015-08-30/2015-09"}
    report, url = run("periods", composite="vote", mask=MASK, periods=periods)
    maps = layer(url, "classes")
    hidden = [clouds[part].all(axis=0) for part in ([0, 1], [2], [3, 4])]
    assert (maps == 255).tolist() == np.stack(hidden).tolist()
    with xr.open_zarr(url) as found:
        days = found["time"].values.astype("M8[D]").astype(str).tolist()
    assert days == ["2015-07-01", "2015-08-20", "2015-08-30"]
    # a period under cloud is named
    assert hidden[1].all()
    said = "cloudy: no pixel of 10,100 with imagery has a clear view; all are nodata"
    assert said in report.unclear


def test_equal_votes_go_to_the_first_class():
    ballot = Vote(toy_card(), ("classes", "confidence")).begin((1, 3))
    scores = np.eye(3, dtype=np.float32)
    for k, usable in ((2, [1, 1, 0]), (1, [1, 0, 0]), (1, [0, 1, 0]), (1, [0, 1, 0])):
        one = np.repeat(scores[k][:, None, None], 3, axis=2)
        ballot.add(k, one, np.array([usable], bool))
    layers, valid = ballot.finish()
    assert layers["classes"].tolist() == [[1, 1, 255]]
    assert layers["confidence"].tolist() == [[127, 169, 255]]
    assert valid.tolist() == [[True, True, False]]


def test_what_votes_cannot_tell(make, tmp_path):
    run, _, _ = make
    with pytest.raises(JobError, match="did you mean `observations`"):
        run("a", composite="vote", output={"layers": ["observation"]})
    with pytest.raises(CardError, match="for models that classify one date"):
        run("b", composite="vote", model=small(tmp_path, frames=2))


CLOUDS = {
    "model": "ukis-csmask-4b-l1c",
    "drop": ["clouds", "cloud_shadows"],
    "dilate": 2,
}


@pytest.mark.parametrize(
    "clouds", ["small", pytest.param("ukis", marks=pytest.mark.slow)]
)
def test_a_model_tells_the_clouds_whatever_the_window(bohinj, tmp_path, clouds):
    items, scenes, _ = bohinj
    mask = CLOUDS
    if clouds == "small":
        card = small(tmp_path, "clouds", seed=4)
        (tmp_path / "clouds.yaml").write_text(json.dumps(card))
        mask = {"model": "clouds.yaml", "drop": ["b", "c"], "dilate": 2}
    else:
        pytest.importorskip("ukis_csmask")
    base = {"imagery": {"items": save(items[:3], tmp_path)}, "output": "o"}
    model = small(tmp_path)
    masked = base | {"model": model}
    layers = ["observations", "observed"]
    masked["imagery"] = base["imagery"] | {
        "mask": mask, "composite": "first", "layers": layers
    }  # fmt: skip
    plan = gs.plan_job(parse_job(masked, where="job", base=tmp_path))
    source = with_judge(source_of(plan), plan, trust_code=True)
    got = source.read(Window(0, 0, 101, 100), [0])
    # the same model as the model of a job, on every scene
    own = base | {"model": mask["model"], "output": "clouds.zarr"}
    own["imagery"] = base["imagery"] | {"periods": "each scene"}
    own["inference"] = {"batch": plan.source["judging"]["inference"]["batch"]}
    assert gs.run_job(
        parse_job(own, where="job", base=tmp_path), trust_code=True
    ).complete
    classes = layer(str(tmp_path / "clouds.zarr"), "classes")
    clear = ~np.stack([grow(one > 0, 2) for one in classes])
    assert 0.05 < clear.mean() < 0.95
    assert (got.layers["observations"][0] == clear.sum(axis=0)).all()
    some = clear.any(axis=0)
    assert (got.valid[0] == some).all()
    best = clear.argmax(axis=0)
    scenes = scenes[:, [1, 3, 7]] * np.float32(1e-4)
    wanted = np.take_along_axis(scenes, best[None, None], 0)[0][:, some]
    np.testing.assert_allclose(got.data[0][:, some], wanted, rtol=1e-6)
    for window in (Window(0, 0, 40, 40), Window(33, 57, 101, 100)):
        part, inner = source.read(window, [0]), window.within(Window(0, 0, 101, 100))
        assert (part.valid[0] == got.valid[0][inner]).all()
        assert (part.data[0] == got.data[0][:, *inner]).all()
    median = source._with(recipe=_as_median(source.recipe)).read(window, [0])
    values = np.where(clear[:, None], scenes[:3], np.nan)[:, :, *inner]
    seen = median.valid[0]
    assert (seen == some[inner]).all()
    wanted = np.nanmedian(values[..., seen], axis=0)
    np.testing.assert_allclose(median.data[0][:, seen], wanted, rtol=1e-6)


def _as_median(recipe):
    from dataclasses import replace

    return replace(recipe, method="median", layers=())


def test_the_model_of_a_mask_is_part_of_the_result(bohinj, tmp_path):
    pytest.importorskip("ukis_csmask")
    items, _, _ = bohinj
    plans = []
    for change in ({}, {"dilate": 3}, {"model": "ukis-csmask-4b-l2a"}):
        job = {
            "imagery": {"items": save(items, tmp_path), "mask": CLOUDS | change},
            "model": small(tmp_path),
            "output": "map.zarr",
        }
        plans.append(gs.plan_job(parse_job(job, where="job", base=tmp_path)))
    assert len({plan.hash for plan in plans}) == 3
    told = plans[0].source["judging"]
    assert told["weights_sha256"] != plans[2].source["judging"]["weights_sha256"]
    assert "clear by ukis-csmask-4b-l1c, 2 px dilated" in plans[0].explain()
    bare = plans[0].memory().total
    unmasked = {**plans[0].source}
    del unmasked["judging"]
    from dataclasses import replace

    assert replace(plans[0], source=unmasked).memory().total < bare


@pytest.mark.parametrize(
    ("mask", "error", "match"),
    [
        ({"drop": ["cloud"]}, SourceError, "has no class `cloud`; did you mean"),
        ({"drop": [7]}, SourceError, "has no class `7`"),
        ({"model": "ukis-csmask-4b"}, CardError, "neither in the catalogue"),
        ({"model": "pair.yaml"}, CardError, "does not classify single dates"),
    ],
)
def test_masks_of_models_that_cannot_be(bohinj, tmp_path, mask, error, match):
    pytest.importorskip("ukis_csmask")
    job = {
        "imagery": {"items": save(bohinj[0], tmp_path), "mask": CLOUDS | mask},
        "model": small(tmp_path),
        "output": "map.zarr",
    }
    pair = small(tmp_path, "pair", frames=2)
    (tmp_path / "pair.yaml").write_text(json.dumps(pair))
    with pytest.raises(error, match=match):
        gs.plan_job(parse_job(job, where="job", base=tmp_path))


def test_names_of_a_models_classes_become_numbers():
    mask = Mask(model="x", keep=("land", 1))
    assert mask.resolve({"land": 3, "sea": 1}).keep == (3, 1)


def test_what_a_layer_says_of_coarser_copies_wins():
    (count,) = Vote(toy_card(), ("observations",)).layers[1:]
    assert find_method(count) == "nearest"

"""Real maps against their labels: figures that are known from elsewhere."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from sklearn import metrics

import geoscale as gs
from geoscale.cli import main
from tests.evaluation.conftest import (
    CLASSES,
    quantised,
    write_labels,
    write_output,
)
from tests.support.cards import DYNAMIC_WORLD_CLASSES, simplecnn


@pytest.fixture(scope="module")
def chip(data_dir):
    """Hand-made water labels: -1 is no label, which the file does not say."""
    path = data_dir / "sen1floods11" / "Spain_7370579_LabelHand.tif"
    with rasterio.open(path) as file:
        grid = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        return path, file.read(1), grid


@pytest.fixture(scope="module")
def flood_map(data_dir, chip, tmp_path_factory):
    """The reference output of a real network, as geoscale stores it."""
    made = np.load(data_dir / "worldfloods_simplecnn" / "spain_reference.npz")
    chance = np.rint(254 * made["prob"].astype(np.float32)).astype(np.uint8)
    return write_output(
        tmp_path_factory.mktemp("flood") / "map.zarr",
        {"classes": made["cls"].astype(np.uint8)[None], "scores": chance[None]},
        chip[2],
        names=("land", "water", "cloud"),
        kinds=(CLASSES, quantised("scores", 3)),
        block=192,
    ), chance


def test_water_of_a_real_flood_map(chip, flood_map):
    path, label, _ = chip
    url, chance = flood_map
    found = gs.evaluate(url, path, ignore=[-1])
    assert found.score("water").iou == pytest.approx(0.5875, abs=5e-5)
    assert found.pixels == (label >= 0).sum()
    known = label >= 0
    assert found.score("water").auc == pytest.approx(
        metrics.roc_auc_score(label[known] == 1, chance[1][known]), abs=1e-14
    )
    both = gs.evaluate(url, path, ignore=[-1], merge={"cloud": "land"}, block_px=100)
    assert both.accuracy == pytest.approx(0.8235, abs=5e-5)
    assert both.score("water").iou == found.score("water").iou
    assert "never has cloud" in " ".join(found.notes)


def test_dynamic_world_against_water_labels(data_dir, chip, tmp_path):
    made = np.load(data_dir / "dynamicworld" / "spain_reference.npz")
    url = write_output(
        tmp_path / "map.zarr",
        {"classes": made["cls"].astype(np.uint8)[None]},
        chip[2],
        names=DYNAMIC_WORLD_CLASSES,
        block=512,
    )
    found = gs.evaluate(
        url,
        chip[0],
        ignore=[-1],
        merge={"water": "water", "*": "dry"},
        map_labels={0: "dry", 1: "water"},
    )
    assert found.score("water").iou == pytest.approx(0.6390, abs=5e-5)
    assert [one.name for one in found.classes] == ["water", "dry"]


def read_bmp(path):
    from PIL import Image

    return np.asarray(Image.open(path).convert("L")) > 0


@pytest.fixture(scope="module")
def taizhou(data_dir):
    """Change vectors of z-scored bands, as whole steps, and what is known of them."""
    folder, dates = data_dir / "taizhou", []
    for name in ("2000TM", "2003TM"):
        look = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE")  # its header
        with look, rasterio.open(folder / name) as file:
            bands = file.read().astype(float)
            grid = GeoBox(file.shape, file.transform, file.crs.to_wkt())
        mean, deviation = (f(bands, axis=(1, 2)) for f in (np.mean, np.std))
        dates.append((bands - mean[:, None, None]) / deviation[:, None, None])
    length = np.sqrt(((dates[1] - dates[0]) ** 2).sum(axis=0))
    steps = np.rint(254 * length / length.max()).astype(np.uint8)
    label = np.full(length.shape, 255, np.uint8)
    label[read_bmp(folder / "unchanged.bmp")] = 0
    label[read_bmp(folder / "change.bmp")] = 1
    return steps, label, grid


@pytest.mark.parametrize("block", [64, 100, 400])
def test_change_of_taizhou_whatever_the_block(taizhou, tmp_path, block):
    steps, label, grid = taizhou
    flags = (("flag_meanings", "no_change change"), ("flag_values", [0, 1]))
    kind = CLASSES.__class__(name="change", dtype="uint8", fill_value=255, attrs=flags)
    change = (steps > 40).astype(np.uint8)
    url = write_output(
        tmp_path / "change.zarr",
        {"change": change[None], "change_probability": steps[None]},
        grid,
        names=(),
        kinds=(kind, quantised("change_probability")),
        block=block,
    )
    path = write_labels(tmp_path / "labels.tif", label, grid, nodata=255)
    found, known = gs.evaluate(url, path), label < 255
    assert (found.score("change").reference_px, known.sum()) == (4227, 4227 + 17163)
    expected = metrics.roc_auc_score(label[known], steps[known])
    assert found.score("change").auc == pytest.approx(expected, abs=1e-14)
    assert expected >= 0.990
    truth, ours = label[known], change[known]
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(truth, ours))
    assert found.score("change").iou == pytest.approx(
        metrics.jaccard_score(truth, ours)
    )
    assert found.score("change").f1 == pytest.approx(metrics.f1_score(truth, ours))


@pytest.mark.slow
def test_a_run_is_evaluated_by_the_command(data_dir, chip, tmp_path, capsys):
    stack = gs.open_stack(
        data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif",
        sensor="sentinel-2",
        scale=1e-4,
        source_nodata="none",
    )
    plan = gs.plan(stack, simplecnn(data_dir), block_px=192)
    assert gs.run(plan, tmp_path / "map.zarr", trust_code=True).complete
    args = ["evaluate", str(tmp_path / "map.zarr"), "-r", str(chip[0]), "--json"]
    assert main(args) == 2
    assert "-1 (99 px)" in capsys.readouterr().err
    assert main([*args, "--ignore", "-1"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["classes"][1]["iou"] == pytest.approx(0.5875, abs=5e-5)

"""Values of a job against its card: each known mistake is named, a right job is not."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.cli import main
from geoscale.engine.journal import Journal
from geoscale.engine.strange import warn_if_strange
from geoscale.errors import PlanError
from geoscale.likeness import fisher_rao, judge
from geoscale.values import check_values, describe_values
from tests.support.cards import dynamic_world, simplecnn
from tests.support.chips import crop_chip, open_chip


@pytest.fixture(scope="module")
def chip(data_dir: Path, tmp_path_factory: Any) -> Path:
    return crop_chip(data_dir, tmp_path_factory.mktemp("a") / "chip.tif", 200, 220)


def find_card(name: str, data_dir: Path) -> ModelCard:
    own = {"simplecnn": simplecnn, "dynamic_world": dynamic_world}
    return own[name](data_dir) if name in own else gs.load_model(name)


MODELS = ["s2-landcover-unet", "simplecnn", "dynamic_world"]


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"scale": 1.0}, r"10,000 times too large.*`imagery.scale: 0.0001`"),
        ({"scale": 1e-8}, "10,000 times too small"),
        ({"scale": 1e-4 / 30}, "times too small"),
        ({"offset": 0.1}, r"baseline 04.00 .*`imagery.harmonize: s2-boa`"),
        ({"offset": -0.1}, "taken off twice"),
    ],
)
def test_mistakes_in_units_are_named(
    data_dir: Path, chip: Path, model: str, options: Any, said: str | None
) -> None:
    plan = gs.plan(open_chip(chip, **options), find_card(model, data_dir))
    checked, found = check_values(plan)
    assert found is not None
    if said is None:
        assert found.warnings == ()
    else:
        (warning,) = found.warnings
        assert re.search(said, warning), warning
    assert checked.notes == (*plan.notes, *found.warnings)
    assert checked.hash == plan.hash


def judge_pixels(x: Any, mean: Any, std: Any, **spec: Any) -> Any:
    bands = ["blue", "green", "red", "nir"][: len(mean)]
    norm = {"type": "mean-std", "mean": list(mean), "std": list(std)}
    card = ModelCard.from_dict(
        {
            "name": "toy",
            "weights": {"href": "toy.onnx"},
            "input": {"bands": bands, "normalization": norm, "units": "raw", **spec},
            "output": {"classes": "schema:ftw-2"},
        }
    )
    return judge(card, np.asarray(x, np.float32))


MEAN, STD = np.array([0.08, 0.09, 0.09, 0.28]), np.array([0.04, 0.04, 0.05, 0.09])


def draw(mean: Any, std: Any, count: int = 4000) -> Any:
    rng = np.random.default_rng(0)
    return rng.normal(mean, std, (count, len(mean))).T


def test_swapped_bands_are_named() -> None:
    assert judge_pixels(draw(MEAN, STD), MEAN, STD).warnings == ()
    (said,) = judge_pixels(draw(MEAN, STD)[[3, 1, 2, 0]], MEAN, STD).warnings
    assert "another order" in said
    assert "nir where blue is" in said
    assert "blue where nir is" in said
    # nor does a place that is twice as bright hide it
    (said,) = judge_pixels(2 * draw(MEAN, STD)[[3, 1, 2, 0]], MEAN, STD).warnings
    assert "another order" in said
    # or is in another order itself
    assert judge_pixels(2 * draw(MEAN, STD), MEAN, STD).warnings == ()


def test_decibel_and_linear_are_told_apart() -> None:
    db, spread = np.array([-12.0, -19.0]), np.array([3.0, 3.5])
    linear = 10 ** (draw(db, spread) / 10)
    mean, std = linear.mean(1), linear.std(1)
    (said,) = judge_pixels(draw(db, spread), mean, std).warnings
    assert "look like decibel" in said
    (said,) = judge_pixels(linear, db, spread).warnings
    assert "look linear" in said
    assert judge_pixels(linear, mean, std).warnings == ()


def test_landsat_as_it_is_stored_is_named() -> None:
    stored = (draw(MEAN, STD) + 0.2) / 2.75e-5
    (said,) = judge_pixels(stored, MEAN, STD).warnings
    assert "Landsat Collection 2" in said


def test_what_nothing_explains_is_said_with_figures() -> None:
    wild = draw(MEAN, STD) * np.array([[1e3], [1e-3], [1.0], [40.0]])
    (said,) = judge_pixels(wild, MEAN, STD).warnings
    assert "in no way that is known" in said
    assert "expected 0.08 ± 0.04" in said


def test_raw_values_without_statistics_cannot_be_judged() -> None:
    card = ModelCard.from_dict(
        {
            "name": "toy",
            "weights": {"href": "toy.onnx"},
            "input": {"bands": ["red"], "units": "raw"},
            "output": {"classes": "schema:ftw-2"},
        }
    )
    assert judge(card, np.ones((1, 9), np.float32)) is None
    assert "nothing to check" in describe_values(None)[0]


def test_the_distance_is_that_of_the_paper() -> None:
    def find(*four: float) -> float:
        return float(fisher_rao(*(np.array(v, float) for v in four)))

    assert find(3, 2, 3, 2) == 0
    # along the spread alone it is sqrt(2) |ln(s1 / s2)|
    assert find(0, 1, 0, np.e) == pytest.approx(np.sqrt(2))
    assert find(0, 1, 0, 1e4) == pytest.approx(13.025, abs=1e-3)
    # no units: both scaled, or moved, by the same
    assert find(10, 4, 7, 2) == pytest.approx(find(100, 40, 70, 20))
    assert find(5, 1, 6, 1) == pytest.approx(0.980, abs=1e-3)


def test_no_valid_pixel_is_said(chip: Path) -> None:
    import rasterio

    empty = chip.with_name("empty.tif")
    with rasterio.open(chip) as file, rasterio.open(empty, "w", **file.profile) as to:
        to.write(np.zeros_like(file.read()))
    stack = open_chip(empty, source_nodata=0)
    with pytest.raises(PlanError, match="has a valid pixel"):
        check_values(gs.plan(stack, "s2-landcover-unet"))


def write_job(chip: Path, folder: Path, **imagery: Any) -> Path:
    job = {
        "imagery": {"files": str(chip), "sensor": "sentinel-2", "source_nodata": "none"}
        | {"scale": 1e-4, **imagery},
        "model": "s2-landcover-unet",
        "output": {"to": str(folder / "map.zarr")},
    }
    (folder / "job.yaml").write_text(yaml.safe_dump(job))
    return folder / "job.yaml"


def test_the_command_shows_values_and_warns(
    chip: Path, tmp_path: Path, capsys: Any
) -> None:
    assert main(["plan", str(write_job(chip, tmp_path)), "--check-values"]) == 0
    text = capsys.readouterr().out
    assert "values   blue" in text
    assert "times too large" not in text
    job = write_job(chip, tmp_path, scale=1.0)
    assert main(["plan", str(job), "--check-values"]) == 0
    text = capsys.readouterr().out
    assert "note     the values are about 10,000 times too large" in text
    assert main(["plan", str(job), "--check-values", "--json"]) == 0
    values = json.loads(capsys.readouterr().out)["values"]
    assert values["distance"] > 10
    assert "too large" in values["warnings"][0]


@pytest.mark.parametrize(
    ("strange", "total", "said"),
    [
        ([1] * 9, 9, 1),
        ([1, 1, 1, 0, 1, 1, 1, 1, 1], 9, 0),
        ([1, 1], 2, 1),
        ([1, 1], 9, 0),
        ([0] * 9, 9, 0),
    ],
)
def test_a_run_warns_once_and_only_of_its_first_blocks(
    strange: list[int], total: int, said: int, caplog: Any
) -> None:
    for done in range(1, len(strange) + 1):
        warn_if_strange(done, sum(strange[:done]), total)
    assert caplog.text.count("names the likely mistake") == said


@pytest.mark.parametrize(("scale", "strange"), [(1e-4, 0), (1.0, 4)])
def test_blocks_tell_how_far_they_are(
    chip: Path, tmp_path: Path, scale: float, strange: int, caplog: Any
) -> None:
    totals = []
    for block in (128, 256):
        plan = gs.plan(
            open_chip(chip, scale=scale), "s2-landcover-unet", block_px=block
        )
        to = str(tmp_path / f"{block}.zarr")
        assert gs.run(plan, to).exit_code == 0
        totals.append(Journal(to).read().totals)
    assert totals[0]["strange"] == strange
    assert totals[1]["strange"] == min(strange, 1)
    assert totals[0]["far"] / 4 == pytest.approx(totals[1]["far"], rel=0.2)
    # said once for each run, after its first blocks
    assert caplog.text.count("names the likely mistake") == (2 if strange else 0)


@pytest.mark.parametrize(
    ("model", "change"), [(None, {"method": "cva"}), ("s2-landcover-unet", {})]
)
def test_change_is_judged_only_where_there_is_a_model(
    chip: Path, tmp_path: Path, model: str | None, change: Any
) -> None:
    import xarray as xr

    one = open_chip(chip, bands=["blue", "green", "red", "nir"])
    two = one.assign_coords(time=one.time + np.timedelta64(30, "D"))
    # the same land, seen a little from the side
    both = [one, two.roll(x=3, y=5)]
    stack = xr.concat(both, "time").assign_attrs(one.attrs).compute()
    stack = gs.open_stack(stack * 1e-4, scale=1.0, sensor="sentinel-2")
    plan = gs.plan(stack, model, task="change", change=change, block_px=256)
    found = check_values(plan)[1]
    assert gs.run(plan, tmp_path / "map").exit_code == 0
    totals = Journal(str(tmp_path / "map")).read().totals
    assert (found is None) == ("far" not in totals) == (model is None)

"""Forecasts: every date ahead from one pass, and nothing of the cut in it."""

from __future__ import annotations

import json

import numpy as np
import pytest

import geoscale
from geoscale.assemble import make_sink
from geoscale.card import ModelCard
from geoscale.errors import CardError, JobError, PlanError
from geoscale.forecasts import choose_context
from geoscale.sinks.layout import open_output
from geoscale.stamps import add_days
from tests.support.coarse import build
from tests.support.forecasts import BANDS, Series, forecast_card, series
from tests.support.toy import stored_bytes

torch = pytest.importorskip("torch")


def run(source, card, to, **options):
    plan = geoscale.plan(source, card, trust_code=True, **options)
    assert geoscale.run(plan, to, trust_code=True).complete
    return plan, open_output(str(to))


def test_it_has_the_real_dates_and_the_bands(tmp_path):
    plan, data = run(series(), forecast_card(tmp_path), tmp_path / "out.zarr")
    assert data["forecast"].dims == ("time", "band", "y", "x")
    assert data["forecast"].shape == (3, 4, 53, 61)
    days = [str(t)[:19] for t in data.time.values]
    assert days == [f"2024-{d}T10:20:31" for d in ("03-22", "03-27", "04-01")]
    assert data["forecast"].attrs["axis_names"] == list(BANDS)
    assert data["forecast"].attrs["units"] == "1"
    assert plan.goal == "forecasting"
    assert "4 dates 2024-03-02 … 2024-03-17 → 3 steps of 5 days to 2024-04-01" in str(
        plan
    )


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_blocks_do_not_change_it(tmp_path, merge):
    card, found = forecast_card(tmp_path), []
    for block in (16, 48):
        to = tmp_path / f"{merge}{block}.zarr"
        _, data = run(
            series(shape=(37, 45)), card, to, block_px=block, stride_px=16,
            merge=merge, batch=2, output={"overviews": False},
        )  # fmt: skip
        found.append(data["forecast"].values)
    assert np.isfinite(found[0]).any()
    np.testing.assert_array_equal(*found)


def test_it_is_what_the_network_says_of_the_whole_image(tmp_path):
    """Clouds are filled date by date; four dates and three steps see 6 px around."""
    source = series()
    card = forecast_card(tmp_path, patch={"size": 32, "halo": 7})
    _, data = run(source, card, tmp_path / "out.zarr", block_px=18)
    fill = np.float32([0.1, 0.1, 0.1, 0.3])[None, :, None, None]
    x = np.where(source.valid[:, None], source.data, fill).astype(np.float32)
    with torch.inference_mode():
        want = build(card)(torch.from_numpy(x[None]))[0].numpy()
    found, known = data["forecast"].values, source.valid.any(axis=0)
    assert not known.all()
    np.testing.assert_array_equal(
        np.isfinite(found), np.broadcast_to(known, want.shape)
    )
    np.testing.assert_allclose(found[..., known], want[..., known], atol=1e-6)


def test_a_pixel_needs_as_many_clear_dates_as_the_card_says(tmp_path):
    source = series()
    for least in (1, 3, 4):
        card = forecast_card(tmp_path, "Trend", forecast={"least_dates": least})
        _, data = run(source, card, tmp_path / f"{least}.zarr")
        known = source.valid.sum(axis=0) >= least
        np.testing.assert_array_equal(np.isfinite(data["forecast"].values[0, 0]), known)


def test_a_run_that_was_cut_off_goes_on_to_the_same_bytes(tmp_path):
    card, to = forecast_card(tmp_path), tmp_path / "out.zarr"
    plan = geoscale.plan(series(), card, trust_code=True, block_px=32)
    geoscale.run(plan, tmp_path / "whole.zarr", trust_code=True)
    first = geoscale.run(plan, to, trust_code=True, shard=(0, 2))
    assert not first.complete
    assert geoscale.run(plan, to, trust_code=True).complete
    assert stored_bytes(to) == stored_bytes(tmp_path / "whole.zarr")


def test_a_damaged_date_is_found_and_its_block_named(tmp_path):
    """One shard of a block that has three."""
    to = tmp_path / "out.zarr"
    plan, _ = run(series(), forecast_card(tmp_path), to, block_px=32)
    sink = make_sink(plan, str(to))
    keys = list(sink.keys())
    assert len(keys) == 4 * 3
    assert {sink.place(key) for key in keys} == {
        (0, y, x) for y in (0, 1) for x in (0, 1)
    }
    (to / keys[5]).write_bytes(b"nonsense")
    found = geoscale.verify(str(to))
    assert [one.key for one in found.damaged] == [keys[5]]
    assert found.blocks() == [plan.grid.number(*sink.place(keys[5]))]


def test_every_date_becomes_a_file_and_an_item(tmp_path):
    import rasterio

    to = tmp_path / "out.zarr"
    _, data = run(series(), forecast_card(tmp_path), to)
    catalogue = geoscale.export(str(to), tmp_path / "files", layers=["forecast"])
    files = sorted((tmp_path / "files").glob("*.tif"))
    assert [f.name for f in files] == [
        f"out_2024{d}T102031_forecast.tif" for d in ("0322", "0327", "0401")
    ]
    with rasterio.open(files[1]) as file:
        assert file.descriptions == BANDS
        np.testing.assert_array_equal(file.read(), data["forecast"].values[1])
    item = json.loads((tmp_path / "files" / "out_20240327T102031.json").read_text())
    said = item["properties"]
    assert said["datetime"] == "2024-03-27T10:20:31Z"
    assert said["forecast:reference_datetime"] == "2024-03-17T10:20:31Z"
    assert said["forecast:horizon"] == "P10D"
    assert any("/forecast/v" in url for url in item["stac_extensions"])
    assert catalogue


def test_numbers_are_brought_into_their_units(tmp_path):
    card = forecast_card(tmp_path, "Trend")
    said = [{"name": b, "multiply": 2.0, "add": 1.0} for b in BANDS]
    other = ModelCard.from_dict(
        {**card.to_dict(), "output": {**card.to_dict()["output"], "bands": said}}
    )
    _, plain = run(series(), card, tmp_path / "a.zarr")
    _, scaled = run(series(), other, tmp_path / "b.zarr", output={"dtype": "float16"})
    assert scaled["forecast"].dtype == np.float16
    np.testing.assert_allclose(
        scaled["forecast"], 2 * plain["forecast"] + 1, rtol=2e-3, atol=2e-3
    )


def labels(*days):
    return [add_days("2024-03-01T10:00:00", d) for d in days]


def test_dates_that_fit_the_step_are_taken_from_the_last_on(tmp_path):
    card = forecast_card(tmp_path)
    # two orbits: every other scene lies between
    times = labels(0, 2.5, 5.01, 7.5, 10, 12.5, 14.99, 17.5, 20)
    assert choose_context(times, card) == ((2, 4, 6, 8),)


@pytest.mark.parametrize(
    ("days", "said"),
    [
        ((0, 5, 10), r"sees 4 dates, 5 days apart, the stack has 3 .*imagery.periods"),
        ((0, 5, 12, 17), r"none within 0.5 days of 2024-03-08.*nearest is 2024-03-06"),
        ((0, 20, 40, 60), r"none within 0.5 days of 2024-04-25"),
    ],
)
def test_dates_that_do_not_fit_are_refused(tmp_path, days, said):
    with pytest.raises(CardError, match=said):
        choose_context(labels(*days), forecast_card(tmp_path))


def test_months_need_not_be_of_one_length(tmp_path):
    card = forecast_card(tmp_path, forecast={"every_days": 30})
    assert choose_context(labels(0, 31, 60, 91), card) == ((0, 1, 2, 3),)


def test_what_does_not_go_together_is_refused(tmp_path):
    card, source = forecast_card(tmp_path), series()
    less = Series(data=source.data[:, :3], valid=source.valid)
    with pytest.raises(CardError, match=r"expects 4 bands .*the stack supplies 3"):
        geoscale.plan(less, card, trust_code=True)
    with pytest.raises(CardError, match="task segmentation needs"):
        geoscale.plan(source, card, task="segmentation")
    with pytest.raises(JobError, match="float32 or float16"):
        geoscale.plan(source, card, output={"dtype": "int8"})
    with pytest.raises(JobError, match=r"forecasts are stored as one layer"):
        geoscale.plan(source, card, output={"layers": ["classes"]})
    with pytest.raises(PlanError, match=r"gives none: name `inference.runtime`"):
        geoscale.plan(source, card, runtime="auto")
    with pytest.raises(JobError, match="makes all its dates at once"):
        geoscale.predict(source, card, layer="forecast", trust_code=True)


def test_a_network_of_another_shape_is_refused(tmp_path):
    plan = geoscale.plan(series(), forecast_card(tmp_path, "Swapped"))
    with pytest.raises(CardError, match=r"it gives \(n, 3, 4, y, x\): check"):
        geoscale.run(plan, tmp_path / "out.zarr", trust_code=True)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"output": {}}, r"says what lies ahead: `output.forecast"),
        ({"input": {"pair": "two"}}, "pair: two` is for cards of `task: change`"),
        ({"output": {"forecast": {"steps": 3, "every_days": 5, "least_dates": 5}}},
         "is more than the 4 dates"),
        ({"task": "regression", "input": {"pair": None}},
         "`output.forecast` is for cards of `task: forecasting`"),
    ],
)  # fmt: skip
def test_cards_that_cannot_be_meant_are_refused(tmp_path, change, said):
    data = forecast_card(tmp_path).to_dict()
    data["input"] |= change.get("input", {})
    data["output"] = change.get("output", data["output"])
    data["task"] = change.get("task", data["task"])
    with pytest.raises(CardError, match=said):
        ModelCard.from_dict(data)


def test_cards_come_back_as_they_were(tmp_path):
    card = forecast_card(tmp_path)
    assert ModelCard.from_dict(card.to_dict()) == card
    assert len(card.input.fill) == 16
    assert "forecast" not in json.dumps(_of_classes().model_dump())


def _of_classes():
    from geoscale.testing import toy_card

    return toy_card()


def test_dates_of_a_real_scene_and_repair(data_dir, tmp_path):
    """Five dates of Sentinel-2, of which the last two lie ten days apart."""
    from geoscale.job import parse_job

    card = forecast_card(tmp_path, patch={"size": 48, "halo": 4}, frames=2)
    data = card.to_dict()
    data["input"] |= {"bands": ["B2", "B3", "B4", "B8"], "sensor": "sentinel-2"}
    data["output"] = {"forecast": {"steps": 3, "every_days": 10}}
    del data["input"]["fill"]
    found = []
    for block in (40, 120):
        to = tmp_path / f"{block}.zarr"
        job = {
            "imagery": {
                "files": str(data_dir / "eolearn" / "S2L1C*.tif"),
                "sensor": "sentinel-2", "scale": 1e-4, "source_nodata": "none",
            },
            "model": data, "task": "forecasting",
            "inference": {"block": block, "batch": 2}, "output": {"to": str(to)},
        }  # fmt: skip
        made = parse_job(job, where="job", base=tmp_path)
        assert geoscale.run_job(made, trust_code=True).complete
        found.append(open_output(str(to))["forecast"])
    np.testing.assert_array_equal(found[0].values, found[1].values)
    assert str(found[0].time.values[-1])[:10] == "2015-10-09"
    assert found[0].attrs["rgb"] == [2, 1, 0]
    shard = next((tmp_path / "40.zarr" / "forecast" / "c" / "1").rglob("0"))
    shard = (
        shard if shard.is_file() else next(p for p in shard.rglob("*") if p.is_file())
    )
    before = shard.read_bytes()
    shard.write_bytes(b"nonsense")
    assert geoscale.repair(str(tmp_path / "40.zarr"), trust_code=True).complete
    assert shard.read_bytes() == before


def test_it_may_lie_in_an_icechunk_repository(tmp_path):
    pytest.importorskip("icechunk")
    plain, ice = tmp_path / "plain.zarr", tmp_path / "ice"
    card = forecast_card(tmp_path)
    run(series(shape=(37, 45)), card, plain, block_px=24)
    run(
        series(shape=(37, 45)), card, ice, block_px=24, output={"store": "icechunk"}
    )  # fmt: skip
    one, other = open_output(str(plain)), open_output(str(ice))
    np.testing.assert_array_equal(one["forecast"].values, other["forecast"].values)
    assert len(other.time) == 3


def make_kernel(source, card):
    from geoscale.assemble import make_kernel as make

    plan = geoscale.plan(source, card, trust_code=True, block_px=64)
    return make(plan, source=source, trust_code=True)


def test_blocks_that_one_date_does_not_cover_are_made(tmp_path):
    class Half(Series):
        """Whose second date has no scene at all."""

        def covers_cells(self, ys, xs, time):
            found = super().covers_cells(ys, xs, time)
            return found & (time != 1)

    made = series()
    source = Half(data=made.data, valid=made.valid)
    source.valid[1] = False
    plan = geoscale.plan(source, forecast_card(tmp_path), trust_code=True)
    assert len(plan.numbers()) == len(plan.grid)


def test_pixels_without_enough_clear_dates_are_counted(tmp_path):
    """One cloudy date of four hides nothing; four do."""
    from dataclasses import replace

    from geoscale.engine.block import infer_block

    class Cloudy(Series):
        """There is imagery everywhere, be it of clouds."""

        def read(self, window, times):
            found = super().read(window, times)
            return replace(found, shown=np.ones_like(found.valid))

    made = series()
    source = Cloudy(data=made.data, valid=made.valid)
    for least in (1, 3):
        card = forecast_card(tmp_path, "Trend", forecast={"least_dates": least})
        kernel = make_kernel(source, card)
        _, told = infer_block(kernel, kernel.plan.task(0))
        unclear = int((source.valid.sum(axis=0) < least).sum())
        assert told["clouds"] == [0, unclear, 53 * 61]


def test_it_comes_back_from_a_stac_item(tmp_path):
    pytest.importorskip("pystac.extensions.mlm")
    from geoscale.models.mlm import read_item, write_item
    from tests.models.test_mlm import check_by_rules

    card = forecast_card(tmp_path)
    item = write_item(card)
    check_by_rules(item)
    given, gives = (item["properties"][f"mlm:{n}"][0] for n in ("input", "output"))
    assert given["input"]["shape"] == [-1, 4, 4, -1, -1]
    assert given["input"]["dim_order"] == ["batch", "time", "bands", "height", "width"]
    assert gives["result"]["shape"] == [-1, 3, 4, -1, -1]
    again = read_item(item, "item")
    assert (again.output, again.input) == (card.output, card.input)

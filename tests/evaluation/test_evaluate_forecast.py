"""A forecast held against the scene that came, and persistence beside it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio

import geoscale
from geoscale.errors import JobError, OutputError, SourceError
from geoscale.evaluation.deviations import Errors
from geoscale.evaluation.forecasts import evaluate_forecast, is_forecast
from geoscale.job import parse_job
from geoscale.sinks.layout import open_output
from tests.support.forecasts import forecast_card

pytest.importorskip("torch")

SHAPE = (101, 100)
BANDS = [2, 3, 4, 8]  # of the files, from 1
NAMES = ("20150820T100728", "20150830T100547", "20150909T100017")


def imagery(data_dir, *names):
    return {
        "files": [str(data_dir / "eolearn" / f"S2L1C_{name}.tif") for name in names],
        "sensor": "sentinel-2", "scale": 1e-4, "source_nodata": "none",
    }  # fmt: skip


@pytest.fixture(scope="module")
def forecast(data_dir, tmp_path_factory):
    """Three dates after two of which the first is cloudy."""
    folder = tmp_path_factory.mktemp("forecast")
    data = forecast_card(
        folder, "Trend", frames=2, forecast={"every_days": 10}, sensor="sentinel-2"
    ).to_dict()
    data["input"]["bands"] = ["B2", "B3", "B4", "B8"]
    data["output"]["bands"] = [{"name": f"B{n}"} for n in BANDS]
    del data["input"]["fill"]
    job = {
        "imagery": imagery(data_dir, *NAMES[:2]),
        "model": data, "task": "forecasting", "inference": {"block": 40},
        "output": {"to": str(folder / "ahead.zarr"), "overviews": False},
    }  # fmt: skip
    made = parse_job(job, where="job", base=folder)
    assert geoscale.run_job(made, trust_code=True).complete
    return folder / "ahead.zarr"


def read(data_dir, name):
    with rasterio.open(data_dir / "eolearn" / f"S2L1C_{name}.tif") as file:
        return file.read(BANDS).astype(np.float64) * 1e-4


def test_errors_are_those_of_numpy(forecast, data_dir):
    found = evaluate_forecast(forecast, imagery(data_dir, *NAMES))
    came, last = read(data_dir, NAMES[2]), read(data_dir, NAMES[1])
    ahead = open_output(str(forecast))["forecast"].values[0]
    (step,) = found.steps
    assert (step.days, step.scene[:10]) == (10, "2015-09-09")
    assert step.time[:10] == "2015-09-09"
    for said, told in ((ahead, step.forecast), (last, step.persistence)):
        for k, errors in enumerate(told):
            off = said[k] - came[k]
            assert errors.pixels == off.size
            assert errors.rmse == pytest.approx(np.sqrt((off**2).mean()), rel=1e-4)
            assert errors.mae == pytest.approx(np.abs(off).mean(), rel=1e-4)
            assert errors.bias == pytest.approx(off.mean(), abs=1e-6)
            r2 = 1 - (off**2).sum() / ((came[k] - came[k].mean()) ** 2).sum()
            assert errors.r2 == pytest.approx(r2, rel=1e-4)
            assert errors.nnse == pytest.approx(1 / (2 - r2), rel=1e-4)
    assert [one[:10] for one in found.without] == ["2015-09-19", "2015-09-29"]
    assert "no scene is of 2 dates: 2015-09-19, 2015-09-29" in str(found)


def test_persistence_takes_what_was_seen_last(forecast, data_dir, tmp_path):
    """Where the last date is hidden, that of the one before counts."""
    from geoscale.evaluation.forecasts import Asked, _persist, open_both
    from geoscale.types import Pixels
    from geoscale.windows import Window

    asked = Asked(
        url=str(forecast), imagery=imagery(data_dir, *NAMES), trust_code=False
    )
    opened = open_both(asked)

    class Hidden:
        """As the imagery, with the upper half of the last date under a cloud."""

        def read(self, window, times):
            found = opened.seen.read(window, times)
            valid = found.valid.copy()
            valid[:, :50] &= times[0] == 0
            valid[:, 90:] = False
            return Pixels(found.data, valid)

    import dataclasses

    window = Window(0, 0, *SHAPE)
    stays, known = _persist(dataclasses.replace(opened, seen=Hidden()), window)
    assert known[:90].all()
    assert not known[90:].any()
    first, last = (read(data_dir, name) for name in NAMES[:2])
    np.testing.assert_allclose(stays[:, :50], first[:, :50], atol=1e-6)
    np.testing.assert_allclose(stays[:, 50:90], last[:, 50:90], atol=1e-6)


def test_sums_know_no_order():
    rng = np.random.default_rng(2)
    said, came = rng.normal(size=(2, 30_001)).astype(np.float32)
    whole = Errors.of(said, came, "reflectance")
    parts = [Errors.of(said[k::7], came[k::7], "reflectance") for k in range(7)]
    total = Errors.none("reflectance")
    for part in reversed(parts):
        total += part
    assert total == whole
    assert whole.rmse == pytest.approx(np.sqrt(((said - came) ** 2).mean()), rel=1e-5)


def test_values_of_any_size_do_not_overflow():
    """A sum of squares that wrapped around would be negative, or far too small."""
    said = np.full(5000, 1e6, np.float32)
    errors = Errors.of(said, -said, "raw")
    assert errors.rmse == 2e6
    assert errors.off_squares == 5000 * (2 * 16_000_000) ** 2


def test_the_command_writes_what_it_says(forecast, data_dir, tmp_path):
    import yaml
    from typer.testing import CliRunner

    from geoscale.cli.app import app

    later = tmp_path / "later.yaml"
    later.write_text(yaml.safe_dump({"imagery": imagery(data_dir, NAMES[2])}))
    found = CliRunner().invoke(
        app, ["evaluate", str(forecast), "-r", str(later), "--to", str(tmp_path / "e")]
    )
    assert found.exit_code == 0, found.output
    assert "2015-09-09" in found.output
    made = json.loads((tmp_path / "e" / "forecast.json").read_text())
    assert made["steps"][0]["persistence"]["bands"]["B8"]["pixels"] == 10_100
    assert "| 2015-09-09 | all |" in (tmp_path / "e" / "forecast.md").read_text()


def test_what_cannot_be_compared_is_refused(forecast, data_dir, tmp_path):
    with pytest.raises(
        SourceError, match=r"no scene is within 1 day of .*has 2015-08-30"
    ):
        evaluate_forecast(forecast, imagery(data_dir, NAMES[1]))
    with pytest.raises(JobError, match="name a YAML file with `imagery:`"):
        evaluate_forecast(forecast, "labels.tif")
    with pytest.raises(JobError, match="takes no model as its mask"):
        evaluate_forecast(
            forecast, imagery(data_dir, NAMES[2]) | {
                "mask": {"model": "ukis-csmask-6b-l1c", "keep": ["land"]}},
        )  # fmt: skip
    with pytest.raises(OutputError, match="is no forecast of geoscale"):
        evaluate_forecast(tmp_path, imagery(data_dir, NAMES[2]))
    assert not is_forecast(tmp_path)
    assert not is_forecast(tmp_path / "map.tif")

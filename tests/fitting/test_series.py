"""Labelled series in a table become a head, and the head a map over dates."""

import json

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import geoscale as gs
from geoscale.errors import JobError, SourceError
from geoscale.fitting.asked import Asked
from geoscale.fitting.series import Table, fill_gaps, find_columns, fit_series
from geoscale.testing import toy_geobox

pytest.importorskip("sklearn")
pytest.importorskip("spyndex")

DATES, SIZE = 4, 32
COLUMNS = "{band}-ts{date}-*"


def make_cube(seed=0, gaps=0.0):
    """(time, band, y, x): two kinds of land that differ in one month only."""
    from odc.geo.xr import xr_coords

    rng = np.random.default_rng(seed)
    kind = (np.arange(SIZE) // 8 % 2)[None, :].repeat(SIZE, 0)
    data = rng.normal(0.3, 0.03, (DATES, 2, SIZE, SIZE)).astype(np.float32)
    data[2, 1] += np.where(kind == 1, 0.3, 0.0)
    data[rng.random(data.shape) < gaps] = np.nan
    coords = {
        "time": pd.date_range("2024-01-01", periods=DATES, freq="MS"),
        "band": ["red", "nir"],
        **xr_coords(toy_geobox((SIZE, SIZE))),
    }
    dims = ("time", "band", "y", "x")
    return xr.DataArray(data, dims=dims, coords=coords, attrs={"scale": 1.0}), kind


def write_table(path, cube, kind, count=200):
    """Some pixels as rows; places in degrees, stored in steps of 1e-4."""
    rng = np.random.default_rng(1)
    rows = rng.permutation(SIZE * SIZE)[:count]
    ys, xs = rows // SIZE, rows % SIZE
    stored = np.nan_to_num(cube.values / 1e-4, nan=65535).round()
    table = {
        f"{band}-ts{t}-10m": stored[t, b, ys, xs]
        for t in range(DATES)
        for b, band in enumerate(("red", "nir"))
    }
    table |= {"lon": xs * 0.01, "lat": ys * 0.01, "land": kind[ys, xs].astype(str)}
    pd.DataFrame(table).to_parquet(path)
    return Table(
        path=path, columns=COLUMNS, bands=("red", "nir"), attribute="land",
        scale=1e-4, nodata=65535,
    )  # fmt: skip


ASKED = Asked(folds=3, block_m=5000)


@pytest.mark.parametrize("model", ["features:bands", "features:indices"])
def test_a_table_becomes_a_map_of_as_many_dates(tmp_path, model):
    cube, kind = make_cube()
    table = write_table(tmp_path / "t.parquet", cube, kind)
    found = fit_series(table, tmp_path / "head", model=model, asked=ASKED)
    assert found.report["features"]["chosen"]["pooled"]["accuracy"] > 0.9
    assert not found.report["notes"]
    stack, other = make_cube(seed=7)
    card = gs.load_model(found.card)
    assert card.input.frames == DATES
    gs.run(gs.plan(stack, card, block_px=16), tmp_path / "m.zarr")
    made = gs.open_output(str(tmp_path / "m.zarr")).classes.values
    assert made.shape == (1, SIZE, SIZE)
    assert (made[0] == other).mean() > 0.9
    with pytest.raises(gs.GeoscaleError, match="4 "):
        gs.plan(stack.isel(time=[0]), card)


def test_bands_and_indices_side_by_side(tmp_path):
    cube, kind = make_cube()
    table = write_table(tmp_path / "t.parquet", cube, kind)
    asked = Asked(folds=3, block_m=5000, with_bands=True, calibrate="isotonic")
    found = fit_series(table, tmp_path / "h", model="features:indices", asked=asked)
    held = found.report["features"]
    formulas = gs.load_model(found.card).architecture_args["formulas"]
    assert held["bands"]["count"] == 2 * DATES
    assert held["chosen"]["count"] == 2 * DATES + len(formulas)


def test_gaps_are_filled_alike_in_tables_and_stacks(tmp_path):
    cube, kind = make_cube(gaps=0.2)
    table = write_table(tmp_path / "t.parquet", cube, kind)
    found = fit_series(table, tmp_path / "head", asked=ASKED)
    first, second = found.report["notes"]
    assert first.startswith("18.7% of the values were missing; they were filled")
    assert second == "1 series lack a band at all dates; they were left out."
    filled = fill_gaps(cube)
    assert filled.dims == cube.dims
    assert filled.attrs == cube.attrs
    lazy = fill_gaps(cube.chunk(y=8))
    assert lazy.chunks is not None
    assert lazy.equals(filled)
    nothing = np.isnan(cube).all("time")
    assert (np.isnan(filled).any("time") == nothing).all()
    known = np.isfinite(cube.values)
    assert (filled.values[known] == cube.values[known]).all()
    pixel = cube.values[:, 0, 3, 4]
    steps = np.flatnonzero(np.isfinite(pixel))
    want = np.interp(np.arange(DATES), steps, pixel[steps])
    np.testing.assert_allclose(filled.values[:, 0, 3, 4], want, rtol=1e-6)


def test_columns_are_found_by_band_and_date():
    columns = [f"B{b}-ts{t}-10m" for t in (10, 9) for b in (2, 10)]
    table = Table(path="t.csv", columns=COLUMNS)
    bands, names = find_columns(table, [*columns, "id"], "t.csv")
    assert bands == ("B10", "B2")
    assert names == [["B10-ts9-10m", "B2-ts9-10m"], ["B10-ts10-10m", "B2-ts10-10m"]]
    with pytest.raises(SourceError, match=r"t.csv lacks B2 of date 10 \(and 0 more\)"):
        find_columns(table, columns[1:], "t.csv")
    with pytest.raises(SourceError, match=r"has no column like `X\{band\}_"):
        find_columns(Table(path="", columns="X{band}_{date}"), columns, "t.csv")
    with pytest.raises(JobError, match=r"with \{band\} and \{date\} once each"):
        find_columns(Table(path="", columns="B2_{date}"), columns, "t.csv")


def test_what_a_table_cannot_give_is_refused(tmp_path):
    cube, kind = make_cube()
    table = write_table(tmp_path / "t.parquet", cube, kind)
    with pytest.raises(JobError, match="a table holds no image that a network"):
        fit_series(table, tmp_path / "h", model="torchgeo:ResNet18", asked=ASKED)
    with pytest.raises(JobError, match="a conv head sees the pixels around"):
        fit_series(table, tmp_path / "h", asked=Asked(head="conv"))
    with pytest.raises(JobError, match="ignore `2`: no label is called so"):
        fit_series(table, tmp_path / "h", asked=Asked(ignore=("2",)))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(SourceError, match="no table of Parquet or CSV"):
        fit_series(Table(path=tmp_path / "x.parquet", columns=COLUMNS), tmp_path / "h")
    with pytest.raises(SourceError, match=r"no column `label`.*say attribute"):
        fit_series(Table(path=table.path, columns=COLUMNS), tmp_path / "h")


def test_the_command_takes_a_table(tmp_path, capsys):
    from geoscale.cli import main

    cube, kind = make_cube()
    table = write_table(tmp_path / "t.parquet", cube, kind)
    here = fit_series(table, tmp_path / "a", asked=ASKED)
    words = ["fit", str(table.path), "--series", COLUMNS, "--bands", "red,nir"]
    words += ["--attribute", "land", "--scale", "1e-4", "--nodata", "65535"]
    words += ["--folds", "3", "--block-m", "5000", "--json"]
    assert main([*words, "--to", str(tmp_path / "b")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["features"] == here.report["features"]
    first, second = (tmp_path / n / "head.safetensors" for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    assert main([*words, "-i", "x.tif", "--to", "c"]) == 2
    assert "leave --imagery out" in capsys.readouterr().err
    text = (
        "labels: t.parquet\nattribute: land\nmodel: features:bands\nto: c\nfolds: 3\n"
        "block_m: 5000\nseries: {columns: '{band}-ts{date}-*', bands: [red, nir], "
        "scale: 1.0e-4, nodata: 65535}\n"
    )
    (tmp_path / "fit.yaml").write_text(text)
    assert main(["fit", str(tmp_path / "fit.yaml")]) == 0
    assert (tmp_path / "c" / "head.safetensors").read_bytes() == first.read_bytes()
    (tmp_path / "fit.yaml").write_text(text + "imagery: {files: x.tif}\n")
    assert main(["fit", str(tmp_path / "fit.yaml")]) == 2
    assert "give imagery, or series" in capsys.readouterr().err

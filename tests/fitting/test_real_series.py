"""Monthly series of single pixels, as WorldCereal extracts them, become a map."""

import numpy as np
import pytest

import geoscale as gs
from geoscale.fitting.asked import Asked
from geoscale.fitting.series import Table, fill_gaps, fit_series

pytest.importorskip("sklearn")
pytest.importorskip("spyndex")

BANDS = ("B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12")
NODATA = 65535


def table_of(data_dir, attribute="balancing_class"):
    return Table(
        path=data_dir / "worldcereal" / "test_public_extractions.parquet",
        columns="OPTICAL-{band}-ts{date}-*",
        bands=BANDS,
        attribute=attribute,
        scale=1e-4,
        nodata=NODATA,
    )


def others(data_dir, column, *kept):
    import pandas as pd

    path = data_dir / "worldcereal" / "test_public_extractions.parquet"
    return tuple(sorted(set(pd.read_parquet(path)[column]) - set(kept)))


@pytest.mark.parametrize("per_class", [pytest.param(10, marks=pytest.mark.slow), 50])
def test_crops_of_a_year_by_bands_and_by_indices(data_dir, tmp_path, per_class):
    asked = Asked(
        per_class=per_class, folds=4, block_m=20_000, with_bands=True, head="forest",
        ignore=others(data_dir, "balancing_class", "sorghum", "maize"),
    )  # fmt: skip
    found = fit_series(
        table_of(data_dir), tmp_path / "head", model="features:indices",
        sensor="sentinel-2", asked=asked,
    )  # fmt: skip
    print(found)
    held = found.report["features"]
    assert found.report["counts"] == [per_class] * 2
    assert held["bands"]["count"] == 12 * len(BANDS)
    assert held["chosen"]["count"] > 2 * held["bands"]["count"]
    assert all(one["pooled"]["accuracy"] > 0.55 for one in held.values())
    text = (tmp_path / "head" / "report.md").read_text()
    assert all(f"{one['pooled']['accuracy']:.3f}" in text for one in held.values())


def open_togo(data_dir):
    """A year over 17 x 17 px of Togo, as CropHarvest exports it: months as bands."""
    import rasterio
    import xarray as xr
    from odc.geo.geobox import GeoBox
    from odc.geo.xr import xr_coords

    path = data_dir / "cropharvest" / "98-togo_2019-02-06_2020-02-01.tif"
    with rasterio.open(path) as file:
        names = [f"{b.replace('B0', 'B')}{f'_{t}' if t else ''}"
                 for t in range(12) for b in BANDS]  # fmt: skip
        data = file.read([file.descriptions.index(name) + 1 for name in names])
        box = GeoBox((file.height, file.width), file.transform, file.crs)
    data = data.reshape(12, len(BANDS), *data.shape[1:]).astype(np.float32) * 1e-4
    coords = {"band": list(BANDS), **xr_coords(box)}
    coords["time"] = np.arange("2019-02", "2020-02", dtype="datetime64[M]").astype(
        "datetime64[ns]"
    )
    return xr.DataArray(
        data.astype(np.float32), dims=("time", "band", *box.dimensions),
        coords=coords, attrs={"scale": 1.0},
    )  # fmt: skip


def open_belgium(data_dir):
    """A year over one km² of Belgium; two months are missing and are filled."""
    import xarray as xr
    from odc.geo.xr import assign_crs

    path = data_dir / "worldcereal" / "worldcereal_preprocessed_inputs.nc"
    with xr.open_dataset(path, engine="h5netcdf") as file:
        cube = xr.concat([file[f"S2-L2A-{b}"].load() for b in BANDS], "band")
    cube = cube.rename(t="time").transpose("time", "band", "y", "x").astype("float32")
    assert (cube == NODATA).all(("band", "y", "x")).sum() == 2
    cube = fill_gaps(cube.where(cube != NODATA) * np.float32(1e-4))
    cube = assign_crs(cube.assign_coords(band=list(BANDS)), 32631)
    cube.attrs = {"scale": 1.0}
    return cube


@pytest.mark.parametrize(
    ("head", "open_cube"),
    [
        ("logistic", open_belgium),
        pytest.param("forest", open_belgium, marks=pytest.mark.slow),
        pytest.param("forest", open_togo, marks=pytest.mark.slow),
    ],
)
def test_a_head_of_series_makes_a_map_of_a_stack_of_as_many_months(
    data_dir, tmp_path, head, open_cube
):
    pytest.importorskip("h5netcdf")
    # what the map says of Belgium by labels of Uganda is not judged: it is the same
    # pixel by pixel as what the head says of the series there
    asked = Asked(
        per_class=50, folds=3, block_m=20_000, with_bands=True, head=head,
        calibrate="sigmoid",
        ignore=others(data_dir, "finetune_class", "temporary_crops", "trees"),
    )  # fmt: skip
    table = table_of(data_dir, "finetune_class")
    found = fit_series(
        table, tmp_path / "head", model="features:indices", sensor="sentinel-2",
        asked=asked,
    )  # fmt: skip
    assert found.report["features"]["chosen"]["pooled"]["kappa"] > 0.5
    cube = open_cube(data_dir)
    maps = []
    for block in (32, 128):
        plan = gs.plan(
            gs.open_stack(cube, sensor="sentinel-2"), found.card, block_px=block,
            patch_px=64, output={"layers": ["classes", "confidence"]},
        )  # fmt: skip
        gs.run(plan, tmp_path / f"{block}.zarr")
        maps.append(gs.open_output(str(tmp_path / f"{block}.zarr")).load())
    assert maps[0].classes.equals(maps[1].classes)
    assert maps[0].confidence.equals(maps[1].confidence)
    assert set(np.unique(maps[0].classes)) <= {0, 1}
    want = score_pixels(gs.load_model(found.card), cube.values)
    top = maps[0].classes.values[0]
    clear = abs(want[0] - want[1]) > 0.01
    assert (top == want.argmax(0))[clear].all()
    assert abs(maps[0].confidence.values[0] - want.max(0)).max() < 0.01


def score_pixels(card, values):
    """Run the head over the cube in one pass, straight through its network."""
    import torch

    from geoscale.models.build import build_module
    from geoscale.models.weights import resolve_weights

    network = build_module(card, resolve_weights(card)[0])
    x = torch.from_numpy(values.reshape(1, -1, *values.shape[2:]).copy())
    with torch.inference_mode():
        return network(x)[0].softmax(0).numpy()

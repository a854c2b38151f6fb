"""However many dates there are, the memory of a block stays what it is."""

from __future__ import annotations

import json

import numpy as np
import pytest
import rasterio
from affine import Affine

from benchmarks.common import in_subprocess
from tests.sources.test_composite import coordinates_transform

SIDE = 768


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Five dates of 768 x 768 px: two bands and what is clear."""
    place, rng = tmp_path_factory.mktemp("dates"), np.random.default_rng(0)
    items = []
    grid = list(coordinates_transform())
    for k in range(5):
        assets = {}
        for name in ("red", "nir", "scl"):
            values = rng.integers(1, 4000, (SIDE, SIDE)).astype("uint16")
            if name == "scl":
                values = np.where(rng.random((SIDE, SIDE)) < 0.02, 9, 4).astype("uint8")
            path = place / f"{name}{k}.tif"
            with rasterio.open(
                path, "w", driver="GTiff", height=SIDE, width=SIDE, count=1,
                dtype=values.dtype, nodata=0, crs="EPSG:32632", tiled=True,
                transform=Affine(*grid),
            ) as file:  # fmt: skip
                file.write(values, 1)
            assets[name] = {
                "href": str(path),
                "type": "image/tiff; application=geotiff",
                "eo:bands": [{"name": name, "common_name": name}],
                "raster:bands": [{"data_type": str(values.dtype), "nodata": 0}],
            }
        told = {
            "datetime": "2024-01-01T00:00:00Z",
            "eo:cloud_cover": 10.0 * k,
            "proj:code": "EPSG:32632",
            "proj:shape": [SIDE, SIDE],
            "proj:transform": grid,
        }
        items.append(
            {
                "type": "Feature", "stac_version": "1.0.0", "id": str(k),
                "geometry": None, "properties": told, "assets": assets,
            }
        )  # fmt: skip
    (place / "items.json").write_text(json.dumps(items))
    return place


@pytest.mark.slow
@pytest.mark.parametrize("method", ["median", "mean", "best", "vote"])
def test_sixty_dates_take_what_five_take(folder, method):
    few, many = (
        in_subprocess("tests.support.measure_dates", method, str(n), str(folder))
        for n in (5, 60)
    )
    print(method, few, many)
    took = [one["peak"] - one["start"] for one in (few, many)]
    # 55 more dates are some 200 MB as they are stored, and 400 MB as floats
    assert took[1] < took[0] + 30
    assert took[1] < many["projected"]

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from affine import Affine

from geoscale.windows import Window


@pytest.fixture
def write_tif(tmp_path: Path) -> Any:
    """Write (band, y, x) as a tiled GeoTIFF and give its path."""

    def write(
        name: str,
        data: Any,
        *,
        crs: str = "EPSG:32632",
        transform: Any = None,
        nodata: float | None = None,
        **profile: Any,
    ) -> str:
        data = np.asarray(data)
        data = data[None] if data.ndim == 2 else data
        path = tmp_path / name
        layout = {"tiled": True, "blockxsize": 64, "blockysize": 64, **profile}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with rasterio.open(
                path,
                "w",
                driver="GTiff",
                count=data.shape[0],
                height=data.shape[1],
                width=data.shape[2],
                dtype=data.dtype,
                crs=crs,
                transform=transform or Affine(10, 0, 600000, 0, -10, 5000000),
                nodata=nodata,
                **{key: v for key, v in layout.items() if v is not None},
            ) as file:
                file.write(data)
        return str(path)

    return write


def coordinates(shape: tuple[int, int], dtype: str = "uint16") -> Any:
    """Image whose every pixel has a value of its own, from 1."""
    count = shape[0] * shape[1]
    assert dtype.startswith("float") or count < np.iinfo(dtype).max
    return (1 + np.arange(count)).reshape(shape).astype(dtype)


def matched(source: Any, window: Window) -> list[str]:
    _, items = source.match(np.array([window.as_tuple()], float), 0)
    return sorted(source.item_ids[int(item)] for item in items)

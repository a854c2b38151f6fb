"""Small cuttings of real imagery, for jobs that are to be short."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import geoscale as gs


def crop_chip(data_dir: Path, to: Path, height: int, width: int) -> Path:
    """Cut Sentinel-2 over Orihuela: a GeoTIFF, DN x 10000, 13 bands, all valid."""
    import rasterio
    from rasterio.windows import Window

    with rasterio.open(data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif") as file:
        window = Window(200, 120, width, height)
        profile = file.profile | {
            "height": height, "width": width, "tiled": False, "blockysize": 16,
            "transform": file.window_transform(window),
        }  # fmt: skip
        with rasterio.open(to, "w", **profile) as out:
            out.write(file.read(window=window))
    return to


def open_chip(path: Path, **more: Any) -> Any:
    """Open such a file as reflectance."""
    options = {"sensor": "sentinel-2", "scale": 1e-4, "source_nodata": "none"}
    return gs.open_stack(path, **(options | more))

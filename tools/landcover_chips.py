"""The chips and the teacher that train the demo's land-cover student.

Reads the real Sentinel-2 chips of the test data as surface reflectance, and
Google's Dynamic World, which labels them.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rasterio
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

F32 = NDArray[np.float32]

CLASSES = {
    "water": "419BDF",
    "trees": "397D49",
    "grass": "88B053",
    "flooded_vegetation": "7A87C6",
    "crops": "E49635",
    "shrub_and_scrub": "DFC35A",
    "built": "C4281B",
    "bare": "A59B8F",
    "snow_and_ice": "B39FE1",
}
TEACHER_BANDS = ["B02", "B03", "B04", "B05", "B06", "B07", "B08", "B11", "B12"]
IN_13 = [1, 2, 3, 4, 5, 6, 7, 11, 12]  # the teacher's in B1..B12 with B8A after B8
STUDENT = [0, 1, 2, 6]  # the student's among the teacher's
# Typical clear-sky path reflectance and two-way transmittance of those nine
# bands; path in agreement with dark conifers of the L1C chips.
PATH = np.array([58, 36, 20, 16, 12, 10, 8, 2, 1], np.float32)[:, None, None] / 1e3
PASS = np.array([86, 88, 91, 92, 93, 94, 94, 96, 96], np.float32)[:, None, None] / 1e2
HELD_EOLEARN = "20150909"
HELD_MONTHS = (7, 11)  # June and October 2021
DATA = [
    (
        "sen1floods11 Spain_7370579, Sentinel-2 L1C 512x512: no licence file in its "
        "repository; published openly (Bonafilia et al. 2020); contains modified "
        "Copernicus Sentinel data 2019"
    ),
    (
        "eo-learn test patch, Slovenia, Sentinel-2 L1C 101x100, three clear dates of "
        "2015: MIT; contains modified Copernicus Sentinel data 2015"
    ),
    (
        "WorldCereal test cube, Belgium, Sentinel-2 L2A 100x100, ten months of "
        "2020-2021: MIT; contains modified Copernicus Sentinel data 2020-2021"
    ),
    (
        "BigEarthNet-S2 patch, Ireland, Sentinel-2 L2A 120x120 (held out whole): "
        "Apache-2.0 repository, imagery CDLA-Permissive-1.0; contains modified "
        "Copernicus Sentinel data 2017"
    ),
]


@dataclass
class Chip:
    """Nine bands of surface reflectance, and what may be learned from them."""

    site: str
    name: str
    surface: F32
    level: str
    """``L1C`` or ``L2A``: how the product came, and how it is scored."""
    held: bool
    """Left out of training whole."""

    @property
    def toa(self) -> F32:
        """The same at the top of the atmosphere."""
        return to_toa(self.surface)


def to_toa(surface: F32) -> F32:
    """Surface reflectance under the typical atmosphere."""
    return (surface * PASS + PATH).astype(np.float32)


def from_toa(toa: F32) -> F32:
    """Surface reflectance of what was seen through the typical atmosphere."""
    return ((toa - PATH) / PASS).astype(np.float32)


def read_chips(data: Path) -> list[Chip]:
    """Every cloud-free chip that has the teacher's nine bands."""
    chips = []
    with rasterio.open(data / "sen1floods11" / "Spain_7370579_S2Hand.tif") as src:
        toa = src.read()[IN_13].astype(np.float32) / 1e4
    chips.append(Chip("spain", "spain", from_toa(toa), "L1C", False))
    # 2015-07-31 and 2015-08-20 are under cloud
    for day in ("20150711", "20150830", "20150909"):
        (path,) = (data / "eolearn").glob(f"S2L1C_{day}*.tif")
        with rasterio.open(path) as src:
            toa = src.read()[IN_13].astype(np.float32) / 1e4
        held = day == HELD_EOLEARN
        chips.append(Chip("eolearn", f"eolearn {day}", from_toa(toa), "L1C", held))
    cube = xr.open_dataset(
        data / "worldcereal" / "worldcereal_preprocessed_inputs.nc",
        engine="h5netcdf",
        mask_and_scale=False,
    )
    # unsigned values in a signed type: nodata 65535 reads as -1 otherwise
    months = np.stack(
        [cube[f"S2-L2A-{band}"].values.astype(np.uint16) for band in TEACHER_BANDS], 1
    )
    for i, month in enumerate(months):
        if not (month == 65535).any():
            label = f"worldcereal {str(cube.t.values[i])[:7]}"
            surface = month.astype(np.float32) / 1e4
            chips.append(Chip("worldcereal", label, surface, "L2A", i in HELD_MONTHS))
    patch = read_bigearthnet(data / "bigearthnet_patch")
    chips.append(Chip("bigearthnet", "bigearthnet", patch, "L2A", True))
    return chips


def read_bigearthnet(folder: Path) -> F32:
    """Read the patch, its 20 m bands brought to 10 m bilinearly."""
    bands = []
    for band in TEACHER_BANDS:
        (path,) = folder.glob(f"*_{band}.tif")
        with rasterio.open(path) as src:
            values = torch.from_numpy(src.read(1).astype(np.float32) / 1e4)
        bands.append(
            functional.interpolate(
                values[None, None], (120, 120), mode="bilinear", align_corners=False
            )[0, 0].numpy()
        )
    return np.stack(bands)


class Teacher:
    """Dynamic World from the test data's own model file."""

    def __init__(self, data: Path) -> None:
        path = data / "dynamicworld" / "dynamicworld_torch.py"
        spec = importlib.util.spec_from_file_location("dynamicworld_torch", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        assert list(CLASSES) == module.CLASSES
        self._normalize = module.normalize
        self._net: nn.Module = module.load()

    def __call__(self, toa: F32) -> Tensor:
        """Class probabilities of (batch, 9, y, x) top-of-atmosphere reflectance."""
        # the logarithm in its normalisation wants positive values
        numbers = self._normalize(np.maximum(toa, 1e-4) * 1e4)
        with torch.no_grad():
            logits: Tensor = self._net(torch.from_numpy(numbers))
        return logits.softmax(1)

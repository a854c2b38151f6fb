"""Versions: what there is in this process, and what may make other maps elsewhere."""

from __future__ import annotations

import importlib.metadata
import platform
import sys
from typing import NamedTuple

from geoscale import __version__
from geoscale.types import Json

_PACKAGES = (
    "dask", "distributed", "numpy", "odc-stac", "onnxruntime", "openvino", "pyproj",
    "rasterio", "safetensors", "segmentation-models-pytorch", "stackstac", "torch",
    "torchgeo", "torchvision", "xarray", "zarr",
)  # fmt: skip
DECISIVE = (
    "geoscale", "python", "numpy", "torch", "onnxruntime", "openvino", "torchgeo",
    "segmentation-models-pytorch", "rasterio", "gdal", "pyproj", "proj", "zarr",
)  # fmt: skip
"""What may change a map: pixels as they are read, warped, inferred and stored."""
TALKING = ("dask", "distributed")
"""What must understand each other."""


class Difference(NamedTuple):
    """A version that is not the same here and there."""

    name: str
    """Package or library."""
    ours: str
    """Here."""
    theirs: str
    """There."""

    def __str__(self) -> str:
        return f"{self.name} is {self.theirs} there, {self.ours} here"


def handshake() -> Json:
    """Versions that must agree between the driver and its workers.

    Returns
    -------
    dict
        Package → version, or None where it is not installed. GDAL and PROJ, the
        libraries, are named only where rasterio and pyproj are loaded already.
    """
    versions: Json = {"geoscale": __version__, "python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    for name, module, attribute in (
        ("gdal", "rasterio", "__gdal_version__"),
        ("proj", "pyproj", "proj_version_str"),
    ):
        versions[name] = getattr(sys.modules.get(module), attribute, None)
    return versions


def find_differences(
    ours: Json, theirs: Json, names: tuple[str, ...] = DECISIVE
) -> list[Difference]:
    """Find the versions that are not the same.

    Parameters
    ----------
    ours, theirs : dict
        From `handshake`, here and there.
    names : tuple of str
        Which ones count.

    Returns
    -------
    list of Difference
        In the order of the names. What one side lacks, or has not loaded, is none;
        Python counts to its second number.

    Examples
    --------
    >>> ours = {"python": "3.12.3", "torch": "2.10.0", "openvino": None}
    >>> theirs = {"python": "3.12.9", "torch": "2.11.0", "openvino": "2025.4"}
    >>> [str(d) for d in find_differences(ours, theirs)]
    ['torch is 2.11.0 there, 2.10.0 here']
    """
    found = []
    for name in names:
        here, there = ours.get(name), theirs.get(name)
        if here is None or there is None:
            continue
        cut = 2 if name == "python" else None
        if str(here).split(".")[:cut] != str(there).split(".")[:cut]:
            found.append(Difference(name, str(here), str(there)))
    return found

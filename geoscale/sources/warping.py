"""Files on another grid than theirs: GDAL's warper, always by the same tiles.

A warp is always defined on the whole output grid and read by window, so that
what a pixel receives does not depend on how a caller cuts its windows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoscale.sources.antimeridian import is_geographic
from geoscale.sources.handles import Handle
from geoscale.sources.items import Asset
from geoscale.sources.targets import Request, Target

TOLERANCE_PX = 1e-3
"""Largest error of the warp's transformer, in pixels; 1e-6 is 8 times slower."""

SMOOTH = frozenset({"bilinear", "cubic", "cubic_spline", "lanczos", "average"})
"""Methods that give nearly the same from an overview; others pick or count pixels."""


@dataclass(frozen=True, slots=True)
class Warp:
    """A file as it looks on another grid."""

    vrt: Any
    """rasterio.vrt.WarpedVRT on the whole grid."""
    overview: Any
    """The overview that it looks at, opened for it; or None."""
    alpha: int | None
    """Number of its band that says what is valid, or None."""

    def close(self) -> None:
        """Close the view before what it looks at."""
        self.vrt.close()
        if self.overview is not None:
            self.overview.close()


def open_warp(handle: Handle, request: Request) -> Warp:
    """Open a file as it looks on the request's grid.

    Where the grid is at least twice as coarse as the file along both axes, and
    the method is one for smooth values, the coarsest overview is looked at
    that is still as fine as the grid. That depends on file and grid alone, not
    on windows.

    Parameters
    ----------
    handle : Handle
        The file.
    request : Request
        Grid, method and nodata.

    Returns
    -------
    Warp
        To be closed before the handle.
    """
    overview = _open_overview(handle, request)
    vrt = _open_vrt(handle.dataset if overview is None else overview, request)
    return Warp(vrt, overview, alpha_band(vrt))


def _open_overview(handle: Handle, request: Request) -> Any | None:
    if request.resampling not in SMOOTH or handle.reopen is None:
        return None
    # 20 m pixels of another zone are not quite twice the file's 10 m
    coarser = 1.01 * min(1 / s for s in _scales(handle.dataset, request.target))
    best, level = None, 0
    # Opened one by one: to list them, rasterio would hold the interpreter's lock
    # while it waits for a server.
    while coarser >= 2 and (found := handle.reopen(level)) is not None:
        ratios = zip(handle.dataset.shape, found.shape, strict=True)
        if max(full / small for full, small in ratios) > coarser:
            found.close()
            break
        if best is not None:
            best.close()
        best, level = found, level + 1
    return best


def alpha_band(dataset: Any) -> int | None:
    """Give the number of a dataset's alpha band, or None."""
    names = [interp.name for interp in dataset.colorinterp]
    return names.index("alpha") + 1 if "alpha" in names else None


def _open_vrt(dataset: Any, request: Request) -> Any:
    from affine import Affine
    from rasterio.crs import CRS
    from rasterio.enums import Resampling
    from rasterio.vrt import WarpedVRT

    target = request.target
    nodata = _warp_nodata(dataset, request)
    if nodata is not None:
        how: dict[str, Any] = {"src_nodata": nodata, "nodata": nodata}
    else:
        # None said aloud: else rasterio takes the file's own nodata
        how = {"src_nodata": None, "nodata": None}
        if alpha_band(dataset) is None:
            how["add_alpha"] = True
    x_scale, y_scale = map(_near_whole, _scales(dataset, target))
    return WarpedVRT(
        dataset,
        src_crs=_wrapped_crs(dataset, target),
        crs=CRS.from_string(target.crs),
        transform=Affine(*target.transform),
        width=target.shape[1],
        height=target.shape[0],
        resampling=Resampling[request.resampling],
        tolerance=TOLERANCE_PX,
        num_threads=1,
        warp_mem_limit=64,
        # GDAL would find these anew for each chunk, and differ at a file's edge
        XSCALE=str(x_scale),
        YSCALE=str(y_scale),
        UNIFIED_SRC_NODATA="NO",
        **how,
    )


def counts_round(dataset: Any, target: Target) -> bool:
    """Whether a file in degrees and a grid may name a place by different longitudes.

    Such as 190 and -170: where one of them goes beyond 180.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        The file.
    target : Target
        The grid.
    """
    if not dataset.crs.is_geographic:
        return False
    ends = [dataset.bounds.left, dataset.bounds.right]
    if is_geographic(target.crs):
        a, _, c, *_ = target.transform
        ends += [c, c + a * target.shape[1]]
    return bool(min(ends) < -180 or max(ends) > 180)


def _wrapped_crs(dataset: Any, target: Target) -> Any:
    """CRS of a file, told to give longitudes as the file counts them."""
    from rasterio.crs import CRS

    if not counts_round(dataset, target):
        return dataset.crs
    middle = (dataset.bounds.left + dataset.bounds.right) / 2
    # else GDAL asks the file for -170 where it holds 190, and finds nothing
    return CRS.from_string(f"{dataset.crs.to_proj4()} +lon_wrap={middle!r}")


def find_nodata(dataset: Any, asset: Asset, override: float | None) -> float | None:
    """Give what marks missing pixels of a band.

    Parameters
    ----------
    dataset : rasterio.DatasetReader
        The file.
    asset : Asset
        Band, with what its metadata say.
    override : float or None
        Goes first; NaN says that there is none.

    Returns
    -------
    float or None
        Of the file, else of the metadata.
    """
    if override is not None:
        return override
    in_file = dataset.nodatavals[asset.band_index - 1]
    return asset.nodata if in_file is None else float(in_file)


def _warp_nodata(dataset: Any, request: Request) -> float | None:
    asset = request.assets[0]
    dtype = np.dtype(dataset.dtypes[asset.band_index - 1])
    nodata = find_nodata(dataset, asset, request.nodata)
    if nodata is not None and not math.isnan(nodata):
        if dtype.kind == "f":
            return nodata
        limits = np.iinfo(dtype)
        fits = nodata == int(nodata) and limits.min <= nodata <= limits.max
        return nodata if fits else None
    return math.nan if dtype.kind == "f" else None


def _scales(dataset: Any, target: Target) -> tuple[float, float]:
    """Output pixels per file pixel along x and y, at the middle of the file."""
    from affine import Affine
    from pyproj import Transformer

    rows, columns = dataset.shape
    middle = [
        dataset.transform * (columns / 2 + dx, rows / 2 + dy)
        for dx, dy in ((0, 0), (1, 0), (0, 1))
    ]
    to_target = Transformer.from_crs(
        dataset.crs.to_wkt(), target.crs, always_xy=True
    ).transform
    to_pixel = ~Affine(*target.transform)
    (x, y), (x1, y1), (x2, y2) = (to_pixel * to_target(*point) for point in middle)
    x_scale = math.hypot(x1 - x, x2 - x)
    y_scale = math.hypot(y1 - y, y2 - y)
    if not (math.isfinite(x_scale * y_scale) and x_scale * y_scale > 0):
        return 1.0, 1.0
    return x_scale, y_scale


def _near_whole(scale: float) -> float:
    # 10 m pixels of two UTM zones differ by 1e-3: no reason to widen the kernel
    ratio = 1 / scale
    return (
        1 / round(ratio) if abs(ratio - round(ratio)) < 0.05 * round(ratio) else scale
    )

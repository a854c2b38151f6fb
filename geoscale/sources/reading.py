"""Pixels of one file on one grid: a plain window where aligned, else a warp.

A warp is always defined on the whole output grid and read by window, so that
what a pixel receives does not depend on how a caller cuts its windows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import ReadError, StackError
from geoscale.sources.fields import normalise_crs
from geoscale.sources.gdal import Handle, drop_handle, read_with_retries
from geoscale.sources.hrefs import Access
from geoscale.sources.items import Asset
from geoscale.types import Array, Bool
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

ALIGNED_PX = 1e-4
"""Largest distance between two grids that count as one, in pixels."""

TOLERANCE_PX = 1e-3
"""Largest error of the warp's transformer, in pixels; 1e-6 is 8 times slower."""

RESAMPLINGS = (
    "nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode",
    "max", "min", "med", "q1", "q3", "rms", "sum",
)  # fmt: skip
"""Names that `resampling` may have."""


@dataclass(frozen=True, slots=True)
class Target:
    """The grid that is read onto."""

    crs: str
    """``EPSG:n`` or WKT."""
    transform: tuple[float, float, float, float, float, float]
    """Pixel to CRS: a, b, c, d, e, f."""
    shape: tuple[int, int]
    """Rows and columns."""

    @classmethod
    def from_geobox(cls, geobox: GeoBox) -> Target:
        """Take the plain numbers of a geobox.

        Raises
        ------
        StackError
            If it has no CRS.
        """
        if geobox.crs is None:
            raise StackError("the grid has no CRS; set grid.crs")
        code = normalise_crs(str(geobox.crs)) or str(geobox.crs)
        a, b, c, d, e, f = (float(v) for v in tuple(geobox.affine)[:6])
        return cls(
            code, (a, b, c, d, e, f), (int(geobox.shape[0]), int(geobox.shape[1]))
        )

    def to_geobox(self) -> GeoBox:
        """Give the geobox."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, Affine(*self.transform), self.crs)


@dataclass(frozen=True, slots=True)
class Request:
    """Some bands of one file, on one grid."""

    assets: tuple[Asset, ...]
    """Bands of the same href, in the order wanted."""
    target: Target
    """Grid to read onto."""
    resampling: str
    """Name of the method where the file is on another grid."""
    nodata: float | None = None
    """Overrides what the file and the metadata say; NaN means none."""
    trust_file: bool = False
    """Whether a file that contradicts its metadata is believed."""


def read_bands(
    request: Request, window: Window, access: Access
) -> tuple[Array, Bool] | None:
    """Read a window of some bands of one file.

    Parameters
    ----------
    request : Request
        What to read.
    window : Window
        Inside the target grid.
    access : Access
        How the file may be reached.

    Returns
    -------
    tuple of ndarray or None
        The file's dtype (band, y, x) and bool (band, y, x); None where the
        file does not reach into the window.

    Raises
    ------
    ReadError
        If the file cannot be read, or contradicts its metadata.
    """
    href = request.assets[0].href

    def _read(handle: Handle) -> tuple[Array, Bool] | None:
        if "checked" not in handle.derived:
            _check(handle.dataset, request)
            handle.derived["checked"] = True
        shift = _aligned_shift(handle, request.target)
        if shift is not None:
            return _read_plain(handle.dataset, request, window, shift)
        return _read_warped(handle, request, window)

    found = read_with_retries(href, access, _read)
    if found is not None and "://" in href and _is_suspicious(*found):
        # A broken download can look like zeros: ask once more, past all caches.
        drop_handle((href, access))
        found = read_with_retries(href, access, _read, first=2)
    return found


def _is_suspicious(data: Array, valid: Bool) -> bool:
    return data.size > 1 and bool(valid.any()) and not data.any()


def _check(dataset: Any, request: Request) -> None:
    asset = request.assets[0]
    where = redact(asset.href)
    if dataset.crs is None or dataset.transform.is_identity:
        raise ReadError(
            f"{where} has no georeferencing; warp it to a map grid first "
            "(gdalwarp), or drop its item"
        )
    for band in request.assets:
        if band.band_index > dataset.count:
            raise ReadError(
                f"{where} has {dataset.count} bands; its metadata name band "
                f"{band.band_index}"
            )
    if request.trust_file:
        return
    said = "correct the item, or set imagery.trust to `file`"
    crs = normalise_crs(dataset.crs.to_wkt())
    if asset.crs is not None and crs != asset.crs:
        raise ReadError(
            f"{where}: file says {_short(crs)}, STAC says {_short(asset.crs)}; {said}"
        )
    if asset.shape is not None and tuple(dataset.shape) != asset.shape:
        raise ReadError(
            f"{where}: file has {tuple(dataset.shape)} pixels, STAC says "
            f"{asset.shape}; {said}"
        )
    if asset.transform is not None:
        shift = _offset_px(tuple(dataset.transform)[:6], asset.transform)
        if shift > 0.01:
            raise ReadError(
                f"{where}: file and STAC are {shift:.3g} pixels apart "
                f"(proj:transform); {said}"
            )


def _short(crs: str | None) -> str:
    return (crs or "no CRS")[:40]


def _offset_px(a: Sequence[float], b: Sequence[float]) -> float:
    size = math.hypot(a[0], a[3])
    return max(math.hypot(a[2] - b[2], a[5] - b[5]), *(
        abs(p - q) for p, q in ((a[0], b[0]), (a[1], b[1]), (a[3], b[3]), (a[4], b[4]))
    )) / size  # fmt: skip


def _aligned_shift(handle: Handle, target: Target) -> tuple[int, int] | None:
    """Rows and columns from the target's corner to the file's, if whole."""
    key = ("shift", target)
    if key not in handle.derived:
        handle.derived[key] = _find_shift(handle.dataset, target)
    found: tuple[int, int] | None = handle.derived[key]
    return found


def _find_shift(dataset: Any, target: Target) -> tuple[int, int] | None:
    from affine import Affine

    if normalise_crs(dataset.crs.to_wkt()) != target.crs:
        return None
    both = ~dataset.transform * Affine(*target.transform)
    reach = max(*target.shape, *dataset.shape)
    drift = max(abs(both.a - 1), abs(both.e - 1), abs(both.b), abs(both.d)) * reach
    dx, dy = round(both.c), round(both.f)
    if max(drift, abs(both.c - dx), abs(both.f - dy)) > ALIGNED_PX:
        return None
    return dy, dx


def _read_plain(
    dataset: Any, request: Request, window: Window, shift: tuple[int, int]
) -> tuple[Array, Bool] | None:
    from rasterio.windows import Window as FileWindow

    wanted = window.shift(*shift)
    inside = wanted.clip(tuple(dataset.shape))
    if inside.is_empty:
        return None
    part = FileWindow(inside.x0, inside.y0, inside.width, inside.height)
    data, valid = _read_masked(dataset, request, part)
    if inside == wanted:
        return data, valid
    full = np.zeros((len(data), *window.shape), data.dtype)
    mask = np.zeros(full.shape, bool)
    place = (slice(None), *inside.within(wanted))
    full[place], mask[place] = data, valid
    return full, mask


def _read_masked(dataset: Any, request: Request, part: Any) -> tuple[Array, Bool]:
    indexes = [asset.band_index for asset in request.assets]
    data = dataset.read(indexes, window=part)
    valid = np.ones(data.shape, bool)
    for i, asset in enumerate(request.assets):
        nodata = _nodata(dataset, asset, request.nodata)
        flags = {flag.name for flag in dataset.mask_flag_enums[asset.band_index - 1]}
        if nodata is not None and not math.isnan(nodata):
            valid[i] &= data[i] != nodata
        if flags & {"alpha", "per_dataset"}:
            valid[i] &= dataset.read_masks(asset.band_index, window=part) != 0
    return data, valid & _finite(data)


def _finite(data: Array) -> Any:
    return np.isfinite(data) if data.dtype.kind in "fc" else True


def _nodata(dataset: Any, asset: Asset, override: float | None) -> float | None:
    if override is not None:
        return override
    in_file = dataset.nodatavals[asset.band_index - 1]
    return asset.nodata if in_file is None else float(in_file)


def _read_warped(
    handle: Handle, request: Request, window: Window
) -> tuple[Array, Bool] | None:
    from rasterio.windows import Window as FileWindow

    key = ("warp", request)
    if key not in handle.derived:
        handle.derived[key] = _open_warp(handle.dataset, request)
    vrt = handle.derived[key]
    indexes = [asset.band_index for asset in request.assets]
    alpha = _alpha_band(vrt)
    wanted = indexes if alpha is None else [*indexes, alpha]
    got = np.zeros((len(wanted), *window.shape), vrt.dtypes[indexes[0] - 1])
    # GDAL may warp just what is asked for, and its last bits then depend on that:
    # so ask for the same rectangles always, those that its own cache has.
    for tile in _tiles(window, vrt.block_shapes[0], request.target.shape):
        part = FileWindow(tile.x0, tile.y0, tile.width, tile.height)
        values = vrt.read(wanted, window=part)
        both = tile & window
        got[:, *both.within(window)] = values[:, *both.within(tile)]
    if alpha is not None:
        data, inside = got[:-1], got[-1] != 0
        return data, np.broadcast_to(inside, data.shape) & _finite(data)
    return got, (got != vrt.nodata) & _finite(got)


def _tiles(
    window: Window, size: tuple[int, int], shape: tuple[int, int]
) -> Iterator[Window]:
    """Tiles of the whole grid's lattice that a window touches."""
    rows, columns = size
    for y in range(window.y0 // rows * rows, window.y1, rows):
        for x in range(window.x0 // columns * columns, window.x1, columns):
            yield Window(y, x, y + rows, x + columns).clip(shape)


def _alpha_band(dataset: Any) -> int | None:
    names = [interp.name for interp in dataset.colorinterp]
    return names.index("alpha") + 1 if "alpha" in names else None


def _open_warp(dataset: Any, request: Request) -> Any:
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
        if _alpha_band(dataset) is None:
            how["add_alpha"] = True
    x_scale, y_scale = _scales(dataset, target)
    return WarpedVRT(
        dataset,
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


def _warp_nodata(dataset: Any, request: Request) -> float | None:
    asset = request.assets[0]
    dtype = np.dtype(dataset.dtypes[asset.band_index - 1])
    nodata = _nodata(dataset, asset, request.nodata)
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
    return _near_whole(x_scale), _near_whole(y_scale)


def _near_whole(scale: float) -> float:
    # 10 m pixels of two UTM zones differ by 1e-3: no reason to widen the kernel
    ratio = 1 / scale
    return (
        1 / round(ratio) if abs(ratio - round(ratio)) < 0.05 * round(ratio) else scale
    )

"""A source as a lazy xarray stack, for people to look at and work with.

Three engines give the same pixels: odc-stac, stackstac, and the source's own
`read`. The job path uses none of them; they are held equal by tests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.antimeridian import is_geographic
from geoscale.sources.hrefs import to_gdal_path
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.signing import sign
from geoscale.types import Array, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    import xarray as xr

Engine = Literal["native", "odc", "stackstac"]


def lazy_stack(
    source: Source, engine: Engine = "native", chunks: int = 2048
) -> xr.DataArray:
    """Give a source as a lazy array; no pixel is read.

    Parameters
    ----------
    source : Source
        Any source; engines other than native need a `RasterSource`, else they
        are ignored. So they are at the antimeridian, where they lose pixels.
    engine : {"native", "odc", "stackstac"}
        What reads when the array is computed.
    chunks : int
        Edge of a chunk, in pixels.

    Returns
    -------
    DataArray
        (time, band, y, x), coordinates at pixel centres, CRS in `spatial_ref`.

    Raises
    ------
    SourceError
        If the engine cannot read this source.
    """
    if engine not in ("native", "odc", "stackstac"):
        raise SourceError(f"engine `{engine}` is not native, odc or stackstac")
    if (
        isinstance(source, RasterSource)
        and engine != "native"
        and not _goes_round(source)
    ):
        if not source.is_identity:
            raise SourceError(
                f"engine `{engine}` gives stored numbers only; use engine `native` for "
                "a calibrated source"
            )
        nodata = _common_nodata(source)
        open_lazily = _open_odc if engine == "odc" else _open_stackstac
        return _label(open_lazily(source, nodata, chunks), source, nodata)
    shape = (len(source.times), len(source.bands), *map(int, source.geobox.shape))
    array = _map(source, _read_data, shape, source.dtype, chunks)
    return _label(array, source, None)


def _goes_round(source: RasterSource) -> bool:
    """Whether a place may have two longitudes on this grid or in these files."""
    boxes = source.items.boxes
    if (np.isinf(boxes[:, 1]) & np.isfinite(boxes[:, 0])).any():
        return True
    box = source.geobox.boundingbox
    ends = [(source.target.crs, box.left, box.right)]
    for item in source.items:
        for asset in item.assets.values():
            if asset.crs and asset.transform and asset.shape:
                left = asset.transform[2]
                ends.append(
                    (asset.crs, left, left + asset.transform[0] * asset.shape[1])
                )
    return any(
        min(left, right) < -180 or max(left, right) > 180
        for crs, left, right in set(ends)
        if is_geographic(crs)
    )


def lazy_valid(source: Source, chunks: int = 2048) -> xr.DataArray:
    """Give the validity of a source as a lazy array.

    Parameters
    ----------
    source : Source
        Any source.
    chunks : int
        Edge of a chunk, in pixels.

    Returns
    -------
    DataArray
        bool (time, y, x), True where every band is usable.
    """
    shape = (len(source.times), *map(int, source.geobox.shape))
    return _label(
        _map(source, _read_valid, shape, np.dtype(bool), chunks), source, None
    )


def _map(
    source: Source,
    read: Callable[..., Array],
    shape: tuple[int, ...],
    dtype: Any,
    chunks: int,
) -> Any:
    import dask
    import dask.array as da
    from dask.base import tokenize

    sizes = (1, *shape[1:-2], chunks, chunks)
    template = da.core.normalize_chunks(sizes, shape)
    starts = [np.concatenate([[0], np.cumsum(axis)]) for axis in template]
    token = tokenize(source.spec(), chunks, read.__name__)
    # once in the graph, whatever the number of chunks
    held = dask.delayed(source, pure=True, name=f"source-{token}", traverse=False)
    return da.map_blocks(
        read, held, starts, chunks=template, dtype=dtype,
        meta=np.empty((0,) * len(shape), dtype), name=f"read-{token}",
    )  # fmt: skip


def _window(starts: Sequence[Any], block_id: tuple[int, ...]) -> tuple[int, Window]:
    y, x = block_id[-2], block_id[-1]
    rows, columns = starts[-2], starts[-1]
    window = Window(
        int(rows[y]), int(columns[x]), int(rows[y + 1]), int(columns[x + 1])
    )
    return block_id[0], window


def _read_data(
    source: Source, starts: Sequence[Any], block_id: tuple[int, ...] = ()
) -> Array:
    time, window = _window(starts, block_id)
    return source.read(window, [time]).data


def _read_valid(
    source: Source, starts: Sequence[Any], block_id: tuple[int, ...] = ()
) -> Array:
    time, window = _window(starts, block_id)
    return source.read(window, [time]).valid


def _label(array: Any, source: Source, nodata: float | None) -> xr.DataArray:
    """Give named dims, centre coordinates and CRS."""
    import xarray as xr
    from odc.geo.xr import xr_coords

    coords = dict(xr_coords(source.geobox, crs_coord_name="spatial_ref"))
    y_name, x_name = source.geobox.dimensions
    stamps = np.array(source.times, "datetime64[ns]")
    dims = ("time", "band", "y", "x") if array.ndim == 4 else ("time", "y", "x")
    found = {
        "time": stamps,
        "y": ("y", coords[y_name].values, coords[y_name].attrs),
        "x": ("x", coords[x_name].values, coords[x_name].attrs),
        "spatial_ref": coords["spatial_ref"],
    }
    if array.ndim == 4:
        found["band"] = list(source.bands)
    stack = xr.DataArray(array, dims=dims, coords=found, name="stack")
    stack.attrs["grid_mapping"] = "spatial_ref"
    if nodata is not None:
        stack.attrs["nodata"] = nodata
    return stack


def _common_nodata(source: RasterSource) -> float | None:
    if source.reading.source_nodata is not None:
        value = source.reading.source_nodata
        return None if np.isnan(value) and source.dtype.kind != "f" else value
    found = {asset.nodata for item in source.items for asset in item.assets.values()}
    if len(found) > 1:
        raise SourceError(
            f"assets have different nodata: {', '.join(sorted(map(str, found)))}; "
            "use engine `native`, or set imagery.source_nodata"
        )
    return next(iter(found))


def _pystac_items(source: RasterSource, *, multi_band: bool) -> list[Any]:
    """Write items back as pystac, with the bands as assets."""
    return [
        _pystac_item(source, item, [item.assets[b] for b in source.bands], multi_band)
        for item in source.items
    ]


def _pystac_item(
    source: RasterSource, item: Item, row: Sequence[Asset], multi_band: bool
) -> Any:
    import pystac

    ring = [list(point) for point in item.footprint] or [[0, 0], [0, 1], [1, 1]]
    xs, ys = zip(*ring, strict=True)
    found = pystac.Item(
        id=item.id,
        geometry={"type": "Polygon", "coordinates": [[*ring, ring[0]]]},
        bbox=[min(xs), min(ys), max(xs), max(ys)],
        datetime=item.when,
        properties={},
    )
    access = source.reading.access
    for band, asset in zip(source.bands, row, strict=True):
        if asset.band_index != 1 and not multi_band:
            raise SourceError(
                f"engine `stackstac` reads single-band files only; item {item.id} has "
                f"`{band}` in band {asset.band_index} of a file: use engine `odc`"
            )
        to_gdal_path(asset.href, access)
        fields: dict[str, Any] = {
            "proj:shape": list(asset.shape or ()),
            "proj:transform": list(asset.transform or ()),
            "proj:code": asset.crs,
            "raster:bands": [
                {"data_type": asset.dtype or str(source.dtype), "nodata": asset.nodata}
            ]
            * asset.band_index,
        }
        if asset.crs is not None and asset.crs.startswith("EPSG:"):
            fields["proj:epsg"] = int(asset.crs[5:])  # stackstac knows no proj:code
        found.add_asset(
            band,
            pystac.Asset(
                sign(asset.href, access.signer),
                media_type="image/tiff; application=geotiff",
                roles=["data"],
                extra_fields={k: v for k, v in fields.items() if v},
            ),
        )
    found.stac_extensions = [
        "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
        "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
    ]
    return found


def _open_odc(source: RasterSource, nodata: float | None, chunks: int) -> Any:
    import dask.array as da
    import odc.stac

    steps = {i: k for k, step in enumerate(source.steps) for i in step.members}
    first = source.items[0].assets
    indexes = [first[band].band_index for band in source.bands]
    # odc names the n-th band of an asset `asset.n`
    names = [
        band if index == 1 else f"{band}.{index}"
        for band, index in zip(source.bands, indexes, strict=True)
    ]
    loaded = odc.stac.load(
        _pystac_items(source, multi_band=True),
        bands=names,
        geobox=source.geobox,
        chunks={"y": chunks, "x": chunks},
        groupby=lambda _item, _parsed, number: steps[number],
        preserve_original_order=True,
        resampling=dict(zip(names, source.resamplings, strict=True)),
        dtype=str(source.dtype),
        nodata=nodata,
    )
    return da.stack([loaded[name].data for name in names], axis=1)


def _open_stackstac(source: RasterSource, nodata: float | None, chunks: int) -> Any:
    import dask.array as da
    import stackstac
    from rasterio.enums import Resampling

    box = source.geobox
    epsg = box.crs.epsg if box.crs is not None else None
    if epsg is None:
        raise SourceError("engine `stackstac` needs a CRS with an EPSG code; use `odc`")
    methods = set(source.resamplings)
    if len(methods) > 1:
        raise SourceError(
            f"engine `stackstac` takes one resampling for all bands, not "
            f"{', '.join(sorted(methods))}; use engine `odc`"
        )
    fill = (np.nan if source.dtype.kind == "f" else 0) if nodata is None else nodata
    transform = box.affine
    stack = stackstac.stack(
        _pystac_items(source, multi_band=False),
        assets=list(source.bands),
        epsg=epsg,
        resolution=(transform.a, -transform.e),
        bounds=tuple(box.boundingbox),
        snap_bounds=False,
        xy_coords="center",
        resampling=Resampling[methods.pop()],
        chunksize=chunks,
        dtype=source.dtype,
        fill_value=source.dtype.type(fill),
        rescale=False,
        sortby_date=False,
        properties=False,
        band_coords=False,
    )
    if stack.shape[2:] != tuple(box.shape):
        raise SourceError(
            f"stackstac made a grid of {stack.shape[2:]} pixels, not "
            f"{tuple(box.shape)}; use engine `odc`"
        )
    layers = [
        # reverse: of two items the first lies on top, as everywhere else here
        stackstac.mosaic(
            stack[list(step.members)], dim="time", reverse=True, nodata=fill
        ).data
        if len(step.members) > 1
        else stack[step.members[0]].data
        for step in source.steps
    ]
    return da.stack(layers, axis=0)

"""Cells of a finished output as GeoParquet: a square, and what is stored of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.api import as_url
from geoscale.engine.journal import Journal
from geoscale.errors import JobError
from geoscale.results.files import write_file
from geoscale.results.layers import list_flags, load_finished
from geoscale.sinks.cog import iter_windows
from geoscale.sinks.layout import find_store
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Array, Bool, Json, Layer
from geoscale.windows import Window
from geoscale.words import redact

if TYPE_CHECKING:
    import pyarrow as pa

MOST_NUMBERS = 1 << 24
"""Numbers of one layer that are read together, most, so that memory is bounded however
many features there are."""
MOST_PX = 256
"""Height and width of what is read together, in cells, most."""
BOX = ("xmin", "ymin", "xmax", "ymax")
_SINGLE = ("classes", "change")


def write_cells(output: str | Path, to: str | Path) -> Path:
    """Write the cells of a finished output as GeoParquet.

    Parameters
    ----------
    output : str or path
        A complete output that holds one value for several input pixels: of task
        classification, embedding, or a regression on a coarser grid.
    to : str or path
        File, ``.parquet``; in the CRS of the output.

    Returns
    -------
    Path
        The file. Its columns are ``time``, ``row``, ``column``; ``class`` and
        ``value``; ``confidence``; ``labels``, a list of names; ``score_NAME`` of every
        class; numbers of a regression by their names; ``embedding``, a list of
        float32; ``bbox`` and ``geometry``. Cells without a value have no row.

    Raises
    ------
    OutputError
        If the output is not finished.
    JobError
        If it has a value for every pixel, or the file's name ends otherwise.
    """
    url, place = as_url(output), as_url(to)
    if not place.endswith(".parquet"):
        raise JobError(f"{redact(place)}: cells go to a file that ends in .parquet")
    template, plan = load_finished(url), Journal(url).load_plan()
    assert plan is not None
    if plan.cell == 1:
        raise JobError(
            f"{redact(url)} holds a value for every pixel, and a row for each would be "
            "a very large table; `geoscale polygons` outlines classes, `geoscale "
            "export` without .parquet writes GeoTIFFs"
        )
    schema = _make_schema(template)
    crs = template.geobox.crs.to_wkt()
    write_file(place, "Parquet", schema, _iter_batches(url, template, schema), crs)
    return Path(place)


def _columns(template: OutputTemplate, layer: Layer) -> list[tuple[str, Any]]:
    """Names and types of what a layer becomes."""
    import pyarrow as pa

    if layer.name == "embedding":
        return [(layer.name, pa.list_(pa.float32(), layer.classes))]
    if layer.name == "labels":
        return [(layer.name, pa.list_(pa.string()))]
    if layer.classes:
        names = [c.name for c in template.classes]
        return [(f"score_{name}", pa.float32()) for name in names]
    if is_categorical(layer):
        name = "class" if layer.name in _SINGLE else layer.name
        return [("value", pa.int32()), (name, pa.string())]
    return [(layer.name, pa.float32())]


def _make_schema(template: OutputTemplate) -> pa.Schema:
    import pyarrow as pa

    columns: list[tuple[str, Any]] = [("time", pa.timestamp("ms", tz="UTC"))]
    columns += [("row", pa.int32()), ("column", pa.int32())]
    for layer in template.layers:
        columns += _columns(template, layer)
    columns.append(("bbox", pa.struct([(side, pa.float64()) for side in BOX])))
    columns.append(("geometry", pa.binary()))
    return pa.schema(columns, metadata={"geo": json.dumps(_describe(template))})


def _describe(template: OutputTemplate) -> Json:
    import pyproj

    crs = pyproj.CRS.from_user_input(str(template.geobox.crs))
    covering = {"bbox": {side: ["bbox", side] for side in BOX}}
    geometry = {
        "encoding": "WKB",
        "geometry_types": ["Polygon"],
        "crs": crs.to_json_dict(),
        "orientation": "counterclockwise",
        "covering": covering,
    }
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {"geometry": geometry},
    }


def _iter_batches(
    url: str, template: OutputTemplate, schema: pa.Schema
) -> Iterator[pa.RecordBatch]:
    import zarr

    group: Any = zarr.open_group(find_store(url), mode="r", zarr_format=3)
    deepest = max(layer.classes or 1 for layer in template.layers)
    step = max(1, min(MOST_PX, int((MOST_NUMBERS / deepest) ** 0.5)))
    if step > template.chunk_px:
        # whole chunks: each is decoded once
        step = step // template.chunk_px * template.chunk_px
    for time in range(len(template.times)):
        for window in iter_windows(template.shape, step):
            area = (slice(window.y0, window.y1), slice(window.x0, window.x1))
            data = {
                layer.name: _read(group, layer, time, area) for layer in template.layers
            }
            valid = _find_valid(template, data)
            if valid.any():
                yield _make_batch(template, schema, (time, window), data, valid)


def _read(group: Any, layer: Layer, time: int, area: tuple[slice, slice]) -> Array:
    array = group[layer.name]
    return np.asarray(array[time, :, *area] if layer.classes else array[time, *area])


def _find_valid(template: OutputTemplate, data: dict[str, Array]) -> Bool:
    """Cells that have a value in any layer."""
    found = [
        _has_value(data[layer.name], layer.fill_value) for layer in template.layers
    ]
    valid: Bool = np.logical_or.reduce(found)
    return valid


def _has_value(values: Array, fill: float) -> Bool:
    there: Bool = ~np.isnan(values) if np.isnan(fill) else values != fill
    if there.ndim == 3:
        there = np.any(there, axis=0)
    return there


def _make_batch(
    template: OutputTemplate,
    schema: pa.Schema,
    at: tuple[int, Window],
    data: dict[str, Array],
    valid: Bool,
) -> pa.RecordBatch:
    import pyarrow as pa
    import shapely

    time, window = at
    rows, columns = np.nonzero(valid)
    rows, columns = rows + window.y0, columns + window.x0
    when = datetime.fromisoformat(str(np.datetime64(template.times[time], "ms")))
    boxes = _bounds(template, rows, columns)
    found: dict[str, Any] = {
        "time": [when.replace(tzinfo=UTC)] * len(rows),
        "row": rows.astype(np.int32),
        "column": columns.astype(np.int32),
        "geometry": shapely.to_wkb(shapely.box(*boxes, ccw=True)),
    }
    for layer in template.layers:
        values = data[layer.name][..., valid]
        found |= _values(template, layer, values)
    arrays = [
        pa.StructArray.from_arrays([pa.array(side) for side in boxes], names=list(BOX))
        if field.name == "bbox"
        else _as_array(found[field.name], field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _as_array(values: Any, kind: Any) -> Any:
    import pyarrow as pa

    return values if isinstance(values, pa.Array) else pa.array(values, type=kind)


def _bounds(template: OutputTemplate, rows: Array, columns: Array) -> Array:
    """Sides of cells, (4, n): west, south, east, north in CRS units."""
    a, _, c, _, e, f = template.transform
    xs, ys = np.stack([columns, columns + 1]), np.stack([rows, rows + 1])
    x, y = c + a * xs, f + e * ys
    return np.stack([x.min(axis=0), y.min(axis=0), x.max(axis=0), y.max(axis=0)])


def _values(template: OutputTemplate, layer: Layer, values: Array) -> dict[str, Any]:
    """Columns of a layer, whose values are (n,) or (class, n)."""
    import pyarrow as pa

    named = _columns(template, layer)
    if layer.name == "embedding":
        flat = decode_vectors(layer, values).T.ravel()
        return {layer.name: pa.FixedSizeListArray.from_arrays(flat, layer.classes)}
    if layer.name == "labels":
        names = [c.name for c in template.classes]
        has = [[names[k] for k in np.flatnonzero(one == 1)] for one in values.T]
        return {layer.name: has}
    if is_categorical(layer):
        words = {one.value: one.name for one in list_flags(template, layer)}
        numbers = [None if v == layer.fill_value else int(v) for v in values]
        texts = [None if v is None else words.get(v, str(v)) for v in numbers]
        return {named[0][0]: numbers, named[1][0]: texts}
    scaled = values.astype(np.float32)
    scaled *= np.float32(dict(layer.attrs).get("scale_factor", 1.0))
    hole = (
        np.isnan(values) if np.isnan(layer.fill_value) else values == layer.fill_value
    )
    planes, holes = (scaled, hole) if scaled.ndim == 2 else (scaled[None], hole[None])
    return {
        name: pa.array(plane, type=kind, mask=mask)
        for (name, kind), plane, mask in zip(named, planes, holes, strict=True)
    }


def decode_vectors(layer: Layer, values: Array) -> Array:
    """Turn stored embeddings into float32.

    Parameters
    ----------
    layer : Layer
        Of an output's template: 8 bits carry ``vector_scale`` and ``vector_offset``.
    values : ndarray, (feature, ...)
        As stored.

    Returns
    -------
    ndarray of float32, (feature, ...)
        Nodata of 8 bits becomes NaN.
    """
    found = values.astype(np.float32)
    attrs = dict(layer.attrs)
    if "vector_scale" not in attrs:
        return found
    sides = (-1, *[1] * (values.ndim - 1))
    scale = np.asarray(attrs["vector_scale"], np.float32).reshape(sides)
    offset = np.asarray(attrs["vector_offset"], np.float32).reshape(sides)
    found = found * scale + offset
    found[values == layer.fill_value] = np.nan
    return found

"""The table of polygons: columns, and rows of them as Arrow batches."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.results.angles import DEFAULT_PX, square_up
from geoscale.results.layers import FROM, TO, step_size
from geoscale.results.outlines import Objects, place
from geoscale.results.pieces import CODES, PAIR, Opened, Pieces, areas
from geoscale.types import Json

if TYPE_CHECKING:
    import pyarrow as pa

Dates = tuple[str | None, str]
"""Of the earlier image, if one was compared, and of the map's time step."""
BOX = ("xmin", "ymin", "xmax", "ymax")


def make_schema(opened: Opened) -> pa.Schema:
    """Make the columns of an output's polygons.

    Parameters
    ----------
    opened : Opened
        The output.

    Returns
    -------
    pyarrow.Schema
        With GeoParquet's metadata.
    """
    import pyarrow as pa

    date, name = pa.timestamp("ms", tz="UTC"), pa.string()
    columns: list[Any] = [("id", pa.int64()), ("date_from", date), ("date", date)]
    columns += [("value", pa.int32()), ("class", name)]
    if opened.has_pairs:
        columns += [("from_value", pa.int32()), ("from_class", name)]
        columns += [("to_value", pa.int32()), ("to_class", name)]
    columns += [("area_m2", pa.float64()), ("pixels", pa.int64())]
    if opened.sure is not None:
        columns += [(opened.sure.name, pa.float64())]
    box = pa.struct([(side, pa.float64()) for side in BOX])
    columns += [("bbox", box), ("geometry", pa.binary())]
    return pa.schema(columns, metadata={"geo": json.dumps(_describe(opened))})


def make_batch(
    opened: Opened, pieces: Pieces, dates: Dates, first: int
) -> pa.RecordBatch:
    """Make rows of whole objects.

    Parameters
    ----------
    opened : Opened
        The output.
    pieces : Pieces
        As `geoscale.results.joining.join_rows` gives.
    dates : tuple of str
        Of the objects.
    first : int
        Id of the first.

    Returns
    -------
    pyarrow.RecordBatch
        In the order of `pieces`, with the columns of `make_schema`.
    """
    import pyarrow as pa
    import shapely

    shapes = _place(opened, pieces.outlines)
    count, objects = len(pieces.ids), pieces.objects
    keys = objects[:, 0]
    values = keys // PAIR - 1 if opened.asked.split else keys
    names = {one.value: one.name for one in opened.flags}
    when = [None if date is None else _read_date(date) for date in dates]
    found: Json = {
        "id": np.arange(first, first + count),
        "date_from": [when[0]] * count,
        "date": [when[1]] * count,
        "value": values.astype(np.int32),
        "class": [names.get(int(value), str(value)) for value in values],
        "area_m2": _order_areas(opened, pieces),
        "pixels": objects[:, 1],
        "geometry": shapely.to_wkb(shapes),
    }
    if opened.has_pairs:
        found |= _name_pairs(opened, pieces)
    if opened.sure is not None:
        known = objects[:, 3]
        mean = objects[:, 2] * step_size(opened.sure) / np.maximum(known, 1)
        found[opened.sure.name] = pa.array(mean, mask=known == 0)
    schema = make_schema(opened)
    boxes = shapely.bounds(shapes).reshape(-1, 4)
    sides = [pa.array(boxes[:, i]) for i in range(4)]
    columns = [
        pa.StructArray.from_arrays(sides, names=list(BOX))
        if field.name == "bbox"
        else pa.array(found[field.name], type=field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _place(opened: Opened, outlines: Objects) -> Objects:
    """Bring outlines to the CRS, simplified or with right angles where asked."""
    import shapely

    box, asked = opened.template.geobox, opened.asked
    if not asked.right_angles or not len(outlines):
        return place(outlines, box, asked.simplify)
    a, _, _, _, e, f = (float(v) for v in tuple(box.affine)[:6])
    aspect = np.full(len(outlines), abs(a / e))
    if box.crs is not None and box.crs.geographic:
        rows = shapely.bounds(outlines)[:, [1, 3]].mean(1)
        aspect *= np.cos(np.radians(np.clip(rows * e + f, -89, 89)))
    squared = square_up(outlines, asked.simplify or DEFAULT_PX, aspect)
    return place(squared, box, 0)


def _read_date(label: str) -> datetime:
    # labels of steps are UTC, without saying so
    return datetime.fromisoformat(str(np.datetime64(label, "ms"))).replace(tzinfo=UTC)


def _order_areas(opened: Opened, pieces: Pieces) -> NDArray[np.float64]:
    """Give areas in the order of `pieces`, whose numbers need not ascend."""
    order = np.argsort(pieces.ids)
    m2 = np.empty(len(order))
    sorted_pieces = Pieces(
        objects=pieces.objects[order],
        ids=pieces.ids[order],
        ground=pieces.ground,
        pairs=pieces.pairs,
        outline_ids=pieces.outline_ids,
        outlines=pieces.outlines,
    )
    m2[order] = areas(opened, sorted_pieces)
    return m2


def _name_pairs(opened: Opened, pieces: Pieces) -> Json:
    """Give the most frequent pair of from and to class of each object."""
    fills = [int(opened.template.layer(n).fill_value) for n in (FROM, TO)]
    before, after = divmod(pieces.pairs[:, 1], CODES)
    known = (before != fills[0]) & (after != fills[1])
    number, pair, pixels = pieces.pairs[known].T
    # of several with as many pixels the one of the lowest values
    order = np.lexsort((-pair, pixels, number))
    most = dict(zip(number[order].tolist(), pair[order].tolist(), strict=True))
    names = {one.value: one.name for one in opened.pair_flags}
    both = [divmod(most[i], CODES) if i in most else None for i in pieces.ids.tolist()]

    def side(i: int) -> tuple[Sequence[int | None], Sequence[str | None]]:
        values = [None if one is None else one[i] for one in both]
        return values, [None if v is None else names.get(v, str(v)) for v in values]

    (old, old_names), (new, new_names) = side(0), side(1)
    return {
        "from_value": old,
        "from_class": old_names,
        "to_value": new,
        "to_class": new_names,
    }


def _describe(opened: Opened) -> Json:
    """Make the metadata of a GeoParquet file.

    References
    ----------
    .. [1] GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/
    """
    import pyproj

    kinds = ["Polygon"] + ["MultiPolygon"] * (opened.asked.connectivity == 8)
    crs = pyproj.CRS.from_user_input(str(opened.template.geobox.crs))
    return {
        "version": "1.1.0",
        "primary_column": "geometry",
        "columns": {
            "geometry": {
                "encoding": "WKB",
                "geometry_types": kinds,
                "crs": crs.to_json_dict(),
                "orientation": "counterclockwise",
                "covering": {"bbox": {side: ["bbox", side] for side in BOX}},
            }
        },
    }

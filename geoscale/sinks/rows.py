"""Rows of detections: from pixels to named objects in a CRS, as GeoParquet has them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.objects import Mask
from geoscale.types import Array, Floats, Json

if TYPE_CHECKING:
    import pyarrow as pa
    from odc.geo.geobox import GeoBox

BOX = ("xmin", "ymin", "xmax", "ymax")


class Rows:
    """Makes rows for the parts and the table of one output.

    Parameters
    ----------
    geobox : GeoBox
        Grid of the job, not rotated.
    layout : mapping
        ``classes``, ``times``, and whether there are ``outlines``.
    """

    def __init__(self, geobox: GeoBox, layout: Mapping[str, Any]) -> None:
        self.geobox, self.layout = geobox, layout

    def part(self, columns: Mapping[str, Array]) -> pa.Table:
        """Make the rows of one block's part.

        Parameters
        ----------
        columns : mapping
            As `geoscale.engine.objects.ObjectPass.finish` gives.

        Returns
        -------
        pyarrow.Table
            With metadata of GeoParquet.
        """
        import pyarrow as pa

        corners = np.ascontiguousarray(columns["corners"], np.float64)
        outlines: list[bytes | None] = [None] * len(corners)
        if "mask" in columns:
            outlines = [trace(mask) for mask in columns["mask"]]
        shapes = self._geometry(corners, outlines if "mask" in columns else None)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(corners.ravel()), 8)
        made = {
            "row": pa.array(columns["row"], pa.int32()),
            "value": pa.array(columns["value"], pa.int16()),
            "score": pa.array(columns["score"], pa.float32()),
            "corners": flat,
            "outline": pa.array(outlines, pa.binary()),
            "geometry": pa.array(shapes, pa.binary()),
        }
        return pa.table(made).replace_schema_metadata(self._geo(covering=False))

    def _geometry(self, corners: Floats, outlines: Iterable[Any] | None) -> list[bytes]:
        """Outlines, else boxes, in the CRS of the grid."""
        import shapely

        if outlines is None or len(corners) == 0:
            shapes = shapely.polygons(corners)
        else:
            shapes = shapely.from_wkb(np.array(list(outlines), object))
        a, _, c, _, e, f = (float(v) for v in tuple(self.geobox.affine)[:6])
        placed = shapely.transform(shapes, lambda points: points * (a, e) + (c, f))
        # outer rings of normal geometries run clockwise
        found = shapely.to_wkb(shapely.reverse(shapely.normalize(placed)))
        return list(np.atleast_1d(found))

    def schema(self) -> pa.Schema:
        """Columns of the table of all objects."""
        import pyarrow as pa

        box = pa.struct([(side, pa.float64()) for side in BOX])
        columns: list[Any] = [
            ("id", pa.string()),
            ("date", pa.timestamp("ms", tz="UTC")),
            ("value", pa.int16()),
            ("class", pa.string()),
            ("score", pa.float32()),
            ("bbox", box),
            ("geometry", pa.binary()),
        ]
        return pa.schema(columns, metadata=self._geo(covering=True))

    def table(self, rows: Mapping[str, Array]) -> pa.Table:
        """Make rows of the table of all objects: named, dated, in the CRS.

        Parameters
        ----------
        rows : mapping
            ``time`` (n,), ``value``, ``score``, ``corners`` and ``outline``.

        Returns
        -------
        pyarrow.Table
            With the columns of `schema`.
        """
        import pyarrow as pa
        import shapely

        schema = self.schema()
        outlines = rows["outline"] if self.layout["outlines"] else None
        shapes = self._geometry(rows["corners"], outlines)
        boxes = shapely.bounds(shapely.from_wkb(shapes)).reshape(-1, 4)
        names = {one["value"]: one["name"] for one in self.layout["classes"]}
        labels = [self.layout["times"][t] for t in rows["time"].tolist()]
        sides = [pa.array(boxes[:, i]) for i in range(4)]
        made: Json = {
            "id": [
                _name(*facts)
                for facts in zip(
                    labels, rows["value"].tolist(), rows["corners"], strict=True
                )
            ],
            "date": pa.array(
                np.array(labels, "datetime64[ms]"), schema.field("date").type
            ),
            "value": rows["value"],
            "class": [names[value] for value in rows["value"].tolist()],
            "score": rows["score"],
            "bbox": pa.StructArray.from_arrays(sides, names=list(BOX)),
            "geometry": shapes,
        }
        arrays = [
            value
            if isinstance(value := made[field.name], pa.Array)
            else pa.array(value, field.type)
            for field in schema
        ]
        return pa.Table.from_arrays(arrays, schema=schema)

    def _geo(self, *, covering: bool) -> dict[str, str]:
        """Metadata of GeoParquet 1.1.0, https://geoparquet.org/releases/v1.1.0/."""
        import pyproj

        crs = pyproj.CRS.from_user_input(str(self.geobox.crs))
        column: Json = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"]
            + ["MultiPolygon"] * bool(self.layout["outlines"]),
            "crs": crs.to_json_dict(),
            "orientation": "counterclockwise",
        }
        if covering:
            column["covering"] = {"bbox": {side: ["bbox", side] for side in BOX}}
        geo = {
            "version": "1.1.0",
            "primary_column": "geometry",
            "columns": {"geometry": column},
        }
        return {"geo": json.dumps(geo)}


def trace(mask: Mask) -> bytes:
    """Trace the outline of one object, WKB, in px of the grid."""
    import rasterio.features
    import shapely
    from affine import Affine

    found = rasterio.features.shapes(
        mask.pixels.astype(np.uint8),
        mask=mask.pixels,
        connectivity=4,
        transform=Affine.translation(mask.window.x0, mask.window.y0),
    )
    shapes = [shapely.geometry.shape(shape) for shape, _ in found]
    return bytes(shapely.to_wkb(shapely.normalize(shapely.union_all(shapes))))


def _name(label: str, value: int, corners: Floats) -> str:
    """Name an object by what it is: the same wherever blocks and patches were cut."""
    text = f"{label} {value} ".encode() + np.ascontiguousarray(corners, "<f8").tobytes()
    return hashlib.blake2b(text, digest_size=8).hexdigest()

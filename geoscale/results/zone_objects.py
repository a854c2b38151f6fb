"""Objects of several UTM zones in one file, in degrees: each of them once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.sinks.vector import TABLE
from geoscale.storage import Folder
from geoscale.types import Json

if TYPE_CHECKING:
    import pyarrow as pa

DEGREES = "EPSG:4326"
"""CRS of what several zones give together."""
ROWS = 65_536
"""Most rows of a batch."""


def make_schema(first: pa.Schema) -> pa.Schema:
    """Make the columns of all zones: those of one, and its name.

    Parameters
    ----------
    first : pyarrow.Schema
        Of the table of a zone.

    Returns
    -------
    pyarrow.Schema
        With GeoParquet's metadata, in degrees.
    """
    import pyarrow as pa
    import pyproj

    geo: Json = json.loads(first.metadata[b"geo"])
    degrees = pyproj.CRS.from_user_input(DEGREES).to_json_dict()
    geo["columns"]["geometry"]["crs"] = degrees
    fields = [first.field("id"), pa.field("zone", pa.string()), *list(first)[1:]]
    return pa.schema(fields, metadata={"geo": json.dumps(geo)})


def iter_zones(places: Mapping[str, str], schema: pa.Schema) -> Iterator[Any]:
    """Yield the objects of all zones, from west to east.

    Parameters
    ----------
    places : mapping
        Name of a zone → its finished output.
    schema : pyarrow.Schema
        From `make_schema`.

    Yields
    ------
    pyarrow.RecordBatch
        Rows in degrees. East of the antimeridian longitudes go on beyond 180 where an
        object lies on it, so that its outline is not torn.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    import shapely
    from pyproj import Transformer

    for name, place in places.items():
        with Folder(place).open(TABLE) as stream:
            file = pq.ParquetFile(stream)
            geo = json.loads(file.schema_arrow.metadata[b"geo"])
            crs = json.dumps(geo["columns"]["geometry"]["crs"])
            project = Transformer.from_crs(crs, DEGREES, always_xy=True).transform
            for batch in file.iter_batches(ROWS):
                data = batch["geometry"].to_numpy(zero_copy_only=False)
                shapes = shapely.transform(
                    shapely.from_wkb(data),
                    lambda x, y, project=project: _unbroken(*project(x, y)),
                    interleaved=False,
                )
                boxes = shapely.bounds(shapes).reshape(-1, 4)
                sides = [pa.array(boxes[:, i]) for i in range(4)]
                columns = {
                    field.name: batch[field.name]
                    for field in batch.schema
                    if field.name not in ("bbox", "geometry")
                }
                columns["zone"] = pa.array([name] * len(batch), pa.string())
                columns["bbox"] = pa.StructArray.from_arrays(
                    sides, names=[f.name for f in schema.field("bbox").type]
                )
                columns["geometry"] = pa.array(shapely.to_wkb(shapes), pa.binary())
                arrays = [columns[field.name] for field in schema]
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)


def _unbroken(lon: Any, lat: Any) -> tuple[Any, Any]:
    """Let longitudes of one zone go on over the antimeridian."""
    if len(lon) and np.ptp(lon) > 180:
        lon = np.where(lon < 0, lon + 360, lon)
    return lon, lat

"""STAC Item of a table of objects: what it shows, and how it was made."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard, OutputClass
from geoscale.card_output import class_colors
from geoscale.sinks.footprint import footprint
from geoscale.sinks.stac import EXTENSIONS, checksum, describe_class
from geoscale.sinks.stac_facts import add_sources, describe_making, plain
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

TABLE_EXTENSION = "https://stac-extensions.github.io/table/v1.2.0/schema.json"
_PARQUET = "application/vnd.apache.parquet"
_DECLARED = ("projection", "processing", "file", "classification")
_COLUMNS = {
    "id": "name of the object: of class, date and place, the same in every run",
    "date": "of the imagery",
    "value": "number of the class",
    "class": "name of the class",
    "score": "how sure the detector is, in [0, 1]",
    "bbox": "bounds of the geometry",
    "geometry": "box or outline, WKB, in the CRS of the projection",
}


def describe_objects(
    table: Path,
    url: str,
    layout: Mapping[str, Any],
    facts: Mapping[str, Any],
    card: ModelCard,
) -> Path:
    """Write a STAC 1.1 Item beside a GeoParquet file of objects.

    Parameters
    ----------
    table : Path
        The file.
    url : str
        The output that it was taken from.
    layout : mapping
        As `geoscale.sinks.vector.read_about` gives.
    facts : mapping
        About the run, as `geoscale.sinks.stac.export_stac` takes them.
    card : ModelCard
        The detector.

    Returns
    -------
    Path
        The Item.
    """
    import pyarrow.parquet as pq
    import pystac
    from affine import Affine
    from odc.geo.geobox import GeoBox

    rows, columns = layout["shape"]
    box = GeoBox((rows, columns), Affine(*layout["transform"]), layout["crs"])
    geometry, bbox = footprint(box)
    file = pq.ParquetFile(table)
    first, last = layout["times"][0], layout["times"][-1]
    known = plain(facts)
    item = pystac.Item(
        id=Path(url).name.removesuffix(".zarr"),
        geometry=geometry,
        bbox=bbox,
        datetime=None,
        properties={
            "datetime": None,
            "start_datetime": _utc(first),
            "end_datetime": _utc(last),
            **_describe_grid(box),
            **describe_making(known, card, card.task),
            "table:row_count": file.metadata.num_rows,
            "table:primary_geometry": "geometry",
            "table:columns": [
                {
                    "name": field.name,
                    "type": str(field.type),
                    "description": _COLUMNS[field.name],
                }
                for field in file.schema_arrow
            ],
        },
        stac_extensions=[
            *(EXTENSIONS[name] for name in _DECLARED),
            TABLE_EXTENSION,
        ],
    )
    asset = pystac.Asset(
        href=f"./{table.name}",
        title="Objects",
        media_type=_PARQUET,
        roles=["data"],
        extra_fields={
            "file:checksum": checksum(table),
            "file:size": table.stat().st_size,
            "classification:classes": [
                describe_class(OutputClass.model_validate(one), color)
                for one, color in zip(
                    layout["classes"], class_colors(card.output.classes), strict=True
                )
            ],
        },
    )
    item.add_asset("objects", asset)
    add_sources(item, known.get("sources", []))
    data: Json = item.to_dict(include_self_link=False)
    text = redact(json.dumps(data, indent=2))
    Folder(str(table.parent)).put("detections.json", text.encode())
    return table.parent / "detections.json"


def _describe_grid(box: GeoBox) -> Json:
    crs, edges = box.crs, box.boundingbox
    assert crs is not None
    named: Json = {"proj:code": None, "proj:wkt2": crs.to_wkt()}
    if crs.epsg is not None:
        named = {"proj:code": f"EPSG:{crs.epsg}"}
    return named | {
        "proj:shape": [int(n) for n in box.shape],
        "proj:transform": [float(v) for v in tuple(box.affine)[:6]],
        "proj:bbox": [edges.left, edges.bottom, edges.right, edges.top],
    }


def _utc(label: str) -> str:
    return f"{np.datetime64(label, 's')}Z"

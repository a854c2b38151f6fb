"""Detections of an output held against labelled objects."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoscale.api import as_url
from geoscale.errors import SourceError
from geoscale.evaluation.precision import (
    ClassPrecision,
    Shapes,
    are_boxes,
    average_precision,
)
from geoscale.results.objects import load_objects
from geoscale.sinks.vector import TABLE
from geoscale.storage import Folder
from geoscale.types import Bool, Json
from geoscale.words import redact, suggest


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectEvaluation:
    """How well a detector found labelled objects."""

    output: str
    """What was evaluated."""
    reference: str
    """What it was held against."""
    classes: tuple[ClassPrecision, ...]
    """Every class that has an object."""
    outside: int
    """Labelled objects beside the imagery, which do not count."""

    @property
    def mean(self) -> float:
        """COCO's AP over all classes."""
        return float(np.mean([one.mean for one in self.classes]))

    @property
    def mean50(self) -> float:
        """COCO's AP at an overlap of one half, over all classes."""
        return float(np.mean([one.at(0.5) for one in self.classes]))

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        return {
            "output": redact(self.output),
            "reference": redact(self.reference),
            "AP": round(self.mean, 6),
            "AP50": round(self.mean50, 6),
            "outside": self.outside,
            "classes": [one.to_dict() for one in self.classes],
        }

    def __str__(self) -> str:
        lines = [f"AP {self.mean:.3f}, AP50 {self.mean50:.3f}, as COCO defines it"]
        lines += [
            f"  {one.name}  AP {one.mean:.3f}  AP50 {one.at(0.5):.3f}  recall50 "
            f"{one.recall[0]:.3f}  {one.found:,} found, {one.truth:,} there"
            for one in self.classes
        ]
        if self.outside:
            lines.append(f"  {self.outside:,} labelled objects lie beside the imagery")
        return "\n".join(lines)

    def write(self, to: str | Path) -> list[Path]:
        """Write ``objects.json`` and ``objects.md`` into a folder."""
        folder = Folder(str(Path(to).expanduser().resolve()))
        text = json.dumps(self.to_dict(), indent=2)
        folder.put("objects.json", text.encode())
        folder.put("objects.md", self.to_markdown().encode())
        return [Path(folder.path) / name for name in ("objects.json", "objects.md")]

    def to_markdown(self) -> str:
        """Table of all classes."""
        lines = [
            f"# Objects of `{redact(self.output)}`",
            "",
            f"Against `{redact(self.reference)}`, as COCO defines average precision.",
            "",
            "| class | AP | AP50 | AP75 | recall50 | found | there |",
            "|---|--:|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {one.name} | {one.mean:.3f} | {one.at(0.5):.3f} | {one.at(0.75):.3f} | "
            f"{one.recall[0]:.3f} | {one.found:,} | {one.truth:,} |"
            for one in self.classes
        ]
        return "\n".join(lines) + "\n"


def evaluate_objects(
    output: str | Path,
    reference: str | Path,
    *,
    attribute: str | None = None,
    map_labels: Mapping[str, str] | None = None,
    ignore: Sequence[str] = (),
) -> ObjectEvaluation:
    """Hold the objects of a finished output against labelled ones.

    Upright boxes are compared with the bounds of labelled polygons, outlines and
    oriented boxes with the polygons themselves.

    Parameters
    ----------
    output : str or path
        A finished output of task detection.
    reference : str or path
        Polygons: GeoPackage, GeoJSON, GeoParquet, FlatGeobuf, shapefile.
    attribute : str, optional
        Column with the class of each; not needed where the detector has one class.
    map_labels : mapping, optional
        Label → class.
    ignore : sequence of str
        Labels that do not count.

    Returns
    -------
    ObjectEvaluation
        Print it, or write it with `ObjectEvaluation.write`.

    Raises
    ------
    OutputError
        If the output holds no objects, or is not finished.
    SourceError
        If the reference cannot be read, has no object in the imagery, or a label that
        the detector does not know.
    """
    url = as_url(output)
    _, about = load_objects(url)
    layout = about["layout"]
    names = [one["name"] for one in layout["classes"]]
    table = _read_table(reference, layout["crs"])
    labels = _labels(table, names, attribute, map_labels or {}, str(reference))
    inside = _inside(table.geometry.to_numpy(), layout)
    keep = inside & ~np.isin(labels, list(ignore))
    truth, labels = table.geometry.to_numpy()[keep], labels[keep]
    unknown = sorted(set(labels.tolist()) - set(names))
    if unknown:
        raise SourceError(
            f"{redact(str(reference))} has label `{unknown[0]}`, which is no class of "
            f"the detector{suggest(unknown[0], names)}; say --map-labels "
            f"{unknown[0]}:CLASS or --ignore {unknown[0]}"
        )
    if not len(truth):
        raise SourceError(
            f"{redact(str(reference))} has no object inside the imagery; check its CRS "
            "and the path"
        )
    shapes, classes, scores = _read_found(url)
    if not layout["outlines"] and are_boxes(shapes).all():
        truth = _bounds(truth)
    each = [
        average_precision(
            name,
            truth[labels == name],
            shapes[classes == name],
            scores[classes == name],
        )
        for name in names
        if (labels == name).any()
    ]
    return ObjectEvaluation(
        output=url,
        reference=str(reference),
        classes=tuple(each),
        outside=int((~inside).sum()),
    )


def _read_table(reference: str | Path, crs: str) -> Any:
    """Polygons of the reference, in the CRS of the output."""
    import geopandas

    text = str(reference)
    read = geopandas.read_file
    if text.lower().endswith((".parquet", ".geoparquet")):
        read = geopandas.read_parquet
    try:
        table = read(reference)
    except Exception as err:  # whatever GDAL or Arrow raise
        raise SourceError(f"{redact(text)} cannot be read: {err}") from err
    kinds = set(table.geom_type.dropna()) - {"Polygon", "MultiPolygon"}
    if kinds or table.geometry.isna().any():
        what = ", ".join(sorted(kinds)) or "rows without geometry"
        raise SourceError(f"{redact(text)} has {what}; objects are polygons")
    if table.crs is None:
        raise SourceError(f"{redact(text)} says no CRS; write it with one")
    return table.to_crs(crs)


def _labels(
    table: Any,
    names: Sequence[str],
    attribute: str | None,
    mapped: Mapping[str, str],
    where: str,
) -> np.ndarray[Any, Any]:
    """Class of every labelled object."""
    if attribute is None:
        if len(names) == 1:
            return np.full(len(table), names[0], object)
        raise SourceError(
            f"{redact(where)}: say --attribute, the column with the class; it has "
            f"{', '.join(c for c in table.columns if c != 'geometry')}"
        )
    if attribute not in table.columns:
        columns = [c for c in table.columns if c != "geometry"]
        raise SourceError(
            f"{redact(where)} has no column `{attribute}`"
            f"{suggest(attribute, columns)}; it has {', '.join(columns)}"
        )
    texts = [str(value) for value in table[attribute]]
    return np.array([mapped.get(text, text) for text in texts], object)


def _inside(shapes: Shapes, layout: Json) -> Bool:
    """Tell which objects have their middle in the imagery."""
    import shapely

    a, _, c, _, e, f = layout["transform"]
    height, width = layout["shape"]
    x, y = shapely.get_coordinates(shapely.centroid(shapes)).T
    column, row = (x - c) / a, (y - f) / e
    found: Bool = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    return found


def _read_found(url: str) -> tuple[Shapes, Any, Any]:
    import pyarrow.parquet as pq
    import shapely

    with Folder(url).open(TABLE) as stream:
        table = pq.ParquetFile(stream).read(["class", "score", "geometry"])
    shapes = np.asarray(shapely.from_wkb(table["geometry"].to_numpy()), object)
    return shapes, table["class"].to_numpy(), table["score"].to_numpy()


def _bounds(shapes: Shapes) -> Shapes:
    import shapely

    found: Shapes = shapely.box(*shapely.bounds(shapes).T)
    return found

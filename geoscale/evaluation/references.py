"""The reference: labels on the map's grid, from rasters or from shapes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoscale.errors import JobError, SourceError
from geoscale.evaluation.settings import Comparison
from geoscale.sources.files import items_from_files
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.shapes import CONFLICT, VECTOR_ENDS, ShapeFile, load_shapes
from geoscale.sources.targets import Reading
from geoscale.types import Bool, Ints, Json
from geoscale.windows import Window
from geoscale.words import redact, suggest

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

SAME_PX = 1e-4
"""Largest distance between two grids that count as one, in px."""


@dataclass(frozen=True, slots=True)
class Labels:
    """What a reference gives for one window."""

    codes: Ints
    """(y, x)."""
    valid: Bool
    """(y, x), True where there is a label."""
    conflicts: int = 0
    """Pixels in shapes of different labels, which have none."""


class Reference(Protocol):
    """Labels on a grid, read by window; what it gives does not depend on the cut."""

    @property
    def facts(self) -> Json:
        """What it is, for the report."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """What a reader should know."""
        ...

    @property
    def place(self) -> str:
        """Where it lies, for people."""
        ...

    def touches(self, window: Window) -> bool:
        """Tell whether any label may lie in a window."""
        ...

    def read(self, window: Window) -> Labels:
        """Read a window."""
        ...

    def label(self, code: int) -> str:
        """Label of a code."""
        ...


class RasterReference:
    """Rasters of labels, brought to the map's grid.

    Parameters
    ----------
    asked : Comparison
        Names files, band, nodata and resampling.
    geobox : GeoBox
        Grid of the map.

    Raises
    ------
    SourceError
        If files cannot be opened, or which band holds labels is not said.
    """

    def __init__(self, asked: Comparison, geobox: GeoBox) -> None:
        items = items_from_files(asked.reference)
        self._where = redact(asked.reference)
        band = _choose_band(items, asked.band, self._where)
        given = asked.nodata
        nodata = (
            None if given is None else math.nan if given == "none" else float(given)
        )
        reading = Reading(
            groupby="all", resampling=asked.resampling, source_nodata=nodata
        )
        self._source = RasterSource(items, [band], geobox, reading=reading)
        self.place = _say_box(_lonlat_box(items))
        assets = [item.assets[band] for item in items]
        self.facts, self.notes = _describe(asked, assets, geobox)

    def touches(self, window: Window) -> bool:
        """Tell whether any file may reach into a window."""
        edges = np.array([window.y0, window.y1]), np.array([window.x0, window.x1])
        return bool(self._source.covers_cells(*edges, 0).any())

    def read(self, window: Window) -> Labels:
        """Read a window.

        Raises
        ------
        SourceError
            If a value is not whole.
        """
        found = self._source.read(window, [0])
        data, valid = found.data[0, 0], found.valid[0]
        if data.dtype.kind == "f":
            data = self._as_whole(np.where(valid, data, 0))
        return Labels(data, valid)

    def label(self, code: int) -> str:
        """Label of a code: the value itself."""
        return str(code)

    def _as_whole(self, data: Any) -> Ints:
        whole = np.rint(data)
        wrong = data[whole != data]
        if wrong.size:
            raise SourceError(
                f"{self._where} is no raster of labels: it holds {wrong[0]:g}; labels "
                "are whole numbers"
            )
        codes: Ints = whole.astype(np.int64)
        return codes


class ShapeReference:
    """Polygons or points with labels.

    Parameters
    ----------
    asked : Comparison
        Names file, column and layer.
    geobox : GeoBox
        Grid of the map.

    Raises
    ------
    SourceError
        If the file cannot be read.
    JobError
        If something is asked for that only rasters have.
    """

    def __init__(self, asked: Comparison, geobox: GeoBox) -> None:
        if asked.nodata is not None:
            raise JobError(
                "nodata is for rasters; leave labels of shapes out with ignore"
            )
        found = load_shapes(
            asked.reference, geobox, attribute=asked.attribute, layer=asked.band
        )
        self._found = found
        self.place = _say_box(found.box)
        self.facts: Json = {
            "kind": "shapes",
            "shapes": found.count,
            "geometry": list(found.kinds),
            "attribute": found.attribute,
            "crs": found.crs,
        }
        self.notes = tuple(_notes_of_shapes(found, geobox))

    def touches(self, window: Window) -> bool:
        """Tell whether any shape may reach into a window."""
        return self._found.shapes.touches(window)

    def read(self, window: Window) -> Labels:
        """Read a window."""
        codes = self._found.shapes.read(window)
        return Labels(codes, codes >= 0, int((codes == CONFLICT).sum()))

    def label(self, code: int) -> str:
        """Label of a code: the attribute's value."""
        return self._found.labels[code]


def open_reference(asked: Comparison, geobox: GeoBox) -> Reference:
    """Open the reference on the map's grid; no pixel is read.

    Parameters
    ----------
    asked : Comparison
        What to open.
    geobox : GeoBox
        Grid of the map.

    Returns
    -------
    Reference
        Of rasters or shapes.

    Raises
    ------
    PlanError
        If it does not serve; says why.
    """
    if asked.reference.lower().endswith(VECTOR_ENDS):
        return ShapeReference(asked, geobox)
    if asked.attribute is not None:
        raise JobError(
            f"{redact(asked.reference)} is a raster, which has no attribute; name its "
            "band instead, or give a file that ends with "
            f"{', '.join(VECTOR_ENDS)}"
        )
    return RasterReference(asked, geobox)


def say_place(geobox: GeoBox) -> str:
    """Say where a grid lies, in degrees."""
    box = geobox.geographic_extent.boundingbox
    return _say_box((box.left, box.bottom, box.right, box.top))


def _say_box(box: tuple[float, float, float, float]) -> str:
    west, south, east, north = box
    return f"{west:.4f}..{east:.4f} E, {south:.4f}..{north:.4f} N"


def _lonlat_box(items: list[Item]) -> tuple[float, float, float, float]:
    rings = np.concatenate([np.asarray(item.footprint) for item in items])
    (west, south), (east, north) = rings.min(axis=0), rings.max(axis=0)
    return float(west), float(south), float(east), float(north)


def _choose_band(items: list[Item], band: str | None, where: str) -> str:
    names = list(items[0].assets)
    if band is None and len(names) == 1:
        return names[0]
    if band is not None and band.isdigit() and 1 <= int(band) <= len(names):
        return names[int(band) - 1]
    if band is None or band not in names:
        asked = "" if band is None else f", none is `{band}`{suggest(band, names)}"
        raise SourceError(
            f"{where} has the bands {', '.join(names)}{asked}; name the one that holds "
            "the labels (band)"
        )
    return band


def _describe(
    asked: Comparison, assets: list[Asset], geobox: GeoBox
) -> tuple[Json, tuple[str, ...]]:
    """Say how rasters come onto the grid."""
    crs = sorted({str(asset.crs) for asset in assets})
    sizes = {_pixel_size(asset, geobox) for asset in assets}
    same = all(_is_aligned(asset, geobox) for asset in assets)
    nodata = {str(asset.nodata) for asset in assets if asset.nodata is not None}
    facts: Json = {
        "kind": "raster",
        "files": len(assets),
        "crs": [_short(one) for one in crs],
        "pixel_in_map_px": max(sizes),
        "resampling": "none: pixel for pixel" if same else asked.resampling,
        "nodata": sorted(nodata) if asked.nodata is None else [str(asked.nodata)],
    }
    notes = []
    if not same:
        ours = _short(str(geobox.crs))
        how = "label at the pixel's centre" if asked.resampling == "nearest" else (
            "most frequent label in the pixel"
        )  # fmt: skip
        theirs = ", ".join(_short(one) for one in crs)
        what = "to its CRS" if set(crs) != {str(geobox.crs)} else "to its grid"
        notes.append(
            f"The reference ({theirs}) was brought {what} ({ours}) by "
            f"{asked.resampling}: the {how}."
        )
    notes += _notes_of_size(max(sizes), min(sizes), asked.resampling)
    if not nodata and asked.nodata is None:
        notes.append(
            "The reference states no nodata value: every pixel inside it counts; leave "
            "out values that are no labels with nodata or ignore."
        )
    return facts, tuple(notes)


def _notes_of_size(largest: float, least: float, resampling: str) -> list[str]:
    notes = []
    if largest > 1.5:
        notes.append(
            f"Pixels of the reference are {largest:.3g} times as wide as the map's: "
            f"each is counted about {largest**2:,.0f} times, so there are fewer "
            "independent observations than pixels."
        )
    if least < 0.67 and resampling == "nearest":
        notes.append(
            f"Pixels of the reference are {1 / least:.3g} times as fine as the map's: "
            "most of them are not looked at; resampling mode takes the most frequent "
            "label in each pixel of the map."
        )
    return notes


def _notes_of_shapes(found: ShapeFile, geobox: GeoBox) -> list[str]:
    notes = []
    if _short(str(geobox.crs)) != found.crs:
        notes.append(
            f"The reference ({found.crs}) was projected to the map's CRS "
            f"({_short(str(geobox.crs))})."
        )
    if any("Polygon" in kind for kind in found.kinds):
        notes.append("A pixel has the label of the polygon that its centre lies in.")
    if any("Point" in kind for kind in found.kinds):
        notes.append(
            "A pixel has the label of the points in it; several are counted once."
        )
    if found.unlabelled:
        notes.append(f"{found.unlabelled:,} shapes have no label or no geometry.")
    return notes


def _to_map_px(asset: Asset, geobox: GeoBox) -> Any:
    """Give a function from pixels of a file to pixels of the map."""
    from affine import Affine
    from pyproj import Transformer

    assert asset.transform is not None
    move = Transformer.from_crs(asset.crs, str(geobox.crs), always_xy=True).transform
    theirs, ours = Affine(*asset.transform), ~geobox.affine
    return lambda x, y: ours * move(*(theirs * (x, y)))


def _pixel_size(asset: Asset, geobox: GeoBox) -> float:
    """Width of a file's pixel at its middle, in px of the map; rounded."""
    assert asset.shape is not None
    to_map = _to_map_px(asset, geobox)
    rows, columns = asset.shape
    (x0, y0), (x1, y1) = (to_map(columns / 2 + d, rows / 2) for d in (0, 1))
    return float(f"{math.hypot(x1 - x0, y1 - y0):.3g}")


def _is_aligned(asset: Asset, geobox: GeoBox) -> bool:
    from geoscale.sources.fields import normalise_crs

    if asset.crs != (normalise_crs(str(geobox.crs)) or str(geobox.crs)):
        return False
    assert asset.shape is not None
    to_map, (rows, columns) = _to_map_px(asset, geobox), asset.shape
    (x0, y0), (x1, y1) = to_map(0, 0), to_map(columns, rows)
    drift = (x1 - x0 - columns, y1 - y0 - rows, x0 - round(x0), y0 - round(y0))
    return bool(max(abs(d) for d in drift) < SAME_PX)


def _short(crs: str) -> str:
    return crs if len(crs) < 40 else crs[:37] + "…"

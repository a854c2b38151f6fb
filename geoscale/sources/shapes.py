"""Vector files as labels of pixels: polygons and points with an attribute."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import SourceError
from geoscale.windows import Window
from geoscale.words import redact, suggest

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

VECTOR_ENDS = (
    ".gpkg", ".geojson", ".json", ".parquet", ".geoparquet", ".shp", ".fgb",
)  # fmt: skip
"""How names of vector files end."""
NONE, CONFLICT = -1, -2
"""Codes of pixels without a shape, and in shapes of different labels."""
TILE_PX = 256
KEPT_TILES = 64
# rasterio silences warnings as it burns, which threads must not do side by side
_burning = threading.Lock()
_KINDS = ("Polygon", "MultiPolygon", "Point", "MultiPoint")


class Shapes:
    """Polygons and points with codes on a grid, read by window.

    A pixel has the code of the polygon that its centre lies in, or of the point
    that lies in the pixel.

    Parameters
    ----------
    geometries : sequence of shapely geometry
        In pixels of the grid, (x, y).
    codes : sequence of int
        One for each, 0 or more.
    shape : tuple of int, (y, x)
        Of the grid, in px.
    """

    def __init__(
        self, geometries: Sequence[Any], codes: Sequence[int], shape: tuple[int, int]
    ) -> None:
        import shapely

        self._geometries = list(geometries)
        self._codes = [int(code) for code in codes]
        self._shape = shape
        self._tree = shapely.STRtree(self._geometries)
        # blocks smaller than a tile would burn it again each
        self._burnt = functools.lru_cache(KEPT_TILES)(self._burn)

    @property
    def geometries(self) -> list[Any]:
        """Shapes in pixels of the grid, (x, y)."""
        return self._geometries

    @property
    def codes(self) -> list[int]:
        """Code of each."""
        return self._codes

    def touches(self, window: Window) -> bool:
        """Tell whether any shape may reach into a window."""
        return bool(self._find(window))

    def read(self, window: Window) -> NDArray[np.int32]:
        """Give the codes of a window.

        Parameters
        ----------
        window : Window
            Inside the grid.

        Returns
        -------
        ndarray of int32, (y, x)
            Codes, `NONE` or `CONFLICT`.
        """
        made = np.full(window.shape, NONE, np.int32)
        # Always by the same tiles: where an edge meets a centre, its rounding must
        # not depend on how the caller cuts.
        for y in range(window.y0 - window.y0 % TILE_PX, window.y1, TILE_PX):
            for x in range(window.x0 - window.x0 % TILE_PX, window.x1, TILE_PX):
                tile = Window(y, x, y + TILE_PX, x + TILE_PX).clip(self._shape)
                found = self._burnt(tile)
                if found is not None:
                    both = tile & window
                    made[both.within(window)] = found[both.within(tile)]
        return made

    def _find(self, window: Window) -> list[int]:
        import shapely

        box = shapely.box(window.x0, window.y0, window.x1, window.y1)
        return sorted(self._tree.query(box).tolist())

    def _burn(self, tile: Window) -> NDArray[np.int32] | None:
        """Burn in both orders: what differs lies in shapes of different labels."""
        from affine import Affine
        from rasterio.features import rasterize

        found = self._find(tile)
        if not found:
            return None
        pairs = [(self._geometries[i], self._codes[i]) for i in found]
        with _burning:
            first, last = (
                rasterize(
                    some,
                    out_shape=tile.shape,
                    fill=NONE,
                    transform=Affine.translation(tile.x0, tile.y0),
                    dtype="int32",
                )
                for some in (pairs, pairs[::-1])
            )
        burnt: NDArray[np.int32] = np.where(first == last, first, np.int32(CONFLICT))
        return burnt


@dataclass(frozen=True, slots=True, kw_only=True)
class ShapeFile:
    """Labelled shapes of a vector file, on a grid."""

    shapes: Shapes
    """Codes of pixels."""
    labels: tuple[str, ...]
    """Label of every code."""
    count: int
    """Shapes with a label that may touch the grid."""
    kinds: tuple[str, ...]
    """Kinds of geometry, sorted."""
    attribute: str
    """Column that the labels are from."""
    crs: str
    """CRS of the file, for people."""
    box: tuple[float, float, float, float]
    """West, south, east, north of the whole file, in degrees."""
    unlabelled: int
    """Shapes without a label or without a geometry; they are left out."""


def load_shapes(
    path: str, geobox: GeoBox, *, attribute: str | None = None, layer: str | None = None
) -> ShapeFile:
    """Read a vector file's shapes that may touch a grid.

    Parameters
    ----------
    path : str
        Local GeoPackage, GeoJSON, GeoParquet, FlatGeobuf or shapefile.
    geobox : GeoBox
        The grid.
    attribute : str, optional
        Column of labels: text or whole numbers; default the only one there is.
    layer : str, optional
        Layer of the file; default the only one there is.

    Returns
    -------
    ShapeFile
        Held in memory.

    Raises
    ------
    SourceError
        If it cannot be read, has no CRS or no such column, or holds lines.
    """
    import shapely

    where = redact(path)
    table, box = _read_table(path, where, geobox, layer)
    column = _choose_column(table, attribute, where)
    texts = [as_label(value, where, column) for value in table[column]]
    geometries = shapely.force_2d(table.geometry.to_numpy())
    usable = np.array([text is not None for text in texts], bool) & ~(
        shapely.is_missing(geometries) | shapely.is_empty(geometries)
    )
    kinds = sorted({g.geom_type for g in geometries[usable]})
    if not set(kinds) <= {*_KINDS}:
        raise SourceError(
            f"{where} holds {', '.join(kinds)}; labels need polygons or points"
        )
    moved = _to_pixels(geometries[usable], table.crs, geobox)
    kept = [text or "" for text, good in zip(texts, usable, strict=True) if good]
    labels = tuple(sorted(set(kept)))
    number = {label: i for i, label in enumerate(labels)}
    shape = (int(geobox.shape[0]), int(geobox.shape[1]))
    return ShapeFile(
        shapes=Shapes(moved, [number[label] for label in kept], shape),
        labels=labels,
        count=len(kept),
        kinds=tuple(kinds),
        attribute=column,
        crs=_name(table.crs),
        box=box,
        unlabelled=int((~usable).sum()),
    )


def as_label(value: Any, where: str = "reference", column: str = "") -> str | None:
    """Give a label as text; whole numbers without a point, None where there is none.

    Raises
    ------
    SourceError
        If it is a number that is not whole.

    Examples
    --------
    >>> as_label(3.0), as_label("water"), as_label(float("nan"))
    ('3', 'water', None)
    """
    if value is None or value != value or str(value) == "<NA>":  # noqa: PLR0124
        return None
    if isinstance(value, str):
        return value.strip() or None
    if isinstance(value, bool | np.bool_):
        return str(int(value))
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        name = f" of column `{column}`" if column else ""
        raise SourceError(
            f"{where}: {value!r}{name} is no label; labels are text or whole numbers"
        )
    return str(int(number))


def _read_table(
    path: str, where: str, geobox: GeoBox, layer: str | None
) -> tuple[Any, tuple[float, float, float, float]]:
    """Read a GeoDataFrame, and the bounds of the whole file in degrees."""
    import geopandas
    import shapely

    # else GDAL would be asked for whatever the name says, past the rules for hrefs
    if not os.path.isfile(path):
        raise SourceError(f"{where} is no local file; give a path on this machine")
    outline = geobox.extent.geom
    # points along the edges, which other CRSs may bend
    fine = shapely.segmentize(outline, outline.length / 200)
    extent = geopandas.GeoSeries([fine], crs=str(geobox.crs))
    try:
        if path.lower().endswith("parquet"):
            table = geopandas.read_parquet(path)
            bounds = table.total_bounds
        else:
            layer = _choose_layer(path, where, layer)
            import pyogrio

            info = pyogrio.read_info(path, layer=layer, force_total_bounds=True)
            bounds = info["total_bounds"]
            bare = info["crs"] is None
            table = geopandas.read_file(
                path, layer=layer, bbox=None if bare else extent
            )
    except (OSError, ValueError, RuntimeError) as err:
        raise SourceError(f"cannot read {where}: {err}") from None
    if table.crs is None:
        raise SourceError(f"{where} has no CRS; give it one, such as EPSG:4326")
    near = table.to_crs(extent.crs).intersects(shapely.box(*extent.total_bounds))
    degrees = geopandas.GeoSeries([shapely.box(*bounds)], crs=table.crs).to_crs(4326)
    west, south, east, north = (float(v) for v in degrees.total_bounds)
    return table[near | table.geometry.isna()], (west, south, east, north)


def _choose_layer(path: str, where: str, layer: str | None) -> str:
    import pyogrio

    names = [str(row[0]) for row in pyogrio.list_layers(path)]
    if layer is None and len(names) == 1:
        return names[0]
    if layer is None or layer not in names:
        asked = "" if layer is None else f", none is `{layer}`{suggest(layer, names)}"
        raise SourceError(
            f"{where} has the layers {', '.join(names)}{asked}; name one (band)"
        )
    return layer


def _choose_column(table: Any, attribute: str | None, where: str) -> str:
    names = [str(n) for n in table.columns if n != table.geometry.name]
    if attribute is None and len(names) == 1:
        return names[0]
    if attribute is None or attribute not in names:
        asked = "" if attribute is None else f", none is `{attribute}`"
        hint = "" if attribute is None else suggest(attribute, names)
        raise SourceError(
            f"{where} has the columns {', '.join(names) or '(none)'}{asked}{hint}; "
            "name the one that holds the labels (attribute)"
        )
    return attribute


def _to_pixels(geometries: Any, crs: Any, geobox: GeoBox) -> Any:
    """Project to the grid's CRS, with points added along edges, then to pixels."""
    import shapely
    from pyproj import CRS, Transformer

    if not len(geometries):
        return geometries
    target = CRS.from_user_input(str(geobox.crs))
    a, b, c, d, e, f = tuple(~geobox.affine)[:6]
    if target != crs:
        bounds = shapely.bounds(geometries)
        size = np.maximum(bounds[:, 2] - bounds[:, 0], bounds[:, 3] - bounds[:, 1])
        fine = np.where(size > 0, size / 100, 1.0)
        geometries = shapely.segmentize(geometries, fine)
    to_target = Transformer.from_crs(crs, target, always_xy=True)

    def _move(points: Any) -> Any:
        x, y = points[:, 0], points[:, 1]
        if target != crs:
            x, y = to_target.transform(x, y)
        return np.stack([a * x + b * y + c, d * x + e * y + f], axis=1)

    return shapely.transform(geometries, _move)


def _name(crs: Any) -> str:
    code = crs.to_epsg()
    return f"EPSG:{code}" if code else str(crs.name)

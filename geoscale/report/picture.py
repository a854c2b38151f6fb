"""Pictures of the page: the class map and the imagery beside it, as data URLs."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from geoscale.bands import common_name
from geoscale.errors import GeoscaleError
from geoscale.plans import InferencePlan
from geoscale.report.levels import Level
from geoscale.results.layers import Flag
from geoscale.sources.composite import CompositeSource
from geoscale.sources.opening import source_of, unjudged
from geoscale.sources.raster import RasterSource
from geoscale.sources.shifted import ShiftedSource
from geoscale.types import Array
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

PICTURE_PX = 1_300_000
"""Most pixels of a picture."""
LONGEST_PX = 8192
"""Longest side of a picture."""
READ_PX = 60_000_000
"""Most pixels of imagery that are read for a picture."""
_STEP = 1024
Bytes = NDArray[np.uint8]


def paint_classes(data: Array, flags: Sequence[Flag], fill: int) -> Bytes:
    """Give each class its colour.

    Parameters
    ----------
    data : ndarray of int, (y, x)
        Class values.
    flags : sequence of Flag
        Values and colours.
    fill : int
        Value of nodata; transparent.

    Returns
    -------
    ndarray of uint8, (y, x, 4)
        Red, green, blue, alpha.
    """
    table = np.zeros((256, 4), np.uint8)
    for one in flags:
        table[one.value] = (*bytes.fromhex(one.color), 255)
    table[fill] = 0
    return table[data]


def paint_imagery(plan: InferencePlan, time: int, level: Level) -> Bytes | str:
    """Paint the imagery that a map was made from, in natural colours if it has any.

    Parameters
    ----------
    plan : InferencePlan
        Says where the imagery is.
    time : int
        Time step of the map; its newest frame is painted.
    level : Level
        The picture gets its shape.

    Returns
    -------
    ndarray of uint8, (y, x, 4), or str
        Or why there is no picture.
    """
    frame = plan.newest(time)
    try:
        data, valid = _read_coarse(plan, frame, level)
    except (GeoscaleError, OSError, ValueError, KeyError) as err:
        return f"The imagery is not shown, since it could not be read now: {err}"
    if not valid.any():
        return "The imagery is not shown: it has no valid pixel here."
    return _paint(plan, data, valid)


def paint_pair(
    plan: InferencePlan, frames: tuple[int, int], level: Level
) -> tuple[Bytes, Bytes] | str:
    """Paint two dates of the imagery, stretched alike, so that they can be compared.

    Parameters
    ----------
    plan : InferencePlan
        Says where the imagery is.
    frames : tuple of int
        Time steps of the imagery.
    level : Level
        The pictures get its shape.

    Returns
    -------
    tuple of ndarray of uint8, (y, x, 4), or str
        Or why there are no pictures.
    """
    try:
        images = [_read_coarse(plan, frame, level) for frame in frames]
    except (GeoscaleError, OSError, ValueError, KeyError) as err:
        return f"The imagery is not shown, since it could not be read now: {err}"
    if not all(valid.any() for _, valid in images):
        return "The imagery is not shown: one date has no valid pixel here."
    before, after = _paint_alike(plan, images)
    return before, after


def paint_detail(plan: InferencePlan, time: int, window: Window) -> Bytes | None:
    """Paint a small window of the imagery, pixel by pixel.

    Parameters
    ----------
    plan : InferencePlan
        Says where the imagery is.
    time : int
        Time step of the map; its newest frame is painted.
    window : Window
        Pixels of the map.

    Returns
    -------
    ndarray of uint8, (y, x, 4), or None
        None where it cannot be read.
    """
    frame = plan.newest(time)
    try:
        found = unjudged(source_of(plan)).read(window, [frame])
    except (GeoscaleError, OSError, ValueError, KeyError):
        return None
    return _paint(plan, found.data[0], found.valid[0])


def as_data_url(painted: Bytes, *, photo: bool) -> str:
    """Encode a picture into the page.

    Parameters
    ----------
    painted : ndarray of uint8, (y, x, 4)
        The picture.
    photo : bool
        Imagery, where small losses do not show; maps are kept exactly.

    Returns
    -------
    str
        ``data:image/…``.
    """
    from PIL import Image, features

    # a map along a parallel may be longer than any format or screen
    step = -(-max(painted.shape[:2]) // LONGEST_PX)
    painted = np.ascontiguousarray(painted[::step, ::step])
    image, buffer = Image.fromarray(painted, "RGBA"), io.BytesIO()
    kind = "webp" if photo and features.check("webp") else "png"
    if kind == "webp":
        image.save(buffer, "WEBP", quality=82)
    else:
        few = image if photo else image.quantize(256)
        few.save(buffer, "PNG", optimize=True)
    text = base64.b64encode(buffer.getvalue()).decode("ascii")
    return f"data:image/{kind};base64,{text}"


def _read_coarse(
    plan: InferencePlan, frame: int, level: Level
) -> tuple[Array, NDArray[np.bool_]]:
    """Read (band, y, x) and validity of the whole, as coarse as the picture is."""
    step, larger = level.step(PICTURE_PX), enlargement(plan, level)
    source = source_of(plan)
    if isinstance(source, RasterSource | CompositeSource | ShiftedSource):
        # on a coarse grid the overviews of the files serve
        source, step = source.coarser(_coarser(level, step / larger)), 1
    else:
        step = max(1, step * level.factor * plan.cell // larger)
    rows, columns = (int(n) for n in source.geobox.shape)
    if rows * columns > READ_PX:
        raise ValueError(f"{rows:,} x {columns:,} px are too many for a picture")
    size = (-(-rows // step), -(-columns // step))
    data = np.zeros((len(source.bands), *size), np.float32)
    valid = np.zeros(size, bool)
    high = max(1, _STEP // step) * step
    for y in range(0, rows, high):
        for x in range(0, columns, high):
            window = Window(y, x, y + high, x + high).clip((rows, columns))
            found = source.read(window, [frame])
            part = np.s_[
                y // step : -(-window.y1 // step), x // step : -(-window.x1 // step)
            ]
            data[(slice(None), *part)] = found.data[0, :, ::step, ::step]
            valid[part] = found.valid[0, ::step, ::step]
    return data, valid


def enlargement(plan: InferencePlan, level: Level) -> int:
    """Tell how many pixels of a picture, along each side, a cell of the map gets.

    Parameters
    ----------
    plan : InferencePlan
        Of the map.
    level : Level
        The map, at the resolution of the picture.

    Returns
    -------
    int
        1 where the map has a value for every pixel of the imagery.
    """
    rows, columns = level.shape
    most = int((PICTURE_PX / (rows * columns)) ** 0.5)
    return max(1, min(plan.cell * level.factor, most)) if plan.cell > 1 else 1


def _coarser(level: Level, step: float) -> GeoBox:
    """Grid of the picture."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    rows, columns = level.shape
    transform = level.geobox.affine @ Affine.scale(step)
    shape = int(-(-rows // step)), int(-(-columns // step))
    return GeoBox(shape, transform, level.geobox.crs)


def _rgb(plan: InferencePlan) -> list[int]:
    """Which bands are red, green and blue; the first ones where that is not known."""
    sensor = plan.card.input.sensor
    names = [common_name(b, sensor) or b for b in plan.card.input.bands]
    if {"red", "green", "blue"} <= set(names):
        return [names.index(name) for name in ("red", "green", "blue")]
    return [min(i, len(names) - 1) for i in range(3)] if len(names) >= 3 else [0] * 3


def _paint(plan: InferencePlan, data: Array, valid: NDArray[np.bool_]) -> Bytes:
    return _paint_alike(plan, [(data, valid)])[0]


def _paint_alike(
    plan: InferencePlan, images: Sequence[tuple[Array, NDArray[np.bool_]]]
) -> list[Bytes]:
    """Stretch three bands of all images together, so that colours keep balance."""
    chosen = [data[_rgb(plan)].astype(np.float32) for data, _ in images]
    shown = [
        valid & np.isfinite(some).all(axis=0)
        for some, (_, valid) in zip(chosen, images, strict=True)
    ]
    painted = [np.zeros((*one.shape, 4), np.uint8) for one in shown]
    known = [some[:, one] for some, one in zip(chosen, shown, strict=True)]
    together = np.concatenate(known, axis=1)
    if not together.size:
        return painted
    low, high = np.percentile(together, (1, 99), axis=1)
    span = max(float((high - low).max()), 1e-9)
    for some, one, made in zip(chosen, shown, painted, strict=True):
        unit = np.clip((np.nan_to_num(some) - low[:, None, None]) / span, 0, 1)
        made[..., :3] = np.moveaxis(np.rint(255 * unit**0.7), 0, -1)
        made[..., 3] = np.where(one, 255, 0)
    return painted

"""Pictures of objects over imagery: boxes, and points where these are too many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card_output import class_colors
from geoscale.objects import LAYER
from geoscale.plans import InferencePlan
from geoscale.report.levels import Level
from geoscale.report.picture import (
    PICTURE_PX,
    Bytes,
    as_data_url,
    paint_detail,
    paint_imagery,
)
from geoscale.template import OutputTemplate
from geoscale.types import Floats, Layer
from geoscale.windows import Window

if TYPE_CHECKING:
    from PIL import ImageDraw

LOOK_PX = 480
"""Height and width of the closer look, in px of the imagery."""
WIDE_PX = 960
"""Width to which small pictures are enlarged, so that lines show."""
MOST_BOXES = 50_000
"""Boxes that are drawn over the whole; of the others each is a point."""
_BINS = 64
_PLAIN = (96, 104, 99, 255)


def to_pixels(plan: InferencePlan, boxes: Floats) -> Floats:
    """Bring boxes from the CRS to rows and columns of the grid.

    Parameters
    ----------
    plan : InferencePlan
        Its grid is not rotated.
    boxes : ndarray of float64, (n, 4)
        Least x and y, greatest x and y, in the CRS.

    Returns
    -------
    ndarray of float64, (n, 4)
        Least x and y, greatest x and y, in px.
    """
    a, _, c, _, e, f = (float(v) for v in tuple(plan.geobox.affine)[:6])
    x, y = (boxes[:, [0, 2]] - c) / a, (boxes[:, [1, 3]] - f) / e
    found: Floats = np.stack([x.min(1), y.min(1), x.max(1), y.max(1)], axis=1)
    return found


def find_crowd(
    plan: InferencePlan, read: Callable[[], Iterable[Floats]]
) -> Window | None:
    """Find where most objects are.

    Parameters
    ----------
    plan : InferencePlan
        Of the output.
    read : callable
        Gives the boxes of all objects, (n, 4) in the CRS, some at a time.

    Returns
    -------
    Window or None
        `LOOK_PX` wide and high; None where there is no object, or where the whole is
        not much larger.

    Notes
    -----
    The area is cut into squares, the fullest of which is cut again, until one is about
    as large as the picture: a pass over the table each, in memory that does not grow.
    """
    whole = Window(0, 0, *plan.shape)
    if max(whole.shape) <= 1.5 * LOOK_PX:
        return None
    place = whole
    while max(place.shape) > 1.5 * LOOK_PX:
        side = max(LOOK_PX, -(-max(place.shape) // _BINS))
        counts = np.zeros([-(-n // side) for n in place.shape], np.int64)
        for boxes in read():
            edges = to_pixels(plan, boxes)
            x, y = (edges[:, :2] + edges[:, 2:]).T / 2
            inside = (place.y0 <= y) & (y < place.y1) & (place.x0 <= x) & (x < place.x1)
            row = ((y[inside] - place.y0) // side).astype(int)
            column = ((x[inside] - place.x0) // side).astype(int)
            np.add.at(counts, (row, column), 1)
        if not counts.any():
            return None
        row, column = np.unravel_index(int(counts.argmax()), counts.shape)
        y0, x0 = place.y0 + int(row) * side, place.x0 + int(column) * side
        place = Window(y0, x0, y0 + side, x0 + side).clip(plan.shape)
    y0, x0 = (max(0, min(start, size - LOOK_PX)) for start, size in zip(
        (place.y0, place.x0), plan.shape, strict=True))  # fmt: skip
    return Window(y0, x0, y0 + LOOK_PX, x0 + LOOK_PX).clip(plan.shape)


class Painter:
    """Draws objects over the whole imagery and over a part of it.

    Parameters
    ----------
    plan : InferencePlan
        Of the output.

    Attributes
    ----------
    why : str
        Why there is no imagery below the objects; empty where there is.
    """

    def __init__(self, plan: InferencePlan) -> None:
        assert plan.inference.block is not None
        self._plan, self.why = plan, ""
        time, block = len(plan.times) - 1, plan.inference.block
        template = OutputTemplate(
            geobox=plan.geobox,
            times=plan.times,
            layers=(Layer(name=LAYER, dtype="uint8", fill_value=0),),
            block_px=block,
            chunk_px=block,
        )
        level = Level(1, template, None)
        self._step = level.step(PICTURE_PX)
        imagery = paint_imagery(plan, time, level)
        if isinstance(imagery, str):
            self.why = imagery
            imagery = _plain(tuple(-(-n // self._step) for n in plan.shape))
        zoom = max(1, WIDE_PX // imagery.shape[1])
        self._whole = imagery.repeat(zoom, 0).repeat(zoom, 1)
        self._scale = zoom / self._step
        self._left = MOST_BOXES
        self._near: list[tuple[Any, str]] = []
        classes = plan.card.output.classes
        self._colors = {
            c.value: f"#{color}"
            for c, color in zip(classes, class_colors(classes), strict=True)
        }

    def add(self, rows: Mapping[str, Any], crowd: Window | None) -> None:
        """Draw some objects over the whole, and keep those of the closer look.

        Parameters
        ----------
        rows : mapping
            ``value``, ``bbox`` in the CRS, and ``geometry`` where there is a closer
            look.
        crowd : Window or None
            The closer look.
        """
        edges = to_pixels(self._plan, rows["bbox"])
        if crowd is not None:
            x, y = (edges[:, :2], edges[:, 2:])
            meets = (x[:, 0] < crowd.x1) & (y[:, 0] > crowd.x0)
            meets &= (x[:, 1] < crowd.y1) & (y[:, 1] > crowd.y0)
            for i in np.flatnonzero(meets).tolist():
                self._near.append((rows["geometry"][i], self._colors[rows["value"][i]]))
        boxes = min(self._left, len(edges))
        self._left -= boxes
        self._draw_boxes(edges[:boxes] * self._scale, rows["value"][:boxes])
        self._draw_points(edges[boxes:] * self._scale, rows["value"][boxes:])

    def paint_whole(self, crowd: Window | None) -> str:
        """Give the whole with all objects, and a frame around the closer look."""
        from PIL import Image, ImageDraw

        image = Image.fromarray(self._whole, "RGBA")
        if crowd is not None:
            frame = [v * self._scale for v in (crowd.x0, crowd.y0, crowd.x1, crowd.y1)]
            draw = ImageDraw.Draw(image)
            draw.rectangle(frame, outline="#000000", width=5)
            draw.rectangle(frame, outline="#FFFFFF", width=3)
        return as_data_url(np.array(image), photo=True)

    def paint_detail(self, crowd: Window) -> str:
        """Give the closer look, enlarged, with outlines as they are stored."""
        import shapely
        from PIL import Image, ImageDraw

        imagery = paint_detail(self._plan, len(self._plan.times) - 1, crowd)
        if imagery is None:
            imagery = _plain(crowd.shape)
        zoom = 2
        image = Image.fromarray(imagery.repeat(zoom, 0).repeat(zoom, 1), "RGBA")
        draw = ImageDraw.Draw(image)
        a, _, c, _, e, f = (float(v) for v in tuple(self._plan.geobox.affine)[:6])
        for data, color in self._near:
            for part in shapely.get_parts(shapely.from_wkb(data)):
                points = shapely.get_coordinates(part.exterior)
                pixels = (points - (c, f)) / (a, e) - (crowd.x0, crowd.y0)
                _outline(draw, pixels * zoom, color)
        return as_data_url(np.array(image), photo=True)

    def _draw_boxes(self, edges: Floats, values: Any) -> None:
        from PIL import Image, ImageDraw

        if not len(edges):
            return
        image = Image.fromarray(self._whole, "RGBA")
        draw = ImageDraw.Draw(image)
        for (x0, y0, x1, y1), value in zip(
            edges.tolist(), values.tolist(), strict=True
        ):
            # what is small stays to be seen
            x1, y1 = max(x1, x0 + 2), max(y1, y0 + 2)
            draw.rectangle((x0, y0, x1, y1), outline=self._colors[value], width=2)
        self._whole = np.array(image)

    def _draw_points(self, edges: Floats, values: Any) -> None:
        height, width = self._whole.shape[:2]
        x, y = ((edges[:, :2] + edges[:, 2:]) / 2).astype(int).T
        x, y = np.clip(x, 0, width - 1), np.clip(y, 0, height - 1)
        for value in np.unique(values).tolist():
            some = values == value
            color = (*bytes.fromhex(self._colors[value][1:]), 255)
            for dy, dx in np.ndindex(3, 3):  # single pixels would be lost in the photo
                inside = y[some] + dy - 1, x[some] + dx - 1
                self._whole[
                    np.clip(inside[0], 0, height - 1), np.clip(inside[1], 0, width - 1)
                ] = color


def _plain(shape: tuple[int, ...]) -> Bytes:
    """Make a picture of one colour, where there is no imagery to show."""
    return np.full((*shape, 4), _PLAIN, np.uint8)


def _outline(draw: ImageDraw.ImageDraw, points: Floats, color: str) -> None:
    """Draw a closed line, dark below, so that it shows on any ground."""
    line = [(x, y) for x, y in points.tolist()]
    draw.line(line, fill="#00000090", width=5, joint="curve")
    draw.line(line, fill=color, width=3, joint="curve")

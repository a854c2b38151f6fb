"""Right angles for outlines of buildings, which pixels and networks round off."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.results.outlines import Objects
from geoscale.types import Floats

DEFAULT_PX = 1.5
"""How far outlines move where nothing is said, in px: steps of pixels are one."""
LEAST_IOU = 0.7
"""Overlap with the simplified outline below which right angles are no likeness."""
_TURN = np.pi / 4
_DIAGONAL = 4.0
"""Length of edges at 45 degrees that are kept, in steps of how far outlines move."""


@dataclass(slots=True)
class _Line:
    """A side of the new outline: its direction, and where it lies across it."""

    turn: int
    """Direction, in steps of 45 degrees from the main one, 0 to 3."""
    length: float
    """Of the edges that it is made of."""
    offset: float
    """Mean distance of these from the origin, along the normal."""

    def join(self, other: _Line) -> None:
        """Take over the edges of a line in the same direction."""
        whole = self.length + other.length
        self.offset = (self.offset * self.length + other.offset * other.length) / whole
        self.length = whole


def square_up(shapes: Objects, tolerance: float, aspect: Floats) -> Objects:
    """Give outlines right angles, or angles of 45 degrees, each for itself.

    Parameters
    ----------
    shapes : ndarray of object, (n,)
        Polygons and multipolygons, in columns and rows.
    tolerance : float
        How far outlines may move about, in px; shorter sides vanish.
    aspect : ndarray of float64, (n,)
        Width of a pixel on the ground over its height, at each.

    Returns
    -------
    ndarray of object, (n,)
        Valid; where nothing with right angles is like the outline, it is only
        simplified, and where not even that is like it, as it was.

    Notes
    -----
    The main direction is the mean of all edges by length, in angles modulo 90 degrees,
    or that of the smallest rectangle around, whichever moves less ground. Edges are
    turned to the nearest of four directions around their middle, neighbours of one
    direction become one line, and lines meet in the new corners. Each line lies where
    the pixels' edges that it stands for lie on the average.
    """
    import shapely

    found = np.empty(len(shapes), object)
    for i, shape in enumerate(shapes):
        scaled = shapely.transform(shape, lambda p, k=aspect[i]: p * (k, 1))
        parts = [
            _square_one(part, tolerance) for part in shapely.get_parts(scaled).tolist()
        ]
        whole = parts[0] if len(parts) == 1 else shapely.union_all(parts)
        found[i] = shapely.transform(whole, lambda p, k=aspect[i]: p / (k, 1))
    return found


def _square_one(part: Any, tolerance: float) -> Any:
    """Square one polygon up, or simplify it where that is no likeness."""
    import shapely

    plain = shapely.simplify(part, tolerance, preserve_topology=True)
    if _likeness(plain, part) <= LEAST_IOU or len(plain.interiors) != len(
        part.interiors
    ):
        return part  # so thin that nothing is left
    best = plain
    most = LEAST_IOU
    for angle in _directions(plain):
        outer = _square_ring(plain.exterior, part.exterior, angle, tolerance)
        if outer is None:
            continue
        holes = [
            _square_ring(ring, whole, angle, tolerance)
            for ring, whole in zip(plain.interiors, part.interiors, strict=True)
        ]
        made = shapely.Polygon(outer, [hole for hole in holes if hole is not None])
        if not made.is_valid or made.is_empty:
            continue
        iou = _likeness(made, part)
        if iou > most:
            best, most = made, iou
    return best


def _likeness(one: Any, other: Any) -> float:
    """Intersection over union."""
    shared = one.intersection(other).area
    return float(shared / (one.area + other.area - shared))


def _directions(plain: Any) -> list[float]:
    """Give the main directions that are tried, in radians, modulo a right angle."""
    import shapely

    points = shapely.get_coordinates(plain.exterior)
    dx, dy = np.diff(points, axis=0).T
    length, angle = np.hypot(dx, dy), np.arctan2(dy, dx)
    mean = np.arctan2(
        (length * np.sin(4 * angle)).sum(), (length * np.cos(4 * angle)).sum()
    )
    box = shapely.get_coordinates(shapely.minimum_rotated_rectangle(plain))
    side = box[1] - box[0] if len(box) > 2 else np.array([1.0, 0.0])
    return [float(mean) / 4, float(np.arctan2(side[1], side[0]))]


def _square_ring(
    ring: Any, whole: Any, angle: float, tolerance: float
) -> Floats | None:
    """Give the corners of a ring with right angles; None where nothing is left."""
    import shapely

    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, -sin], [sin, cos]])
    points, all_points = (shapely.get_coordinates(one) for one in (ring, whole))
    lines = _merge(_find_lines(points, all_points, turn, tolerance))
    while len(lines) > 3:
        corners = _meet(lines)
        sides = np.hypot(*np.diff(np.vstack([corners, corners[:1]]), axis=0).T)
        shortest = int(sides.argmin())
        if sides[shortest] >= tolerance:
            back: Floats = corners @ np.array([[cos, sin], [-sin, cos]])
            return back
        del lines[shortest]
        lines = _merge(lines)
    return None


def _find_lines(
    points: Floats, whole: Floats, turn: Floats, tolerance: float
) -> list[_Line]:
    """Turn each edge of a simplified ring to the nearest direction.

    It then lies where the outline that it stands for lies on the average: between its
    ends that outline goes to and fro, and the edge itself would cut corners off.
    """
    lines = []
    ends = [_index(whole, point) for point in points[:-1]]
    count = len(whole) - 1
    for first, last in zip(ends, [*ends[1:], ends[0]], strict=True):
        steps = (last - first) % count or count
        path = whole[(first + np.arange(steps + 1)) % count] @ turn
        dx, dy = (path[-1] - path[0]).tolist()
        length = float(np.hypot(dx, dy))
        way = round(np.arctan2(dy, dx) / _TURN) % 4
        if way % 2 and length < _DIAGONAL * tolerance:
            way = 0 if abs(dx) >= abs(dy) else 2
        weights = np.hypot(*np.diff(path, axis=0).T)
        middles = (path[:-1] + path[1:]) / 2
        offset = float(np.average(middles @ _normal(way), weights=weights))
        lines.append(_Line(way, length, offset))
    return lines


def _index(whole: Floats, point: Floats) -> int:
    """Place of a corner in the ring that it was taken from."""
    return int(np.abs(whole - point).sum(axis=1).argmin())


def _merge(lines: list[_Line]) -> list[_Line]:
    """Make one line of neighbours that run in one direction, around the ring."""
    merged: list[_Line] = []
    for line in lines:
        if merged and merged[-1].turn == line.turn:
            merged[-1].join(line)
        else:
            merged.append(line)
    if len(merged) > 1 and merged[0].turn == merged[-1].turn:
        merged[0].join(merged.pop())
    return merged


def _meet(lines: list[_Line]) -> Floats:
    """Give the corner in which each line begins: where it meets the one before."""
    corners = []
    for before, line in zip([lines[-1], *lines[:-1]], lines, strict=True):
        normals: NDArray[np.float64] = np.array(
            [_normal(before.turn), _normal(line.turn)]
        )
        corners.append(np.linalg.solve(normals, [before.offset, line.offset]))
    return np.array(corners)


def _normal(turn: int) -> tuple[float, float]:
    return (-float(np.sin(turn * _TURN)), float(np.cos(turn * _TURN)))

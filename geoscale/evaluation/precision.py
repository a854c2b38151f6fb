"""Average precision of detections, as COCO defines it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.types import Bool, Floats, Json

LIMITS = tuple(np.linspace(0.5, 0.95, 10).round(2).tolist())
"""Intersections over union from which a detection counts, as COCO takes them."""
_RECALLS = np.linspace(0.0, 1.0, 101)
Shapes = NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassPrecision:
    """How well objects of one class were found."""

    name: str
    """Of the class."""
    truth: int
    """Objects that there are."""
    found: int
    """Detections that were counted."""
    precision: tuple[float, ...]
    """Average precision at each of `LIMITS`; NaN where there is no object."""
    recall: tuple[float, ...]
    """Share of the objects that were found, at each of `LIMITS`."""

    @property
    def mean(self) -> float:
        """COCO's AP: the mean over all limits."""
        return float(np.mean(self.precision))

    def at(self, limit: float) -> float:
        """Average precision at one limit, such as 0.5."""
        return self.precision[LIMITS.index(limit)]

    def to_dict(self) -> Json:
        """Plain JSON-able form; None where there is no object."""

        def _plain(value: float) -> float | None:
            return round(value, 6) if np.isfinite(value) else None

        return {
            "name": self.name,
            "truth": self.truth,
            "found": self.found,
            "AP": _plain(self.mean),
            "AP50": _plain(self.at(0.5)),
            "AP75": _plain(self.at(0.75)),
            "recall50": _plain(self.recall[0]),
            "AP_by_iou": {
                str(limit): _plain(value)
                for limit, value in zip(LIMITS, self.precision, strict=True)
            },
        }


def average_precision(
    name: str, truth: Shapes, found: Shapes, scores: Sequence[float] | NDArray[Any]
) -> ClassPrecision:
    """Hold the detections of one class against its objects.

    Parameters
    ----------
    name : str
        Of the class.
    truth, found : ndarray of object, (n,), (m,)
        Polygons of shapely, in one CRS.
    scores : sequence of float, (m,)
        Of the detections; of equal ones the first counts first.

    Returns
    -------
    ClassPrecision
        At all limits.

    References
    ----------
    .. [1] Lin et al. 2014, "Microsoft COCO: Common Objects in Context",
       arXiv:1405.0312, and ``pycocotools.cocoeval``: each detection, best score first,
       takes the free object that it overlaps most; precision is made to fall with
       recall, and averaged over 101 recalls.
    """
    order = np.argsort(-np.asarray(scores, np.float64), kind="stable")
    first, second, iou = _overlaps(found[order], truth)
    starts = np.searchsorted(first, np.arange(len(found) + 1))
    precision, recall = [], []
    for limit in LIMITS:
        hit = _match(starts, second, iou, limit, len(truth))
        one, share = _average(hit, len(truth))
        precision.append(one)
        recall.append(share)
    return ClassPrecision(
        name=name,
        truth=len(truth),
        found=len(found),
        precision=tuple(precision),
        recall=tuple(recall),
    )


def _overlaps(
    found: Shapes, truth: Shapes
) -> tuple[NDArray[np.intp], NDArray[np.intp], Floats]:
    """Pairs that overlap, by detection and then by object, and by how much."""
    import shapely

    first, second = shapely.STRtree(truth).query(found)
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    one, other = found[first], truth[second]
    a, b = shapely.bounds(one).reshape(-1, 4), shapely.bounds(other).reshape(-1, 4)
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    shared = np.prod(np.maximum(sides, 0), axis=1)
    sizes = [np.prod(box[:, 2:] - box[:, :2], axis=1) for box in (a, b)]
    odd = ~(are_boxes(one) & are_boxes(other))
    if odd.any():
        shared[odd] = shapely.area(shapely.intersection(one[odd], other[odd]))
        for size, shapes in zip(sizes, (one, other), strict=True):
            size[odd] = shapely.area(shapes[odd])
    whole = sizes[0] + sizes[1] - shared
    return first, second, shared / np.where(whole > 0, whole, 1)


def are_boxes(shapes: Shapes) -> Bool:
    """Tell which polygons are upright boxes.

    Parameters
    ----------
    shapes : ndarray of object, (n,)
        Polygons of shapely.

    Returns
    -------
    ndarray of bool, (n,)
        True where nothing but rounding lies between a polygon and its bounds.
    """
    import shapely

    edges = shapely.bounds(shapes).reshape(-1, 4)
    area = np.prod(edges[:, 2:] - edges[:, :2], axis=1)
    found: Bool = np.isclose(shapely.area(shapes), area, rtol=1e-6, atol=0)
    return found


def _match(
    starts: NDArray[np.intp],
    objects: NDArray[np.intp],
    iou: Floats,
    limit: float,
    count: int,
) -> Bool:
    """Tell of each detection, best score first, whether it found an object."""
    free = np.ones(count, bool)
    hit = np.zeros(len(starts) - 1, bool)
    least = min(limit, 1 - 1e-10)
    for i in range(len(hit)):
        best, taken = least, -1
        for k in range(int(starts[i]), int(starts[i + 1])):
            # of equal ones the last, as COCO's own code has it
            if free[objects[k]] and iou[k] >= best:
                best, taken = iou[k], int(objects[k])
        if taken >= 0:
            free[taken], hit[i] = False, True
    return hit


def _average(hit: Bool, count: int) -> tuple[float, float]:
    """Average precision over recall, and the greatest recall."""
    if not count:
        return float("nan"), float("nan")
    if not len(hit):
        return 0.0, 0.0
    right = np.cumsum(hit)
    recall = right / count
    precision = right / np.arange(1, len(hit) + 1)
    falling = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, _RECALLS, side="left")
    reached = places < len(hit)
    values = np.where(reached, falling[np.minimum(places, len(hit) - 1)], 0.0)
    return float(values.mean()), float(recall[-1])

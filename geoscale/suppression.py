"""One detection for each object: NMS, Soft-NMS, weighted boxes; by spatial index.

Each works on groups of detections that are linked by overlaps beyond the limit. What
happens in one group knows nothing of the others, so that a long map may be worked
through from north to south, a group at a time, and ends as if all of it had been there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from geoscale.detecting import Suppression
from geoscale.objects import is_upright
from geoscale.types import Bool, Float, Floats, Ints


@dataclass(frozen=True, slots=True)
class Links:
    """Pairs of detections that overlap beyond a limit."""

    first: Ints
    """(pair,), number of one; ascending."""
    second: Ints
    """(pair,), number of the other; each pair is there in both directions."""
    iou: Floats
    """(pair,), intersection over union."""


def rank(scores: Float, values: Ints, corners: Floats) -> NDArray[np.intp]:
    """Order detections: best score first, then by class and place, never by chance.

    Parameters
    ----------
    scores : ndarray of float32, (n,)
        Of detections.
    values : ndarray of int, (n,)
        Classes.
    corners : ndarray of float64, (n, 4, 2)
        In px.

    Returns
    -------
    ndarray of intp, (n,)
        Numbers, in this order.
    """
    places = corners.reshape(len(scores), 8).T[::-1]
    order: NDArray[np.intp] = np.lexsort((*places, values, -scores))
    return order


def link(corners: Floats, values: Ints, how: Suppression) -> Links:
    """Find all pairs that overlap by more than the limit.

    Parameters
    ----------
    corners : ndarray of float64, (n, 4, 2)
        In px.
    values : ndarray of int, (n,)
        Classes.
    how : Suppression
        Limit, and whether classes are compared with each other.

    Returns
    -------
    Links
        By the number of the first, then of the second.
    """
    import shapely

    shapes = shapely.polygons(corners)
    first, second = shapely.STRtree(shapes).query(shapes)
    other = first < second
    if how.by_class:
        other &= values[first] == values[second]
    first, second = first[other], second[other]
    iou = overlap(corners[first], corners[second])
    near = iou > how.iou
    first, second, iou = first[near], second[near], iou[near]
    both = np.concatenate([first, second]), np.concatenate([second, first])
    order = np.lexsort((both[1], both[0]))
    return Links(both[0][order], both[1][order], np.concatenate([iou, iou])[order])


def overlap(one: Floats, other: Floats) -> Floats:
    """Intersection over union of pairs of boxes.

    Parameters
    ----------
    one, other : ndarray of float64, (n, 4, 2)
        Corners.

    Returns
    -------
    ndarray of float64, (n,)
        In [0, 1].

    Examples
    --------
    >>> square = np.array([[[0, 0], [2, 0], [2, 2], [0, 2]]], float)
    >>> overlap(square, square + (1, 0)).round(3).tolist()
    [0.333]
    """
    import shapely

    low = np.maximum(one.min(1), other.min(1))
    high = np.minimum(one.max(1), other.max(1))
    shared: Floats = np.prod(np.maximum(high - low, 0), axis=1)
    sizes = [np.prod(np.ptp(box, axis=1), axis=1) for box in (one, other)]
    turned = ~(is_upright(one) & is_upright(other))
    if turned.any():
        shapes = [shapely.polygons(box[turned]) for box in (one, other)]
        shared[turned] = shapely.area(shapely.intersection(*shapes))
        for size, shape in zip(sizes, shapes, strict=True):
            size[turned] = shapely.area(shape)
    whole = sizes[0] + sizes[1] - shared
    found: Floats = np.zeros_like(shared)
    np.divide(shared, whole, out=found, where=whole > 0)
    return found


def group(links: Links, count: int) -> NDArray[np.int64]:
    """Tell groups apart that are linked, directly or over others: a number each."""
    numbers = np.arange(count)
    while True:
        # the least number of a neighbourhood spreads, and jumps over what it has met
        least = numbers.copy()
        np.minimum.at(least, links.first, numbers[links.second])
        least = least[least]
        if (least == numbers).all():
            break
        numbers = least
    found: NDArray[np.int64] = np.unique(numbers, return_inverse=True)[1]
    return found


@dataclass(slots=True)
class Kept:
    """What is left, by numbers of what was given."""

    numbers: Ints
    """Of the detections, ascending."""
    scores: Float
    """Their scores now."""
    corners: Floats
    """Their boxes now, (n, 4, 2)."""


def suppress(
    corners: Floats,
    scores: Float,
    values: Ints,
    links: Links,
    how: Suppression,
    least: float = 0.0,
) -> Kept:
    """Leave one detection of each object.

    Parameters
    ----------
    corners : ndarray of float64, (n, 4, 2)
        In px.
    scores : ndarray of float32, (n,)
        In [0, 1].
    values : ndarray of int, (n,)
        Classes.
    links : Links
        As `link` gives.
    how : Suppression
        Method.
    least : float
        Least score that ``soft-nms`` leaves.

    Returns
    -------
    Kept
        What is left; of detections that are equal in everything, one.

    References
    ----------
    .. [1] Bodla et al. 2017, "Soft-NMS: Improving Object Detection With One Line of
       Code", arXiv:1704.04503, equation 2 (linear).
    .. [2] Solovyev et al. 2021, "Weighted boxes fusion", arXiv:1910.13302; of one
       model, so that no score is lowered for what other models did not see.
    """
    order = rank(scores, values, corners)
    starts = np.searchsorted(links.first, np.arange(len(scores) + 1))
    if how.method == "wbf":
        return _fuse(corners, scores, links, order, how)
    alive = np.ones(len(scores), bool)
    left = scores.astype(np.float64)
    linked = np.diff(starts) > 0
    todo = [i for i in order.tolist() if linked[i]]
    if how.method == "soft-nms":
        _soften(left, alive, links, starts, group(links, len(scores)), todo)
        alive &= left.astype(np.float32) >= np.float32(least)
    else:
        for i in todo:
            if not alive[i]:
                continue
            here = slice(starts[i], starts[i + 1])
            others, iou = links.second[here], links.iou[here]
            alive[others if how.method == "nms" else others[iou == 1]] = False
            alive[i] = True
    numbers = np.flatnonzero(alive)
    return Kept(numbers, left[numbers].astype(np.float32), corners[numbers])


def _soften(
    left: Floats,
    alive: Bool,
    links: Links,
    starts: Ints,
    groups: NDArray[np.int64],
    todo: Sequence[int],
) -> None:
    """Lower scores by overlap, within each group the best of what is left first."""
    members: dict[int, list[int]] = {}
    for i in todo:
        members.setdefault(int(groups[i]), []).append(i)
    for some in members.values():
        rest = list(some)
        while rest:
            # the first of equal ones: `some` is in the order of `rank`
            best = max(rest, key=left.__getitem__)
            rest.remove(best)
            waiting = set(rest)
            for k in range(int(starts[best]), int(starts[best + 1])):
                other = int(links.second[k])
                if other in waiting:
                    left[other] *= 1 - links.iou[k]
                    if links.iou[k] == 1:
                        alive[other] = False


def _fuse(
    corners: Floats,
    scores: Float,
    links: Links,
    order: NDArray[np.intp],
    how: Suppression,
) -> Kept:
    """Average boxes that belong together, weighted by score."""
    groups = group(links, len(scores))
    members: dict[int, list[int]] = {}
    for i in order.tolist():
        members.setdefault(int(groups[i]), []).append(i)
    found: list[tuple[int, float, Floats]] = []
    for some in members.values():
        clusters: list[list[int]] = []
        fused: list[Floats] = []
        for i in some:
            near = [
                float(overlap(corners[i][None], box[None])[0]) if fused else 0.0
                for box in fused
            ]
            if near and max(near) > how.iou:
                k = int(np.argmax(near))
                clusters[k].append(i)
                weights = scores[clusters[k]].astype(np.float64)
                fused[k] = np.average(corners[clusters[k]], axis=0, weights=weights)
            else:
                clusters.append([i])
                fused.append(corners[i])
        for cluster, box in zip(clusters, fused, strict=True):
            found.append((cluster[0], float(scores[cluster].mean(dtype="f8")), box))
    found.sort(key=lambda one: one[0])
    return Kept(
        np.array([one[0] for one in found], np.int64),
        np.array([one[1] for one in found], np.float32),
        np.array([one[2] for one in found], np.float64).reshape(-1, 4, 2),
    )

"""Objects along the borders of UTM zones: each belongs to one zone, that of its middle.

Each zone finds what lies along its border by itself, on a grid of its own, and may see
the middle of one object on the other side than its neighbour does. So parts hold a
little more than the zone, and the table of a zone is made once the parts of its
neighbours are there too. Every zone compares the same objects in the same way, and
comes to the same end as its neighbour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from geoscale.assemble import make_vector_sink
from geoscale.detecting import Detection
from geoscale.engine.journal import Journal
from geoscale.engine.verify import verify_blocks
from geoscale.gathering import Columns, find_objects
from geoscale.plans import InferencePlan
from geoscale.sinks.vector import TABLE, VectorSink
from geoscale.sources.aoi import zone_of
from geoscale.sources.utm import Zone
from geoscale.suppression import overlap
from geoscale.types import Bool, Floats, Json
from geoscale.zone_list import read_zones

_M_PER_DEGREE = 111_320.0
_ZONES = 60


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A zone beside, whose parts are all there."""

    zone: Zone
    """Which."""
    plan: InferencePlan
    """Its plan."""
    sink: VectorSink
    """Its parts."""


@dataclass(slots=True)
class _Strip:
    """Objects of one zone near its borders."""

    zone: Zone
    numbers: NDArray[np.int64]
    """(n,), in the order in which the zone's objects come."""
    own: Bool
    """(n,), whether the middle lies in the zone."""
    days: NDArray[np.datetime64]
    values: NDArray[np.int16]
    scores: NDArray[np.float32]
    corners: Floats
    """(n, 4, 2), in the CRS of the zone."""


def find_neighbours(plan: InferencePlan, url: str) -> list[Neighbour] | None:
    """Find the zones beside one, in the same output.

    Parameters
    ----------
    plan : InferencePlan
        Of one zone, or of no zone.
    url : str
        Its output.

    Returns
    -------
    list of Neighbour or None
        None if a part of one is still to be made, or damaged.
    """
    zone = zone_of(plan.aoi)
    above, _, name = url.rpartition("/")
    told = None if zone is None or name != zone.name else read_zones(above)
    found = []
    for other in map(Zone.parse, [] if told is None else told["zones"]):
        if zone is None or other is None or not _are_beside(zone, other):
            continue
        place = f"{above}/{other.name}"
        theirs = Journal(place).load_plan()
        if theirs is None:
            return None
        sink = make_vector_sink(theirs, place)
        if not verify_blocks(theirs, Journal(place), sink).is_sound:
            return None
        found.append(Neighbour(other, theirs, sink))
    return found


def gather(
    plan: InferencePlan, sink: VectorSink, neighbours: Sequence[Neighbour] = ()
) -> Json:
    """Write the table of all objects of a grid, each once.

    Parameters
    ----------
    plan : InferencePlan
        All its blocks are there.
    sink : VectorSink
        Where.
    neighbours : sequence of Neighbour
        Zones beside, where the grid is a UTM zone.

    Returns
    -------
    dict
        Stored key → digest of the table.
    """
    found = find_objects(plan, sink)
    zone = zone_of(plan.aoi)
    if zone is not None:
        found = _keep_own(zone, plan, sink, neighbours)
    return {TABLE: sink.write_table(found)}


def _keep_own(
    zone: Zone,
    plan: InferencePlan,
    sink: VectorSink,
    neighbours: Sequence[Neighbour],
) -> Iterator[Columns]:
    """Yield the objects that belong to a zone, some at a time."""
    strips = [_read_strip(zone, plan, sink)]
    strips += [_read_strip(one.zone, one.plan, one.sink) for one in neighbours]
    spec = plan.card.output.detection
    assert spec is not None
    ours = strips[0]
    kept = decide(strips, spec)[: len(ours.numbers)]
    dropped, first = ours.numbers[~kept], 0
    for columns in find_objects(plan, sink):
        count = len(columns["score"])
        some = ~np.isin(np.arange(first, first + count), dropped)
        first += count
        if some.any():
            yield {name: column[some] for name, column in columns.items()}


def decide(strips: Sequence[_Strip], spec: Detection) -> Bool:
    """Tell which objects near borders are kept, by the zone that found them.

    Parameters
    ----------
    strips : sequence of _Strip
        Of zones that are beside each other.
    spec : Detection
        Says what is one object.

    Returns
    -------
    ndarray of bool, (n,)
        In the order of all strips, one after the other.

    Notes
    -----
    What has its middle in the zone that found it comes first, then what scores best.
    It is kept if no other zone's, overlapping beyond the limit, was before. What has
    its middle beyond the border is kept only if the zone there says the same of what
    it found: else nobody would have it.
    """
    own = np.concatenate([one.own for one in strips])
    if spec.suppression.method == "none":
        return own
    zones = np.repeat(np.arange(len(strips)), [len(one.own) for one in strips])
    order_of = np.array([_rank(one.zone) for one in strips], int)[zones]
    scores = np.concatenate([one.scores for one in strips])
    values = np.concatenate([one.values for one in strips])
    within = np.concatenate([one.numbers for one in strips])
    links = _link(strips, spec)
    kept, seen = np.zeros(len(own), bool), np.zeros(len(own), bool)
    for i in np.lexsort((within, order_of, values, -scores, ~own)).tolist():
        if seen[i]:
            continue
        others = links.get(i, [])
        kept[i] = own[i] or any(not own[k] and not seen[k] for k in others)
        seen[[i, *others]] = True
    return kept


def _link(strips: Sequence[_Strip], spec: Detection) -> dict[int, list[int]]:
    """Pair objects of different zones that overlap, in the CRS of the first of both."""
    import shapely
    from pyproj import Transformer

    starts = np.cumsum([0, *(len(one.own) for one in strips)])
    found: dict[int, list[int]] = {}
    for a, b in combinations(range(len(strips)), 2):
        # the same order from wherever it is looked at
        if _rank(strips[b].zone) < _rank(strips[a].zone):
            a, b = b, a
        one, other = strips[a], strips[b]
        if not len(one.own) or not len(other.own):
            continue
        project = Transformer.from_crs(other.zone.crs, one.zone.crs, always_xy=True)
        flat = other.corners.reshape(-1, 2)
        moved = np.stack(project.transform(flat[:, 0], flat[:, 1]), axis=1)
        moved = moved.reshape(-1, 4, 2)
        tree = shapely.STRtree(shapely.polygons(moved))
        first, second = tree.query(shapely.polygons(one.corners))
        same = one.days[first] == other.days[second]
        if spec.suppression.by_class:
            same &= one.values[first] == other.values[second]
        first, second = first[same], second[same]
        iou = overlap(one.corners[first], moved[second])
        near = iou > spec.suppression.iou
        for i, k in zip(first[near] + starts[a], second[near] + starts[b], strict=True):
            found.setdefault(int(i), []).append(int(k))
            found.setdefault(int(k), []).append(int(i))
    return found


def _read_strip(zone: Zone, plan: InferencePlan, sink: VectorSink) -> _Strip:
    """Read what a zone found near its borders, and whether that is its own."""
    from pyproj import Transformer

    spec = plan.card.output.detection
    assert spec is not None
    a, _, c, _, e, f = (float(v) for v in tuple(plan.geobox.affine)[:6])
    reach = (spec.max_object_px + 2 * spec.slack) * max(abs(a), abs(e))
    to_degrees = Transformer.from_crs(zone.crs, "EPSG:4326", always_xy=True)
    days, parts, first = np.array(plan.times, "datetime64[D]"), [], 0
    for columns in find_objects(plan, sink):
        corners = columns["corners"] * (a, e) + (c, f)
        middle = (corners[:, 0] + corners[:, 2]) / 2
        lon, lat = to_degrees.transform(middle[:, 0], middle[:, 1])
        near, own = _place(zone, np.asarray(lon), np.asarray(lat), reach)
        parts.append(
            _Strip(
                zone,
                first + np.flatnonzero(near),
                own[near],
                days[columns["time"]][near],
                columns["value"][near],
                columns["score"][near],
                corners[near],
            )
        )
        first += len(near)
    if not parts:
        parts = [_nothing(zone)]
    fields = ("numbers", "own", "days", "values", "scores", "corners")
    joined = [np.concatenate([getattr(one, name) for one in parts]) for name in fields]
    return _Strip(zone, *joined)


def _nothing(zone: Zone) -> _Strip:
    return _Strip(
        zone,
        np.zeros(0, np.int64),
        np.zeros(0, bool),
        np.zeros(0, "datetime64[D]"),
        np.zeros(0, np.int16),
        np.zeros(0, np.float32),
        np.zeros((0, 4, 2)),
    )


def _place(zone: Zone, lon: Floats, lat: Floats, reach: float) -> tuple[Bool, Bool]:
    """Tell what lies within some metres of a zone's borders, and what lies inside."""
    # degrees east of the western border, the antimeridian or not
    east = (lon - zone.west + 180) % 360 - 180
    own = (east >= 0) & (east < 6) & ((lat >= 0) == zone.is_north)
    meridian = np.minimum(np.abs(east), np.abs(6 - east))
    metres = np.minimum(meridian * np.cos(np.radians(lat)), np.abs(lat)) * _M_PER_DEGREE
    near: Bool = (metres <= reach) | ~own
    return near, own


def _are_beside(one: Zone, other: Zone) -> bool:
    steps = abs(one.number - other.number) % _ZONES
    return one != other and min(steps, _ZONES - steps) <= 1


def _rank(zone: Zone) -> int:
    """Place of a zone in the order in which pairs are compared."""
    return 2 * zone.number + zone.is_north

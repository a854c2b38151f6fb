"""Objects joined over the borders of blocks, one row of blocks at a time.

An object is done as soon as the last row of pixels that was read has none of it. So
they come in the order of their last pixels, whatever the blocks, and what is held is
one row of blocks and what goes on below it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import numpy as np

from geoscale.errors import require
from geoscale.results.outlines import join
from geoscale.results.pieces import (
    Counts64,
    Cut,
    Opened,
    Pieces,
    areas,
    is_large,
    select,
)

LAST = 4
"""Column of `Pieces.objects` with the last pixel."""


class Joiner:
    """Takes rows of blocks from top to bottom and gives whole objects.

    Parameters
    ----------
    opened : Opened
        The output.
    """

    def __init__(self, opened: Opened) -> None:
        self._opened = opened
        self._near = opened.asked.connectivity
        self._rows = int(opened.template.shape[0])
        self._next = 0
        self._held: Pieces | None = None
        self._above: Counts64 | None = None

    def add(self, row: Iterable[Cut]) -> Pieces:
        """Add a row of blocks, from left to right.

        Parameters
        ----------
        row : iterable of Cut
            They lie side by side over the whole width.

        Returns
        -------
        Pieces
            Objects that end here and are large enough, ascending by their last pixel;
            ``outlines`` has one joined geometry for each.
        """
        parts = [] if self._held is None else [self._held]
        meets, tops, bottoms, y1 = [], [], [], 0
        right: Counts64 | None = None
        for one in row:
            pieces, edges = self._renumber(one)
            parts.append(pieces)
            if right is not None:
                meets.append(_meet(right, edges["left"], self._near))
            right, y1 = edges["right"], one.window.y1
            tops.append(edges["top"])
            bottoms.append(edges["bottom"])
        if self._above is not None:
            top = np.concatenate(tops, axis=1)
            meets.append(_meet(self._above, top, self._near))
        pieces, roots = _merge(parts, meets)
        self._above = np.concatenate(bottoms, axis=1)
        some = self._above[0] > 0
        self._above[0, some] = roots[np.searchsorted(_ids(parts), self._above[0, some])]
        goes_on = np.isin(pieces.ids, self._above[0]) & (y1 < self._rows)
        self._held = select(pieces, goes_on)
        done = self._finish(select(pieces, ~goes_on))
        done.dropped += sum(one.dropped for one in parts)
        return done

    def _renumber(self, one: Cut) -> tuple[Pieces, dict[str, Counts64]]:
        """Give the objects of a block numbers that no other has."""
        shift = self._next
        highest = max(int(edge[0].max(initial=0)) for edge in one.edges.values())
        self._next += max(highest, int(one.pieces.ids.max(initial=0)))
        edges = {}
        for name, edge in one.edges.items():
            edges[name] = np.stack([np.where(edge[0] > 0, edge[0] + shift, 0), edge[1]])
        ours = one.pieces
        ground, pairs = ours.ground.copy(), ours.pairs.copy()
        ground[:, 0] += shift
        pairs[:, 0] += shift
        moved = replace(
            ours,
            ids=ours.ids + shift,
            ground=ground,
            pairs=pairs,
            outline_ids=ours.outline_ids + shift,
        )
        return moved, edges

    def _finish(self, whole: Pieces) -> Pieces:
        m2 = areas(self._opened, whole)
        kept = is_large(self._opened, whole.objects[:, 1], m2)
        large = select(whole, kept)
        numbers = np.searchsorted(large.ids, large.outline_ids)
        shapes = join(numbers, large.outlines, len(large.ids))
        order = np.argsort(large.objects[:, LAST])
        return replace(
            large,
            objects=large.objects[order],
            ids=large.ids[order],
            outline_ids=large.ids[order],
            outlines=shapes[order],
            dropped=int((~kept).sum()),
        )


def join_rows(opened: Opened, cuts: Iterable[Cut]) -> Iterator[Pieces]:
    """Join the objects of one time step.

    Parameters
    ----------
    opened : Opened
        The output.
    cuts : iterable of Cut
        All blocks, row by row and each from left to right.

    Yields
    ------
    Pieces
        As `Joiner.add` gives.
    """
    joiner = Joiner(opened)
    for _, row in groupby(cuts, key=lambda one: one.window.y0):
        yield joiner.add(row)


def _meet(one: Counts64, other: Counts64, near: int) -> Counts64:
    """Pair objects of one key that touch along an edge of two blocks, (2, n)."""
    pairs = [(one, other)]
    if near == 8:
        pairs += [(one[:, 1:], other[:, :-1]), (one[:, :-1], other[:, 1:])]
    found = []
    for a, b in pairs:
        same = (a[0] > 0) & (b[0] > 0) & (a[1] == b[1])
        found.append(np.stack([a[0, same], b[0, same]]))
    return np.unique(np.concatenate(found, axis=1), axis=1)


def _ids(parts: list[Pieces]) -> Counts64:
    # ascending: what is held came first
    return np.concatenate([one.ids for one in parts])


def _merge(parts: list[Pieces], meets: list[Counts64]) -> tuple[Pieces, Counts64]:
    """Make one object of those that meet; also what each number became."""
    graph = require("scipy.sparse.csgraph", extra="change")
    sparse = require("scipy.sparse", extra="change")
    ids = _ids(parts)
    pairs = np.concatenate([np.zeros((2, 0), np.int64), *meets], axis=1)
    a, b = np.searchsorted(ids, pairs)
    links = sparse.coo_array((np.ones(len(a), bool), (a, b)), (len(ids), len(ids)))
    _, group = graph.connected_components(links, directed=False)
    firsts, group = np.unique(group, return_index=True, return_inverse=True)[1:]
    roots = ids[firsts[group]]

    def belongs(numbers: Counts64) -> Counts64:
        return roots[np.searchsorted(ids, numbers)]

    ground = np.concatenate([one.ground for one in parts])
    some = np.concatenate([one.pairs for one in parts])
    ground[:, 0], some[:, 0] = belongs(ground[:, 0]), belongs(some[:, 0])
    objects = np.concatenate([one.objects for one in parts])
    order = np.argsort(roots, kind="stable")
    kept, starts = np.unique(roots[order], return_index=True)
    merged = objects[np.sort(firsts)]
    if len(kept):
        merged[:, 1:LAST] = np.add.reduceat(objects[order, 1:LAST], starts)
        merged[:, LAST] = np.maximum.reduceat(objects[order, LAST], starts)
    made = Pieces(
        objects=merged,
        ids=kept,
        ground=_add_up(ground),
        pairs=_add_up(some),
        outline_ids=belongs(np.concatenate([one.outline_ids for one in parts])),
        outlines=np.concatenate([one.outlines for one in parts]),
    )
    return made, roots


def _add_up(table: Counts64) -> Counts64:
    """Sort by number and kind, and add what has the same."""
    if not len(table):
        return table
    table = table[np.lexsort((table[:, 1], table[:, 0]))]
    is_new = np.ones(len(table), bool)
    is_new[1:] = (np.diff(table[:, :2], axis=0) != 0).any(axis=1)
    starts = np.flatnonzero(is_new)
    made = table[starts]
    made[:, 2] = np.add.reduceat(table[:, 2], starts)
    return made

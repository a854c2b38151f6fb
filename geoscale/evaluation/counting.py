"""Counting one block, and adding up: whole numbers only, so the cut decides nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import SourceError
from geoscale.evaluation.maps import ClassMap, open_map
from geoscale.evaluation.references import Labels, Reference, open_reference
from geoscale.evaluation.settings import Comparison
from geoscale.results.ground import Ground
from geoscale.types import Bool, Ints
from geoscale.windows import Window

MOST_LABELS = 1000
"""A raster with more different values is no raster of labels."""
PICTURE_PX = 1_000_000
"""Most pixels of the picture of where map and reference differ."""
NOTHING = np.iinfo(np.int64).min
"""In the picture: no class, or no label."""
_NARROW = 4096
Counts64 = NDArray[np.int64]


@dataclass(frozen=True)
class Opened:
    """A comparison whose two sides are open."""

    map: ClassMap
    """What is evaluated."""
    reference: Reference
    """What it is held against."""
    ground: Ground
    """Where pixels have one area."""
    step: int
    """Every how many pixels the picture takes one."""

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the map, in px."""
        rows, columns = self.map.geobox.shape
        return int(rows), int(columns)


def open_comparison(asked: Comparison) -> Opened:
    """Open both sides; no pixel is read.

    Parameters
    ----------
    asked : Comparison
        What is compared.

    Returns
    -------
    Opened
        For `count_block`.
    """
    ours = open_map(asked)
    rows, columns = (int(n) for n in ours.geobox.shape)
    step = max(1, int(np.ceil(np.sqrt(rows * columns / PICTURE_PX))))
    return Opened(ours, open_reference(asked, ours.geobox), Ground(ours.geobox), step)


@dataclass
class Counts:
    """What was counted in one block, or in all of them."""

    pairs: Counter[tuple[int, int]] = field(default_factory=Counter)
    """(class value, code of the label) → pixels."""
    unmapped: Counter[int] = field(default_factory=Counter)
    """Code of the label → pixels where the map has no class."""
    conflicts: int = 0
    """Pixels in shapes of different labels."""
    ground: list[tuple[int, Ints, Counts64]] = field(default_factory=list)
    """Class value, numbers of parts of the ground, pixels in each."""
    scores: dict[tuple[int, int], Counts64] = field(default_factory=dict)
    """(number of the class, code of the label) → pixels by step of the score."""
    picture: tuple[Window, Ints, Ints] | None = None
    """Pixels of the picture, class values and codes in it."""


class Total:
    """Sums over blocks.

    Parameters
    ----------
    opened : Opened
        What is counted.
    """

    def __init__(self, opened: Opened) -> None:
        self.counts = Counts()
        self.ground: dict[int, Counts64] = {}
        """Class value → pixels by part of the ground."""
        size = tuple(-(-n // opened.step) for n in opened.shape)
        self.classes = np.full(size, NOTHING, np.int64)
        """Class values of the picture."""
        self.codes = np.full(size, NOTHING, np.int64)
        """Codes of the picture."""
        self._parts = opened.ground.size

    def add(self, found: Counts) -> None:
        """Add a block."""
        ours = self.counts
        ours.pairs.update(found.pairs)
        ours.unmapped.update(found.unmapped)
        ours.conflicts += found.conflicts
        for key, steps in found.scores.items():
            held = ours.scores.get(key)
            ours.scores[key] = steps if held is None else held + steps
        for value, parts, pixels in found.ground:
            if value not in self.ground:
                self.ground[value] = np.zeros(self._parts, np.int64)
            self.ground[value][parts] += pixels
        if found.picture is not None:
            window, classes, codes = found.picture
            where = slice(window.y0, window.y1), slice(window.x0, window.x1)
            self.classes[where], self.codes[where] = classes, codes
        check_labels(len({code for _, code in ours.pairs} | set(ours.unmapped)))


def check_labels(count: int) -> None:
    """Refuse what cannot be labels.

    Raises
    ------
    SourceError
        If there are too many different ones.
    """
    if count > MOST_LABELS:
        raise SourceError(
            f"the reference holds more than {MOST_LABELS:,} different values; give a "
            "raster of labels, or name the band that holds them"
        )


def count_block(opened: Opened, window: Window) -> Counts:
    """Count one block.

    Parameters
    ----------
    opened : Opened
        From `open_comparison`.
    window : Window
        Inside the map.

    Returns
    -------
    Counts
        Of this block.

    Raises
    ------
    ReadError
        If one side cannot be read.
    SourceError
        If the reference holds no labels.
    """
    values, mapped = opened.map.read(window)
    made = Counts()
    _count_ground(opened.ground, window, values, mapped, made)
    labels = _read_labels(opened.reference, window)
    made.picture = _thin(opened.step, window, (values, mapped), labels)
    if labels is None:
        return made
    made.conflicts = labels.conflicts
    both = mapped & labels.valid
    made.pairs = _cross(values[both], labels.codes[both])
    check_labels(len(made.pairs))
    lost = labels.codes[labels.valid & ~mapped]
    made.unmapped = Counter(dict(_pixels(lost)))
    if both.any():
        _count_scores(opened.map, window, labels, both, made)
    return made


def _read_labels(reference: Reference, window: Window) -> Labels | None:
    return reference.read(window) if reference.touches(window) else None


def number_values(values: Ints) -> tuple[Ints, Ints]:
    """Give the different values of an array, and which one each element is.

    Parameters
    ----------
    values : ndarray of int
        Any shape.

    Returns
    -------
    tuple of ndarray of int
        Values, ascending, and the position of every element's value, same shape.
    """
    if not values.size:
        return np.zeros(0, np.int64), np.zeros(values.shape, np.int64)
    low, high = int(values.min()), int(values.max())
    if high - low >= _NARROW:
        found, places = np.unique(values, return_inverse=True)
        return found, places.reshape(values.shape)
    # much faster than sorting
    shifted = values.astype(np.int64) - low
    there = np.bincount(shifted.ravel(), minlength=high - low + 1) > 0
    return np.flatnonzero(there) + low, (np.cumsum(there) - 1)[shifted]


def _pixels(values: Ints) -> Any:
    found, places = number_values(values)
    counts = np.bincount(places, minlength=len(found))
    return zip(found.tolist(), counts.tolist(), strict=True)


def _cross(values: Ints, codes: Ints) -> Counter[tuple[int, int]]:
    (rows, i), (columns, j) = number_values(values), number_values(codes)
    check_labels(len(columns))
    size = len(rows) * len(columns)
    table = np.bincount(i * len(columns) + j, minlength=size)
    return Counter(
        {
            (int(rows[k // len(columns)]), int(columns[k % len(columns)])): int(n)
            for k, n in enumerate(table.tolist())
            if n
        }
    )


def _count_ground(
    ground: Ground, window: Window, values: Ints, mapped: Bool, made: Counts
) -> None:
    local, parts = ground.parts(window)
    found, places = number_values(values[mapped])
    check_labels(len(found))
    where = np.broadcast_to(local, window.shape)[mapped]
    table = np.bincount(places * len(parts) + where, minlength=len(found) * len(parts))
    for value, row in zip(found, table.reshape(len(found), len(parts)), strict=True):
        some = np.flatnonzero(row)
        made.ground.append((int(value), parts[some], row[some].astype(np.int64)))


def _count_scores(
    ours: ClassMap, window: Window, labels: Labels, both: Bool, made: Counts
) -> None:
    if ours.scores is None:
        return
    for number in ours.scores.planes:
        steps, valid = ours.read_score(window, number)
        known = both & valid
        codes, places = number_values(labels.codes[known])
        bins = ours.scores.bins(number)
        rows = places * bins + steps[known]
        table = np.bincount(rows, minlength=len(codes) * bins)
        for code, row in zip(codes, table.reshape(len(codes), bins), strict=True):
            made.scores[number, int(code)] = row.astype(np.int64)


def _thin(
    step: int, window: Window, ours: tuple[Ints, Bool], labels: Labels | None
) -> tuple[Window, Ints, Ints] | None:
    """Take every n-th pixel of the whole map, whatever the block."""
    y, x = -window.y0 % step, -window.x0 % step
    some = np.s_[y::step, x::step]
    values, mapped = (array[some] for array in ours)
    if not values.size:
        return None
    classes = values.astype(np.int64)
    classes[~mapped] = NOTHING
    codes = np.full_like(classes, NOTHING)
    if labels is not None:
        known = labels.valid[some]
        codes[known] = labels.codes[some][known]
    top, left = (window.y0 + y) // step, (window.x0 + x) // step
    rows, columns = classes.shape
    return Window(top, left, top + rows, left + columns), classes, codes

"""Reducing: the dates of a period, one after the other, to one image.

Dates come as they are read and are let go. What is kept of them does not grow with
their number: a sum, the best so far, a count.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geoscale.bands import common_name
from geoscale.errors import SourceError
from geoscale.memory import COMPOSITE_BYTES
from geoscale.sources.spilling import Spilled
from geoscale.types import Array, Bool, Layer

LayerName = Literal["observations", "observed"]
"""``observations``: how many dates show a pixel clearly; ``observed``: the day of the
one that was taken."""
NO_COUNT = 65535
"""Stored in both where there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One date of a window."""

    values: Array
    """(band, y, x)."""
    clear: Bool
    """(y, x), where the ground is seen."""
    shown: Bool
    """(y, x), where there is imagery, be it of clouds."""
    day: int
    """Days since 1970-01-01."""


@dataclass(frozen=True, slots=True)
class Image:
    """One image that is being made, of one window; arrays are filled in place."""

    data: Array
    """(band, y, x), zeros at first."""
    valid: Bool
    """(y, x), where any date is clear; False at first."""
    shown: Bool
    """(y, x), where any date has imagery; False at first."""
    count: Array | None = None
    """(y, x) uint16, how many dates are clear; zeros at first; None: not asked for."""
    day: Array | None = None
    """(y, x) uint16, day of the date that was taken; `NO_COUNT` at first."""

    def rows(self, rows: slice) -> Image:
        """Give some rows of it, to be filled."""
        count = None if self.count is None else self.count[rows]
        day = None if self.day is None else self.day[rows]
        return Image(self.data[:, rows], self.valid[rows], self.shown[rows], count, day)

    def note(self, seen: Seen) -> None:
        """Count one date."""
        self.shown[:] |= seen.shown
        if self.count is not None:
            self.count[:] += seen.clear

    def take(self, seen: Seen, where: Bool) -> None:
        """Take some pixels of one date."""
        np.copyto(self.data, seen.values, where=where)
        if self.day is not None:
            np.copyto(self.day, np.uint16(seen.day), where=where)


def take_median(dates: Iterable[Seen], number: int, image: Image) -> None:
    """Take the median of the clear values; of an even number the mean of the middle.

    Each date is asked for once. Those that are more than memory is to hold are kept in
    a temporary file, and the median is made of some rows at a time.

    Parameters
    ----------
    dates : iterable of Seen
        One after the other.
    number : int
        How many they are.
    image : Image
        Is filled.
    """
    bands, height, width = image.data.shape
    # as they are, as floats, and where they are clear
    rows = COMPOSITE_BYTES // max(1, number * width * (8 * bands + 2))
    if rows >= height:
        found = list(dates)
        for seen in found:
            image.note(seen)
        values = np.stack([seen.values for seen in found])
        _take_middle(values, np.stack([seen.clear for seen in found]), image)
        return
    with ExitStack() as stack:
        kept = None
        for seen in dates:
            image.note(seen)
            if kept is None:
                kept = stack.enter_context(Spilled(image.data.shape, seen.values.dtype))
            kept.add(seen.values, seen.clear)
        assert kept is not None, "a period has a date"
        for start in range(0, height, max(1, rows)):
            some = slice(start, min(start + max(1, rows), height))
            _take_middle(*kept.rows(some), image.rows(some))


def _take_middle(values: Array, clear: Bool, image: Image) -> None:
    """Median of (date, band, y, x) where (date, y, x) is clear."""
    values = values.astype(np.float32)
    # what is not clear sorts to the end: the middle of the others is found by number
    np.copyto(values, np.inf, where=~clear[:, None])
    values.sort(axis=0)
    count = clear.sum(axis=0)
    some = count > 0
    for side in (np.maximum(count - 1, 0) // 2, count // 2):
        at = np.minimum(side, len(values) - 1)[None, None]
        at = np.broadcast_to(at, (1, *image.data.shape))
        picked = np.take_along_axis(values, at, 0)[0]
        image.data[:] += np.where(some, picked, 0) * np.float32(0.5)
    image.valid[:] = some


def take_mean(dates: Iterable[Seen], image: Image) -> None:
    """Take the mean of the clear values, summed in float64 in the order of the dates.

    Parameters
    ----------
    dates : iterable of Seen
        One after the other.
    image : Image
        Is filled.
    """
    total = np.zeros(image.data.shape, np.float64)
    count = np.zeros(image.valid.shape, np.int32)
    for seen in dates:
        image.note(seen)
        total += np.where(seen.clear, seen.values, 0)
        count += seen.clear
    image.valid[:] = count > 0
    image.data[:] = total / np.maximum(count, 1)


def take_first(dates: Iterable[Seen], image: Image) -> None:
    """Take the first clear pixel; later dates are not read where none is needed.

    Parameters
    ----------
    dates : iterable of Seen
        The best first.
    image : Image
        Is filled.
    """
    for seen in dates:
        image.note(seen)
        new = seen.clear & ~image.valid
        image.take(seen, new)
        image.valid[:] |= new
        if image.count is None and image.valid.all():
            image.shown[:] = True
            return


def take_greenest(dates: Iterable[Seen], ndvi: tuple[int, int], image: Image) -> None:
    """Take the clear pixel of the largest NDVI; of equal ones the first.

    Parameters
    ----------
    dates : iterable of Seen
        In time.
    ndvi : tuple of int
        Places of red and nir among the bands.
    image : Image
        Is filled.
    """
    red, nir = ndvi
    best = np.full(image.valid.shape, -np.inf, np.float32)
    for seen in dates:
        image.note(seen)
        a, b = seen.values[nir].astype(np.float32), seen.values[red].astype(np.float32)
        total = a + b
        with np.errstate(divide="ignore", invalid="ignore"):
            green = np.where(total != 0, (a - b) / total, np.float32(-2))
        new = seen.clear & (green > best)
        image.take(seen, new)
        np.copyto(best, green, where=new)
        image.valid[:] |= new


def find_ndvi(bands: Sequence[str]) -> tuple[int, int]:
    """Find red and nir among bands.

    Parameters
    ----------
    bands : sequence of str
        Common names, or those of Sentinel-2.

    Returns
    -------
    tuple of int
        Their places.

    Raises
    ------
    SourceError
        If one is not there.
    """
    names = [common_name(band, "sentinel-2") or band for band in bands]
    for place, name in enumerate(bands):
        if name in ("red", "nir"):
            names[place] = name
    if not {"red", "nir"} <= set(names):
        raise SourceError(
            f"composite max-ndvi needs the bands red and nir, the model reads "
            f"{', '.join(bands)}; choose median or first"
        )
    return names.index("red"), names.index("nir")


def describe_layers(names: Sequence[str], steps: int = 1) -> tuple[Layer, ...]:
    """Give the layers that tell of the dates of each pixel.

    Parameters
    ----------
    names : sequence of str
        Some of `LayerName`.
    steps : int
        Images of which one map is made: more than one has an axis of their own,
        the earliest first.

    Returns
    -------
    tuple of Layer
        uint16, 65535 for nodata.
    """
    told: dict[str, list[tuple[str, object]]] = {
        "observations": [("long_name", "dates that show the pixel clearly")],
        "observed": [
            # readers that know CF decode it to a date, and nodata to none
            ("_FillValue", NO_COUNT),
            ("calendar", "proleptic_gregorian"),
            ("long_name", "day of the pixel that was taken"),
            ("units", "days since 1970-01-01"),
        ],
    }
    # neither is averaged: the day of no date, a count that no pixel has
    kept: list[tuple[str, object]] = [("resampling", "nearest")]
    if steps > 1:
        axis = ["earlier", "later"] if steps == 2 else [str(n) for n in range(steps)]
        kept.append(("axis_names", axis))
    return tuple(
        Layer(
            name=name,
            dtype="uint16",
            fill_value=NO_COUNT,
            classes=steps if steps > 1 else 0,
            attrs=tuple(sorted([*attrs, *kept])),
        )
        for name, attrs in told.items()
        if name in names
    )

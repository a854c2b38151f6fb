"""Sampling: the places of a first pass, read here or on the workers of a cluster."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from geoscale.contrast.pairs import Pair, Sample
from geoscale.contrast.places import Covers, pick_places
from geoscale.plans import InferencePlan
from geoscale.preprocess import Preprocessor
from geoscale.sources.aoi import Area
from geoscale.types import Bool, Ints, Json, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from distributed import Client
    from odc.geo.geobox import GeoBox

READERS = 8
"""Places that one process reads at a time."""

_LOG = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reader:
    """How the two dates of a place are read, in whatever process."""

    times: tuple[int, ...]
    """Two time steps of the stack."""
    bands: int
    """Bands of one date."""
    geobox: GeoBox
    """Grid of the stack."""
    aoi: Json | None
    """Area of interest; pixels outside do not count."""

    def __call__(self, source: Source, window: Window) -> Pair:
        """Read one place; values are filled and judged as those of a block are."""
        pixels = source.read(window, self.times)
        fill = np.zeros(2 * self.bands, np.float32)
        prepare = Preprocessor(bands=self.bands, frames=2, fill=fill)
        x, usable = prepare.prepare(pixels.data, pixels.valid)
        if self.aoi is not None:
            usable = usable & Area.from_json(self.aoi, self.geobox).mask(window)
        before, after = np.split(x, 2)
        return Pair(window, before, after, usable)


class HereSample:
    """Places in this process: each is read once and kept."""

    def __init__(self, read: Callable[[Window], Pair], places: list[Window]) -> None:
        self.places = places
        self._read = read
        self._kept: list[Pair] = []

    def map(self, work: Callable[[Pair], T]) -> list[T]:
        """Do something at every place, in their order."""
        if not self._kept:
            # most of the time is waiting for files
            with ThreadPoolExecutor(READERS) as pool:
                self._kept = list(pool.map(self._read, self.places))
        return [work(pair) for pair in self._kept]


class ThereSample:
    """Places on the workers of a cluster, which keep what they read.

    What comes back is in the order of the places. A worker that is lost takes this
    process in its place: the same operations give the same bits.
    """

    def __init__(
        self, client: Client, source: Source, read: Reader, places: list[Window]
    ) -> None:
        self.places = places
        self._client, self._read = client, read
        self._source = source
        self._kept: list[Any] = []
        self._instead = HereSample(partial(read, source), places)

    def map(self, work: Callable[[Pair], T]) -> list[T]:
        """Do something at every place, in their order."""
        if not self._kept:
            held = self._client.scatter(self._source, broadcast=True, hash=False)
            self._kept = self._client.map(
                partial(_read, self._read), self.places, source=held, pure=False
            )
        try:
            tasks = self._client.map(work, self._kept, pure=False)
            done: list[T] = self._client.gather(tasks)
        except Exception as err:
            if type(err).__name__ not in ("KilledWorker", "FutureCancelledError"):
                raise
            _LOG.warning("a worker was lost in the first pass; this process goes on")
            return self._instead.map(work)
        return done


def _read(read: Reader, window: Window, *, source: Source) -> Pair:
    return read(source, window)


def take_sample(
    plan: InferencePlan,
    source: Source,
    times: tuple[int, ...],
    client: Client | None = None,
    most: int | None = None,
) -> Sample:
    """Choose places all over the job, for two dates.

    Parameters
    ----------
    plan : InferencePlan
        Its blocks are not looked at.
    source : Source
        Read once at every place.
    times : tuple of int
        Two time steps of the stack.
    client : distributed.Client, optional
        Cluster that reads.
    most : int, optional
        Most places.

    Returns
    -------
    Sample
        Nothing is read yet.
    """
    read = Reader(
        times=times, bands=len(source.bands), geobox=plan.geobox, aoi=plan.aoi
    )
    places = list_places(plan, source, times, most)
    if client is None:
        return HereSample(partial(read, source), places)
    return ThereSample(client, source, read, places)


def list_places(
    plan: InferencePlan,
    source: Source,
    times: tuple[int, ...],
    most: int | None = None,
) -> list[Window]:
    """Choose places all over the job; see `take_sample`."""
    covers = _covers(plan, source, times)
    return pick_places(plan.shape, covers, bands=len(source.bands), most=most)


def _covers(plan: InferencePlan, source: Source, times: tuple[int, ...]) -> Covers:
    area = None if plan.aoi is None else Area.from_json(plan.aoi, plan.geobox)

    def covers(ys: Ints, xs: Ints) -> Bool:
        """Tell which cells both dates may touch, inside the area of interest."""
        found = np.ones((len(ys) - 1, len(xs) - 1), bool)
        for time in times:
            found &= source.covers_cells(ys, xs, time)
        return found if area is None else found & area.touches(ys, xs)

    return covers

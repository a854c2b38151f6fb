"""Composite: several dates to one image, over the pixels that show the ground.

Dates are read one after the other and let go. A median needs all of them: what memory
is not to hold lies in a temporary file meanwhile.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.calibration import Units
from geoscale.sources.clear import UNJUDGED, Judge, grow
from geoscale.sources.fields import parse_datetime
from geoscale.sources.listing import Tables
from geoscale.sources.periods import Period
from geoscale.sources.raster import RasterSource
from geoscale.sources.recipes import Recipe
from geoscale.sources.reducing import (
    NO_COUNT,
    Image,
    Seen,
    find_ndvi,
    take_first,
    take_greenest,
    take_mean,
    take_median,
)
from geoscale.types import Array, Bool, Floats, Ints, Json, Missing, Pixels
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

_AVERAGES = ("mean", "median")


class CompositeSource:
    """One image for each period; implements `geoscale.types.Source`.

    Parameters
    ----------
    base : RasterSource
        Every date; with the mask's band last, if a band is the mask.
    recipe : Recipe
        How dates become images.
    sky : RasterSource, optional
        Every date as the model of the mask takes it.
    judge : Judge, optional
        Runs that model; without it a source with such a mask cannot be read.

    Raises
    ------
    SourceError
        If the method needs a band that is not there, or has no chosen date.
    """

    def __init__(
        self,
        base: RasterSource,
        recipe: Recipe,
        sky: RasterSource | None = None,
        judge: Judge | None = None,
    ) -> None:
        self.base, self.recipe, self.sky = base, recipe, sky
        self._judge = judge
        self._ndvi = find_ndvi(self.bands) if recipe.method == "max-ndvi" else None
        self._whens = [parse_datetime(t, "time step") for t in base.times]
        if "observed" in recipe.layers and recipe.method in _AVERAGES:
            raise SourceError(
                f"imagery.layers: a {recipe.method} is of no single date, there is no "
                "`observed`; leave it out, or choose first, last, nearest, best or "
                "max-ndvi"
            )

    @property
    def periods(self) -> tuple[Period, ...]:
        """Which dates make one image."""
        return self.recipe.periods

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        return self.base.geobox

    @property
    def times(self) -> tuple[str, ...]:
        """Where each period begins."""
        return tuple(period.label for period in self.periods)

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, without the mask's."""
        return self.base.bands[:-1] if self._has_band else self.base.bands

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the dates, float32 where values are averaged."""
        averages = self.recipe.method in _AVERAGES
        return np.dtype(np.float32) if averages else self.base.dtype

    @property
    def item_ids(self) -> list[str]:
        """Ids of all items, in the order of their numbers."""
        return self.base.item_ids

    @property
    def _has_band(self) -> bool:
        mask = self.recipe.mask
        return mask is not None and mask.model is None

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window for some periods.

        Returns
        -------
        Pixels
            Data 0 where no date is clear.

        Raises
        ------
        ReadError
            If a file cannot be read.
        """
        shape = (len(times), *window.shape)
        data = np.zeros((len(times), len(self.bands), *window.shape), self.dtype)
        valid, shown = np.zeros(shape, bool), np.zeros(shape, bool)
        layers: dict[str, Array] = {
            name: np.full(shape, 0 if name == "observations" else NO_COUNT, np.uint16)
            for name in self.recipe.layers
        }
        missing: dict[tuple[str, ...], Missing] = {}
        for k, time in enumerate(times):
            told = {name: layer[k] for name, layer in layers.items()}
            count, day = told.get("observations"), told.get("observed")
            image = Image(data[k], valid[k], shown[k], count, day)
            self._make(self.periods[time], window, image, missing)
            if count is not None:
                np.copyto(count, NO_COUNT, where=~shown[k])
        holes = tuple(v for _, v in sorted(missing.items()))
        return Pixels(data, valid, holes, shown, layers)

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell which cells of a lattice any item of a period may touch."""
        found = np.zeros((len(ys) - 1, len(xs) - 1), bool)
        for step in self.periods[time].steps:
            found |= self.base.covers_cells(ys, xs, step)
        return found

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair many windows with the items of a period that may touch them."""
        pairs = [self.base.match(boxes, step) for step in self.periods[time].steps]
        both = np.concatenate([np.stack(pair) for pair in pairs], axis=1)
        windows, items = np.unique(both, axis=1)
        return windows, items

    def calibrated(self, units: Units, multiply: float = 1.0) -> CompositeSource:
        """Give this source in other units; what the mask is made of stays as it is."""
        return self._with(base=self.base.calibrated(units, multiply))

    def coarser(self, geobox: GeoBox) -> CompositeSource:
        """Give this source on a coarser grid, without a model's mask: for pictures."""
        return self.unjudged()._with(base=self.base.coarser(geobox))

    def judged(self, judge: Judge) -> CompositeSource:
        """Give this source with the model of its mask at hand."""
        return self._with(_judge=judge)

    def unjudged(self) -> CompositeSource:
        """Give this source without a model's mask: for pictures and for trials."""
        if self.sky is None:
            return self
        bare = replace(self.recipe, mask=None, judging=None)
        return self._with(recipe=bare, sky=None, _judge=None)

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere, beside its `tables`."""
        base = self.base.spec()
        found = {
            "kind": "composite",
            "base": base,
            "grid": base["grid"],
            "reading": base["reading"],
            "remote": self.base.items.is_remote,
            **self.recipe.to_json(),
        }
        return found if self.sky is None else found | {"sky": self.sky.spec()}

    def tables(self) -> dict[str, bytes]:
        """Give the list of items, which the spec only names."""
        return self.base.tables()

    @classmethod
    def from_spec(cls, spec: Json, tables: Tables | None) -> CompositeSource:
        """Rebuild a source from its spec and the list of items beside it."""
        base = RasterSource.from_spec(spec["base"], tables)
        sky = spec.get("sky")
        return cls(
            base,
            Recipe.from_json(spec),
            None if sky is None else RasterSource.from_spec(sky, tables),
        )

    def _with(self, **changes: Any) -> CompositeSource:
        other = copy.copy(self)
        other.__dict__.update(changes)
        return other

    def _make(
        self,
        period: Period,
        window: Window,
        image: Image,
        missing: dict[tuple[str, ...], Missing],
    ) -> None:
        steps, method = self._order(period), self.recipe.method
        dates = (self._observe(step, window, missing) for step in steps)
        if method == "median":
            take_median(dates, len(steps), image)
        elif method == "mean":
            take_mean(dates, image)
        elif self._ndvi is not None:
            take_greenest(dates, self._ndvi, image)
        else:
            take_first(dates, image)

    def _observe(
        self,
        step: int,
        window: Window,
        missing: dict[tuple[str, ...], Missing],
    ) -> Seen:
        """Bands of one date, and where they are clear."""
        by = self.recipe.mask.dilate if self.recipe.mask and self._has_band else 0
        wide = window.grow(by).clip(self.base.target.shape)
        found = self.base.read(wide, [step])
        note(missing, found.missing)
        values, valid, inner = found.data[0], found.valid[0], window.within(wide)
        day = (self._whens[step] - parse_datetime("1970-01-01", "epoch")).days
        if self._has_band and self.recipe.mask is not None:
            # what is not valid is not grown: the edge of a scene is no cloud
            unclear = ~self.recipe.mask.find_clear(values[-1]) & valid
            seen = (valid & ~grow(unclear, by))[inner]
            return Seen(values[(slice(-1), *inner)], seen, valid[inner], day)
        if self.sky is not None:
            clear = self._judge_step(step, window, missing)
            return Seen(values, valid & clear, valid, day)
        return Seen(values, valid, valid, day)

    def _judge_step(
        self, step: int, window: Window, missing: dict[tuple[str, ...], Missing]
    ) -> Bool:
        """Tell by the model which pixels of one date are clear."""
        mask = self.recipe.mask
        assert mask is not None
        assert self._judge is not None, "a source with a model's mask needs a judge"
        wide = window.grow(mask.dilate).clip(self.base.target.shape)
        classes, lacking = self._judge(step, wide)
        note(missing, lacking)
        judged = classes != UNJUDGED
        unclear = ~mask.find_clear(classes) & judged
        clear: Bool = (judged & ~grow(unclear, mask.dilate))[window.within(wide)]
        return clear

    def _order(self, period: Period) -> tuple[int, ...]:
        """Time steps of a period, the best first."""
        method = self.recipe.method
        if method == "last":
            return period.steps[::-1]
        if method not in ("nearest", "best"):
            return period.steps
        middle = parse_datetime(period.middle, "period")
        cloud = self.recipe.cloud or (0.0,) * len(self._whens)
        # of equal ones the earlier, for the sort is stable
        ranks = [(cloud[s], abs(self._whens[s] - middle)) for s in period.steps]
        order = sorted(range(len(ranks)), key=ranks.__getitem__)
        return tuple(period.steps[k] for k in order)


def note(found: dict[tuple[str, ...], Missing], lacking: Sequence[Missing]) -> None:
    """Note what is missing, each asset once."""
    found.update({(one.item, *one.bands): one for one in lacking})

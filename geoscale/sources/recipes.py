"""Recipes: how the dates of a source become images, from what a job says."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from geoscale.errors import SourceError
from geoscale.sources.clear import Judging, Mask, mask_from
from geoscale.sources.periods import EACH, Period, find_periods
from geoscale.sources.raster import RasterSource
from geoscale.sources.reducing import LayerName
from geoscale.sources.steps import Method
from geoscale.types import Json

if TYPE_CHECKING:
    from geoscale.sources.settings import Imagery


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How dates become images."""

    periods: tuple[Period, ...]
    """Which dates make one image."""
    method: Method
    """How; never ``vote``, whose images are the scenes."""
    mask: Mask | None = None
    """Which pixels are not to be used."""
    layers: tuple[LayerName, ...] = ()
    """What is told of the dates of each pixel."""
    cloud: tuple[float, ...] = ()
    """By time step: percent of cloud; for ``best``."""
    votes: tuple[Period, ...] = ()
    """Periods whose images (`Period.steps`) are classified one by one and then vote."""
    judging: Judging | None = None
    """The model of the mask."""

    def to_json(self) -> Json:
        """Write as JSON; what is at its default is left out."""
        found: Json = {
            "periods": [
                [p.name, p.label, p.middle, list(p.steps)] for p in self.periods
            ],
            "method": self.method,
            "mask": None if self.mask is None else self.mask.model_dump(mode="json"),
        }
        if self.layers:
            found["layers"] = list(self.layers)
        if self.cloud:
            found["cloud"] = list(self.cloud)
        if self.votes:
            found["votes"] = [[p.name, p.label, list(p.steps)] for p in self.votes]
        if self.judging is not None:
            found["judging"] = self.judging.to_json()
        return found

    @classmethod
    def from_json(cls, plain: Json) -> Recipe:
        """Read what `to_json` wrote."""
        told, votes = plain.get("judging"), plain.get("votes", ())
        return cls(
            periods=tuple(Period(n, a, b, tuple(s)) for n, a, b, s in plain["periods"]),
            method=plain["method"],
            mask=mask_from(plain["mask"]),
            layers=tuple(plain.get("layers", ())),
            cloud=tuple(plain.get("cloud", ())),
            votes=tuple(Period(n, a, a, tuple(s)) for n, a, s in votes),
            judging=None if told is None else Judging.from_json(told),
        )


def make_recipe(
    base: RasterSource,
    asked: Imagery,
    *,
    judging: Judging | None = None,
    cloud: Sequence[float | None] = (),
) -> Recipe:
    """Tell how the dates of a source become images.

    Parameters
    ----------
    base : RasterSource
        Every date; with the mask's band last.
    asked : Imagery
        Says periods, method, mask and layers.
    judging : Judging, optional
        The model of the mask.
    cloud : sequence of float or None
        Percent of cloud of each item, as its metadata say; for ``best``.

    Returns
    -------
    Recipe
        Nothing is read.

    Raises
    ------
    SourceError
        If what is asked for does not go together.
    """
    method, near, mask = asked.composite or "median", asked.near, asked.mask
    if near is not None and method not in ("nearest", "best"):
        raise SourceError(
            f"imagery.near is for composite nearest and best, not {method}; leave it "
            "out"
        )
    periods = find_periods(asked.periods, base.times, near)
    votes: tuple[Period, ...] = ()
    if method == "vote":
        if asked.layers:
            raise SourceError(
                "imagery.layers is not for composite vote, whose map has the layer "
                "`observations` if output.layers names it"
            )
        used = [step for period in periods for step in period.steps]
        place = {step: k for k, step in enumerate(used)}
        votes = tuple(
            replace(p, steps=tuple(place[s] for s in p.steps)) for p in periods
        )
        scenes = find_periods(EACH, base.times)
        periods, method = tuple(scenes[step] for step in used), "first"
    if mask is not None and judging is not None:
        mask = mask.resolve(judging.classes)
    return Recipe(
        periods=periods,
        method=method,
        mask=mask,
        layers=tuple(asked.layers or ()),
        cloud=_cloud_of_steps(base, cloud) if method == "best" else (),
        votes=votes,
        judging=judging,
    )


def _cloud_of_steps(
    base: RasterSource, cloud: Sequence[float | None]
) -> tuple[float, ...]:
    """Percent of cloud of each time step: the mean over its items."""
    lacking = sum(one is None for one in cloud)
    if lacking or not len(cloud):
        raise SourceError(
            f"composite best needs eo:cloud_cover, which {lacking} of {len(cloud)} "
            "items do not state; choose nearest, or median with a mask, or add it to "
            "the items"
        )
    known = [float(one) for one in cloud if one is not None]
    return tuple(
        round(sum(known[i] for i in step.members) / len(step.members), 6)
        for step in base.steps
    )

"""The map that is evaluated: a finished output, or a raster of classes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from geoscale.errors import JobError
from geoscale.evaluation.legend import Legend, MapClass
from geoscale.evaluation.settings import Comparison
from geoscale.results.layers import choose_layer, choose_time, list_flags, load_finished
from geoscale.sinks.layout import open_output
from geoscale.sources.opening import open_source
from geoscale.sources.raster import RasterSource
from geoscale.template import OutputTemplate
from geoscale.types import Array, Bool, Ints, Layer
from geoscale.windows import Window
from geoscale.words import redact, suggest

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

RASTER_ENDS = (".tif", ".tiff", ".vrt", ".img", ".jp2")
"""How names of rasters end."""
BLOCK_PX = 2048
"""Height and width of what is counted at once, in px, whatever the block."""


class ClassMap(Protocol):
    """Classes on a grid, read by window; cheap to make, rebuilt on every worker."""

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape."""
        ...

    @property
    def block_px(self) -> int:
        """Height and width of the blocks in which it is best read, in px."""
        ...

    @property
    def layer(self) -> str:
        """Name of the layer."""
        ...

    @property
    def time(self) -> str:
        """Label of the time step; empty where it has none."""
        ...

    @property
    def legend(self) -> Legend | None:
        """Classes, as merged; None where only the pixels know them."""
        ...

    @property
    def scores(self) -> Scores | None:
        """How sure the model was, if that is stored."""
        ...

    def read(self, window: Window) -> tuple[Ints, Bool]:
        """Class values, and whether they are any, (y, x)."""
        ...

    def read_score(self, window: Window, number: int) -> tuple[Ints, Bool]:
        """Score of a class in whole steps, and whether there is one, (y, x)."""
        ...


@dataclass(frozen=True, slots=True)
class Scores:
    """Where the scores of classes are, as whole steps that keep their order."""

    layer: str
    """Name of the layer."""
    planes: Mapping[int, tuple[int, ...]]
    """Number of a class → planes to be added; empty: the layer itself."""
    steps: int
    """Highest step of one plane."""
    is_half: bool
    """Whether steps are the bits of float16, of which only single planes serve."""

    def bins(self, number: int) -> int:
        """Count the steps that a class's score may have."""
        return self.steps * max(1, len(self.planes[number])) + 1


class OutputMap:
    """A class layer of a finished output.

    Parameters
    ----------
    asked : Comparison
        Names output, layer, time step and what counts as one.

    Raises
    ------
    OutputError
        If the output is not there or not finished.
    JobError
        If it has no such layer or time step.
    """

    def __init__(self, asked: Comparison) -> None:
        self._template = load_finished(asked.output)
        layer = choose_layer(self._template, asked.layer)
        self._fill = int(layer.fill_value)
        self.layer = layer.name
        self._number, self.time = choose_time(self._template.times, asked.time)
        self.legend = _legend(self._template, layer).merged(asked.merge)
        self.scores = _choose_scores(self._template, self.legend, asked.scores)
        # as stored: scores are counted by their steps, not as floats
        self._data: Any = open_output(asked.output, raw=True)

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape."""
        return self._template.geobox

    @property
    def block_px(self) -> int:
        """Height and width of a shard, or of some of its chunks if it is large."""
        chunk = self._template.chunk_px
        most = max(chunk, BLOCK_PX // chunk * chunk)
        return min(self._template.block_px, most)

    def read(self, window: Window) -> tuple[Ints, Bool]:
        """Class values, and whether they are any, (y, x)."""
        values = self._stored(self.layer, window)
        return values, values != self._fill

    def read_score(self, window: Window, number: int) -> tuple[Ints, Bool]:
        """Score of a class in whole steps, and whether there is one, (y, x)."""
        assert self.scores is not None
        name, planes = self.scores.layer, self.scores.planes[number]
        if self.scores.is_half:
            half = self._stored(name, window, planes[0] if planes else None)
            # bits of floats that are not negative rise with them
            return np.abs(half).view(np.uint16), np.isfinite(half)
        total, valid = np.zeros(window.shape, np.int32), np.ones(window.shape, bool)
        fill = int(self._template.layer(name).fill_value)
        for plane in planes or (None,):
            found = self._stored(name, window, plane)
            valid &= found != fill
            total += found
        return total, valid

    def _stored(self, name: str, window: Window, plane: int | None = None) -> Array:
        rows = slice(window.y0, window.y1)
        columns = slice(window.x0, window.x1)
        where = (self._number, rows, columns)
        if plane is not None:
            where = (self._number, plane, rows, columns)  # type: ignore[assignment]
        found: Array = np.asarray(self._data[name][where].values)
        return found


class RasterMap:
    """A raster of classes; which there are is known when all is read.

    Parameters
    ----------
    asked : Comparison
        Names the file.

    Raises
    ------
    SourceError
        If it cannot be opened or has several bands.
    JobError
        If something is asked for that only outputs have.
    """

    legend: Legend | None = None
    scores: Scores | None = None
    block_px = BLOCK_PX
    time = ""

    def __init__(self, asked: Comparison) -> None:
        given = [n for n in ("layer", "scores", "time", "merge") if getattr(asked, n)]
        if given:
            raise JobError(
                f"{redact(asked.output)} is a raster, which has no {given[0]}; leave "
                "it out, or evaluate the output that the raster was exported from"
            )
        source = open_source({"files": asked.output, "groupby": "all"})
        assert isinstance(source, RasterSource)
        if len(source.bands) != 1:
            raise JobError(
                f"{redact(asked.output)} has the bands {', '.join(source.bands)}; give "
                "a raster of classes alone"
            )
        self._source, self.layer = source, source.bands[0]
        self.geobox: GeoBox = source.geobox

    def read(self, window: Window) -> tuple[Ints, Bool]:
        """Class values, and whether they are any, (y, x)."""
        found = self._source.read(window, [0])
        return found.data[0, 0], found.valid[0]

    def read_score(self, window: Window, number: int) -> tuple[Ints, Bool]:
        """Rasters of classes have no scores."""
        raise NotImplementedError


def open_map(asked: Comparison) -> ClassMap:
    """Open the map; no pixel is read.

    Parameters
    ----------
    asked : Comparison
        What to open.

    Returns
    -------
    ClassMap
        An output or a raster.

    Raises
    ------
    PlanError
        If it cannot be evaluated; says why.
    """
    if asked.output.lower().endswith(RASTER_ENDS) or os.path.isfile(asked.output):
        return RasterMap(asked)
    return OutputMap(asked)


def _legend(template: OutputTemplate, layer: Layer) -> Legend:
    flags = list_flags(template, layer)
    return Legend([MapClass(one.value, one.name, (one.value,)) for one in flags])


def _choose_scores(
    template: OutputTemplate, legend: Legend, name: str | None
) -> Scores | None:
    """Find scores of all classes, or a probability of one of two."""
    fit = {one.name: one for one in template.layers if _has_scores(one, template)}
    if name is not None and name not in fit:
        raise JobError(
            f"the output has no scores `{name}`{suggest(name, fit)}; it has "
            f"{', '.join(fit) or 'none'}"
        )
    layer = fit[name] if name is not None else next(iter(fit.values()), None)
    if layer is None:
        return None
    is_half = layer.dtype == "float16"
    # float16 has 0x3C00 values from 0 to below 1, and 1
    steps = 0x3C00 if is_half else int(layer.fill_value) - 1
    if layer.classes:
        planes = {c.value: i for i, c in enumerate(template.classes)}
        found = {
            number: tuple(planes[v] for v in one.members if v in planes)
            for number, one in enumerate(legend.classes)
        }
        usable = {n: p for n, p in found.items() if p and not (is_half and len(p) > 1)}
        return Scores(layer.name, usable, steps, is_half)
    if len(legend) != 2:
        return None
    # a probability is that of the class with the higher value: change, not no change
    number = max(range(2), key=lambda i: legend.classes[i].value)
    return Scores(layer.name, {number: ()}, steps, is_half)


def _has_scores(layer: Layer, template: OutputTemplate) -> bool:
    half = layer.dtype == "float16"
    quantised = layer.dtype == "uint8" and "scale_factor" in dict(layer.attrs)
    if layer.classes:
        return layer.classes == len(template.classes) and (half or quantised)
    return (half or quantised) and "probability" in layer.name

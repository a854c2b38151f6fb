"""Forecasting: numbers with units of several future time steps, from one network."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geoscale.bands import common_name
from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.passes import PassTask
from geoscale.types import Array, Bool, Float, Layer, Task

FORECAST = "forecast"
"""Name of the layer."""


class Ahead:
    """Finish merged numbers of all steps into one layer, NaN where not valid.

    Parameters
    ----------
    card : ModelCard
        Of task forecasting: steps, names, units, factors and offsets.
    dtype : {"float32", "float16"}
        How they are stored.

    Raises
    ------
    JobError
        If the dtype holds no NaN.
    """

    on_device = None
    """Done on the host only."""

    def __init__(self, card: ModelCard, dtype: str = "float32") -> None:
        ahead = card.output.forecast
        assert ahead is not None
        if dtype not in ("float32", "float16"):
            raise JobError(
                f"output.dtype `{dtype}` is for embeddings; store a forecast as "
                "float32 or float16"
            )
        self.steps, self._dtype, self._name = ahead.steps, dtype, card.name
        self._bands, self._sensor = card.output.bands, card.input.sensor

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer, as a block makes it: its steps behind each other."""
        units = {band.units for band in self._bands}
        attrs: dict[str, object] = {
            "axis_names": [band.name for band in self._bands],
            "long_name": f"forecast by {self._name}",
            "units": units.pop() if len(units) == 1 else "",
        }
        if not attrs["units"]:
            attrs["units"] = "1"
            attrs["axis_units"] = [band.units for band in self._bands]
        names = [common_name(b.name, self._sensor) for b in self._bands]
        if {"red", "green", "blue"} <= set(names):
            attrs["rgb"] = [names.index(name) for name in ("red", "green", "blue")]
        layer = Layer(
            name=FORECAST,
            dtype=self._dtype,
            fill_value=float("nan"),
            classes=self.steps * len(self._bands),
            attrs=tuple(sorted(attrs.items())),
        )
        return (layer,)

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Bring numbers into their units.

        Parameters
        ----------
        scores : ndarray of float32, (step x band, y, x)
            As the network gives them.
        valid : ndarray of bool, (y, x)
            Where there is a forecast.

        Returns
        -------
        dict of ndarray
            (step x band, y, x); NaN where not valid.
        """
        stored = np.empty(scores.shape, self._dtype)
        for number, plane in enumerate(scores):
            band = self._bands[number % len(self._bands)]
            values = plane * np.float32(band.multiply) + np.float32(band.add)
            values[~valid] = np.nan
            # beyond the range of float16 a number is stored as infinite, not as wrong
            with np.errstate(over="ignore"):
                stored[number] = values
        return {FORECAST: stored}


def stored_layers(task: Task | PassTask) -> tuple[Layer, ...]:
    """Layers as they are stored: those of a forecast have its steps on the time axis.

    Parameters
    ----------
    task : Task or PassTask
        What finishes a block.

    Returns
    -------
    tuple of Layer
        One for each array.
    """
    steps = getattr(task, "steps", 1)
    return tuple(replace(one, classes=one.classes // steps) for one in task.layers)

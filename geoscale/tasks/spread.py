"""How far runs of a network with dropout lie apart, beside the layers of its mean."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from geoscale.card import ModelCard
from geoscale.tasks.stored import quantise, quantised_layer
from geoscale.types import Array, Bool, Float, Layer, Task

SPREAD = "spread"
"""Name of the layer, and how those of numbers end."""


class WithSpread:
    """Finish the mean of several runs as a task does, and add their spread.

    Parameters
    ----------
    task : Task
        Makes layers of the means.
    card : ModelCard
        Of classes or of quantities.
    """

    on_device = None
    """Done on the host only."""

    def __init__(self, task: Task, card: ModelCard) -> None:
        self._task, self._card = task, card
        self.steps: int = getattr(task, "steps", 1)
        self._numbers = {b.name: (i, b) for i, b in enumerate(card.output.bands)}

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Those of the task, then the spread."""
        made = self._task.layers
        if not self._numbers:
            told = "standard deviation of the score of the class, between runs"
            return (*made, quantised_layer(SPREAD, told))
        return (*made, *(_beside(layer) for layer in made))

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Turn means and spreads of one block into its layers.

        Parameters
        ----------
        scores : ndarray of float32, (2 x class, y, x)
            Means of all scores, then their standard deviations.
        valid : ndarray of bool, (y, x)
            Where there is a result.

        Returns
        -------
        dict of ndarray
            One array per layer.
        """
        half = len(scores) // 2
        means, spreads = scores[:half], scores[half:]
        done = self._task.finish(means, valid)
        if not self._numbers:
            best = means.argmax(axis=0)[None]
            found = np.take_along_axis(spreads, best, axis=0)[0]
            done[SPREAD] = np.empty(valid.shape, np.uint8)
            quantise(found, np.negative((~valid).view(np.uint8)), done[SPREAD])
            return done
        bands = self._card.output.bands
        for layer in self._task.layers:
            if layer.classes:
                scale = [abs(band.multiply) for band in bands] * self.steps
                values = spreads * np.asarray(scale, np.float32)[:, None, None]
            else:
                number, band = self._numbers[layer.name]
                values = spreads[number] * np.float32(abs(band.multiply))
            values[..., ~valid] = np.nan
            done[f"{layer.name}_{SPREAD}"] = values.astype(layer.dtype)
        return done


def _beside(layer: Layer) -> Layer:
    attrs = dict(layer.attrs)
    attrs["long_name"] = f"{attrs['long_name']}: standard deviation between runs"
    return replace(
        layer, name=f"{layer.name}_{SPREAD}", attrs=tuple(sorted(attrs.items()))
    )


def name_spreads(card: ModelCard, layers: tuple[str, ...]) -> tuple[str, ...]:
    """Name the layers that runs with dropout add.

    Parameters
    ----------
    card : ModelCard
        The model.
    layers : tuple of str
        What is stored of the means.

    Returns
    -------
    tuple of str
        One for a map of classes, one for each layer of numbers.
    """
    if card.output.bands:
        return tuple(f"{name}_{SPREAD}" for name in layers)
    return (SPREAD,)

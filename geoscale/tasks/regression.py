"""Regression: numbers with units, one layer for each quantity."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.card import ModelCard, OutputBand
from geoscale.errors import JobError
from geoscale.types import Array, Bool, Float, Layer
from geoscale.words import suggest


class Regression:
    """Finish merged numbers into layers of floats, NaN where not valid.

    Parameters
    ----------
    card : ModelCard
        Names, units, factors and offsets of the quantities.
    outputs : sequence of str
        Names of those that are stored.
    dtype : {"float32", "float16"}
        How they are stored.

    Raises
    ------
    JobError
        If a quantity is not known, or the dtype holds no NaN.
    """

    on_device = None
    """Done on the host only."""

    def __init__(
        self, card: ModelCard, outputs: Sequence[str], dtype: str = "float32"
    ) -> None:
        known = [band.name for band in card.output.bands]
        for name in outputs:
            if name not in known:
                raise JobError(
                    f"output `{name}` is not known{suggest(name, known)}; "
                    f"`{card.name}` gives {', '.join(known)}"
                )
        if dtype not in ("float32", "float16"):
            raise JobError(
                f"output.dtype `{dtype}` is for embeddings; store a regression as "
                "float32 or float16"
            )
        self._dtype = dtype
        self._chosen = [
            (number, band)
            for number, band in enumerate(card.output.bands)
            if band.name in outputs
        ]

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in the order of the network's channels."""
        return tuple(self._layer(band) for _, band in self._chosen)

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Bring numbers into their units.

        Parameters
        ----------
        scores : ndarray of float32, (quantity, y, x)
            As the network gives them.
        valid : ndarray of bool, (y, x)
            Where there is a number.

        Returns
        -------
        dict of ndarray
            By name of the quantity, (y, x); NaN where not valid.
        """
        done: dict[str, Array] = {}
        for number, band in self._chosen:
            values = scores[number] * np.float32(band.multiply) + np.float32(band.add)
            values[~valid] = np.nan
            # beyond the range of float16 a number is stored as infinite, not as wrong
            with np.errstate(over="ignore"):
                done[band.name] = values.astype(self._dtype)
        return done

    def _layer(self, band: OutputBand) -> Layer:
        attrs = (
            ("long_name", band.title or band.name.replace("_", " ")),
            ("units", band.units),
        )
        return Layer(
            name=band.name, dtype=self._dtype, fill_value=float("nan"), attrs=attrs
        )

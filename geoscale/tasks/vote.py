"""Vote: each date of a period is classified, and the class most often seen wins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.tasks.segmentation import OUTPUTS, Segmentation
from geoscale.tasks.stored import quantised_layer
from geoscale.types import Array, Bool, Float, Layer
from geoscale.words import suggest

OBSERVATIONS = "observations"
NO_COUNT = 65535
"""Stored as observations where no date has a class."""
VOTE_OUTPUTS = (*OUTPUTS, OBSERVATIONS)
"""Layers that can be asked for; ``scores`` are the shares of the votes."""

# strips of so many pixels stay in a core's cache from step to step
_STRIP_PX = 1 << 15


class Vote:
    """Finish the scores of several dates into one class map.

    Every date on which a pixel is clear has one vote, for the class of the highest
    score; of equal scores, and of equal votes, the first class of the card wins.

    Parameters
    ----------
    card : ModelCard
        Names, values and colours of the classes.
    outputs : sequence of str
        Some of `VOTE_OUTPUTS`; ``classes`` is always there. ``confidence`` is the
        share of the votes that the class has.
    scores_dtype : {"uint8", "float16"}
        How shares are stored as scores.

    Raises
    ------
    JobError
        If an output is not known.
    """

    def __init__(
        self, card: ModelCard, outputs: Sequence[str], scores_dtype: str = "uint8"
    ) -> None:
        for name in outputs:
            if name not in VOTE_OUTPUTS:
                raise JobError(
                    f"output `{name}` is not known{suggest(name, VOTE_OUTPUTS)}; "
                    f"choose from {', '.join(VOTE_OUTPUTS)}"
                )
        own = [name for name in outputs if name != OBSERVATIONS]
        self._plain = Segmentation(card, own, scores_dtype)
        self._counts = OBSERVATIONS in outputs
        self._classes = len(card.output.classes)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        told = quantised_layer("confidence", "share of the dates that gave the class")
        found = [
            told if layer.name == "confidence" else layer
            for layer in self._plain.layers
        ]
        if self._counts:
            attrs = ("long_name", "dates that have a vote"), ("resampling", "nearest")
            count = Layer(
                name=OBSERVATIONS, dtype="uint16", fill_value=NO_COUNT, attrs=attrs
            )
            found.append(count)
        return tuple(found)

    def begin(self, shape: tuple[int, int]) -> Ballot:
        """Begin a block of so many px, (y, x)."""
        return Ballot(self._plain, (self._classes, *shape), counts=self._counts)


class Ballot:
    """Votes of one block: a number for each class and pixel, however many dates.

    Parameters
    ----------
    plain : Segmentation
        Finishes shares of votes.
    shape : tuple of int, (class, y, x)
        Of the block.
    counts : bool
        Whether the number of votes is given as a layer.
    """

    def __init__(
        self, plain: Segmentation, shape: tuple[int, int, int], *, counts: bool
    ) -> None:
        self._plain, self._counts = plain, counts
        self._votes = np.zeros(shape, np.uint16)

    def add(self, number: int, scores: Float, usable: Bool) -> None:
        """Take the votes of one date."""
        del number
        rows = max(1, _STRIP_PX // max(1, scores.shape[2]))
        for y in range(0, scores.shape[1], rows):
            strip = slice(y, y + rows)
            best = scores[:, strip].argmax(axis=0)
            for k, votes in enumerate(self._votes[:, strip]):
                votes += (best == k) & usable[strip]

    def finish(self) -> tuple[dict[str, Array], Bool]:
        """Count."""
        total = self._votes.sum(axis=0, dtype=np.uint16)
        valid = total > 0
        shares = self._votes.astype(np.float32)
        # one division of whole numbers: equal votes stay equal
        shares /= np.maximum(total, 1).astype(np.float32)
        layers = self._plain.finish(shares, valid)
        if self._counts:
            layers[OBSERVATIONS] = np.where(valid, total, NO_COUNT).astype(np.uint16)
        return layers, valid

"""Labels: a place may be of several classes at once, or of none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.tasks.segmentation import OUTPUTS, Segmentation
from geoscale.tasks.stored import NODATA
from geoscale.types import Array, Bool, Float, Layer
from geoscale.words import suggest

LABELS = "labels"
LABEL_OUTPUTS = (*OUTPUTS, LABELS)
"""Layers that can be asked for; ``classes`` is the one of the highest score."""


class Labels:
    """Finish scores of classes that do not exclude each other.

    Parameters
    ----------
    card : ModelCard
        Classes, and the least score of each.
    outputs : sequence of str
        Some of `LABEL_OUTPUTS`; ``classes`` is always there.
    scores_dtype : {"uint8", "float16"}
        How scores are stored.

    Raises
    ------
    JobError
        If an output is not known.
    """

    on_device = None
    """Done on the host only."""

    def __init__(
        self, card: ModelCard, outputs: Sequence[str], scores_dtype: str = "uint8"
    ) -> None:
        for name in outputs:
            if name not in LABEL_OUTPUTS:
                raise JobError(
                    f"output `{name}` is not known{suggest(name, LABEL_OUTPUTS)}; "
                    f"choose from {', '.join(LABEL_OUTPUTS)}"
                )
        own = [name for name in outputs if name != LABELS]
        self._plain = Segmentation(card, own, scores_dtype)
        self._with_labels = LABELS in outputs
        self._names = [c.name for c in card.output.classes]
        least = card.output.thresholds or (0.5,) * len(self._names)
        self._least = np.array(least, np.float32)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        plain = self._plain.layers
        if not self._with_labels:
            return plain
        attrs = (
            ("long_name", "whether a place has the label, 1 or 0"),
            # of one and nothing no mean is made
            ("resampling", "nearest"),
            ("thresholds", [round(float(v), 6) for v in self._least]),
        )
        labels = Layer(
            name=LABELS,
            dtype="uint8",
            fill_value=NODATA,
            classes=len(self._names),
            attrs=attrs,
        )
        return (*plain, labels)

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Turn scores, (class, y, x), into layers."""
        done = self._plain.finish(scores, valid)
        if self._with_labels:
            has = scores >= self._least[:, None, None]
            done[LABELS] = np.where(valid, has, NODATA).astype(np.uint8)
        return done

"""Segmentation: the class of every pixel, how sure, and the scores if asked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.types import Array, Bool, Float, Layer
from geoscale.words import suggest

NODATA = 255
"""Stored where no class can be told; never a class."""
QUANTA = 254
"""Scores in [0, 1] are stored as whole numbers 0..254; 255 is nodata."""
OUTPUTS = ("classes", "confidence", "scores")
"""Layers that can be asked for."""


class Segmentation:
    """Finish merged scores into a class map.

    Parameters
    ----------
    card : ModelCard
        Names, values and colours of the classes.
    outputs : sequence of str
        Some of `OUTPUTS`; ``classes`` is always there.
    scores_dtype : {"uint8", "float16"}
        How scores are stored: in steps of 1/254, or as they are.

    Raises
    ------
    JobError
        If an output is not known.
    """

    def __init__(
        self,
        card: ModelCard,
        outputs: Sequence[str] = ("classes", "confidence"),
        scores_dtype: str = "uint8",
    ) -> None:
        for name in outputs:
            if name not in OUTPUTS:
                raise JobError(
                    f"output `{name}` is not known{suggest(name, OUTPUTS)}; "
                    f"choose from {', '.join(OUTPUTS)}"
                )
        if scores_dtype not in ("uint8", "float16"):
            raise JobError(f"scores_dtype `{scores_dtype}`; choose uint8 or float16")
        self._outputs = frozenset(outputs) | {"classes"}
        self._scores_dtype = scores_dtype
        self._values = np.array([c.value for c in card.output.classes], np.uint8)
        self._card = card

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        made = {
            "classes": self._class_layer(),
            "confidence": _quantised("confidence", "score of the class in the map"),
            "scores": self._score_layer(),
        }
        return tuple(made[name] for name in OUTPUTS if name in self._outputs)

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Turn scores of one block into its layers.

        Parameters
        ----------
        scores : ndarray of float32, (class, y, x)
            In [0, 1].
        valid : ndarray of bool, (y, x)
            Pixels that get a class.

        Returns
        -------
        dict of ndarray
            One array per layer, (y, x) or (class, y, x).
        """
        best = scores.argmax(axis=0)
        done: dict[str, Array] = {
            "classes": np.where(valid, self._values[best], np.uint8(NODATA))
        }
        if "confidence" in self._outputs:
            top = np.take_along_axis(scores, best[None], axis=0)[0]
            done["confidence"] = _quantise(top, valid)
        if "scores" in self._outputs:
            done["scores"] = (
                _quantise(scores, valid)
                if self._scores_dtype == "uint8"
                else np.where(valid, scores, np.nan).astype(np.float16)
            )
        return done

    def _class_layer(self) -> Layer:
        classes = self._card.output.classes
        attrs: list[tuple[str, Any]] = [
            ("flag_meanings", " ".join(c.name.replace(" ", "_") for c in classes)),
            ("flag_values", [c.value for c in classes]),
            ("long_name", f"class by {self._card.name}"),
        ]
        if all(c.color for c in classes):
            attrs.insert(0, ("flag_colors", " ".join(f"#{c.color}" for c in classes)))
        return Layer(
            name="classes", dtype="uint8", fill_value=NODATA, attrs=tuple(attrs)
        )

    def _score_layer(self) -> Layer:
        size = len(self._values)
        if self._scores_dtype == "uint8":
            return _quantised("scores", "score of every class", size)
        return Layer(
            name="scores",
            dtype="float16",
            fill_value=float("nan"),
            classes=size,
            attrs=(("long_name", "score of every class"),),
        )


def _quantised(name: str, title: str, classes: int = 0) -> Layer:
    return Layer(
        name=name,
        dtype="uint8",
        fill_value=NODATA,
        classes=classes,
        attrs=(("long_name", title), ("scale_factor", 1 / QUANTA), ("units", "1")),
    )


def _quantise(scores: Float, valid: Bool) -> Array:
    steps = np.rint(np.clip(scores, 0, 1) * np.float32(QUANTA)).astype(np.uint8)
    return np.where(valid, steps, np.uint8(NODATA))

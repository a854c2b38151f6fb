"""Segmentation: the class of every pixel, how sure, and the scores if asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.tasks.stored import (
    NODATA,
    QUANTA,
    class_layer,
    quantise,
    quantised_layer,
)
from geoscale.tasks.sureness import (
    ENTROPY,
    MARGIN,
    SURENESS,
    SureSpec,
    put_entropy,
    put_margin,
)
from geoscale.types import Array, Bool, Float, Layer, LayerSpec
from geoscale.words import suggest

OUTPUTS = ("classes", "confidence", ENTROPY, MARGIN, "scores")
"""Layers that can be asked for."""

# strips of so many pixels stay in a core's cache from step to step
_STRIP_PX = 1 << 15


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
        self._plain = np.array_equal(self._values, np.arange(len(self._values)))
        # softmax, or a class and what is left of it
        self._shared = card.output.activation == "softmax" or card.output.single
        self._card = card

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored, in a fixed order."""
        made = {
            "classes": self._class_layer(),
            "confidence": quantised_layer(
                "confidence", "score of the class in the map"
            ),
            "scores": self._score_layer(),
            **{name: quantised_layer(name, told) for name, told in SURENESS.items()},
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
        done = self._make_empty(scores.shape)
        rows = max(1, _STRIP_PX // max(1, scores.shape[2]))
        for start in range(0, scores.shape[1], rows):
            strip = slice(start, start + rows)
            out = {name: layer[..., strip, :] for name, layer in done.items()}
            self._finish_strip(scores[:, strip], valid[strip], out)
        return done

    @property
    def on_device(self) -> LayerSpec:
        """What `finish` does, for a device that does it itself."""
        spec = LayerSpec(
            values=tuple(int(v) for v in self._values),
            confidence="confidence" in self._outputs,
            scores=self._scores_dtype if "scores" in self._outputs else "",
            steps=QUANTA,
            nodata=NODATA,
        )
        sure = tuple(name for name in SURENESS if name in self._outputs)
        if not sure:
            return spec
        return SureSpec(**asdict(spec), sure=sure, shared=self._shared)

    def _make_empty(self, shape: tuple[int, ...]) -> dict[str, Array]:
        made: dict[str, Array] = {"classes": np.empty(shape[1:], np.uint8)}
        for name in ("confidence", *SURENESS):
            if name in self._outputs:
                made[name] = np.empty(shape[1:], np.uint8)
        if "scores" in self._outputs:
            made["scores"] = np.empty(shape, self._scores_dtype)
        return made

    def _finish_strip(self, scores: Float, valid: Bool, out: dict[str, Array]) -> None:
        # A running maximum reads whole rows; argmax along the first axis jumps from
        # plane to plane for every pixel. Strictly greater: the first class wins. The
        # number of a later winner is the greater one, so no branch is needed.
        top, best = scores[0].copy(), np.zeros(valid.shape, np.uint8)
        for number, plane in enumerate(scores[1:], 1):
            better = (plane > top).view(np.uint8)
            better *= np.uint8(number)
            np.maximum(best, better, out=best)
            np.maximum(top, plane, out=top)
        # 255 where invalid: `x | 255` is nodata
        holes = np.negative((~valid).view(np.uint8))
        values = best if self._plain else self._values[best]
        np.bitwise_or(values, holes, out=out["classes"])
        if ENTROPY in out:
            put_entropy(scores, holes, out[ENTROPY], shared=self._shared)
        if MARGIN in out:
            put_margin(scores, holes, out[MARGIN])
        if "confidence" in out:
            quantise(top, holes, out["confidence"])
        if "scores" not in out:
            return
        for plane, layer in zip(scores, out["scores"], strict=True):
            if self._scores_dtype == "uint8":
                np.copyto(top, plane)
                quantise(top, holes, layer)
            else:
                layer[:] = plane
                np.copyto(layer, np.nan, where=~valid)

    def _class_layer(self) -> Layer:
        return class_layer(
            "classes", self._card.output.classes, f"class by {self._card.name}"
        )

    def _score_layer(self) -> Layer:
        size = len(self._values)
        if self._scores_dtype == "uint8":
            return quantised_layer("scores", "score of every class", size)
        return Layer(
            name="scores",
            dtype="float16",
            fill_value=float("nan"),
            classes=size,
            attrs=(("long_name", "score of every class"),),
        )

"""Embedding: the features of a backbone, all or their principal components."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.types import Array, Bool, Float, Layer

EMBEDDING = "embedding"
"""Name of the layer."""
STEPS = 127
"""int8 holds whole steps from -127 to 127; -128 is nodata."""
NO_VECTOR = -128


def reduce_features(features: Float, numbers: dict[str, Any]) -> Float:
    """Take the mean off and turn features into principal components.

    Parameters
    ----------
    features : ndarray of float32, (feature, y, x)
        Of a backbone.
    numbers : dict
        ``mean``, (feature,), and ``components``, (component, feature).

    Returns
    -------
    ndarray of float32, (component, y, x)
        Those of a place hang on its own features alone, to the last bit.

    Examples
    --------
    >>> numbers = {"mean": [1.0, 1.0], "components": [[0.0, 2.0]]}
    >>> reduce_features(np.float32([[[1]], [[4]]]), numbers).tolist()
    [[[6.0]]]
    """
    if "components" not in numbers:
        return features
    mean = np.asarray(numbers["mean"], np.float32)
    weights = np.asarray(numbers["components"], np.float32)
    found = np.zeros((len(weights), *features.shape[1:]), np.float32)
    # Feature by feature: a matrix product adds up in another order for another number
    # of places, and results would hang on how a block is cut.
    for number, plane in enumerate(features):
        found += weights[:, number, None, None] * (plane - mean[number])
    return found


class Embed:
    """Finish merged features into one layer of vectors.

    Parameters
    ----------
    card : ModelCard
        Of a backbone.
    components : int or None
        How many are kept; None: all features.
    numbers : dict or None
        As `geoscale.options.Embedding` describes them, where any are needed.
    dtype : {"float16", "float32", "int8"}
        How vectors are stored.

    Raises
    ------
    JobError
        If the numbers are of another network, or more components are asked for than
        there are features.
    """

    on_device = None
    """Done on the host only."""

    def __init__(
        self,
        card: ModelCard,
        components: int | None = None,
        numbers: Mapping[str, Any] | None = None,
        *,
        dtype: str = "float16",
    ) -> None:
        self._card, self._dtype = card, dtype
        self._numbers = dict(numbers or {})
        self._size = components or card.output.width
        if self._size > card.output.width:
            raise JobError(
                f"embedding.components {self._size} is more than the "
                f"{card.output.width} features of `{card.name}`"
            )
        wanted = {"components": self._size, "scale": self._size, "offset": self._size}
        wanted |= {"mean": card.output.width}
        for name, count in wanted.items():
            have = len(self._numbers.get(name, ()))
            if have and have != count:
                raise JobError(
                    f"embedding.numbers has {have} values of `{name}`, `{card.name}` "
                    f"needs {count}: they are of another model or another job"
                )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The one layer."""
        what = "principal components of" if "components" in self._numbers else ""
        attrs: list[tuple[str, Any]] = [
            ("axis_names", [f"f{i}" for i in range(self._size)]),
            ("long_name", f"{what} features of {self._card.name}".strip()),
        ]
        fill = float("nan")
        if self._dtype == "int8":
            fill = float(NO_VECTOR)
            attrs += [
                ("vector_offset", self._numbers.get("offset", [])),
                ("vector_scale", self._numbers.get("scale", [])),
            ]
        layer = Layer(
            name=EMBEDDING,
            dtype=self._dtype,
            fill_value=fill,
            classes=self._size,
            attrs=tuple(sorted(attrs)),
        )
        return (layer,)

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """Turn features, (feature, y, x), into stored vectors."""
        values = reduce_features(scores, self._numbers)
        if self._dtype != "int8":
            stored = values.astype(self._dtype)
            stored[:, ~valid] = np.nan
            return {EMBEDDING: stored}
        scale = np.asarray(self._numbers["scale"], np.float32)[:, None, None]
        offset = np.asarray(self._numbers["offset"], np.float32)[:, None, None]
        steps = np.rint((values - offset) / scale).clip(-STEPS, STEPS)
        whole = steps.astype(np.int8)
        whole[:, ~valid] = NO_VECTOR
        return {EMBEDDING: whole}

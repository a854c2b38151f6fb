"""What a card says of a head that was fitted to labels; the numbers are weights."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

Kind = Literal["linear", "forest", "conv"]
LEAST = 1e-6
"""Smallest probability that is not taken for 0: its logarithm must be finite."""


class Calibrated(BaseModel):
    """What makes probabilities of a head's logits; the numbers are weights."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Literal["sigmoid", "isotonic"]
    """A line through log odds, or a rising line of straight parts; by class."""
    knots: Annotated[int, Field(ge=0, le=100_000)] = 0
    """Of each class's line, isotonic."""


class Head(BaseModel):
    """A head behind the network of a card: features of a pixel in, logits out.

    The weights of such a card are one safetensors file: ``body.…`` are those of the
    network, ``head.…`` those of the head, ``calibration.…`` those of what makes
    probabilities of its logits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    """``linear``: logistic regression or ridge; ``forest``: a random forest;
    ``conv``: a small network of convolutions."""
    inputs: Annotated[int, Field(ge=1)]
    """Features of a pixel."""
    with_bands: bool = False
    """Whether the network's own input follows its features."""
    trees: Annotated[int, Field(ge=0)] = 0
    """Of a forest."""
    nodes: Annotated[int, Field(ge=0)] = 0
    """Of a forest, in all its trees."""
    depth: Annotated[int, Field(ge=0)] = 0
    """Steps from root to leaf, at most, of a forest."""
    hidden: Annotated[int, Field(ge=0)] = 0
    """Channels between the layers, of a conv head."""
    reach: Annotated[int, Field(ge=0)] = 0
    """Pixels around a pixel that a conv head sees, on each side."""
    calibration: Calibrated | None = None
    """What comes behind it; a temperature is in the head's own numbers."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        late, data = ("hidden", "reach", "calibration"), dump(self)
        return {k: v for k, v in data.items() if v or k not in late}

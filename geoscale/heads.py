"""What a card says of a head that was fitted to labels; the numbers are weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Kind = Literal["linear", "forest"]


class Head(BaseModel):
    """A head behind the network of a card: features of a pixel in, logits out.

    The weights of such a card are one safetensors file: ``body.…`` are those of the
    network, ``head.…`` those of the head.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: Kind
    """``linear``: logistic regression or ridge; ``forest``: a random forest."""
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

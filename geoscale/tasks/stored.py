"""How classes and scores are stored: bytes with 255 for nodata."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from geoscale.card import OutputClass
from geoscale.types import Array, Float, Layer

NODATA = 255
"""Stored where no class can be told; never a class."""
QUANTA = 254
"""Scores in [0, 1] are stored as whole numbers 0..254; 255 is nodata."""


def class_layer(name: str, classes: Sequence[OutputClass], title: str) -> Layer:
    """Layer of class values, uint8, with the names and colours of its classes."""
    attrs: list[tuple[str, Any]] = [
        ("flag_meanings", " ".join(c.name.replace(" ", "_") for c in classes)),
        ("flag_values", [c.value for c in classes]),
        ("long_name", title),
    ]
    if all(c.color for c in classes):
        attrs.insert(0, ("flag_colors", " ".join(f"#{c.color}" for c in classes)))
    return Layer(name=name, dtype="uint8", fill_value=NODATA, attrs=tuple(attrs))


def quantised_layer(name: str, title: str, classes: int = 0) -> Layer:
    """Layer of scores in [0, 1], uint8 in steps of 1/254."""
    return Layer(
        name=name,
        dtype="uint8",
        fill_value=NODATA,
        classes=classes,
        attrs=(("long_name", title), ("scale_factor", 1 / QUANTA), ("units", "1")),
    )


def quantise(scores: Float, holes: Array, out: Array) -> None:
    """Round scores to steps, 255 in holes; `scores` is used up."""
    np.clip(scores, 0, 1, out=scores)
    scores *= np.float32(QUANTA)
    np.rint(scores, out=scores)
    np.copyto(out, scores, casting="unsafe")
    np.bitwise_or(out, holes, out=out)

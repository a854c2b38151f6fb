"""How sure a network is, beside the score of its class: entropy and margin.

Entropy is added up in whole numbers, out of a table: the sum knows no order, so that
no cut and no device gives other bits than another, and no library's logarithm does.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from geoscale.tasks.stored import quantise
from geoscale.types import Array, Float, Ints, LayerSpec

ENTROPY, MARGIN = "entropy", "margin"
SURENESS = {
    ENTROPY: "entropy of the scores, 1: all classes alike",
    MARGIN: "score of the class less that of the second",
}
"""Layer → what it tells, for its ``long_name``."""
STEPS = 2**16 - 1
"""Scores are looked up in so many steps."""
ONE = 2**24
"""Whole number that stands for an entropy of 1 nat: 254 classes fit into int32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SureSpec(LayerSpec):
    """How scores become layers, with those that say how sure they are."""

    sure: tuple[str, ...]
    """Some of `SURENESS`."""
    shared: bool
    """Whether the scores of a pixel add up to 1."""


@cache
def make_table() -> Ints:
    """Make the table of ``-p ln p``, in parts of `ONE`.

    Returns
    -------
    ndarray of int32, (STEPS + 1,)
        By ``p x STEPS``, rounded.
    """
    p = np.arange(1, STEPS + 1) / STEPS
    table = np.zeros(STEPS + 1, np.int32)
    table[1:] = np.rint(-p * np.log(p) * ONE)
    return table


def entropy_scale(classes: int) -> np.float32:
    """Factor that makes a sum of the table an entropy in [0, 1]: Pielou's evenness.

    Parameters
    ----------
    classes : int
        Of the network, 2 or more.

    Returns
    -------
    float32
        ``1 / (ONE ln classes)``.
    """
    return np.float32(1 / (ONE * np.log(classes)))


def put_entropy(scores: Float, holes: Array, out: Array, *, shared: bool) -> None:
    """Store the entropy of scores, Shannon's over its largest value.

    Parameters
    ----------
    scores : ndarray of float32, (class, y, x)
        In [0, 1]; never changed.
    holes : ndarray of uint8, (y, x)
        255 where not valid, else 0.
    out : ndarray of uint8, (y, x)
        Gets steps of 1/254.
    shared : bool
        Whether the scores of a pixel add up to 1; else each is divided by their sum.
    """
    table, total = make_table(), np.zeros(holes.shape, np.int32)
    whole = None
    if not shared:
        whole = np.zeros(holes.shape, np.float32)
        for plane in scores:
            whole += plane
        # of no score at all nothing is known: all alike
        none = whole <= 0
        whole[none] = 1
    for plane in scores:
        share = plane if whole is None else plane / whole
        if whole is not None:
            share[none] = np.float32(1 / len(scores))
        steps = np.rint(np.clip(share, 0, 1) * np.float32(STEPS))
        total += table[steps.astype(np.int32)]
    quantise(total.astype(np.float32) * entropy_scale(len(scores)), holes, out)


def put_margin(scores: Float, holes: Array, out: Array) -> None:
    """Store how far the best score is before the second.

    Parameters
    ----------
    scores : ndarray of float32, (class, y, x)
        In [0, 1]; never changed.
    holes : ndarray of uint8, (y, x)
        255 where not valid, else 0.
    out : ndarray of uint8, (y, x)
        Gets steps of 1/254.
    """
    top, second = scores[0].copy(), np.full(holes.shape, -np.inf, np.float32)
    for plane in scores[1:]:
        np.maximum(second, np.minimum(top, plane), out=second)
        np.maximum(top, plane, out=top)
    top -= second
    quantise(top, holes, out)

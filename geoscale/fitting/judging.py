"""How far to trust a head: held-out figures, beside those of what is cheaper."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import JobError
from geoscale.fitting.asked import SQUARES, Asked
from geoscale.fitting.calibrating import Calibration
from geoscale.fitting.chips import middle
from geoscale.fitting.crossing import Crossed, cross_validate, fit_whole
from geoscale.fitting.folds import deal_blocks
from geoscale.fitting.heads import Fit
from geoscale.fitting.inputs import indices_of
from geoscale.models.extract import Extractor
from geoscale.types import Float, Floats, Ints, Json

FEWEST = 2
"""Classes of a map."""
CHOSEN = "chosen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """Labelled pixels, wherever they come from."""

    features: Float
    """(pixel, feature) or (pixel, feature, y, x)."""
    bands: Float
    """The same of the bands of all dates."""
    codes: Ints
    """(pixel,): number of the label."""
    shapes: Ints
    """(pixel,): number of the point or polygon."""
    middles: Floats
    """(shape, 2): x and y on the ground, in m."""
    labels: tuple[str, ...]
    """What `codes` number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A head that was fitted to all labels, and what held-out ones say of it."""

    made: Fit
    """The head."""
    calibration: Calibration
    """What comes behind it."""
    names: tuple[str, ...]
    """Classes that have a pixel."""
    report: Json
    """Figures."""


def judge_and_fit(given: Labelled, card: ModelCard, asked: Asked) -> Judged:
    """Cross-validate a head, the same head on raw bands and indices, and fit it.

    Parameters
    ----------
    given : Labelled
        Pixels.
    card : ModelCard
        Of the network before the head.
    asked : Asked
        What the head is to be like.

    Returns
    -------
    Judged
        With figures of ground that no head was fitted to.

    Raises
    ------
    JobError
        If there are too few classes, labels or blocks.
    """
    used, codes = np.unique(given.codes, return_inverse=True)
    codes = codes.reshape(-1)
    names = tuple(given.labels[i] for i in used)
    if len(names) < FEWEST:
        raise JobError(
            f"all labels in the imagery are `{names[0]}`; a map needs two classes or "
            "more: add labels of what is not"
        )
    extent = np.ptp(given.middles[np.unique(given.shapes)], axis=0).max()
    block = None
    if asked.groups is None:
        block = asked.block_m or max(float(extent) / 10, 1.0)
    fold, blocks = deal_blocks(
        given.middles, codes, given.shapes, block_m=block, folds=asked.folds,
        names=names, groups=asked.groups,
    )  # fmt: skip
    crossed = _cross(given, card, asked, codes, fold, names)
    own = crossed[CHOSEN]
    report = {
        "head": asked.head,
        "with_bands": asked.with_bands,
        "per_class": asked.per_class,
        "seed": asked.seed,
        "ignored": list(asked.ignore),
        "classes": list(names),
        "counts": [int(n) for n in np.bincount(codes)],
        "block_m": None if block is None else round(block, 3),
        "blocks": blocks,
        **({} if asked.blocks == SQUARES else {"grouped": asked.blocks}),
        "folds": asked.folds,
        "features": {name: one.figures for name, one in crossed.items()},
    }
    made = fit_whole(
        asked.head, given.features, codes, len(names), asked.seed, own.figures
    )
    return Judged(made=made, calibration=own.calibration, names=names, report=report)


def _cross(
    given: Labelled,
    card: ModelCard,
    asked: Asked,
    codes: Ints,
    fold: Ints,
    names: tuple[str, ...],
) -> dict[str, Crossed]:
    """Judge the chosen features and their rivals in the same folds."""
    rivals = {CHOSEN: (asked.head, given.features)}
    if asked.floor:
        floor = _floor(given.bands, card)
        rivals |= {name: (asked.head, values) for name, values in floor.items()}
        if asked.reach:
            rivals["pixel"] = ("logistic", middle(given.features))
    return {
        name: cross_validate(
            head, values, codes, fold, names, asked.seed, asked.calibrate
        )
        for name, (head, values) in rivals.items()
    }


def _floor(bands: Float, card: ModelCard) -> dict[str, Float]:
    """Raw bands, and their indices where there are any."""
    rivals = {}
    if card.name != "bands":
        rivals["bands"] = bands
    plain = None if card.name == "indices" else indices_of(card)
    if plain is not None:
        run = Extractor(plain, None)
        full = bands if bands.ndim == 4 else bands[:, :, None, None]
        found = run(full)
        rivals["indices"] = found if bands.ndim == 4 else found[:, :, 0, 0]
    return rivals

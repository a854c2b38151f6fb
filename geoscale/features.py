"""Thresholds of feature distances: the network runs on places all over the job."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geoscale.assemble import make_kernel
from geoscale.contrast.cards import close_card
from geoscale.contrast.thresholds import BINS, otsu
from geoscale.engine.block import Kernel
from geoscale.engine.one_pass import OnePass
from geoscale.engine.patchwork import Timer
from geoscale.errors import PlanError
from geoscale.parcels import Parcel
from geoscale.passes import BlockTask
from geoscale.plans import InferencePlan
from geoscale.supply import find_parcels, supply
from geoscale.types import Bool, Float, Floats, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from distributed import Client


def find_feature_threshold(
    plan: InferencePlan,
    source: Source,
    places: list[Window],
    client: Client | None = None,
    trust_code: bool = False,
) -> float:
    """Otsu's threshold of the distances that a network sees at some places.

    Parameters
    ----------
    plan : InferencePlan
        Its card is open; the patches of its lattice are run, whatever its blocks.
    source : Source
        Imagery.
    places : list of Window
        Where to look.
    client : distributed.Client, optional
        Cluster; one of its workers runs the network.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    float
        Distance.

    Raises
    ------
    PlanError
        If no place has a valid pixel, or all distances are equal.
    """
    # At a threshold of 1 the score is m / (m + 1), which gives the magnitude back.
    card = close_card(plan.card, {"threshold": 1.0})
    asked = dataclasses.replace(plan, card=card, live=None)
    if client is None:
        return _find(asked, source, places, trust_code)
    held = client.scatter(source, hash=False)
    parcels = find_parcels(asked, trust_code=trust_code)
    with supply(asked, client, trust_code=trust_code):
        found: float = client.submit(
            _find, asked, held, places, trust_code, parcels, pure=False
        ).result()
    return found


def score_place(kernel: Kernel, source: Source, place: Window) -> tuple[Float, Bool]:
    """Run a kernel's network on one place, as it would in a block of that extent.

    Parameters
    ----------
    kernel : Kernel
        Of the plan whose lattice is laid; its sink is not used.
    source : Source
        Where pixels are read.
    place : Window
        On the grid of the plan.

    Returns
    -------
    scores : ndarray of float32, (class, y, x)
        Merged.
    keep : ndarray of bool, (y, x)
        Where there are some.
    """
    plan = kernel.plan
    task = BlockTask(
        number=0,
        name="sample",
        time=0,
        passes=plan.groups[0],
        core=place,
        read=plan.lattice.read_window(place),
    )
    steps = task.passes[0]
    one = OnePass(kernel, task, steps, Timer())
    return one.score(source.read(task.read, steps))


def _find(
    plan: InferencePlan,
    source: Source,
    places: list[Window],
    trust_code: bool,
    parcels: Sequence[Parcel] = (),
) -> float:
    kernel = make_kernel(plan, source=source, trust_code=trust_code, parcels=parcels)
    found: list[Floats] = []
    for place in places:
        scores, keep = score_place(kernel, source, place)
        share = scores[1][keep].astype(np.float64)
        found.append(share / np.maximum(1 - share, 1e-9))
    far = np.concatenate(found)
    if not far.size or not far.min() < far.max():
        raise PlanError(
            f"the features of {plan.card.name} are equally far apart at all "
            f"{far.size} pixels that were looked at; choose another layer, or give "
            "`change.magnitude`"
        )
    low, high = float(far.min()), float(far.max())
    return otsu(np.histogram(far, BINS, (low, high))[0].astype(float), low, high)

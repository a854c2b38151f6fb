"""Check the values of a job: pixels from all over it against the model's card."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from geoscale.errors import PlanError
from geoscale.likeness import Likeness, judge
from geoscale.passes import Pass
from geoscale.plans import InferencePlan
from geoscale.sampling import READERS, list_places
from geoscale.sources.opening import source_of, unjudged
from geoscale.types import Float, Source
from geoscale.windows import Window

PLACES = 16
"""Places of 256 x 256 px that are looked at."""
STEP = 4
"""Every so many pixels along both sides are taken: neighbours say the same."""


def check_values(plan: InferencePlan) -> tuple[InferencePlan, Likeness | None]:
    """Read some pixels of a job and hold them against the card's normalisation.

    Parameters
    ----------
    plan : InferencePlan
        Its first time step is looked at; no network is run.

    Returns
    -------
    plan : InferencePlan
        With every warning among its notes; its hash is the same.
    likeness : Likeness or None
        What was found; None where the card says nothing of the pixels it expects, or
        there is no model.

    Raises
    ------
    PlanError
        If none of the places has a valid pixel.
    """
    if plan.change is not None and plan.change.needs_no_model:
        return plan, None
    source, steps = unjudged(source_of(plan)), plan.groups[0][0]
    places = list_places(plan, source, steps, PLACES)
    with ThreadPoolExecutor(READERS) as pool:
        read = list(pool.map(lambda w: _read(plan, source, w, steps), places))
    x = np.concatenate(read, axis=1) if read else np.empty((0, 0), np.float32)
    if not x.shape[1]:
        raise PlanError(
            f"none of {len(places)} places of the job has a valid pixel, so its values "
            "cannot be checked; look at the nodata value, the dates and the area"
        )
    found = judge(plan.card, x)
    warnings = () if found is None else found.warnings
    notes = tuple(dict.fromkeys((*plan.notes, *warnings)))
    return dataclasses.replace(plan, notes=notes), found


def describe_values(found: Likeness | None) -> list[str]:
    """Say what was found, a line for each channel.

    Parameters
    ----------
    found : Likeness or None
        From `check_values`.

    Returns
    -------
    list of str
        Lines.
    """
    if found is None:
        why = "no model, or one that takes raw values and states no statistics"
        return [f"nothing to check: {why}"]
    by = "the card's training pixels" if found.stated else "what land usually reflects"
    head = f"{found.pixels:,} px, distance {found.distance:.2f} from {by}"
    rows = zip(found.channels, found.mean, found.std, found.expected, strict=True)
    return [
        head,
        *(
            f"{name:<12} {mean:>10.4g} ± {std:<10.4g} expected {m:>10.4g} ± {s:<.4g}"
            for name, mean, std, (m, s) in rows
        ),
    ]


def _read(plan: InferencePlan, source: Source, window: Window, steps: Pass) -> Float:
    """Give valid pixels of a place as the network takes them, not normalised."""
    pixels = source.read(window, steps)
    data = np.asarray(pixels.data[..., ::STEP, ::STEP], np.float32)
    ok = pixels.valid[..., ::STEP, ::STEP].all(axis=0) & np.isfinite(data).all((0, 1))
    if plan.card.input.frame_order == "newest-first":
        data = data[::-1]
    return data.reshape(-1, *data.shape[-2:])[:, ok]

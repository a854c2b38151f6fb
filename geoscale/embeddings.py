"""Numbers of embeddings: principal components, and the steps of 8 bits.

They come from a first pass over places that depend on the stack alone, and go into the
plan before the first block: so no vector depends on the cut, and none on who made it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from geoscale.assemble import make_kernel
from geoscale.chunks import round_up
from geoscale.engine.journal import Journal
from geoscale.errors import PlanError
from geoscale.features import score_place
from geoscale.parcels import Parcel
from geoscale.plans import InferencePlan
from geoscale.sampling import list_places
from geoscale.sources.opening import source_of
from geoscale.supply import find_parcels, supply
from geoscale.tasks.embedding import STEPS, reduce_features
from geoscale.types import Array, Float, Json, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from distributed import Client

PLACES = 32
"""Places that are looked at, most."""
VECTORS = 1024
"""Vectors that are taken of a place, most, spread evenly over it."""
ROOM = 0.1
"""Part of the sample's range by which 8 bits reach beyond it on either side."""


def learn_embedding(
    plan: InferencePlan,
    url: str | None = None,
    *,
    client: Client | None = None,
    trust_code: bool = False,
) -> InferencePlan:
    """Find the numbers that embeddings lack; take over what was found before.

    Parameters
    ----------
    plan : InferencePlan
        Of embeddings; comes back as it is if nothing is open.
    url : str, optional
        Output: if the same job was begun there, its numbers hold.
    client : distributed.Client, optional
        Cluster; one of its workers runs the network.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    InferencePlan
        With its numbers, and with ``statistics`` that say where they come from.

    Raises
    ------
    PlanError
        If no place has a valid cell, or too few for so many components.
    """
    assert plan.embedding is not None
    name = plan.hash if plan.statistics is None else plan.statistics["of"]
    if url is not None and (plan.statistics is not None or not plan.is_learned):
        begun = find_begun(plan, url)
        if begun is not None:
            return dataclasses.replace(
                plan, embedding=begun.embedding, statistics=begun.statistics
            )
    if plan.is_learned:
        return plan
    vectors, places = _gather(plan, client, trust_code)
    numbers, told = find_numbers(
        vectors, plan.embedding.components, steps=plan.output.dtype == "int8"
    )
    told |= {"of": name, "places": places, "vectors": len(vectors)}
    chosen = plan.embedding.model_copy(update={"numbers": numbers})
    return dataclasses.replace(plan, embedding=chosen, statistics=told)


def find_begun(plan: InferencePlan, url: str) -> InferencePlan | None:
    """Find the plan of the same job with its numbers, if it was begun at an output.

    Its numbers hold: on another machine those of the same places may have other last
    bits.

    Parameters
    ----------
    plan : InferencePlan
        With or without its numbers.
    url : str
        Output.

    Returns
    -------
    InferencePlan or None
        None where nothing, or another job, was begun.
    """
    begun = Journal(url).load_plan()
    name = plan.hash if plan.statistics is None else plan.statistics["of"]
    if begun is None or (begun.statistics or {}).get("of") != name:
        return None
    return begun


def find_numbers(
    vectors: Float, components: int | None, *, steps: bool
) -> tuple[Json, Json]:
    """Find how vectors are reduced, and stored in 8 bits.

    Parameters
    ----------
    vectors : ndarray of float32, (n, feature)
        A sample.
    components : int or None
        Principal components that are kept; None: all features are.
    steps : bool
        Whether they are stored in 8 bits.

    Returns
    -------
    numbers : dict
        As `geoscale.tasks.embedding.Embed` takes them.
    told : dict
        ``explained``, the share of the variance that each component holds.

    Raises
    ------
    PlanError
        If there are fewer vectors than components.

    References
    ----------
    .. [1] Jolliffe & Cadima 2016, "Principal component analysis: a review and recent
       developments", doi:10.1098/rsta.2015.0202
    """
    numbers: Json = {}
    told: Json = {}
    if len(vectors) <= (components or 0):
        raise PlanError(
            f"{len(vectors)} valid cells were found in the first pass, which is too "
            f"few for {components or 'steps of 8 bits'}"
            f"{' components' if components else ''}; check that the area has imagery, "
            "or leave `embedding.components` and `output.dtype` out"
        )
    if components is not None:
        exact = vectors.astype(np.float64)
        mean = exact.mean(axis=0)
        spread, axes = np.linalg.eigh(np.cov(exact - mean, rowvar=False))
        spread, axes = spread[::-1].clip(0), axes[:, ::-1].T[:components]
        # an axis and its opposite are as good: the largest weight is positive
        largest = np.abs(axes).argmax(axis=1)
        axes = axes * np.sign(axes[np.arange(len(axes)), largest])[:, None]
        numbers = {"mean": _plain(mean), "components": [_plain(a) for a in axes]}
        total = max(float(spread.sum()), 1e-30)
        told["explained"] = [round(float(s) / total, 6) for s in spread[:components]]
    if steps:
        reduced = reduce_features(vectors.T[:, :, None], numbers)[:, :, 0]
        low, high = reduced.min(axis=1), reduced.max(axis=1)
        half = np.maximum((high - low) * (0.5 + ROOM), 1e-6)
        numbers |= {"offset": _plain((low + high) / 2), "scale": _plain(half / STEPS)}
    return numbers, told


def _plain(values: Array) -> list[float]:
    """Float32 as JSON holds it, exactly."""
    return [float(v) for v in np.asarray(values, np.float32)]


def _gather(
    plan: InferencePlan, client: Client | None, trust_code: bool
) -> tuple[Float, int]:
    """Vectors of places all over the job, and how many places there are."""
    source = source_of(plan)
    found = list_places(plan, source, plan.groups[0][0], PLACES)
    places = list(dict.fromkeys(_snap(w, plan.cell, plan.shape) for w in found))
    bare = dataclasses.replace(plan, live=None)
    if client is None:
        return _look(bare, source, places, trust_code), len(places)
    held = client.scatter(source, hash=False)
    parcels = find_parcels(bare, trust_code=trust_code)
    with supply(bare, client, trust_code=trust_code):
        vectors: Float = client.submit(
            _look, bare, held, places, trust_code, parcels, pure=False
        ).result()
    return vectors, len(places)


def _snap(place: Window, cell: int, shape: tuple[int, int]) -> Window:
    """Widen a place to whole cells."""
    y0, x0, y1, x1 = place.as_tuple()
    return Window(
        y0 // cell * cell, x0 // cell * cell, round_up(y1, cell), round_up(x1, cell)
    ).clip(shape)


def _look(
    plan: InferencePlan,
    source: Source,
    places: Sequence[Window],
    trust_code: bool,
    parcels: Sequence[Parcel] = (),
) -> Float:
    """Vectors, (n, feature), in the order of the places."""
    kernel = make_kernel(plan, source=source, trust_code=trust_code, parcels=parcels)
    found = [np.zeros((0, plan.card.output.width), np.float32)]
    for place in places:
        scores, keep = score_place(kernel, kernel.source, place)
        vectors = scores[:, keep].T
        every = max(1, -(-len(vectors) // VECTORS))
        found.append(vectors[::every].copy())
    return np.concatenate(found)

"""Supply: which files of a model workers need, and their card with these at hand.

Weights that a card names by URL, or that come with a package, are fetched by the
workers themselves. Files of the driver's own disk are sent to those that do not see
them, and code only where it is trusted.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from geoscale.card import ModelCard
from geoscale.clusters import Courier, count_local_workers
from geoscale.imports import check_trust
from geoscale.parcels import Parcel, find_path, wait_for_files

if TYPE_CHECKING:
    from distributed import Client

    from geoscale.plans import InferencePlan


MASK = "imagery.mask."
"""Before the fields of the card of a mask's model."""


def find_parcels(plan: InferencePlan, *, trust_code: bool) -> tuple[Parcel, ...]:
    """List the files that the plan's models are made of, and that this machine has.

    Parameters
    ----------
    plan : InferencePlan
        With the hashes of weights and code.
    trust_code : bool
        Code is sent only where it may run, and refused here if it may not.

    Returns
    -------
    tuple of Parcel
        Empty where the model comes from a package or a URL.

    Raises
    ------
    CardError
        If it has code that is not trusted.
    """
    models = [("", plan.card, plan.weights_sha256, plan.code_sha256)]
    if (mask := plan.source.get("judging")) is not None:
        card = ModelCard.from_dict(mask["card"], where="imagery.mask")
        models.append((MASK, card, mask["weights_sha256"], mask["code_sha256"]))
    found: list[Parcel] = []
    for of, card, weights, code in models:
        for named in (card.architecture, card.input.normalization.callable):
            if named is not None:
                check_trust(named, trust_code=trust_code)
        href = card.weights.href.removeprefix("file://")
        if "://" not in href and not href.startswith(("package:", "torchgeo:", "hf:")):
            path = _absolute(card, href)
            place = f"weights/{weights}{path.suffix.lower()}"
            found.append(_pack(f"{of}weights.href", path, weights, place))
        hashes = iter((code or "").split("-"))
        for field, named in _code(card):
            path, sha256 = _absolute(card, named.partition(":")[0]), next(hashes)
            place = f"code/{sha256}/{path.name}"
            found.append(_pack(f"{of}{field}", path, sha256, place))
    return tuple(found)


def supply(
    plan: InferencePlan, client: Client | None, *, trust_code: bool
) -> AbstractContextManager[Any]:
    """Send the model's files to workers that do not see them, while a run lasts.

    Parameters
    ----------
    plan : InferencePlan
        What is run.
    client : distributed.Client or None
        The cluster; nothing is done without one, or for worker processes that this
        one has started on its machine.
    trust_code : bool
        As for `find_parcels`.

    Returns
    -------
    context manager
        Those that are there have the files once it is entered.
    """
    if client is None or count_local_workers(client):
        return nullcontext()
    return Courier(client, find_parcels(plan, trust_code=trust_code))


def at_hand(card: ModelCard, parcels: Sequence[Parcel], of: str = "") -> ModelCard:
    """Give a card whose files are named as this process sees them.

    Parameters
    ----------
    card : ModelCard
        As the driver sees them.
    parcels : sequence of Parcel
        From `find_parcels`; those that are still coming are waited for.
    of : str
        `MASK` for the card of a mask's model.

    Returns
    -------
    ModelCard
        The same where all are seen under the driver's paths.

    Raises
    ------
    WeightsError
        If a file does not come.
    """
    mine = [
        one._replace(field=one.field.removeprefix(MASK))
        for one in parcels
        if one.field.startswith(MASK) == bool(of)
    ]
    wait_for_files(mine)
    for one in mine:
        path = find_path(one)
        if path is None or str(path) == one.source:
            continue  # whoever opens it says what is wrong
        if one.field == "weights.href":
            weights = card.weights.model_copy(update={"href": str(path)})
            card = card.model_copy(update={"weights": weights})
        elif one.field == "architecture":
            named = _rename(card.architecture, path)
            card = card.model_copy(update={"architecture": named})
        else:
            old = card.input.normalization
            named = _rename(old.callable, path)
            norm = old.model_copy(update={"callable": named})
            given = card.input.model_copy(update={"normalization": norm})
            card = card.model_copy(update={"input": given})
    return card


def _code(card: ModelCard) -> list[tuple[str, str]]:
    """Python files that a card names, in the order in which they are hashed."""
    paths = (
        ("architecture", card.architecture),
        ("callable", card.input.normalization.callable),
    )
    return [(f, p) for f, p in paths if p and p.partition(":")[0].endswith(".py")]


def _absolute(card: ModelCard, path: str) -> Path:
    return Path(os.path.abspath(Path(card.base or ".") / path))


def _rename(named: str | None, path: Path) -> str:
    return f"{path}:{(named or '').partition(':')[2]}"


def _pack(field: str, path: Path, sha256: str, place: str) -> Parcel:
    parcel = Parcel(field, str(path), sha256, place, -1)
    found = find_path(parcel)  # a driver beside a scheduler has it in its cache
    return parcel if found is None else parcel._replace(size=found.stat().st_size)

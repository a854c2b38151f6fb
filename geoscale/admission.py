"""Admission: what a card must be, and a user must accept, before a map is made."""

from __future__ import annotations

from geoscale.card import ModelCard
from geoscale.errors import CardError

_NON_COMMERCIAL = ("non-commercial", "noncommercial", "proprietary")
_ELSEWHERE = ("torchgeo:", "hf:", "http://", "https://")


def judge_license(name: str | None) -> str:
    """Say what a licence forbids, as far as its name tells.

    Parameters
    ----------
    name : str or None
        SPDX id or other words of a card.

    Returns
    -------
    str
        ``unknown``, ``non-commercial``, or nothing where the name forbids nothing.

    Examples
    --------
    >>> [judge_license(n) for n in ("CC-BY-NC-4.0", "CC-BY-4.0", None)]
    ['non-commercial', '', 'unknown']
    """
    if name is None or not name.strip() or name.lower() in ("unknown", "other"):
        return "unknown"
    lowered = name.lower()
    if lowered in _NON_COMMERCIAL or "nc" in lowered.replace("_", "-").split("-"):
        return "non-commercial"
    return ""


def needs_acceptance(card: ModelCard) -> str:
    """Say why a user has to accept the licence of a card's weights.

    An unknown licence counts where the weights come from elsewhere; of a file of
    their own users know it.

    Parameters
    ----------
    card : ModelCard
        The model.

    Returns
    -------
    str
        What stands against it; nothing where nothing does.
    """
    found = judge_license(card.license)
    if found == "non-commercial":
        return f"licence {card.license} forbids commercial use"
    if found == "unknown" and card.weights.href.startswith(_ELSEWHERE):
        return "licence is not known"
    return ""


def admit(
    card: ModelCard, *, accept_license: bool = False, embeds: bool = False
) -> None:
    """Refuse a model that gives no map, or whose licence was not accepted.

    Parameters
    ----------
    card : ModelCard
        The model.
    accept_license : bool
        Whether the user accepts a licence that is non-commercial or not known.
    embeds : bool
        Whether features are what is wanted.

    Raises
    ------
    CardError
        Saying what to do.
    """
    if not embeds:
        refuse_backbone(card)
    why = needs_acceptance(card)
    if why and not accept_license:
        raise CardError(
            f"the {why} (weights `{card.name}`); read it, then accept it with "
            "--accept-license (Python: accept_license=True; in a job: inference: "
            "{accept_license: true})"
        )


def refuse_backbone(card: ModelCard) -> None:
    """Refuse weights that end in features.

    Parameters
    ----------
    card : ModelCard
        The model.

    Raises
    ------
    CardError
        If its task is backbone.
    """
    if card.task == "backbone":
        raise CardError(
            f"these weights are a backbone: `{card.name}` gives "
            f"{card.output.features} features, not classes; use task embedding or fit "
            "a head"
        )

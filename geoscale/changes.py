"""Change between dates: which method a card allows, and which dates are compared."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from geoscale.card import ModelCard
from geoscale.contrast.cards import (
    comparison_card,
    feature_card,
    is_open,
    method_of,
)
from geoscale.errors import CardError, JobError
from geoscale.forecasts import choose_context, label_ahead
from geoscale.options import SAY_MODEL, Change
from geoscale.passes import Passes, join_steps, pair_neighbours, take_turns
from geoscale.tasks.change import CLASS_OUTPUTS, NETWORK_OUTPUTS
from geoscale.types import Json


def choose_card(
    asked: Change | None,
    model: ModelCard | None,
    list_bands: Callable[[], Sequence[str]],
) -> ModelCard:
    """Give the card of what is run: the model's, or that of a comparison.

    Parameters
    ----------
    asked : Change or None
        What the user chose.
    model : ModelCard or None
        The model, if one is named.
    list_bands : callable
        Bands of the imagery; asked only where nothing else names any.

    Returns
    -------
    ModelCard
        Of a comparison open: its numbers come from the job's pixels.

    Raises
    ------
    JobError
        If a model or a layer is missing, or something is said that the method has no
        use for.
    """
    chosen = asked or Change()
    if chosen.layer is not None and chosen.method != "features":
        raise JobError("`change.layer` is for `change.method: features`; leave it out")
    ours = chosen.is_compared or (model is not None and is_open(model))
    if chosen.magnitude is not None and not ours:
        raise JobError(
            "`change.magnitude` is for `change.method: cva`, `irmad` or `features`; "
            "say `change.threshold` for the least probability"
        )
    if chosen.method in ("cva", "irmad"):
        if model is None:
            return comparison_card(chosen.method, list_bands())
        spec = model.input
        return comparison_card(chosen.method, spec.bands, sensor=spec.sensor)
    if model is None:
        raise JobError(SAY_MODEL)
    if chosen.method == "features":
        if chosen.layer is None:
            raise JobError(
                "change.method features needs `change.layer`: the part of the model's "
                "network whose output is compared, for instance encoder.layer2"
            )
        return feature_card(model, chosen.layer)
    return model


def refuse_zones_of(asked: Change | None, model: ModelCard | None) -> None:
    """Refuse ``crs: utm`` where numbers of the whole area decide.

    Raises
    ------
    JobError
        If zones would find other numbers each.
    """
    chosen = asked or Change()
    what = f"method: {chosen.method}" if chosen.is_compared else None
    if model is not None and is_open(model):
        what = f"method: {method_of(model)}"
    if chosen.coregister == "shift":
        what = "coregister: shift"
    if what is not None:
        raise JobError(
            f"`change.{what}` takes numbers of the whole area; with `grid.crs: utm` "
            "every zone would find its own, with seams between them: set grid.crs to "
            "one CRS, EPSG:…, or make a job of each zone"
        )


def resolve_change(
    task: str | None, asked: Change | None, card: ModelCard
) -> Change | None:
    """Tell how change is found, if the job is about change at all.

    Parameters
    ----------
    task : str or None
        A `geoscale.card.TaskName`; None: what the card is for.
    asked : Change or None
        What the user chose.
    card : ModelCard
        The model.

    Returns
    -------
    Change or None
        With its method; None for a map of classes.

    Raises
    ------
    JobError
        If something is said of change where none is looked for.
    CardError
        If the card does not serve.
    """
    if "detection" in (task, card.task):
        _check_detection(task, asked, card)
        return None
    wanted = task or card.task
    others = ("embedding", "backbone", "regression", "classification", "forecasting")
    if wanted in others:
        if asked is not None:
            raise JobError(
                f"`change` says how change is found, but the task is {wanted}; leave "
                "it out, or choose a model for segmentation or change"
            )
        return None
    if wanted == "segmentation":
        if asked is not None:
            raise JobError(
                "`change` says how change is found, but the task is segmentation; say "
                "`task: change`, or leave `change` out"
            )
        if card.task == "change":
            raise CardError(
                f"`{card.name}` is a model of change, which gives no classes; say "
                "`task: change`"
            )
        return None
    chosen = asked or Change()
    method = chosen.method or ("network" if card.task == "change" else "classes")
    if method == "network" and card.task != "change":
        raise CardError(
            f"change.method network needs a card of `task: change`; `{card.name}` is "
            "for segmentation: say `method: classes` to compare its two maps"
        )
    if method == "classes" and (card.task == "change" or card.input.frames > 1):
        raise CardError(
            f"change.method classes needs a card that classifies one date; "
            f"`{card.name}` takes {card.input.frames} at once (task {card.task}); "
            "choose another model"
            + (", or leave `method` out" if card.task == "change" else "")
        )
    return chosen.model_copy(update={"method": method})


def _check_detection(task: str | None, asked: Change | None, card: ModelCard) -> None:
    """Refuse a detector for another task, or another model for detection."""
    if task not in (None, "detection"):
        raise CardError(
            f"`{card.name}` is a detector, which gives objects, not pixels; say "
            "`task: detection`, or leave `task` out"
        )
    if card.task != "detection":
        raise CardError(
            f"task detection needs a detector; `{card.name}` is for {card.task}: name "
            "a card of `task: detection`"
        )
    if asked is not None:
        raise JobError(
            "`change` says how change is found, but the task is detection; leave it out"
        )


def default_layers(change: Change | None) -> tuple[str, ...]:
    """Layers that are stored where the user names none.

    Examples
    --------
    >>> default_layers(None)
    ('classes', 'confidence')
    """
    if change is None:
        return ("classes", "confidence")
    return NETWORK_OUTPUTS if change.sees_both else CLASS_OUTPUTS


def group_steps(
    change: Change | None, times: Sequence[str], card: ModelCard
) -> tuple[Passes, ...]:
    """Tell which time steps of a stack make each time step of the output.

    Parameters
    ----------
    change : Change or None
        Resolved; None for a map of classes.
    times : sequence of str
        Labels of the stack's time steps.
    card : ModelCard
        The model.

    Returns
    -------
    tuple of Passes
        By time step of the output.

    Raises
    ------
    CardError
        If there are too few, or no whole number of what the model takes.
    """
    frames, count = card.input.frames, len(times)
    if card.output.forecast is not None:
        return (choose_context(times, card),)
    if change is not None:
        if count < 2:
            found = ", ".join(times) or "none"
            raise CardError(
                f"change is between two dates, the stack has {count} ({found}); give "
                "`imagery.periods: {before: 2023-06/2023-08, after: 2024-06/2024-08}`, "
                "or imagery of two dates or more (what is of the same day is one date; "
                "`imagery.groupby: item` keeps scenes apart)"
            )
        return pair_neighbours(count, together=change.sees_both)
    if count % frames or not count:
        raise CardError(
            f"`{card.name}` takes {frames} dates at once, the stack has {count} time "
            f"steps ({', '.join(times[:6])}); choose a multiple of {frames}"
        )
    return take_turns(count, frames)


def label_groups(
    groups: Sequence[Passes], times: Sequence[str], card: ModelCard
) -> tuple[str, ...]:
    """Label every time step of the output: as its newest frame, or what lies ahead.

    Parameters
    ----------
    groups : sequence of Passes
        As `group_steps` gives them.
    times : sequence of str
        Labels of the stack's time steps.
    card : ModelCard
        The model.

    Returns
    -------
    tuple of str
        One for each time step of the output.
    """
    newest = tuple(times[join_steps(passes)[-1]] for passes in groups)
    return newest if card.output.forecast is None else label_ahead(newest[0], card)


def name_compared(
    groups: Sequence[Passes], times: Sequence[str], periods: Sequence[str]
) -> tuple[Json, ...]:
    """Say which two dates each time step of a change map compares.

    Parameters
    ----------
    groups : sequence of Passes
        By time step of the output.
    times : sequence of str
        Labels of the stack's time steps.
    periods : sequence of str
        Their names; empty where they have none.

    Returns
    -------
    tuple of dict
        ``from`` and ``to``, labels; ``from_period`` and ``to_period`` where named.

    Examples
    --------
    >>> name_compared((((0, 1),),), ["2023-01-01", "2024-01-01"], [])
    ({'from': '2023-01-01', 'to': '2024-01-01'},)
    """
    found = []
    for passes in groups:
        first, last = passes[0][0], passes[-1][-1]
        one: Json = {"from": times[first], "to": times[last]}
        if periods:
            one |= {"from_period": periods[first], "to_period": periods[last]}
        found.append(one)
    return tuple(found)

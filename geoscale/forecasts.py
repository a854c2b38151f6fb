"""Forecasts: which dates a network sees, and which ones it tells of."""

from __future__ import annotations

from collections.abc import Sequence

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.passes import Passes
from geoscale.stamps import add_days, days_between

SLACK = 0.1
"""Part of a step by which dates may lie off it; half a day in any case."""


def allowed_slack(every_days: float) -> float:
    """Days by which a date may lie off the one that is wanted.

    Examples
    --------
    >>> allowed_slack(2), allowed_slack(30)
    (0.5, 3.0)
    """
    return max(0.5, SLACK * every_days)


def say_days(days: float) -> str:
    """Say a number of days.

    Examples
    --------
    >>> say_days(1), say_days(0.5)
    ('1 day', '0.5 days')
    """
    return f"{days:g} day{'s' * (days != 1)}"


def choose_context(times: Sequence[str], card: ModelCard) -> Passes:
    """Tell which time steps of a stack a network sees: the last that fit its step.

    Parameters
    ----------
    times : sequence of str
        Labels of the stack's time steps, ascending.
    card : ModelCard
        Of task forecasting.

    Returns
    -------
    Passes
        One pass, oldest date first.

    Raises
    ------
    CardError
        If there are too few dates, or none where one is needed.
    """
    ahead, frames = card.output.forecast, card.input.frames
    assert ahead is not None
    step = ahead.every_days
    if len(times) < frames:
        raise CardError(
            f"`{card.name}` sees {frames} dates, {step:g} days apart, the stack has "
            f"{len(times)} ({', '.join(times[:6]) or 'none'}); ask for a longer time "
            "(`imagery.datetime`), or for that many `imagery.periods`"
        )
    slack, found = allowed_slack(step), []
    for back in range(frames):
        wanted = add_days(times[-1], -back * step)
        far = [abs(days_between(wanted, label)) for label in times]
        nearest = min(range(len(times)), key=far.__getitem__)
        if far[nearest] > slack or nearest in found:
            raise CardError(
                f"`{card.name}` sees {frames} dates, {step:g} days apart, the last of "
                f"them {times[-1]}; there is none within {say_days(slack)} of {wanted} "
                f"(the nearest is {times[nearest]}): make them with `imagery.periods`, "
                f"{frames} of {step:g} days each, or give imagery of these dates"
            )
        found.append(nearest)
    return (tuple(reversed(found)),)


def label_ahead(last: str, card: ModelCard) -> tuple[str, ...]:
    """Labels of what lies ahead.

    Parameters
    ----------
    last : str
        Label of the last date that the network sees.
    card : ModelCard
        Of task forecasting.

    Returns
    -------
    tuple of str
        One for each future step.
    """
    ahead = card.output.forecast
    assert ahead is not None
    return tuple(
        add_days(last, n * ahead.every_days) for n in range(1, ahead.steps + 1)
    )

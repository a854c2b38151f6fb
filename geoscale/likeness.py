"""Whether the pixels of a job look like those that a network was trained on.

A card's normalisation tells mean and spread of the training pixels. What is far from
them is either another kind of place, or the same pixels in other units.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import MissingDependencyError, require
from geoscale.types import Float, Floats

FAR = 1.5
"""Distance (Fisher-Rao, mean over channels) from which values are looked into."""
UNKNOWN = 4.0
"""Distance from which values are wrong, though nothing explains them. A scene of one
kind of land lies up to 3 from what a cloud mask was trained on."""
UNLIKELY = 5.0
"""Factor, between the means, that no kind of land explains."""
ODD = 0.4
"""Difference of the profiles over the bands (root mean square of logarithms) from
which their order is looked into."""
BETTER = 0.5
"""What a mistake must leave of the distance, once undone, to be named."""
DARK, BRIGHT = 1.0, 99.0
"""Percentiles that stand for the darkest and the brightest pixels."""
# reflectance that is about what land shows, where a card says nothing of its pixels
_LAND_MEAN, _LAND_STD = 0.2, 0.15
# since processing baseline 04.00, Sentinel-2 files hold (reflectance + 0.1) x 10000
_OFFSET = 0.1

Undo = Callable[[Any], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Likeness:
    """What was found of a job's values."""

    channels: tuple[str, ...]
    """Names, in the network's order; with the date, where it takes several."""
    mean: tuple[float, ...]
    """Of the job's pixels, before normalisation."""
    std: tuple[float, ...]
    """Of the same."""
    expected: tuple[tuple[float, float], ...]
    """Mean and spread of the training pixels, by channel."""
    stated: bool
    """Whether the card states them; else they are what land usually reflects."""
    distance: float
    """Between both, mean over channels."""
    pixels: int
    """Looked at."""
    warnings: tuple[str, ...] = ()
    """What is probably wrong and what to do; empty: nothing."""


def fisher_rao(mean: Floats, std: Floats, other: Floats, spread: Floats) -> Floats:
    """Distance between normal distributions, 0 where they are the same.

    ``sqrt(2) arccosh(1 + ((m1 - m2)^2 + 2 (s1 - s2)^2) / (4 s1 s2))`` (Costa, Santos &
    Strapasson 2015, doi:10.1016/j.dam.2014.10.004, eq. 5). A factor of 10,000 in the
    spread alone is 13; a mean that lies one spread aside is 0.98.

    Parameters
    ----------
    mean, std, other, spread : ndarray of float64
        Of both; spreads above 0.

    Returns
    -------
    ndarray of float64
        Distances.
    """
    apart = (mean - other) ** 2 + 2 * (std - spread) ** 2
    found: Floats = np.sqrt(2) * np.arccosh(1 + apart / (4 * std * spread))
    return found


def judge(card: ModelCard, x: Float) -> Likeness | None:
    """Hold pixels of a job against what a card says of its training pixels.

    Parameters
    ----------
    card : ModelCard
        The model.
    x : ndarray of float32, (channel, n)
        Valid pixels before normalisation, in the network's order.

    Returns
    -------
    Likeness or None
        None where the card says nothing that could be compared.
    """
    spec = card.input
    stated = spec.normalization.type == "mean-std"
    if stated:
        want = [np.array(v) for v in (spec.normalization.mean, spec.normalization.std)]
    elif spec.units == "reflectance":
        size = (spec.channels,)
        want = [np.full(size, v * spec.multiply) for v in (_LAND_MEAN, _LAND_STD)]
    else:
        return None
    mean, std = _moments(x)
    want[1] = np.abs(want[1])
    distance = float(fisher_rao(mean, std, *want).mean())
    found = list(_name_mistakes(card, x, want, distance, stated=stated))
    if not found and distance > UNKNOWN:
        apart = np.argmax(np.abs(mean - want[0]) / want[1])
        told = (
            f"{_names(card)[apart]} is {mean[apart]:.4g} ± {std[apart]:.4g}, expected "
            f"{want[0][apart]:.4g} ± {want[1][apart]:.4g}"
        )
        found.append(
            f"the values are unlike those that `{card.name}` was trained on, in no "
            f"way that is known: {told}; check `imagery.scale`, `imagery.offset`, the "
            "bands, and whether the model is meant for such land"
        )
    return Likeness(
        channels=_names(card),
        mean=tuple(float(v) for v in mean),
        std=tuple(float(v) for v in std),
        expected=tuple((float(m), float(s)) for m, s in zip(*want, strict=True)),
        stated=stated,
        distance=distance,
        pixels=x.shape[1],
        warnings=tuple(found),
    )


def _name_mistakes(
    card: ModelCard, x: Float, want: list[Floats], distance: float, *, stated: bool
) -> Iterator[str]:
    """Name the mistake that, once undone, leaves least of the distance."""
    if distance > FAR:
        # what is known first: any scale fits better once it is free
        for mistakes in (_mistakes(card), _scales(x, want)):
            best, said = distance * BETTER, ""
            for text, undo in mistakes:
                with np.errstate(all="ignore"):
                    left = float(fisher_rao(*_moments(undo(x)), *want).mean())
                if left < best:
                    best, said = left, text
            if said:
                yield f"{said} (distance {distance:.1f}, {best:.1f} once undone)"
                return
    found = []
    if card.input.units == "reflectance":
        found = list(_name_offset(x, card.input.multiply))
    if stated and not found:
        # an offset changes the profile over the bands too
        found = list(_name_order(card, x, want))
    yield from found


def _scales(x: Float, want: list[Floats]) -> Iterator[tuple[str, Undo]]:
    """Yield the factor between the means, where no kind of land explains it."""
    # the median channel: one that is damaged should not hide it
    off = np.abs(_moments(x)[0]) / np.maximum(np.abs(want[0]), 1e-12)
    times = max(float(np.median(off)), 1e-12)
    if not 1 / UNLIKELY < times < UNLIKELY:
        how = (times, "large") if times > 1 else (1 / times, "small")
        said = "the values are about {:.2g} times too {}: check `imagery.scale`"
        yield said.format(*how), partial(np.multiply, 1 / times)


def _mistakes(card: ModelCard) -> Iterator[tuple[str, Undo]]:
    """Yield each known mistake with what undoes it."""
    unit = card.input.multiply if card.input.units == "reflectance" else 1.0
    for factor, what in ((1e4, "digital numbers x 10,000"), (255.0, "bytes, 0 to 255")):
        large = (
            f"the values are about {factor:,.0f} times too large, as if the imagery "
            f"held {what}: say `imagery.scale: {1 / factor:.4g}`"
        )
        yield large, partial(np.multiply, 1 / factor)
        small = (
            f"the values are about {factor:,.0f} times too small, as if they had been "
            "scaled twice, or the card lacked its `input.multiply`: check "
            "`imagery.scale`"
        )
        yield small, partial(np.multiply, factor)
    landsat = (
        "the values look like Landsat Collection 2 as it is stored: say "
        "`imagery.scale: 0.0000275` and `imagery.offset: -0.2`"
    )
    yield landsat, lambda x: ((x / unit) * 2.75e-5 - 0.2) * unit
    decibel = (
        "the values look like decibel where the network wants a linear scale: convert "
        "the imagery, 10 ** (dB / 10)"
    )
    yield decibel, lambda x: 10 ** (x / 10)
    linear = (
        "the values look linear where the network wants decibel: convert the imagery, "
        "10 log10(value)"
    )
    yield linear, lambda x: 10 * np.log10(np.maximum(x, 1e-10))


def _name_offset(x: Float, multiply: float) -> Iterator[str]:
    """Tell of the offset of Sentinel-2's baseline 04.00, by the darkest pixels."""
    dark = np.percentile(x, DARK, axis=1) / multiply
    if dark.min() > 0.97 * _OFFSET and np.percentile(x, BRIGHT) / multiply < 2:
        yield (
            f"not even the darkest percent of any band is below {dark.min():.3f} "
            "reflectance: if this is Sentinel-2 of processing baseline 04.00 or later "
            "(since January 2022), its offset was not taken off: say "
            f"`imagery.harmonize: s2-boa`, or `imagery.offset: -{_OFFSET:g}` (-1000 in "
            "digital numbers)"
        )
    elif (x <= 0).mean() > 0.2:
        yield (
            f"{(x <= 0).mean():.0%} of the values are 0 or below: an offset of "
            f"-{_OFFSET:g} (-1000 in digital numbers) was perhaps taken off twice, or "
            "nodata is not declared: check `imagery.offset` and `source_nodata`"
        )


def _name_order(card: ModelCard, x: Float, want: list[Floats]) -> Iterator[str]:
    """Tell of bands in another order, if one fits by far better than the card's.

    By the profile over the bands alone: a bright place is not in another order.
    """
    count, bands = len(card.input.bands), card.input.bands
    if min(want[0].min(), x.mean(axis=1).min()) <= 0:
        return
    try:
        optimize = require("scipy.optimize", extra="change")
    except MissingDependencyError:
        return
    ours = [np.log(v).reshape(-1, count) for v in _moments(x)]
    theirs = [np.log(v).reshape(-1, count) for v in want]
    costs = np.zeros((count, count))
    for one, other in zip(ours, theirs, strict=True):
        apart = (one - one.mean())[:, :, None] - (other - other.mean())[:, None]
        costs += (apart**2).mean(axis=0) / 2
    rows, columns = optimize.linear_sum_assignment(costs)
    before, after = np.trace(costs) / count, costs[rows, columns].mean()
    moved = [(bands[c], bands[r]) for r, c in zip(rows, columns, strict=True) if r != c]
    if moved and np.sqrt(before) > ODD and after < BETTER**2 * before:
        told = ", ".join(f"{given} where {where} is" for given, where in moved[:4])
        yield (
            "the bands seem to be in another order, unless this is mostly water or "
            f"snow: it looks as if there were {told}; check the names of "
            "`imagery.bands` and the card's `input.bands`"
        )


def _moments(x: Float) -> tuple[Floats, Floats]:
    mean = x.mean(axis=1, dtype=np.float64)
    std = x.std(axis=1, dtype=np.float64)
    # one value everywhere is no distribution; the least that float32 can tell apart
    least = np.maximum(np.abs(mean) * 1e-6, 1e-12)
    return mean, np.maximum(std, least)


def _names(card: ModelCard) -> tuple[str, ...]:
    frames, bands = card.input.frames, card.input.bands
    if frames == 1:
        return tuple(bands)
    return tuple(f"{band} of date {t + 1}" for t in range(frames) for band in bands)

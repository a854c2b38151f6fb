"""Confidence against being right, as a picture in the report."""

from __future__ import annotations

from collections.abc import Iterator

from geoscale.types import Json

SIDE, EDGE = 240, 44
"""Height and width of the square, and room for words, in px."""
COLOURS = {"before": "#b0a8a0", "after": "#1f6f8b"}


def draw_reliability(calibration: Json) -> str:
    """Draw the bins of held-out pixels, before and after, as SVG.

    Parameters
    ----------
    calibration : dict
        As a report has it.

    Returns
    -------
    str
        One element; on the dashed line probabilities hold, below it they promise too
        much. The area of a dot is its share of the pixels.
    """
    plain = calibration["way"] == "none"
    shown = ["before"] if plain else ["before", "after"]
    side = SIDE + 2 * EDGE
    parts = [*_frame(side), *_scale()]
    for i, when in enumerate(shown):
        parts += _series(calibration[when]["reliability"], COLOURS[when])
        y = EDGE + 12 + 20 * i
        parts.append(
            f'<circle cx="{EDGE + SIDE + 18}" cy="{y - 4}" r="5" '
            f'fill="{COLOURS[when]}"/>'
            f'<text x="{EDGE + SIDE + 28}" y="{y}">{when}</text>'
        )
    return "".join(parts) + "</svg>"


def _series(bins: list[Json], colour: str) -> Iterator[str]:
    total = sum(one["pixels"] for one in bins)
    places = [
        (EDGE + SIDE * one["confidence"], EDGE + SIDE * (1 - one["right"]), one)
        for one in bins
    ]
    line = "L".join(f"{x:.1f} {y:.1f}" for x, y, _ in places)
    yield f'<path d="M{line}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
    for x, y, one in places:
        radius = 2 + 12 * (one["pixels"] / total) ** 0.5
        yield (
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}" fill="{colour}" '
            'fill-opacity="0.75"/>'
        )


def _frame(side: int) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{side + 90}" height="{side}" '
        'font-family="system-ui,sans-serif" font-size="12" role="img">'
    )
    yield "<title>Confidence of held-out pixels, and how often they are right</title>"
    yield (
        f'<rect x="{EDGE}" y="{EDGE}" width="{SIDE}" height="{SIDE}" fill="none" '
        'stroke="#999"/>'
    )
    yield (
        f'<path d="M{EDGE} {EDGE + SIDE}L{EDGE + SIDE} {EDGE}" stroke="#999" '
        'stroke-dasharray="4 4"/>'
    )


def _scale() -> Iterator[str]:
    for share in (0, 0.5, 1):
        x, y = EDGE + SIDE * share, EDGE + SIDE * (1 - share)
        low = EDGE + SIDE + 16
        yield f'<text x="{x}" y="{low}" text-anchor="middle">{share:g}</text>'
        yield f'<text x="{EDGE - 6}" y="{y + 4}" text-anchor="end">{share:g}</text>'
    middle, low = EDGE + SIDE / 2, EDGE + SIDE + 34
    yield f'<text x="{middle}" y="{low}" text-anchor="middle">confidence</text>'
    yield (
        f'<text x="12" y="{middle}" text-anchor="middle" '
        f'transform="rotate(-90 12 {middle})">share that is right</text>'
    )

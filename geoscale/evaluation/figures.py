"""Figures: the confusion matrix and ROC curves as SVG, agreement as PNG."""

from __future__ import annotations

import io
from importlib.resources import files
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.card_output import PALETTE
from geoscale.results.texts import size_matrix

if TYPE_CHECKING:
    from geoscale.evaluation.result import Evaluation

CELL = 64
"""Width and height of a cell of the matrix."""
SIDE = 320
"""Width and height of the plot of curves."""
TITLE_WIDTH = 380
"""Width of the words above the matrix."""
MOST_POINTS = 400
"""Points that a curve is drawn with."""
COLORS = ((0, 0, 0, 0), (208, 212, 208, 255), (31, 111, 74, 255), (184, 50, 38, 255))
"""Outside, no label, same, different."""


def draw_confusion(found: Evaluation) -> str:
    """Draw the confusion matrix; colour is the share of the reference's class.

    Parameters
    ----------
    found : Evaluation
        What was found.

    Returns
    -------
    str
        SVG.
    """
    matrix = np.asarray(found.matrix, float)
    sums = matrix.sum(axis=0)
    shares = np.divide(matrix, sums, out=np.zeros_like(matrix), where=sums > 0)
    cells = [
        {
            "x": column * CELL,
            "y": row * CELL,
            "count": _short(found.matrix[row][column]),
            "share": f"{shares[row, column]:.0%}",
            "alpha": f"{shares[row, column]:.3f}",
            "dark": bool(shares[row, column] > 0.55),
            "right": row == column,
        }
        for row in range(len(matrix))
        for column in range(len(matrix))
    ]
    names = [one.name for one in found.classes]
    return _render(
        "confusion.svg.j2", cells=cells, **size_matrix(names, CELL, TITLE_WIDTH)
    )


def draw_curves(found: Evaluation) -> str:
    """Draw the ROC curves.

    Parameters
    ----------
    found : Evaluation
        What was found.

    Returns
    -------
    str
        SVG.
    """
    curves = []
    for i, (name, curve) in enumerate(found.curves.items()):
        step = max(1, len(curve.true) // MOST_POINTS)
        points = [*zip(curve.false, curve.true, strict=True)]
        some = [*points[::step], points[-1]]
        curves.append(
            {
                "name": name,
                "area": f"{curve.area:.4f}",
                "color": f"#{PALETTE[i % len(PALETTE)]}",
                "points": " ".join(
                    f"{x * SIDE:.1f},{(1 - y) * SIDE:.1f}" for x, y in some
                ),
            }
        )
    return _render("roc.svg.j2", curves=curves, side=SIDE)


def paint(picture: NDArray[np.uint8]) -> bytes:
    """Paint where map and reference agree.

    Parameters
    ----------
    picture : ndarray of uint8, (y, x)
        Of an `Evaluation`.

    Returns
    -------
    bytes
        PNG.
    """
    from PIL import Image

    colors = np.array(COLORS, np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(colors[picture], "RGBA").save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _short(count: int) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if count >= size:
            return f"{count / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{count:,}"


def _render(name: str, **facts: Any) -> str:
    import jinja2

    text = (files("geoscale.evaluation") / name).read_text(encoding="utf-8")
    house = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return house.from_string(text).render(facts)

"""What an evaluation found, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from geoscale.evaluation.statistics import Curve, Estimate
from geoscale.results.texts import write_texts
from geoscale.types import Json

OUTSIDE, NO_LABEL, SAME, DIFFERENT = range(4)
"""In the picture: no class, a class without a label, both the same, both but different.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassAccuracy:
    """How good one class is."""

    value: int
    """Value in the map; of several merged ones the least."""
    name: str
    """What it is called."""
    members: tuple[int, ...]
    """Values in the map that count as it."""
    map_px: int
    """Compared pixels that the map gives to it."""
    reference_px: int
    """Compared pixels that the reference gives to it."""
    iou: float | None
    """Intersection over union (Jaccard index), 0..1; None where it does not occur."""
    f1: float | None
    """F1 (Dice), 0..1; None where it does not occur."""
    users: float | None
    """User's accuracy (precision), 0..1; None where the map does not have it."""
    producers: float | None
    """Producer's accuracy (recall), 0..1; None where the reference does not have it."""
    auc: float | None
    """Area under the ROC curve against all others, 0..1; None without scores."""
    mapped_m2: float
    """Area that the whole map gives to it, on the ellipsoid, in m²."""
    area_m2: Estimate | None
    """Its true area by the reference, in m²; None where it cannot be estimated."""
    adjusted_users: Estimate | None
    """User's accuracy over the whole map."""
    adjusted_producers: Estimate | None
    """Producer's accuracy over the whole map."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A map held against labels.

    Made by `geoscale.evaluate`.
    """

    output: str
    """The map."""
    reference: str
    """The labels."""
    layer: str
    """Layer of the map."""
    time: str
    """Time step of the map; empty where it has none."""
    classes: tuple[ClassAccuracy, ...]
    """In the order of `matrix`."""
    matrix: tuple[tuple[int, ...], ...]
    """Confusion matrix in pixels: rows are classes of the map, columns those of the
    reference."""
    accuracy: float
    """Share of the compared pixels that agree, 0..1."""
    kappa: float | None
    """Cohen's kappa; None where only one class occurs."""
    pixels: int
    """Compared pixels: those with a class and a label that counts."""
    mapped_px: int
    """Pixels of the whole map that have a class."""
    unmapped_px: int
    """Pixels with a label that counts where the map has no class."""
    ignored_px: int
    """Pixels whose label was to be ignored."""
    conflict_px: int
    """Pixels in shapes of different labels; they have none."""
    design: str
    """``census`` (all pixels are labelled), ``sample`` (chosen at random, as the user
    says), or ``unknown``."""
    overall: Estimate | None
    """Accuracy over the whole map's area."""
    labels: Mapping[str, str | None]
    """Label of the reference → class that it was taken for; None: ignored."""
    source: Json
    """What the reference is and how it came onto the grid."""
    notes: tuple[str, ...]
    """What a reader must know."""
    curves: Mapping[str, Curve] = field(repr=False)
    """Class → ROC curve."""
    picture: NDArray[np.uint8] = field(repr=False)
    """Where both agree, (y, x), thinned out: `OUTSIDE`, `NO_LABEL`, `SAME`,
    `DIFFERENT`."""
    step: int = 1
    """Every how many pixels of the map the picture has one."""

    @property
    def mean_iou(self) -> float | None:
        """Mean IoU of the classes that occur."""
        return _mean([one.iou for one in self.classes])

    @property
    def mean_f1(self) -> float | None:
        """Mean F1 of the classes that occur."""
        return _mean([one.f1 for one in self.classes])

    def score(self, name: str) -> ClassAccuracy:
        """Give a class by name.

        Raises
        ------
        KeyError
            If there is none.
        """
        found = {one.name: one for one in self.classes}
        if name not in found:
            raise KeyError(f"no class `{name}`; there are {', '.join(found)}")
        return found[name]

    def to_dict(self) -> Json:
        """Plain JSON-able form; no picture."""
        plain = {
            name: getattr(self, name)
            for name in self.__slots__
            if name not in ("picture", "step", "classes", "curves", "overall")
        }
        return {
            **plain,
            "matrix": [list(row) for row in self.matrix],
            "labels": dict(self.labels),
            "notes": list(self.notes),
            "mean_iou": self.mean_iou,
            "mean_f1": self.mean_f1,
            "overall": _plain(self.overall),
            "classes": [_plain_class(one) for one in self.classes],
            "roc": {name: asdict(curve) for name, curve in self.curves.items()},
        }

    def to_markdown(self) -> str:
        """Set as a page for people; figures by name, as `write` stores them."""
        from geoscale.evaluation.page import write_page

        return write_page(self)

    def __str__(self) -> str:
        from geoscale.evaluation.page import say_summary

        return say_summary(self)

    def write(self, to: str | Path) -> list[Path]:
        """Write JSON, Markdown and figures into a folder.

        Parameters
        ----------
        to : str or path
            Local folder; made if it is not there.

        Returns
        -------
        list of Path
            ``evaluation.json``, ``evaluation.md``, ``confusion.svg``,
            ``agreement.png`` and, where there are scores, ``roc.svg``.

        Raises
        ------
        OutputError
            If `to` is a file.
        """
        from geoscale.evaluation.figures import draw_confusion, draw_curves, paint

        texts = {
            "evaluation.json": json.dumps(self.to_dict(), indent=1) + "\n",
            "evaluation.md": self.to_markdown(),
            "confusion.svg": draw_confusion(self),
        }
        if self.curves:
            texts["roc.svg"] = draw_curves(self)
        written = write_texts(to, texts)
        picture = written[0].with_name("agreement.png")
        picture.write_bytes(paint(self.picture))
        return [*written, picture]


def _plain(one: Estimate | None) -> Json | None:
    if one is None:
        return None
    return {
        "value": one.value,
        "standard_error": one.standard_error,
        "low": one.value - one.margin,
        "high": one.value + one.margin,
    }


def _plain_class(one: ClassAccuracy) -> Json:
    made: dict[str, Any] = {}
    for name in one.__slots__:
        value = getattr(one, name)
        is_estimate = name.startswith(("adjusted", "area"))
        made[name] = _plain(value) if is_estimate else value
    return {**made, "members": list(one.members)}


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None

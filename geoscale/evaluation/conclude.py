"""From sums to figures: what labels mean, matrix, accuracy, areas, curves."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import SourceError
from geoscale.evaluation.counting import NOTHING, Opened, Total
from geoscale.evaluation.legend import Legend, MapClass, translate
from geoscale.evaluation.references import say_place
from geoscale.evaluation.result import (
    DIFFERENT,
    NO_LABEL,
    OUTSIDE,
    SAME,
    ClassAccuracy,
    Evaluation,
)
from geoscale.evaluation.settings import Comparison
from geoscale.evaluation.statistics import (
    Adjusted,
    Curve,
    adjust,
    kappa,
    overlaps,
    trace_curve,
)
from geoscale.types import Ints
from geoscale.words import redact

Meaning = dict[int, int | None]
"""Code of a label → number of its class, None where it does not count."""
Matrix = NDArray[np.int64]


def conclude(opened: Opened, asked: Comparison, total: Total) -> Evaluation:
    """Turn sums into an evaluation.

    Parameters
    ----------
    opened : Opened
        What was counted.
    asked : Comparison
        How labels are understood.
    total : Total
        Sums over all blocks.

    Returns
    -------
    Evaluation
        All figures.

    Raises
    ------
    SourceError
        If there is nothing to compare, or the map does not know some labels.
    JobError
        If a label is mapped to a class that is not there.
    """
    by_code = _count_labels(total)
    named = {opened.reference.label(code): n for code, n in by_code.items()}
    if not named:
        raise SourceError(
            f"{redact(asked.reference)} has no label in the map: it lies at "
            f"{opened.reference.place}, the map at {say_place(opened.map.geobox)}, and "
            "holds nodata where they meet; check the files"
        )
    legend = _settle_legend(opened.map.legend, total, named, asked)
    said = translate(legend, named, asked.map_labels, asked.ignore)
    meaning: Meaning = {c: said[opened.reference.label(c)] for c in by_code}
    matrix = _fill_matrix(legend, total, meaning)
    if not matrix.sum():
        raise SourceError(
            f"no pixel can be compared: of {sum(by_code.values()):,} labelled pixels "
            f"{_ignored(by_code, meaning):,} are ignored, and the map has no class at "
            "the others; check the files and ignore"
        )
    return _assemble(opened, asked, total, (legend, meaning, matrix))


def _assemble(
    opened: Opened,
    asked: Comparison,
    total: Total,
    found: tuple[Legend, Meaning, Matrix],
) -> Evaluation:
    legend, meaning, matrix = found
    by_code, parts = _count_labels(total), total.ground
    areas = [
        sum(opened.ground.weigh(parts[v]) for v in one.members if v in parts)
        for one in legend.classes
    ]
    mapped = sum(int(counts.sum()) for counts in parts.values())
    labelled = int(matrix.sum())
    design = "census" if labelled == mapped else "sample" if asked.sample else "unknown"
    adjusted, notes = _adjust(legend, matrix, areas, design)
    curves = _trace_curves(total, meaning)
    notes += _note_never(legend, matrix)
    unmapped = sum(
        n for code, n in total.counts.unmapped.items() if meaning[code] is not None
    )
    return Evaluation(
        output=redact(asked.output),
        reference=redact(asked.reference),
        layer=opened.map.layer,
        time=opened.map.time,
        classes=_rate(legend, matrix, areas, (adjusted, curves)),
        matrix=tuple(tuple(row) for row in matrix.tolist()),
        accuracy=float(np.trace(matrix)) / labelled,
        kappa=kappa(matrix),
        pixels=labelled,
        mapped_px=mapped,
        unmapped_px=unmapped,
        ignored_px=_ignored(by_code, meaning),
        conflict_px=total.counts.conflicts,
        design=design,
        overall=None if adjusted is None else adjusted.overall,
        labels={
            opened.reference.label(code): None
            if number is None
            else legend.classes[number].name
            for code, number in sorted(meaning.items())
        },
        source=opened.reference.facts,
        notes=(*opened.reference.notes, *notes),
        curves={legend.classes[i].name: curve for i, curve in curves.items()},
        picture=_paint(legend, meaning, total),
        step=opened.step,
    )


def _count_labels(total: Total) -> Counter[int]:
    """Labelled pixels by code, wherever the map has a class or none."""
    found: Counter[int] = Counter(total.counts.unmapped)
    for (_, code), n in total.counts.pairs.items():
        found[code] += n
    return found


def _ignored(by_code: Counter[int], meaning: Meaning) -> int:
    return sum(n for code, n in by_code.items() if meaning[code] is None)


def _settle_legend(
    known: Legend | None, total: Total, named: dict[str, int], asked: Comparison
) -> Legend:
    """Add classes that only pixels know; of a raster of classes, that is all."""
    classes = [] if known is None else list(known.classes)
    there = {value for one in classes for value in one.members}
    extra = set(total.ground) - there
    if known is None:
        taken = {*asked.ignore, *asked.map_labels}
        extra |= {int(s) for s in named if s not in taken and _is_whole(s)}
        classes = [MapClass(v, str(v), (v,)) for v in sorted(extra)]
    else:
        classes += [MapClass(v, str(v), (v,)) for v in sorted(extra)]
    return Legend(classes)


def _is_whole(label: str) -> bool:
    return label.removeprefix("-").isdigit()


def _fill_matrix(legend: Legend, total: Total, meaning: Meaning) -> Matrix:
    matrix = np.zeros((len(legend), len(legend)), np.int64)
    for (value, code), n in total.counts.pairs.items():
        row, column = legend.of_value(value), meaning[code]
        if row is not None and column is not None:
            matrix[row, column] += n
    return matrix


def _adjust(
    legend: Legend, matrix: Matrix, areas: list[float], design: str
) -> tuple[Adjusted | None, list[str]]:
    """Estimate areas, and say what these figures are worth."""
    census = design == "census"
    rows = matrix.sum(axis=1)
    least = 1 if census else 2
    short = [
        f"{one.name} ({rows[i]} px, {areas[i] / sum(areas):.1%} of the map)"
        for i, one in enumerate(legend.classes)
        if areas[i] > 0 and rows[i] < least
    ]
    if short:
        note = (
            "Accuracy and areas of the whole map cannot be estimated: too few labelled "
            f"pixels in {', '.join(short)}; each mapped class needs at least {least}."
        )
        return None, [note]
    if census:
        note = (
            "The reference labels every mapped pixel: it is a census, no sample. The "
            "figures are those of the whole map, and there is no sampling error."
        )
    elif design == "sample":
        note = (
            "Areas and adjusted accuracy are estimates for the whole map from a random "
            "sample within the mapped classes (Olofsson et al. 2014), ± is half a 95 % "
            "confidence interval."
        )
    else:
        note = (
            "The reference labels a part of the map, and nothing says that this part "
            "was chosen at random: areas, adjusted accuracy and confidence intervals "
            "are true only if it was (say so with sample). Pixels of one polygon or "
            "patch are not independent, which makes intervals too narrow."
        )
    return adjust(matrix, areas, census=census), [note]


def _note_never(legend: Legend, matrix: Matrix) -> list[str]:
    """Name classes that the reference cannot confirm."""
    mapped, there = matrix.sum(axis=1), matrix.sum(axis=0)
    never = [c.name for i, c in enumerate(legend.classes) if mapped[i] and not there[i]]
    if not never:
        return []
    note = (
        f"The reference never has {', '.join(never)}: all these pixels count as wrong. "
        "If it could not have them, merge them into another class."
    )
    return [note]


def _trace_curves(total: Total, meaning: Meaning) -> dict[int, Curve]:
    """Trace a curve for each class that has scores."""
    sides: dict[int, list[NDArray[np.int64]]] = {}
    for (number, code), steps in total.counts.scores.items():
        if meaning[code] is None:
            continue
        held = sides.setdefault(number, [np.zeros_like(steps), np.zeros_like(steps)])
        held[meaning[code] != number] += steps
    traced = {i: trace_curve(*held) for i, held in sorted(sides.items())}
    return {i: curve for i, curve in traced.items() if curve is not None}


def _rate(
    legend: Legend,
    matrix: Matrix,
    areas: list[float],
    more: tuple[Adjusted | None, dict[int, Curve]],
) -> tuple[ClassAccuracy, ...]:
    found, (adjusted, curves) = overlaps(matrix), more
    return tuple(
        ClassAccuracy(
            value=one.value,
            name=one.name,
            members=one.members,
            map_px=int(matrix[i].sum()),
            reference_px=int(matrix[:, i].sum()),
            iou=found["iou"][i],
            f1=found["f1"][i],
            users=found["users"][i],
            producers=found["producers"][i],
            auc=curves[i].area if i in curves else None,
            mapped_m2=areas[i],
            area_m2=None if adjusted is None else adjusted.areas[i],
            adjusted_users=None if adjusted is None else adjusted.users[i],
            adjusted_producers=None if adjusted is None else adjusted.producers[i],
        )
        for i, one in enumerate(legend.classes)
    )


def _paint(legend: Legend, meaning: Meaning, total: Total) -> NDArray[np.uint8]:
    """Tell where map and reference are the same, thinned out."""
    ours = _lookup(total.classes, {v: legend.of_value(v) for v in total.ground})
    theirs = _lookup(total.codes, meaning)
    painted = np.full(ours.shape, NO_LABEL, np.uint8)
    painted[ours < 0] = OUTSIDE
    both = (ours >= 0) & (theirs >= 0)
    painted[both] = np.where(ours == theirs, SAME, DIFFERENT)[both]
    return painted


def _lookup(values: Ints, numbers: Meaning) -> Ints:
    made = np.full(values.shape, -1, np.int64)
    for value in np.unique(values).tolist():
        number = None if value == NOTHING else numbers.get(value)
        if number is not None:
            made[values == value] = number
    return made

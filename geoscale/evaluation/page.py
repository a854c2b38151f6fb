"""An evaluation as Markdown and in a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from geoscale.evaluation.statistics import Estimate
from geoscale.results.ground import format_area

if TYPE_CHECKING:
    from geoscale.evaluation.result import ClassAccuracy, Evaluation

NOTHING = "-"
"""Where there is no figure."""
DESIGNS = {
    "census": "census: every mapped pixel has a label",
    "sample": "probability sample, as was said",
    "unknown": "a part of the map; not known how it was chosen",
}


def say_summary(found: Evaluation) -> str:
    """Say the main figures in a few lines.

    Parameters
    ----------
    found : Evaluation
        What was found.

    Returns
    -------
    str
        For a terminal.
    """
    rows = [_row(one) for one in found.classes if _occurs(one)]
    wide = max(len(row[0]) for row in rows)
    head = f"  {'class':<{wide}}     IoU      F1  user's  prod.'s     AUC"
    first = (
        f"{found.pixels:,} pixels compared: overall accuracy {found.accuracy:.4f}, "
        f"kappa {_number(found.kappa)}, mean IoU {_number(found.mean_iou)}"
    )
    lines = [
        first,
        head,
        *(f"  {r[0]:<{wide}}  " + "  ".join(f"{v:>6}" for v in r[1:]) for r in rows),
    ]
    if found.overall is not None:
        lines.append(
            f"whole map: accuracy {_ranged(found.overall, found.design)} "
            f"({DESIGNS[found.design]})"
        )
    return "\n".join([*lines, *(f"note: {note}" for note in _notes(found))])


def write_page(found: Evaluation) -> str:
    """Set an evaluation as Markdown.

    Parameters
    ----------
    found : Evaluation
        What was found.

    Returns
    -------
    str
        Refers to the figures by name.
    """
    return "\n".join(_lines(found)) + "\n"


def _lines(found: Evaluation) -> Iterator[str]:
    when = f", {found.time}" if found.time else ""
    yield "# Evaluation"
    yield ""
    yield f"- map: `{found.output}`, layer `{found.layer}`{when}"
    yield f"- reference: `{found.reference}`"
    yield f"- compared: {found.pixels:,} of {found.mapped_px:,} mapped pixels"
    yield f"- what the reference is: {DESIGNS[found.design]}"
    yield ""
    yield from _overall(found)
    yield "## Classes"
    yield ""
    names = ("class", "IoU", "F1", "user's", "producer's", "AUC", "map px", "ref. px")
    rows = [
        (*_row(one), f"{one.map_px:,}", f"{one.reference_px:,}")
        for one in found.classes
    ]
    yield from _table(names, rows)
    yield "User's accuracy is precision, producer's accuracy is recall."
    yield ""
    yield from _confusion(found)
    yield from _areas(found)
    yield from _labels(found)
    if found.curves:
        yield "![ROC curves](roc.svg)"
        yield ""
    yield "![Where map and reference agree](agreement.png)"
    yield ""
    yield "Green: same class; red: another class; grey: mapped, no label."
    yield ""
    yield "## Notes"
    yield ""
    yield from (f"- {note}" for note in _notes(found))


def _overall(found: Evaluation) -> Iterator[str]:
    rows = [
        ("overall accuracy", f"{found.accuracy:.4f}"),
        ("kappa", _number(found.kappa)),
        ("mean IoU", _number(found.mean_iou)),
        ("mean F1", _number(found.mean_f1)),
    ]
    if found.overall is not None:
        rows.append(
            ("overall accuracy, area-adjusted", _ranged(found.overall, found.design))
        )
    yield from _table(("measure", "value"), rows)


def _confusion(found: Evaluation) -> Iterator[str]:
    yield "## Confusion matrix"
    yield ""
    yield "Pixels; rows are classes of the map, columns those of the reference."
    yield ""
    head = ("map \\ reference", *(_cell(one.name) for one in found.classes))
    rows = [
        (_cell(one.name), *(f"{n:,}" for n in row))
        for one, row in zip(found.classes, found.matrix, strict=True)
    ]
    yield from _table(head, rows)
    yield "![Confusion matrix](confusion.svg)"
    yield ""


def _areas(found: Evaluation) -> Iterator[str]:
    yield "## Areas"
    yield ""
    names = ("class", "mapped", "by the reference", "user's", "producer's")
    rows = []
    for one in found.classes:
        area = NOTHING
        if one.area_m2 is not None:
            area = format_area(one.area_m2.value)
            if found.design != "census":
                area += f" ± {format_area(one.area_m2.margin)}"
        both = (one.adjusted_users, one.adjusted_producers)
        rows.append(
            (
                _cell(one.name),
                format_area(one.mapped_m2),
                area,
                *(_ranged(value, found.design) for value in both),
            )
        )
    yield from _table(names, rows)
    yield (
        "Areas are true to the ellipsoid. Those by the reference, and the accuracies "
        "beside them, are weighed by the mapped areas (Olofsson et al. 2014, Remote "
        "Sensing of Environment 148, 42-57)."
    )
    yield ""


def _labels(found: Evaluation) -> Iterator[str]:
    yield "## Labels of the reference"
    yield ""
    rows = [
        (_cell(label), "ignored" if name is None else _cell(name))
        for label, name in found.labels.items()
    ]
    yield from _table(("label", "taken for"), rows)


def _notes(found: Evaluation) -> Iterator[str]:
    yield from found.notes
    if found.unmapped_px:
        yield (
            f"{found.unmapped_px:,} labelled pixels lie where the map has no class; "
            "they count in no figure."
        )
    if found.ignored_px:
        yield f"{found.ignored_px:,} pixels have labels that were to be ignored."
    if found.conflict_px:
        yield (
            f"{found.conflict_px:,} pixels lie in shapes of different labels; they "
            "count in no figure."
        )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|---|{'--:|' * (len(head) - 1)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)
    yield ""


def _row(one: ClassAccuracy) -> tuple[str, ...]:
    values = (one.iou, one.f1, one.users, one.producers, one.auc)
    return (_cell(one.name), *(_number(value) for value in values))


def _occurs(one: ClassAccuracy) -> bool:
    return bool(one.map_px or one.reference_px)


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def _ranged(value: Estimate | None, design: str) -> str:
    if value is None:
        return NOTHING
    if design == "census":
        return f"{value.value:.4f}"
    return f"{value.value:.4f} ± {value.margin:.4f}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")

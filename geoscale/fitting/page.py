"""The report of a fitted head: Markdown, a page of HTML, and a few lines."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape

from geoscale.fitting.curve import draw_reliability
from geoscale.types import Json

NOTHING = "-"
CHOSEN = "chosen"
CLEAR = 0.01
"""Difference of mean F1 below which features count as equal."""


def name_features(report: Json, key: str) -> str:
    """Name features for people."""
    named = {"bands": "raw bands (floor)", "indices": "spectral indices (floor)"}
    if key in named:
        return named[key]
    own = f"`{report['model']}`{' + bands' if report['with_bands'] else ''}"
    if key == "pixel":
        return f"{own}, logistic"
    return f"{own}, conv" if "pixel" in report["features"] else own


def name_ground(report: Json) -> str:
    """Name the parts of ground that are held out together.

    Examples
    --------
    >>> name_ground({"block_m": 2000.0}), name_ground({"block_m": None})
    ('blocks of 2000 m', 'groups of labels (k-means)')
    """
    side = report["block_m"]
    return "groups of labels (k-means)" if side is None else f"blocks of {side:g} m"


def judge_floor(report: Json) -> str:
    """Say plainly whether the model's features beat what needs no model.

    Parameters
    ----------
    report : dict
        From `geoscale.fitting.fit`.

    Returns
    -------
    str
        One sentence; empty where there is no floor.
    """
    found = {k: v["pooled"]["f1_macro"] for k, v in report["features"].items()}
    mine = found.pop(CHOSEN)
    if not found:
        return ""
    best = max(found, key=lambda k: found[k])
    gap = mine - found[best]
    name, other = name_features(report, CHOSEN), name_features(report, best)
    figures = f"mean F1 {mine:.3f} against {found[best]:.3f}"
    if report["model"] in ("bands", "indices"):
        word = "better than" if gap > CLEAR else "worse than"
        word = word if abs(gap) > CLEAR else "as good as"
        return f"{name} are {word} {other}: {figures}."
    if gap > CLEAR:
        return f"{name} beat {other}: {figures}."
    if gap < -CLEAR:
        return (
            f"{name} do NOT beat {other}: {figures}. The cheaper features make the "
            "better map of these labels."
        )
    return (
        f"{name} do not clearly beat {other}: {figures}, a difference of less than "
        f"{CLEAR}."
    )


def say_summary(report: Json) -> str:
    """Say the main figures in a few lines, for a terminal."""
    classes = ", ".join(
        f"{n} {c:,}" for n, c in zip(report["classes"], report["counts"], strict=True)
    )
    rows = [
        (name_features(report, key), *_figures(one))
        for key, one in report["features"].items()
    ]
    wide = max(len(row[0]) for row in rows)
    first = f"{report['pixels']:,} labelled pixels of {report['shapes']:,} shapes"
    ground = f"{report['blocks']} {name_ground(report)}"
    lines = [
        f"{first}: {classes}",
        f"{report['folds']} folds of {ground}, {report['head']}",
        f"  {'features':<{wide}}  accuracy  mean F1  kappa    ECE",
        *(
            f"  {r[0]:<{wide}}  {r[1]:>8}  {r[2]:>7}  {r[3]:>5}  {r[4]:>5}"
            for r in rows
        ),
        judge_floor(report),
        *(f"note: {note}" for note in report["notes"]),
    ]
    return "\n".join(line for line in lines if line)


def _figures(one: Json) -> tuple[str, str, str, str]:
    pooled = one["pooled"]
    return (
        f"{pooled['accuracy']:.3f}", f"{pooled['f1_macro']:.3f}",
        _number(pooled["kappa"]), f"{_kept_error(one):.3f}",
    )  # fmt: skip


def _kept_error(one: Json) -> float:
    """Calibration error of what the head gives in the end."""
    found = one["calibration"]
    return float(found["after" if found["kept"] else "before"]["error"])


def write_markdown(report: Json) -> str:
    """Set a report as Markdown."""
    return "\n".join(_lines(report)) + "\n"


def _lines(report: Json) -> Iterator[str]:
    yield "# A head fitted to labels"
    yield ""
    yield f"- features: {name_features(report, CHOSEN)}, {report['imagery_date']}"
    yield f"- head: {report['head']}"
    yield (
        f"- labels: `{report['labels']}`, column `{report['column']}`, "
        f"{report['labels_crs']}; {report['pixels']:,} pixels of "
        f"{report['shapes']:,} shapes, at most {report['per_class']:,} of a class "
        f"(seed {report['seed']})"
    )
    yield (
        f"- cross-validation: {report['folds']} folds of {report['blocks']} "
        f"{name_ground(report)}; none of them, and no polygon whose middle lies in it, "
        "is on both sides. Figures are of ground that the head was not fitted to."
    )
    yield ""
    yield f"**{judge_floor(report) or 'No floor was asked for.'}**"
    yield ""
    names = ("features", "count", "accuracy", "by fold", "mean F1", "kappa")
    yield from _table(names, [_row(report, key) for key in report["features"]])
    epochs = _own(report).get("epochs")
    if epochs is not None:
        yield (
            f"The conv head learned for {', '.join(map(str, epochs))} passes over the "
            "labels in the folds, as many as were best in a fold of other ground; with "
            "none it is the logistic head."
        )
        yield ""
    yield from _say_calibration(report)
    yield "## F1 of each class"
    yield ""
    head = ("class", "pixels", *(name_features(report, k) for k in report["features"]))
    rows = [
        (name, f"{count:,}", *(_number(v["pooled"]["f1"].get(name))
                               for v in report["features"].values()))
        for name, count in zip(report["classes"], report["counts"], strict=True)
    ]  # fmt: skip
    yield from _table(head, rows)
    yield f"## Confusion of {name_features(report, CHOSEN)}"
    yield ""
    table = zip(report["classes"], _own(report)["pooled"]["confusion"], strict=True)
    yield from _table(
        ("label \\ found", *report["classes"]),
        [(name, *(f"{n:,}" for n in row)) for name, row in table],
    )
    if report["notes"]:
        yield "## Notes"
        yield ""
        yield from (f"- {note}" for note in report["notes"])


def _own(report: Json) -> Json:
    found: Json = report["features"][CHOSEN]
    return found


def _row(report: Json, key: str) -> tuple[str, ...]:
    one = report["features"][key]
    by_fold = ", ".join(f"{f['accuracy']:.2f}" for f in one["folds"])
    accuracy, f1, kappa, _ = _figures(one)
    name = name_features(report, key)
    return name, f"{one['count']:,}", accuracy, by_fold, f1, kappa


def _say_calibration(report: Json) -> Iterator[str]:
    """Tell how well probabilities hold before and after, as lines of Markdown."""
    yield "## Can probabilities be believed?"
    yield ""
    held = {k: v["calibration"] for k, v in report["features"].items()}
    rows = [
        (name_features(report, k), *(f"{one[when][what]:.3f}"
         for what in ("error", "brier", "accuracy") for when in ("before", "after")))
        for k, one in held.items()
    ]  # fmt: skip
    head = ("features", "ECE", "after", "Brier", "after", "accuracy", "after")
    yield from _table(head, rows)
    own = held[CHOSEN]
    way = own["way"]
    if way == "none":
        what = "No calibration was asked for."
    elif not own["kept"]:
        what = f"Calibration by {way} does not lower the Brier score: it is NOT used."
    else:
        more = f" of {own['temperature']:.2f}" if way == "temperature" else ""
        what = f"Calibration by {way}{more} is part of the head."
    if way != "none":
        what = (
            f"After: each fold calibrated by {way}, by what the other folds say; all "
            f"other figures are from before. {what}"
        )
    yield (
        "ECE: expected difference of confidence and accuracy; Brier: mean squared "
        f"error of probabilities, 0 to 2. {what}"
    )
    yield ""
    yield f"Held-out pixels of {name_features(report, CHOSEN)} by their confidence:"
    yield ""
    columns = ("confidence", "right", "pixels")
    for when in ("before", "after") if way != "none" else ("before",):
        bins = own[when]["reliability"]
        yield from _table(
            (f"{when}: {columns[0]}", *columns[1:]),
            [(f"{b['confidence']:.2f}", f"{b['right']:.2f}", f"{b['pixels']:,}")
             for b in bins],
        )  # fmt: skip


def _number(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield "| " + " | ".join(head) + " |"
    yield "|---" + "|--:" * (len(head) - 1) + "|"
    yield from ("| " + " | ".join(row) + " |" for row in rows)
    yield ""


def write_html(report: Json) -> str:
    """Set a report as a page that needs nothing else."""
    body = "".join(_blocks(write_markdown(report)))
    picture = draw_reliability(_own(report)["calibration"])
    body = body.replace("<p>ECE:", f"<p>{picture}</p><p>ECE:", 1)
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        "<title>A head fitted to labels</title><style>"
        "body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;"
        "padding:0 1em;color:#222}table{border-collapse:collapse;margin:1em 0}"
        "td,th{padding:.3em .8em;border-bottom:1px solid #ddd;text-align:right}"
        "td:first-child,th:first-child{text-align:left}code{background:#f3f3f3}"
        f"</style><body>{body}</body></html>\n"
    )


def _blocks(text: str) -> Iterator[str]:
    """Our own Markdown: headings, lists, tables, one paragraph a line."""
    for part in text.split("\n\n"):
        lines = part.strip().splitlines()
        if not lines:
            continue
        if lines[0].startswith("#"):
            level = len(lines[0]) - len(lines[0].lstrip("#"))
            yield f"<h{level}>{_inline(lines[0].lstrip('# '))}</h{level}>"
        elif lines[0].startswith("|"):
            head, _, *rows = ([c.strip() for c in line.strip("|").split(" | ")]
                              for line in lines)  # fmt: skip
            yield "<table><tr>" + "".join(f"<th>{_inline(c)}</th>" for c in head)
            for row in rows:
                yield "<tr>" + "".join(f"<td>{_inline(c)}</td>" for c in row)
            yield "</table>"
        elif lines[0].startswith("- "):
            items = "".join(f"<li>{_inline(line[2:])}</li>" for line in lines)
            yield f"<ul>{items}</ul>"
        else:
            yield f"<p>{_inline(' '.join(lines))}</p>"


def _inline(text: str) -> str:
    made = escape(text)
    for mark, tag in (("**", "b"), ("`", "code")):
        parts = made.split(mark)
        if len(parts) % 2:
            made = "".join(
                p if i % 2 == 0 else f"<{tag}>{p}</{tag}>" for i, p in enumerate(parts)
            )
    return made

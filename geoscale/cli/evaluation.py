"""The command that holds a map against labels: evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from geoscale.cli.models import AsJson
from geoscale.cli.say import say, say_json
from geoscale.cli.work import Cluster, Workers, choose_profile, open_client

if TYPE_CHECKING:
    from geoscale.evaluation import Evaluation
    from geoscale.evaluation.deviations import ForecastEvaluation
    from geoscale.evaluation.objects import ObjectEvaluation

MapArg = Annotated[
    str,
    typer.Argument(help="Finished output, or a GeoTIFF of classes.", metavar="OUT"),
]


def evaluate(  # noqa: PLR0913, PLR0917  (options of the command)
    output: MapArg,
    reference: Annotated[
        str,
        typer.Option(
            "--reference",
            "-r",
            help="Labels: GeoTIFF (or a glob), GeoPackage, GeoJSON, GeoParquet. Of a "
            "forecast: YAML that names the imagery that came later, as a job does.",
            metavar="FILE",
        ),
    ],
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Folder for JSON, Markdown and figures; default: beside OUT."
        ),
    ] = None,
    attribute: Annotated[
        str | None,
        typer.Option("--attribute", "-a", help="Column of shapes that has the label."),
    ] = None,
    band: Annotated[
        str | None,
        typer.Option(help="Band of a raster, or layer of a GeoPackage, with labels."),
    ] = None,
    nodata: Annotated[
        str | None,
        typer.Option(help="Value that is no label, or `none`; default: what it says."),
    ] = None,
    map_labels: Annotated[
        list[str] | None,
        typer.Option(
            help="Take a label for a class, by value or name; may be repeated.",
            metavar="LABEL:CLASS",
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            help="Label that does not count; may be repeated.", metavar="LABEL"
        ),
    ] = None,
    merge: Annotated[
        list[str] | None,
        typer.Option(
            help="Count a class of the map as another; `*` is all others.",
            metavar="CLASS:NAME",
        ),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of classes; default: the first.")
    ] = None,
    scores: Annotated[
        str | None, typer.Option(help="Layer of scores or of a probability.")
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time step, such as 2024-06.", metavar="DATE"),
    ] = None,
    resampling: Annotated[
        str, typer.Option(help="nearest, or mode for finer references.")
    ] = "nearest",
    sample: Annotated[
        bool,
        typer.Option(
            "--sample", help="The reference is a random sample (within map classes)."
        ),
    ] = False,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Hold a finished map against labels, or a forecast against what came.

    Of classes: matrix, IoU, F1, kappa, AUC, areas. Of a forecast: errors by date.

    Areas and accuracy of the whole map come with 95 % confidence intervals.
    """
    from geoscale.evaluation import evaluate as evaluate_map
    from geoscale.evaluation.forecasts import evaluate_forecast, is_forecast
    from geoscale.evaluation.objects import evaluate_objects
    from geoscale.sinks.vector import has_objects

    if is_forecast(output):
        with open_client(choose_profile(cluster, workers), 2) as client:
            ahead = evaluate_forecast(output, reference, client=client)
        _show(ahead, ahead.write(to or beside(output)), as_json)
        return
    if has_objects(output):
        objects = evaluate_objects(
            output,
            reference,
            attribute=attribute,
            map_labels=_pairs("map-labels", map_labels),
            ignore=tuple(ignore or ()),
        )
        _show(objects, objects.write(to or beside(output)), as_json)
        return
    options = {
        "attribute": attribute,
        "band": band,
        "nodata": parse_nodata(nodata),
        "map_labels": _pairs("map-labels", map_labels),
        "ignore": tuple(ignore or ()),
        "merge": _pairs("merge", merge),
        "layer": layer,
        "scores": scores,
        "time": time,
        "resampling": resampling,
        "sample": sample,
    }
    with open_client(choose_profile(cluster, workers), 2) as client:
        found = evaluate_map(output, reference, client=client, **options)  # type: ignore[arg-type]
    files = found.write(to or beside(output))
    _show(found, files, as_json)


def _show(
    found: Evaluation | ObjectEvaluation | ForecastEvaluation,
    files: list[Path],
    as_json: bool,
) -> None:
    if as_json:
        say_json({**found.to_dict(), "files": [str(path) for path in files]})
        return
    say(found)
    say("\n".join(f"  {path}" for path in files))


def _pairs(option: str, texts: list[str] | None) -> dict[str, str]:
    from geoscale.errors import JobError

    found: dict[str, str] = {}
    for text in texts or ():
        old, colon, new = text.rpartition(":")
        if not (colon and old and new):
            raise JobError(f"--{option} {text}: write OLD:NEW, such as 3:water")
        if found.setdefault(old, new) != new:
            raise JobError(f"--{option}: {old} is both {found[old]} and {new}")
    return found


def parse_nodata(text: str | None) -> float | str | None:
    """Read a number, or the word `none`."""
    from geoscale.errors import JobError

    if text is None or text == "none":
        return text
    try:
        return float(text)
    except ValueError:
        raise JobError(f"--nodata {text}: write a number, or none") from None


def beside(output: str, what: str = "evaluation") -> Path:
    """Folder beside a local map, else in the working folder."""
    name = output.rstrip("/").rpartition("/")[2]
    stem = name.removesuffix(".zarr").removesuffix(".tif")
    parent = Path.cwd() if "://" in output else Path(output).expanduser().parent
    return parent / f"{stem}-{what}"

"""The command that turns labels into a model: fit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoscale.cli.models import AsJson
from geoscale.cli.say import say, say_json
from geoscale.cli.work import (
    Accept,
    Cluster,
    Trust,
    Workers,
    choose_profile,
    open_client,
)

if TYPE_CHECKING:
    from geoscale.fitting import Fitted


def fit(  # noqa: PLR0913, PLR0917  (options of the command)
    labels: Annotated[
        str,
        typer.Argument(
            help="Points or polygons: GeoPackage, GeoJSON, GeoParquet; or a job file, "
            "YAML, that says everything.",
            metavar="LABELS",
        ),
    ],
    imagery: Annotated[
        str | None,
        typer.Option(
            "--imagery", "-i", help="STAC items, GeoTIFFs or Zarr.", metavar="PLACE"
        ),
    ] = None,
    to: Annotated[
        Path | None,
        typer.Option("--to", "-o", help="Folder for the head.", metavar="FOLDER"),
    ] = None,
    model: Annotated[
        str,
        typer.Option(
            "--model",
            "-m",
            help="Backbone or segmentation network, by name or card; "
            "features:bands or features:indices.",
        ),
    ] = "features:bands",
    attribute: Annotated[
        str | None,
        typer.Option("--attribute", "-a", help="Column that has the label."),
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Layer of a GeoPackage with labels.")
    ] = None,
    head: Annotated[
        str, typer.Option(help="logistic, ridge, forest or conv.")
    ] = "logistic",
    with_bands: Annotated[
        bool, typer.Option(help="Give the head the bands beside the features.")
    ] = False,
    ignore: Annotated[
        list[str] | None,
        typer.Option(help="Label to leave out; may be repeated.", metavar="LABEL"),
    ] = None,
    per_class: Annotated[
        int, typer.Option(help="Most labelled pixels of a class.")
    ] = 1000,
    folds: Annotated[int, typer.Option(help="Parts of the cross-validation.")] = 5,
    block_m: Annotated[
        float | None,
        typer.Option(
            help="Side of blocks held out together, in m; default: a tenth of the "
            "labels' extent."
        ),
    ] = None,
    blocks: Annotated[
        str, typer.Option(help="squares, or kmeans:K, K groups of labels.")
    ] = "squares",
    calibrate: Annotated[
        str, typer.Option(help="temperature, sigmoid, isotonic or none.")
    ] = "temperature",
    time: Annotated[
        int | None, typer.Option(help="Time step of the labels, from 0.")
    ] = None,
    dates: Annotated[
        str, typer.Option(help="one, or all: every date's bands are features.")
    ] = "one",
    series: Annotated[
        str | None,
        typer.Option(
            help="LABELS is a table of series, with columns called like this: "
            "'B{band}_{date}', with * for anything.",
            metavar="COLUMNS",
        ),
    ] = None,
    bands: Annotated[
        str | None, typer.Option(help="Bands of a table, in order: B02,B03,B04.")
    ] = None,
    places: Annotated[
        str, typer.Option(help="Longitude and latitude of a table.")
    ] = "lon,lat",
    sensor: Annotated[
        str | None, typer.Option(help="Sensor of imagery that does not say.")
    ] = None,
    scale: Annotated[
        float | None, typer.Option(help="Reflectance of a stored step, such as 1e-4.")
    ] = None,
    nodata: Annotated[
        str | None, typer.Option(help="Value that is no pixel, or `none`.")
    ] = None,
    units: Annotated[
        str, typer.Option(help="reflectance, or raw; for bands and indices.")
    ] = "reflectance",
    floor: Annotated[
        bool, typer.Option(help="Judge raw bands and indices in the same folds.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the draw of pixels.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N.")] = "cpu",
    cluster: Cluster = None,
    workers: Workers = None,
    trust_code: Trust = False,
    accept_license: Accept = False,
    as_json: AsJson = False,
) -> None:
    """Fit a head to a few labels; its card is a model for `geoscale run`.

    Figures are of ground that the head was not fitted to, beside those of raw bands
    and spectral indices: features of a network must beat these to be worth it.
    """
    from geoscale.cli.evaluation import parse_nodata
    from geoscale.errors import JobError
    from geoscale.fitting import fit as fit_head
    from geoscale.fitting import fit_job
    from geoscale.stacks import open_stack

    if labels.lower().endswith((".yaml", ".yml")):
        if imagery is not None or to is not None:
            raise JobError(f"{labels} says imagery and folder itself; leave them out")
        with open_client(choose_profile(cluster, workers), 1) as client:
            found = fit_job(
                labels, client=client, trust_code=trust_code,
                accept_license=accept_license,
            )  # fmt: skip
        _show(found, as_json)
        return
    if series is not None:
        found = _fit_table(
            labels, series, imagery, to,
            table={
                "bands": tuple(b for b in (bands or "").split(",") if b),
                "attribute": attribute or "label",
                "places": tuple(places.split(",")),
                "scale": 1.0 if scale is None else scale,
                "nodata": parse_nodata(nodata),
            },
            asked={
                "head": head, "with_bands": with_bands, "per_class": per_class,
                "folds": folds, "block_m": block_m, "blocks": blocks, "seed": seed,
                "ignore": tuple(ignore or ()), "floor": floor, "calibrate": calibrate,
            },
            model=model, sensor=sensor,
        )  # fmt: skip
        _show(found, as_json)
        return
    if imagery is None or to is None:
        raise JobError(
            "say where imagery is (--imagery) and where the head goes (--to)"
        )
    given: dict[str, Any] = {
        "sensor": sensor,
        "scale": scale,
        "source_nodata": parse_nodata(nodata),
    }
    stack = open_stack(imagery, **{k: v for k, v in given.items() if v is not None})
    with open_client(choose_profile(cluster, workers), 1) as client:
        found = fit_head(
            labels, stack, model, to,
            attribute=attribute, layer=layer, head=head,  # type: ignore[arg-type]
            with_bands=with_bands, ignore=tuple(ignore or ()), per_class=per_class,
            folds=folds, block_m=block_m, blocks=blocks,
            calibrate=calibrate,  # type: ignore[arg-type]
            floor=floor, seed=seed, time=time,
            dates=dates, sensor=sensor, units=units,  # type: ignore[arg-type]
            device=device, client=client, trust_code=trust_code,
            accept_license=accept_license,
        )  # fmt: skip
    _show(found, as_json)


def _fit_table(
    labels: str,
    columns: str,
    imagery: str | None,
    to: Path | None,
    *,
    table: dict[str, Any],
    asked: dict[str, Any],
    **more: Any,
) -> Fitted:
    from geoscale.errors import JobError
    from geoscale.fitting.asked import Asked
    from geoscale.fitting.series import Table, fit_series

    if imagery is not None or to is None:
        raise JobError(
            "a table of series holds its own pixels: leave --imagery out, and say "
            "where the head goes (--to)"
        )
    if table["nodata"] == "none":
        table["nodata"] = None
    if len(table["places"]) != 2:
        raise JobError("--places: name two columns, longitude and latitude: lon,lat")
    given = Table(path=labels, columns=columns, **table)
    return fit_series(given, to, asked=Asked(**asked), **more)


def _show(found: Fitted, as_json: bool) -> None:
    if as_json:
        say_json({**found.report, "card": str(found.card)})
        return
    say(found)
    say(f"  report   {found.folder / 'report.html'}\n  model    {found.card}")

"""Commands that take something away from a map: polygons, transitions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoscale.cli.models import AsJson
from geoscale.cli.say import say, say_json
from geoscale.cli.work import Cluster, OutArg, Workers, choose_profile, open_client

Layer = Annotated[
    str | None,
    typer.Option(help="Layer of classes; default: change, else classes."),
]


def export(
    output: OutArg,
    to: Annotated[
        Path,
        typer.Option(
            "--to",
            help="Folder; a CELLS.parquet; .gpkg, .geojson, .fgb for objects.",
        ),
    ],
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="Layer to write; may be repeated."),
    ] = None,
    min_score: Annotated[
        float, typer.Option(help="Least score of objects that are written.")
    ] = 0.0,
    as_json: AsJson = False,
) -> None:
    """Write a finished map as Cloud Optimized GeoTIFFs with a STAC catalogue.

    With a file CELLS.parquet: its cells as polygons. Of a detector: its objects.
    """
    from geoscale import outputs
    from geoscale.errors import JobError
    from geoscale.results.cells import write_cells
    from geoscale.results.objects import export_objects, holds_objects

    if holds_objects(output):
        paths = export_objects(output, to, min_score=min_score)
    elif to.suffix == ".parquet":
        if layer:
            raise JobError("cells have columns for all layers; leave --layer out")
        paths = [write_cells(output, to)]
    else:
        paths = outputs.export(output, to, layers=tuple(layer) if layer else None)
    if as_json:
        say_json({"files": [str(path) for path in paths]})
    else:
        say("\n".join(str(path) for path in paths))


def polygons(  # noqa: PLR0913, PLR0917  (options of the command)
    output: OutArg,
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            help="File: .parquet, .geojson, .fgb, .gpkg; default: Parquet beside OUT.",
            metavar="FILE",
        ),
    ] = None,
    layer: Layer = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes",
            "--values",
            help="Names or values of classes; default: 1 of change, else all.",
            metavar="CLASS,…",
        ),
    ] = None,
    min_area: Annotated[
        str | None,
        typer.Option(
            help="Leave out what is smaller: 0.5ha, 500m2, 10px.", metavar="AREA"
        ),
    ] = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time step, such as 2024-06; default: all.", metavar="DATE"),
    ] = None,
    split: Annotated[
        bool,
        typer.Option(
            "--split", help="Polygons of their own for each pair of from and to class."
        ),
    ] = False,
    simplify: Annotated[
        float,
        typer.Option(help="How far outlines may move, in px of the map.", metavar="PX"),
    ] = 0.0,
    right_angles: Annotated[
        bool,
        typer.Option(
            "--right-angles",
            help="Give outlines right angles, as buildings have them; --simplify says "
            "how far they move, default 1.5.",
        ),
    ] = False,
    connectivity: Annotated[
        int, typer.Option(help="4: pixels share edges; 8: corners do.")
    ] = 4,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Write polygons of a map, whole across blocks, with area, date and class.

    Of a change map each has its classes before and after, and its mean probability.
    """
    from geoscale.results.ground import format_area
    from geoscale.results.polygons import polygons as write_polygons

    names = None if classes is None else [c for c in classes.split(",") if c.strip()]
    with open_client(choose_profile(cluster, workers), 2) as client:
        made = write_polygons(
            output,
            to,
            client=client,
            layer=layer,
            classes=names,
            min_area=min_area,
            time=time,
            split=split,
            simplify=simplify,
            right_angles=right_angles,
            connectivity=connectivity,
        )
    if as_json:
        say_json(made.to_dict())
        return
    dropped = f"; {made.dropped:,} smaller ones left out" if made.dropped else ""
    say(f"{made.count:,} polygons of `{made.layer}`{dropped}")
    for name, one in sorted(made.classes.items()):
        say(f"  {name}  {one['count']:,} polygons, {format_area(one['area_m2'])}")
    say(f"  {made.path}")


def transitions(  # noqa: PLR0913, PLR0917  (options of the command)
    output: OutArg,
    to: Annotated[
        Path | None,
        typer.Option(
            "--to", help="Folder for JSON, Markdown and figures; default: beside OUT."
        ),
    ] = None,
    layer: Layer = None,
    time: Annotated[
        str | None,
        typer.Option(help="Time step of a change map.", metavar="DATE"),
    ] = None,
    before: Annotated[
        str | None,
        typer.Option("--from", help="Earlier time step; default: the first."),
    ] = None,
    after: Annotated[
        str | None,
        typer.Option("--until", help="Later time step; default: the last."),
    ] = None,
    cluster: Cluster = None,
    workers: Workers = None,
    as_json: AsJson = False,
) -> None:
    """Tell how much of each class became which: pixels and true areas.

    Of a change map with classes before and after, or between two time steps of a map.
    """
    from geoscale.cli.evaluation import beside
    from geoscale.results.transitions import transitions as count_transitions

    with open_client(choose_profile(cluster, workers), 2) as client:
        found = count_transitions(
            output,
            client=client,
            layer=layer,
            time=time,
            before=before,
            after=after,
        )
    files = found.write(to or beside(output, "transitions"))
    if as_json:
        say_json({**found.to_dict(), "files": [str(path) for path in files]})
        return
    say(found)
    say("\n".join(f"  {path}" for path in files))

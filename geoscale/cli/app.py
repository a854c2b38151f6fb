"""The application: which commands there are, and how every one of them ends."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from geoscale.cli import (
    attach,
    clusters,
    evaluation,
    fitting,
    look,
    models,
    results,
    work,
)
from geoscale.cli.say import (
    BROKEN_PIPE,
    INTERRUPTED,
    drop_stdout,
    leave,
    report_error,
    say,
)
from geoscale.errors import HungError


class Commands(TyperGroup):
    """Commands whose errors are one message and an exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take ``--debug`` wherever it stands."""
        if "--debug" in args:
            args = ["--debug", *(a for a in args if a != "--debug")]
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; turn what it raises into an exit code."""
        debug = bool(ctx.params.get("debug") or os.environ.get("GEOSCALE_DEBUG"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            say("interrupted", err=True)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            drop_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            if _is_typers_own(error):
                raise
            code = report_error(error, debug=debug)
            if isinstance(error, HungError):
                leave(code)
            raise typer.Exit(code) from None


def _is_typers_own(error: Exception) -> bool:
    """Whether typer prints it itself: usage errors, exits, aborts."""
    # Its classes lie in click or in a copy of click, by typer's version.
    names = {kind.__name__ for kind in type(error).__mro__}
    return bool(names & {"ClickException", "Exit", "Abort"})


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with:  geoscale demo",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from geoscale import __version__

        say(f"geoscale {__version__}")
        raise typer.Exit


@app.callback()
def geoscale(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error.")
    ] = False,
) -> None:
    """Run a pretrained model over more imagery than fits in one machine."""


RUN, SEE = "Make a map", "Look and check"
for command, panel, example in (
    (work.demo, RUN, "geoscale demo --to geoscale-demo"),
    (work.plan, RUN, "geoscale plan job.yaml --mpx-per-s 2 --cost-per-hour 3.5"),
    (work.run, RUN, "geoscale run job.yaml --cluster 2"),
    (
        fitting.fit,
        RUN,
        "geoscale fit labels.gpkg --model card.yaml --imagery items.json -o head",
    ),
    (clusters.submit, RUN, "geoscale submit job.yaml --cluster slurm.yaml"),
    (clusters.cancel, RUN, "geoscale cancel out.zarr"),
    (attach.attach, RUN, "geoscale attach out.zarr"),
    (work.repair, RUN, "geoscale repair out.zarr"),
    (results.export, RUN, "geoscale export out.zarr --to cogs"),
    (look.status, SEE, "geoscale status out.zarr --json"),
    (look.verify, SEE, "geoscale verify out.zarr"),
    (look.view, SEE, "geoscale view out.zarr --to page.html"),
    (
        evaluation.evaluate,
        SEE,
        "geoscale evaluate out.zarr --reference labels.tif --ignore -1",
    ),
    (
        results.polygons,
        SEE,
        "geoscale polygons change.zarr --min-area 0.5ha --to change.gpkg",
    ),
    (results.transitions, SEE, "geoscale transitions change.zarr"),
    (look.doctor, SEE, "geoscale doctor --cluster clusters/local.yaml"),
    (look.schema, SEE, "geoscale schema > job.schema.json"),
):
    app.command(rich_help_panel=panel, epilog=f"Example:  {example}")(command)
app.add_typer(clusters.app, name="cluster", rich_help_panel=SEE)
app.add_typer(models.app, name="models", rich_help_panel=SEE)

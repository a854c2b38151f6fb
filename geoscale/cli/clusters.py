"""Commands of batch systems and gateways: submit, cancel, cluster check and show."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from geoscale.cli.look import describe_finding
from geoscale.cli.models import AsJson
from geoscale.cli.say import say, say_json
from geoscale.cli.work import OutArg, Trust

app = typer.Typer(help="Cluster profiles: show one, try one.", no_args_is_help=True)

ProfileFile = Annotated[str, typer.Argument(help="Cluster profile.", metavar="FILE")]


def submit(
    job: Annotated[Path, typer.Argument(help="Job file, YAML.", metavar="JOB")],
    cluster: Annotated[
        str,
        typer.Option(
            "--cluster",
            "-c",
            help="Profile of a batch system or gateway.",
            metavar="FILE",
        ),
    ],
    only_print: Annotated[
        bool, typer.Option("--print", help="Show the scripts; submit nothing.")
    ] = False,
    trust_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Hand a job to a batch system: it goes on by itself until the map is complete.

    Slurm, PBS, LSF, Grid Engine, HTCondor, or a Dask Gateway, in whose cluster the
    driver runs then. Nothing has to stay open here.
    """
    from geoscale import submitted, submitting

    prepared = submitting.prepare(job, cluster=cluster, trust_code=trust_code)
    if only_print:
        say(prepared)
        return
    sent = submitting.send(prepared)
    found = submitted.describe(sent.output)
    if as_json:
        say_json({"output": sent.output, "jobs": found["jobs"]})
        return
    for one in found["jobs"]:
        parts = f", {one['parts']} parts" if one["parts"] > 1 else ""
        say(f"{one['kind']:<12}{one['system']} job {one['id']}{parts}: {one['state']}")
    say(f"\nwhere it stands:  geoscale status {sent.output}")
    say(f"end it:           geoscale cancel {sent.output}")


def cancel(output: OutArg, as_json: AsJson = False) -> None:
    """Cancel the jobs of an output; finished blocks are kept."""
    from geoscale import submitted

    ids = submitted.cancel(output)
    if as_json:
        say_json({"cancelled": ids})
    else:
        say(f"cancelled: {', '.join(ids)}" if ids else "its jobs are over already")


@app.command(epilog="Example:  geoscale cluster show slurm > slurm.yaml")
def show(
    name: Annotated[str, typer.Argument(help="Such as slurm.", metavar="NAME")],
) -> None:
    """Print a profile that comes with geoscale, to be changed and kept."""
    from geoscale.clusters import find_shipped
    from geoscale.errors import JobError
    from geoscale.words import suggest

    path = find_shipped(name) if name.replace("-", "").isalnum() else None
    if path is None:
        here = find_shipped("local")
        known = sorted(p.stem for p in here.parent.glob("*.yaml")) if here else []
        hint = suggest(name, known) or f"; there are {', '.join(known)}"
        raise JobError(f"there is no profile `{name}`{hint}")
    say(path.read_text(encoding="utf-8").rstrip())


@app.command(epilog="Example:  geoscale cluster check slurm.yaml")
def check(
    profile: ProfileFile,
    output: Annotated[
        str | None, typer.Option(help="Also try to write here.", metavar="OUT")
    ] = None,
) -> None:
    """Print a profile's job script, start one worker, look what it has, and stop it.

    Exit code 0 if nothing is wrong, else 2.
    """
    from geoscale.clusters import BatchProfile, load_profile, write_worker_script
    from geoscale.doctor import check_cluster

    found = load_profile(profile)
    if isinstance(found, BatchProfile):
        # one job of workers has the resources of every shape's
        one = {"jobs": 1, "shape": "driver-and-workers"}
        found = found.model_copy(update=one)
        say(write_worker_script(found))
    say("starting one worker …", err=True)
    findings = list(check_cluster(found.model_dump(), output))
    for finding in findings:
        say("\n".join(describe_finding(finding)))
    bad = sum(finding.level == "wrong" for finding in findings)
    say(f"\n{bad} wrong" if bad else "\nnothing wrong")
    raise typer.Exit(2 if bad else 0)

"""Commands that make a map: demo, plan, run, repair, export."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoscale.cli.interrupt import interruptible
from geoscale.cli.models import AsJson
from geoscale.cli.progress import show_progress
from geoscale.cli.say import say, say_json
from geoscale.durations import format_seconds, parse_duration

if TYPE_CHECKING:
    from distributed import Client

    from geoscale.clusters import Profile
    from geoscale.ending import RunReport
    from geoscale.likeness import Likeness
    from geoscale.plans import InferencePlan
    from geoscale.zones import ZonePlans

    Plans = InferencePlan | ZonePlans

JobFile = Annotated[Path, typer.Argument(help="Job file, YAML.", metavar="JOB")]
OutArg = Annotated[str, typer.Argument(help="Output of a run.", metavar="OUT")]
Cluster = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        "-c",
        help="Profile (YAML), scheduler address, or number of local workers.",
        metavar="FILE|URL|N",
    ),
]
Workers = Annotated[
    int | None,
    typer.Option("--workers", "-w", help="Local worker processes.", min=1),
]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Allow Python code that the model's card brings along."
    ),
]

Accept = Annotated[
    bool,
    typer.Option(
        "--accept-license",
        help="Accept a licence of the weights that is non-commercial or not known.",
    ),
]


def demo(
    to: Annotated[
        Path, typer.Option("--to", help="Folder for all that the demo makes.")
    ] = Path("geoscale-demo"),
    size: Annotated[
        int, typer.Option("--size", help="Height and width of the imagery, in px.")
    ] = 2000,
    workers: Annotated[
        int, typer.Option("--workers", "-w", help="Local worker processes.", min=1)
    ] = 2,
    as_json: AsJson = False,
) -> None:
    """Make a land-cover map of real imagery, from scenes to a page; no network."""
    from geoscale.demo import run_demo

    again = f"interrupted; `geoscale demo --to {to}` goes on"
    with interruptible(again), show_progress(err=as_json) as progress:
        made = run_demo(
            to,
            size=size,
            workers=workers,
            say=lambda line: say(line, err=as_json),
            progress=progress,
        )
    assert made.report is not None
    if as_json:
        say_json(dataclasses.asdict(made))
    else:
        say(f"\n{made.report}\n")
        for word, path in made.paths().items():
            say(f"  {word:<9}{path}")
        spent = ", ".join(f"{k} {format_seconds(v)}" for k, v in made.seconds.items())
        say(f"\n{format_seconds(sum(made.seconds.values()))} in all ({spent})")
    raise typer.Exit(made.report.exit_code)


def plan(  # noqa: PLR0913, PLR0917  (options of the command)
    job: JobFile,
    mpx_per_s: Annotated[
        float | None,
        typer.Option(help="Speed of the cluster, output Mpx/s: gives the time."),
    ] = None,
    cost_per_hour: Annotated[
        float | None,
        typer.Option(help="Price of the cluster per hour: gives the cost."),
    ] = None,
    measure: Annotated[
        bool,
        typer.Option(help="Measure here what the job leaves open."),
    ] = True,
    look: Annotated[
        bool,
        typer.Option(
            "--check-values",
            help="Read some places and hold their values against the model's card.",
        ),
    ] = False,
    trust_code: Trust = False,
    accept_license: Accept = False,
    as_json: AsJson = False,
) -> None:
    """Check a job and say what it will read, run and write.

    Reads no pixel, unless the job says `runtime: auto` or `precision: auto`, finds
    change by statistics of the whole area, or --check-values is given.
    """
    from geoscale.launch import allowed_worker_bytes

    made, output = _plan(
        job, measure=measure, trust_code=trust_code, accept_license=accept_license
    )
    allowed = allowed_worker_bytes(None)
    values: list[str] = []
    more: dict[str, Any] = {}
    if look:
        made, values, more = _check_values(made)
    if as_json:
        say_json(_plan_data(made, output) | more)
        return
    say(
        made.explain(
            allowed_bytes=allowed, mpx_per_s=mpx_per_s, cost_per_hour=cost_per_hour
        )
    )
    say(f"  output   {output}")
    for line in values:
        say(f"  values   {line}")
    made.validate(allowed_bytes=allowed)


def run(  # noqa: PLR0913, PLR0917  (options of the command)
    job: Annotated[
        str, typer.Argument(help="Job file, YAML, or an output.", metavar="JOB")
    ],
    cluster: Cluster = None,
    workers: Workers = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="Only part I of N, from 0: a job array without Dask.", metavar="I/N"
        ),
    ] = None,
    deadline: Annotated[
        str | None,
        typer.Option(
            help="Time this run has, such as 3h50m: no block is begun that would end "
            "later.",
            metavar="TIME",
        ),
    ] = None,
    only_quarantined: Annotated[
        bool,
        typer.Option(help="Only blocks that failed in earlier runs of the job."),
    ] = False,
    trust_code: Trust = False,
    accept_license: Accept = False,
    batch: Annotated[
        bool,
        typer.Option(
            "--batch",
            help="As a batch job: over at the deadline, whatever is in flight; exit "
            "code 75 only where blocks were made, 0 for a part that is done.",
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run a job, or go on where it stopped: the same command does both.

    Without --cluster the blocks run in this process. SIGTERM and SIGUSR1 finish the
    blocks in flight and end with exit code 75: hand the same command in again. Instead
    of a job, an output that was begun may be named.
    """
    from geoscale import api
    from geoscale.cli.batch import Watch
    from geoscale.engine.stopping import Stop

    part, profile = _parse_shard(shard), choose_profile(cluster, workers)
    due_s = None if deadline is None else parse_duration(deadline)
    stop, watch = Stop(due_s), Watch(due_s if batch else None)
    again = "interrupted; the same command goes on where this one stopped"
    with watch.held(), interruptible(again, stop):
        made, output = _plan(job, measure=False, accept_license=accept_license)
        say(made, err=as_json)
        say(f"  output   {output}\n", err=as_json)
        with open_client(profile, made.in_flight) as client:
            if not made.is_settled:
                made = _settle(made, output, client, part, trust_code)
                say(f"{made}\n", err=as_json)
            with show_progress(err=as_json) as progress:
                report = api.run(
                    made,
                    output,
                    client=client,
                    shard=part,
                    only_quarantined=only_quarantined,
                    trust_code=trust_code,
                    progress=watch.follow(progress),
                    stop=stop,
                )
    end(report, as_json, watch.end(report, part) if batch else report.exit_code)


def repair(
    output: OutArg,
    cluster: Cluster = None,
    workers: Workers = None,
    trust_code: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Make damaged and missing blocks again, and only these."""
    from geoscale import outputs

    profile = choose_profile(cluster, workers)
    with (
        interruptible("interrupted; the same command goes on where this one stopped"),
        open_client(profile, 2) as client,
    ):
        report = outputs.repair(output, client=client, trust_code=trust_code)
    end(report, as_json)


def _settle(
    made: Plans,
    output: str,
    client: Client | None,
    part: tuple[int, int] | None,
    trust_code: bool,
) -> Plans:
    from geoscale import api

    say("measuring what the job leaves open …", err=True)
    return api.prepare(made, output, client=client, shard=part, trust_code=trust_code)


def _check_values(made: Plans) -> tuple[Plans, list[str], dict[str, Any]]:
    """Check the values of a plan; of several zones, those of the first."""
    from geoscale.values import check_values, describe_values
    from geoscale.zones import ZonePlans

    if not isinstance(made, ZonePlans):
        checked, found = check_values(made)
        return checked, describe_values(found), _as_data(found)
    zone = next(iter(made))
    found = check_values(made[zone])[1]
    told = () if found is None else found.warnings
    lines = [f"zone {zone}, for all", *describe_values(found), *told]
    return made, lines, _as_data(found)


def _as_data(found: Likeness | None) -> dict[str, Any]:
    return {"values": None if found is None else dataclasses.asdict(found)}


def _plan(
    job: str | Path,
    *,
    measure: bool,
    trust_code: bool = False,
    accept_license: bool = False,
) -> tuple[Plans, str]:
    from geoscale import api, outputs
    from geoscale.errors import OutputError

    if "://" in str(job) or Path(job).is_dir():
        return outputs.load_begun(str(job))
    loaded = api.load_job(job)
    if accept_license:
        how = loaded.inference.model_copy(update={"accept_license": True})
        loaded = loaded.model_copy(update={"inference": how})
    output = loaded.output.to
    if "://" not in output and Path(output).is_file():
        raise OutputError(f"output {output} is a file; give a folder of its own")
    return api.plan_job(loaded, measure=measure, trust_code=trust_code), output


def _plan_data(made: Plans, output: str) -> dict[str, Any]:
    """Gather what a program may want to know of a plan, or of those of all zones."""
    from geoscale.zones import ZonePlans

    if isinstance(made, ZonePlans):
        zones = {name: _plan_data(made[name], f"{output}/{name}") for name in made}
        blocks = sum(one["blocks"] for one in zones.values())
        told = {"hash": made.hash, "output": output, "blocks": blocks}
        return {**told, "zones": zones, "empty": list(made.empty)}
    data = made.to_dict()
    return {
        "hash": made.hash,
        "output": output,
        "blocks": len(made.numbers()),
        "blocks_in_all": len(made.grid),
        "patches": made.count_patches(),
        "recompute": round(made.recompute(), 4),
        "memory_bytes": dataclasses.asdict(made.memory()),
        **{key: data[key] for key in ("grid", "times", "inference", "notes")},
        "layers": list(made.layers),
        "model": made.card.name,
        "change": data.get("change"),
        "weights_sha256": made.weights_sha256,
        "tuning": made.tuning,
    }


def choose_profile(cluster: str | None, workers: int | None) -> Profile | None:
    """Check what was asked for; nothing asked for is this process."""
    if cluster is None and workers is None:
        return None
    from geoscale.clusters import LocalProfile, load_profile
    from geoscale.errors import JobError

    profile = load_profile(str(workers) if cluster is None else cluster)
    if cluster is None or workers is None:
        return profile
    if not isinstance(profile, LocalProfile):
        raise JobError(
            f"--workers {workers} is for local clusters; {cluster} is none: leave one "
            "of them out"
        )
    return profile.model_copy(update={"workers": workers})


def open_client(
    profile: Profile | None, threads: int
) -> AbstractContextManager[Client | None]:
    """Connect to a cluster while a command runs; no profile is this process."""
    if profile is None:
        return nullcontext()
    from geoscale.clusters import connect

    return connect(profile.model_dump(), threads=threads)


def _parse_shard(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    from geoscale.errors import JobError

    index, slash, parts = text.partition("/")
    if not (slash and index.isdigit() and parts.isdigit()):
        raise JobError(f"--shard {text}: write I/N, such as 0/8 for the first of eight")
    return int(index), int(parts)


def end(report: RunReport, as_json: bool, code: int | None = None) -> None:
    """Say how a run ended, and leave with its exit code."""
    code = report.exit_code if code is None else code
    if as_json:
        say_json({**dataclasses.asdict(report), "exit_code": code})
    else:
        say(f"\n{report}")
    raise typer.Exit(code)

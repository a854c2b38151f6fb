"""Commands that look and check: status, verify, view, doctor, schema."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from geoscale.cli.models import AsJson
from geoscale.cli.say import say, say_json, style
from geoscale.cli.work import Cluster, OutArg
from geoscale.durations import format_seconds
from geoscale.gauges import say_after

if TYPE_CHECKING:
    from geoscale.doctor import Finding


def status(output: OutArg, as_json: AsJson = False) -> None:
    """Say where a run stands, and its batch jobs; exit code 0 if complete, else 3."""
    from geoscale.submitted import describe

    found = describe(output)
    if as_json:
        say_json(found)
    else:
        say("\n".join(_describe_status(found)))
    raise typer.Exit(0 if found["complete"] else 3)


def verify(output: OutArg, as_json: AsJson = False) -> None:
    """Compare every stored byte with what was written.

    Exit code 0 if sound, 3 if blocks are missing, 4 if any is damaged.
    """
    from geoscale import outputs

    found = outputs.verify(output)
    damaged = [
        {"block": d.block, "key": d.key, "reason": d.reason} for d in found.damaged
    ]
    zones = {
        name: {
            "sound": one.is_sound,
            "checked": one.checked,
            "damaged": len(one.damaged),
            "missing": one.missing,
        }
        for name, one in found.zones.items()
    }
    if as_json:
        told = {
            "sound": found.is_sound,
            "checked": found.checked,
            "damaged": damaged,
            "missing": found.missing,
        }
        say_json({**told, "zones": zones} if zones else told)
    else:
        word = style("sound", fg="green") if found.is_sound else "NOT sound"
        say(f"{word}: {found.checked:,} stored objects compared")
        for name, one in zones.items():
            say(f"  {name}  {'sound' if one['sound'] else 'NOT sound'}")
        for damage in damaged[:20]:
            say(f"  {damage['reason']}: {damage['key']}")
        if len(damaged) > 20:
            say(f"  … and {len(damaged) - 20:,} more")
        if found.missing:
            say(f"  {len(found.missing):,} blocks missing: run the job again")
        if damaged:
            say(f"mend it with:  geoscale repair {output}")
    raise typer.Exit(0 if found.is_sound else 4 if damaged else 3)


def view(
    output: OutArg,
    to: Annotated[
        Path | None,
        typer.Option("--to", help="The page; default: beside the output."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write one HTML page that shows a finished map, and print its path."""
    from geoscale.report import write_report

    page = write_report(output, to)
    if as_json:
        say_json({"page": str(page)})
    else:
        say(page)


def doctor(
    cluster: Cluster = None,
    output: Annotated[
        str | None,
        typer.Option(help="Also try to write here.", metavar="OUT"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine, and the workers of a cluster; say how to mend what is wrong.

    Exit code 0 if nothing is wrong, else 2.
    """
    from geoscale.doctor import examine

    findings = list(examine(cluster=cluster, output=output))
    bad = [finding for finding in findings if finding.level == "wrong"]
    if as_json:
        import dataclasses

        say_json([dataclasses.asdict(finding) for finding in findings])
    else:
        for one in findings:
            say("\n".join(describe_finding(one)))
        say(f"\n{len(bad)} wrong" if bad else "\nnothing wrong")
    raise typer.Exit(2 if bad else 0)


def schema() -> None:
    """Print the JSON Schema of the job file, for editors."""
    from geoscale.job import Job

    found = Job.model_json_schema()
    say_json({"$schema": "https://json-schema.org/draft/2020-12/schema", **found})


def describe_finding(one: Finding) -> list[str]:
    """Say what the doctor found, and what to do, in lines of the terminal's width."""
    import shutil
    import textwrap

    color = {"ok": "green", "note": "yellow", "wrong": "red"}[one.level]
    wide, indent = max(40, min(110, shutil.get_terminal_size().columns)), " " * 19
    body = textwrap.wrap(one.found, wide - len(indent), break_on_hyphens=False)
    first = f"{style(f'{one.level:<7}', fg=color)}{one.name:<12}{body[0]}"
    fix = textwrap.wrap(one.fix, wide - len(indent) - 3, break_on_hyphens=False)
    below = [f"{'-> ' if i == 0 else '   '}{line}" for i, line in enumerate(fix)]
    return [first, *(indent + line for line in [*body[1:], *below])]


def _describe_status(found: dict[str, Any]) -> list[str]:
    word = "complete and verified" if found["complete"] else "NOT complete"
    times = "once" if found["runs"] == 1 else f"{found['runs']} times"
    done = f"{found['done']:,} of {found['blocks']:,} done"
    lines = [f"{word}: {found['output']}", f"  model   {found['model']}"]
    if "zones" in found:
        lines += [f"  blocks  {done}", *_describe_zones(found)]
    else:
        lines += [
            f"  plan    {found['plan_hash'][:12]}",
            f"  blocks  {done}; run {times}",
        ]
    if "blocks_per_s" in found:
        left = format_seconds(found["left_s"])
        lines.append(f"  rate    {found['blocks_per_s']:.2f} blocks/s, {left} left")
    lines += [f"  gpu     {text}" for text in say_after(found.get("gpus", {}))]
    lines += [
        f"  failed  {name}: {why['error']}" for name, why in found["failed"].items()
    ]
    for job in found.get("jobs", ()):
        name = f"{job['kind']} {job['id']}"
        lines.append(f"  job     {name}  {job['state']}")
    if found.get("jobs") and not found["complete"]:
        lines += [found["advice"]] if "advice" in found else []
    elif not found["complete"]:
        lines.append("go on with the same `geoscale run`")
    return lines


def _describe_zones(found: dict[str, Any]) -> list[str]:
    lines = []
    for name, one in found["zones"].items():
        word = "complete" if one["complete"] else "NOT complete"
        done = f"{one['done']:,} of {one['blocks']:,} done"
        lines.append(f"  {name}  {word}, {done}")
    if found["empty"]:
        lines.append(f"  without imagery, not mapped: {', '.join(found['empty'])}")
    return lines

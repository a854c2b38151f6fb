"""Handing a job to a batch system or a gateway: what is submitted, where it stands.

Nothing of the process that submits has to stay: the jobs find all they need in files.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from geoscale import residing
from geoscale.api import as_url, plan_job
from geoscale.clusters import (
    QUEUES,
    BatchProfile,
    GatewayProfile,
    HTCondorProfile,
    Kind,
    Script,
    Shape,
    check_jobs,
    find_asked,
    load_profile,
    write_script,
    write_submit,
    write_worker_script,
)
from geoscale.durations import format_seconds
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, StoppedError
from geoscale.job import Job, load_job
from geoscale.launch import MEMORY_SHARE
from geoscale.notebook import draw_cell
from geoscale.plans import InferencePlan
from geoscale.residing import Resident
from geoscale.sinks.thumbnail import draw_thumbnail
from geoscale.storage import Folder
from geoscale.submitted import JOBS, cancel, describe, read_jobs, refuse_twice
from geoscale.types import Json
from geoscale.words import redact
from geoscale.zones import ZonePlans

if TYPE_CHECKING:
    import xarray as xr

KINDS: dict[Shape, tuple[Kind, ...]] = {
    "driver-and-workers": ("driver",),
    "one-allocation": ("allocation",),
    "array": ("part", "end"),
}
"""Jobs of each shape, in the order in which they run."""
LOOK_S = 10.0
"""Pause between two looks of `SubmittedJob.wait`, in s."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is going to be submitted."""

    output: str
    """Where the map goes."""
    profile: BatchProfile
    """Of the cluster."""
    scripts: tuple[tuple[Script, str], ...]
    """Jobs and their scripts, in this order; each waits for the one before."""
    workers: str
    """Script of the jobs that the driver submits; empty where there are none."""

    def __str__(self) -> str:
        parts = [f"# {script.path}\n{text}" for script, text in self.scripts]
        if self.workers:
            count = self.profile.jobs
            parts.append(f"# workers, {count} jobs of it\n{self.workers}")
        return "\n".join(parts)


class SubmittedJob:
    """A job in a batch system.

    Parameters
    ----------
    output : str
        Its output.
    """

    def __init__(self, output: str) -> None:
        self.output = output

    def __repr__(self) -> str:
        jobs = ", ".join(f"{j['kind']} {j['id']}" for j in read_jobs(self.output))
        return f"SubmittedJob({redact(self.output)}: {jobs})"

    def _repr_html_(self) -> str:
        found = self.status()
        rows = [
            f"{job['kind']:<10} {job['system']} {job['id']}  {job['state']}"
            for job in found.get("jobs", ())
        ]
        if "blocks_per_s" in found:
            left = format_seconds(found["left_s"])
            rows.append(f"{found['blocks_per_s']:.2f} blocks/s, {left} left")
        if found["failed"]:
            rows.append(f"{len(found['failed']):,} blocks failed: job.status()")
        rows += [found["advice"]] if "advice" in found else []
        return draw_cell(
            self.output,
            "\n".join(rows),
            progress=(found["done"], found["blocks"]),
            picture=draw_thumbnail(self.output),
        )

    def status(self) -> Json:
        """Tell where it stands, as `geoscale.status` and with its ``jobs``."""
        return describe(self.output)

    def wait(self, timeout_s: float | None = None, every_s: float = LOOK_S) -> Json:
        """Wait until its jobs are over or the output is complete.

        Parameters
        ----------
        timeout_s : float, optional
            Longest wait, in s.
        every_s : float
            Pause between two looks, in s.

        Returns
        -------
        dict
            As `status` gives.

        Raises
        ------
        TimeoutError
            If it takes longer.
        """
        until = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            found = self.status()
            if found["complete"] or all(j["over"] for j in found["jobs"]):
                return found
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"{self!r} is not over after {timeout_s:g} s")
            time.sleep(every_s)

    def result(self, timeout_s: float | None = None) -> xr.Dataset:
        """Wait for the map, and open it lazily.

        Raises
        ------
        StoppedError
            If its jobs are over and the map is not complete.
        """
        from geoscale.sinks.layout import open_output

        found = self.wait(timeout_s)
        if not found["complete"]:
            told = "; ".join(
                f"{j['kind']} {j['id']} {j['state']}" for j in found["jobs"]
            )
            raise StoppedError(
                f"{redact(self.output)} is not complete and its jobs are over: {told}; "
                "look at their logs, mend it and submit again: finished blocks are kept"
            )
        return open_output(self.output)

    def cancel(self) -> None:
        """Cancel its jobs; finished blocks are kept."""
        cancel(self.output)


def submit(
    what: str | Path | Job | InferencePlan,
    to: str | Path | None = None,
    *,
    cluster: str | Path | Mapping[str, Any],
    trust_code: bool = False,
) -> SubmittedJob:
    """Hand a job to a batch system; it needs nothing of this process any more.

    Parameters
    ----------
    what : str, path, Job or InferencePlan
        A job, its YAML file, or a plan.
    to : str or path, optional
        Output, where `what` is a plan that `plan_job` did not make.
    cluster : str, path or mapping
        Profile of a batch system, or of a gateway, in whose cluster the driver runs.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    SubmittedJob
        Asks and cancels by what is noted beside the output.

    Raises
    ------
    JobError
        If the profile is wrong, the batch system refuses the job (in its own words), or
        an earlier submission for this output is still in the queue.
    PlanError
        If the job cannot work.
    """
    return send(prepare(what, to, cluster=cluster, trust_code=trust_code))


def prepare(
    what: str | Path | Job | InferencePlan,
    to: str | Path | None = None,
    *,
    cluster: str | Path | Mapping[str, Any],
    trust_code: bool = False,
) -> Prepared | Resident:
    """Plan and check a job, and write its scripts; nothing is submitted.

    Parameters
    ----------
    what : str, path, Job or InferencePlan
        As for `submit`.
    to : str or path, optional
        Output, where `what` is a plan.
    cluster : str, path or mapping
        Profile of a batch system.
    trust_code : bool
        Allow Python code that the card names outside known packages.

    Returns
    -------
    Prepared or Resident
        Print it to see the scripts, or what a gateway is asked for.
    """
    profile = load_profile(cluster)
    if isinstance(profile, GatewayProfile):
        return residing.prepare(what, to, profile, trust_code=trust_code)
    if not isinstance(profile, BatchProfile):
        raise JobError(
            f"{cluster}: jobs are submitted to batch systems (slurm, pbs, lsf, sge, "
            f"htcondor) and gateways; for type `{profile.type}` use `geoscale run "
            "--cluster`"
        )
    named, url = _begin(what, to, profile, trust_code)
    folder = _find_folder(url, profile)
    if profile.logs is None:
        profile = profile.model_copy(update={"logs": folder})
    options = ("--trust-code",) if trust_code else ()
    name = "geoscale-" + _slug(url)
    scripts = []
    for kind in KINDS[profile.shape]:
        script = Script(
            kind=kind,
            name=name,
            what=named,
            cluster=f"{folder}/cluster.yaml",
            folder=folder,
            options=options,
        )
        scripts.append((script, write_script(profile, script)))
    if isinstance(profile, HTCondorProfile):
        scripts = scripts[:1]  # the last part ends the map
    workers = ""
    if profile.shape == "driver-and-workers":
        workers = write_worker_script(profile)
    return Prepared(url, profile, tuple(scripts), workers)


def send(prepared: Prepared | Resident) -> SubmittedJob:
    """Submit what was prepared, and note it beside the output.

    Parameters
    ----------
    prepared : Prepared or Resident
        From `prepare`.

    Returns
    -------
    SubmittedJob
        As `submit` gives.
    """
    if isinstance(prepared, Resident):
        residing.send(prepared)
        return SubmittedJob(prepared.output)
    profile, url = prepared.profile, prepared.output
    queue, kind = QUEUES[profile.type], profile.type
    refuse_twice(url)
    folder = Path(prepared.scripts[0][0].folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cluster.yaml").write_text(_dump(profile), encoding="utf-8")
    if prepared.workers:
        # what the driver would meet only once it runs
        check_jobs(profile, prepared.workers)
    before, notes = "", Folder(url) / ".geoscale" / JOBS
    number = 1 + max((job["number"] for job in read_jobs(url)), default=0)
    for script, text in prepared.scripts:
        path = Path(script.path)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)
        submits = str(path)
        if isinstance(profile, HTCondorProfile):
            submits = str(path.with_suffix(".sub"))
            Path(submits).write_text(write_submit(profile, script), encoding="utf-8")
        options = queue.after(before) if before else []
        if script.kind == "part" and kind == "pbs":
            options += ["-J", f"0-{profile.jobs - 1}"]
        before = queue.submit(submits, options)
        note = {
            "number": number,
            "system": kind,
            "kind": script.kind,
            "id": before,
            "parts": profile.jobs if script.kind == "part" else 1,
            "walltime_s": find_asked(profile, script.kind).seconds,
            "script": script.path,
        }
        notes.put(f"{kind}-{before}.json", json.dumps(note, indent=1).encode())
    return SubmittedJob(url)


def _begin(
    what: str | Path | Job | InferencePlan,
    to: str | Path | None,
    profile: BatchProfile,
    trust_code: bool,
) -> tuple[str, str]:
    """Plan, check, and give what the job runs, and its output."""
    allowed = (
        int(MEMORY_SHARE * find_asked(profile, "part").memory) // profile.processes
    )
    if isinstance(what, str | Path):
        job = load_job(what)
        plan = plan_job(job, measure=False, trust_code=trust_code)
        url = as_url(job.output.to)
        plan.validate(allowed_bytes=allowed)
        return str(Path(what).resolve()), url
    if isinstance(what, Job):
        made, place = plan_job(what, trust_code=trust_code), what.output.to
        if isinstance(made, ZonePlans):
            raise JobError("a job of several UTM zones is submitted by its file")
        return _begin(made, place, profile, trust_code)
    to = what.to if to is None else to
    if to is None:
        raise JobError("a plan needs an output: `submit(plan, to, cluster=…)`")
    if what.source.get("kind") == "array":
        raise JobError(
            "its imagery is an array in this process, which no job can read: open it "
            "from files, or run it here with `run(plan, to, client=…)`"
        )
    if not what.is_settled:
        raise JobError("the plan leaves a choice to `auto`: plan with `measure=True`")
    what.validate(allowed_bytes=allowed)
    url = as_url(to)
    Journal(url).begin(what)
    return url, url


def _find_folder(url: str, profile: BatchProfile) -> str:
    """Folder of scripts and logs; jobs write there without geoscale."""
    if profile.logs is not None:
        return str(Path(profile.logs).expanduser().resolve() / _slug(url))
    if "://" in url:
        raise JobError(
            f"scripts and logs need a folder on disk, {redact(url)} is none: name one "
            "that all nodes see, as `logs` in the cluster profile"
        )
    return f"{url}/.geoscale/{JOBS}"


def _dump(profile: BatchProfile) -> str:
    fields = profile.model_dump(mode="json", exclude_defaults=True)
    fields |= {"type": profile.type}
    return yaml.safe_dump(fields, sort_keys=False)


def _slug(url: str) -> str:
    """Short name of an output, of letters that every batch system takes."""
    name = url.rstrip("/").rpartition("/")[2].removesuffix(".zarr")
    kept = "".join(c if c.isascii() and c.isalnum() else "-" for c in name)
    return kept.strip("-")[:40] or "map"

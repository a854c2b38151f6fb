"""Talking to a batch system by its own commands, and quoting what it says."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from geoscale.errors import JobError
from geoscale.words import shorten

ANSWER_S = 60.0
"""How long a command of a batch system may take, in s."""


@dataclass(frozen=True, slots=True)
class JobState:
    """What the queue says of a job, in its own words."""

    state: str
    """``RUNNING``, ``PENDING``; of an array: how many are what."""
    reason: str = ""
    """Why it waits, or where it runs."""
    is_over: bool = False
    """Whether it is not going to run any more."""

    def __str__(self) -> str:
        return f"{self.state} ({self.reason})" if self.reason else self.state


GONE = JobState("gone", "no longer in the queue", is_over=True)
UNKNOWN = JobState("unknown", "its queue cannot be asked from here")


class Queue:
    """One batch system."""

    title = ""
    """Its name."""
    submits: tuple[str, ...] = ()
    """Command that submits a script."""
    cancels: tuple[str, ...] = ()
    """Command that cancels jobs."""

    @property
    def is_here(self) -> bool:
        """Whether its commands are on this machine."""
        return shutil.which(self.submits[0]) is not None

    def submit(self, script: str, options: Sequence[str] = ()) -> str:
        """Submit a script that is stored; return the id of the job.

        Raises
        ------
        JobError
            With the scheduler's own words, if it is refused.
        """
        return self._read_id(self._ask([*self.submits, *options, script]))

    def after(self, job: str) -> list[str]:
        """Options that let a job begin when another is over, however that ended."""
        raise NotImplementedError

    def check(self, script: str) -> None:
        """Ask whether a script would be taken; some systems cannot tell."""

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """States of jobs that this user has submitted."""
        raise NotImplementedError

    def cancel(self, ids: Sequence[str]) -> None:
        """Cancel jobs; those that are over are left."""
        if ids:
            self._run([*self.cancels, *ids])

    def cancel_workers(self, driver: str) -> None:
        """Cancel the jobs of workers that a driver has started."""

    def _read_id(self, said: str) -> str:
        found = re.search(r"\d[\w.\[\]-]*", said)
        if found is None:
            raise JobError(f"{self.title} took the job and gave no id: {shorten(said)}")
        return found[0]

    def _ask(self, command: Sequence[str]) -> str:
        ended = self._run(command)
        if ended.returncode:
            said = " ".join((ended.stderr.strip() or ended.stdout.strip()).split())
            raise JobError(
                f"{self.title} refused the job: {said or 'it gave no reason'}\n"
                "mend the cluster profile, and submit again"
            )
        return ended.stdout

    def _run(self, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(  # noqa: S603  (words of a checked profile)
                command,
                capture_output=True,
                text=True,
                timeout=ANSWER_S,
                check=False,
            )
        except FileNotFoundError:
            raise JobError(
                f"`{command[0]}` is not on this machine: submit where {self.title} is, "
                "such as its login node"
            ) from None
        except subprocess.TimeoutExpired:
            raise JobError(
                f"{self.title} does not answer: `{command[0]}` took more than "
                f"{ANSWER_S:.0f} s; try again later"
            ) from None


class Slurm(Queue):
    """Slurm, by sbatch, squeue, sacct and scancel."""

    title = "Slurm"
    submits = ("sbatch", "--parsable")
    cancels = ("scancel",)

    def after(self, job: str) -> list[str]:
        """Begin when another job is over."""
        return [f"--dependency=afterany:{job}"]

    def check(self, script: str) -> None:
        """Let Slurm say what it would refuse."""
        self._ask(["sbatch", "--test-only", script])

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Ask the queue, then what is accounted, where there is accounting."""
        found: dict[str, list[tuple[str, str]]] = {}
        # an id that is not known any more spoils the answer for others
        for one in ids:
            command = ["squeue", "--noheader", "--states=all", f"--jobs={one}"]
            ended = self._run([*command, "--array", "--format=%T|%r|%N"])
            rows = [line.split("|") for line in ended.stdout.splitlines()]
            found[one] = [(r[0], _say(r[1], r[2])) for r in rows if len(r) == 3]
            if not found[one]:
                command = ["sacct", "--noheader", "--parsable2", "--allocations"]
                ended = self._run([*command, f"--jobs={one}", "--format=State"])
                words = [line.split()[0] for line in ended.stdout.split("\n") if line]
                found[one] = [(word, "") for word in words if not ended.returncode]
        return {one: _sum_up(rows, SLURM_OVER) for one, rows in found.items()}

    def cancel_workers(self, driver: str) -> None:
        """Cancel by the name that `jobqueue` gives them."""
        self._run(["scancel", f"--name={name_workers(driver)}"])


class GridEngine(Queue):
    """Grid Engine, by qsub, qstat, qacct and qdel."""

    title = "Grid Engine"
    submits = ("qsub", "-terse")
    cancels = ("qdel",)

    def after(self, job: str) -> list[str]:
        """Begin when another job is over."""
        return ["-hold_jid", job]

    def check(self, script: str) -> None:
        """Let Grid Engine say whether such a job could ever run."""
        said = self._ask(["qsub", "-w", "v", script])
        if "no suitable queues" in said:
            raise JobError(f"Grid Engine refused the job: {' '.join(said.split())}")

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Ask the queue; what is not there is over, and may be accounted."""
        rows: dict[str, list[tuple[str, str]]] = {one: [] for one in ids}
        for line in self._run(["qstat", "-u", "*"]).stdout.splitlines()[2:]:
            words = line.split()
            if len(words) > 4 and words[0] in rows:
                where = words[7] if "@" in words[7] else ""
                rows[words[0]].append((SGE_STATES.get(words[4], words[4]), where))
        return {
            one: _sum_up(found, set()) if found else self._account(one)
            for one, found in rows.items()
        }

    def _account(self, job: str) -> JobState:
        said = self._run(["qacct", "-j", job]).stdout
        codes = re.findall(r"^exit_status +(\d+)", said, re.M)
        # a job that was queued again has a record for each run
        states = [("done" if c == "0" else f"ended with {c}", "") for c in codes[-1:]]
        if "taskid       undefined" not in said:
            states = [("done" if c == "0" else f"ended with {c}", "") for c in codes]
        return _sum_up(states, {state for state, _ in states})

    def cancel_workers(self, driver: str) -> None:
        """Cancel by the name that `jobqueue` gives them."""
        self._run(["qdel", name_workers(driver)])

    def _read_id(self, said: str) -> str:
        # an array answers with 12.1-4:1
        return super()._read_id(said).partition(".")[0]


class Pbs(Queue):
    """PBS, by qsub, qstat and qdel."""

    title = "PBS"
    submits = ("qsub",)
    cancels = ("qdel",)

    def after(self, job: str) -> list[str]:
        """Begin when another job is over."""
        return ["-W", f"depend=afterany:{job}"]

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Ask the queue and its history."""
        found: dict[str, JobState] = {}
        for one in ids:
            ended = self._run(["qstat", "-x", "-f", "-F", "json", one])
            try:
                jobs = json.loads(ended.stdout)["Jobs"]
            except (ValueError, KeyError):
                jobs = {}
            rows = [(j["job_state"], str(j.get("comment", ""))) for j in jobs.values()]
            named = [(PBS_STATES.get(state, state), why) for state, why in rows]
            found[one] = _sum_up(named, {"finished", "expired"})
        return found


class Lsf(Queue):
    """LSF, by bsub, bjobs and bkill."""

    title = "LSF"
    submits = ("bsub",)
    cancels = ("bkill",)

    def submit(self, script: str, options: Sequence[str] = ()) -> str:
        """Submit a script; LSF reads its directives from standard input only."""
        words = " ".join(f"'{word}'" for word in (*self.submits, *options))
        said = self._ask(["sh", "-c", f"{words} < '{script}'"])
        found = re.search(r"<(\d+)>", said)
        if found is None:
            raise JobError(f"LSF took the job and gave no id: {shorten(said)}")
        return found[1]

    def after(self, job: str) -> list[str]:
        """Begin when another job is over."""
        return ["-w", f"ended({job})"]

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Ask the queue; LSF knows jobs for some time after their end."""
        found = {}
        for one in ids:
            command = ["bjobs", "-a", "-noheader", "-o", "stat exec_host delimiter='|'"]
            rows = [
                line.split("|")
                for line in self._run([*command, one]).stdout.split("\n")
            ]
            said = [(r[0], r[1].strip("-")) for r in rows if len(r) == 2]
            found[one] = _sum_up(said, {"DONE", "EXIT"})
        return found


class HTCondor(Queue):
    """HTCondor, by condor_submit, condor_q and condor_rm."""

    title = "HTCondor"
    submits = ("condor_submit", "-terse")
    cancels = ("condor_rm",)

    def states(self, ids: Sequence[str]) -> dict[str, JobState]:
        """Ask the queue; what is not there is over."""
        found = {}
        for one in ids:
            command = ["condor_q", one, "-json", "-attributes", "JobStatus,HoldReason"]
            ended = self._run(command)
            try:
                rows = json.loads(ended.stdout or "[]")
            except ValueError:
                rows = []
            said = [
                (
                    CONDOR_STATES.get(r.get("JobStatus"), "?"),
                    str(r.get("HoldReason", "")),
                )
                for r in rows
            ]
            found[one] = _sum_up(said, {"completed", "removed"})
        return found

    def _read_id(self, said: str) -> str:
        return super()._read_id(said).partition(".")[0]


QUEUES: Mapping[str, Queue] = {
    "slurm": Slurm(),
    "pbs": Pbs(),
    "lsf": Lsf(),
    "sge": GridEngine(),
    "htcondor": HTCondor(),
}
"""Type of profile → batch system."""
SLURM_OVER = {
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL",
    "OUT_OF_MEMORY", "PREEMPTED", "REVOKED", "TIMEOUT",
}  # fmt: skip
SGE_STATES = {"qw": "waiting", "hqw": "held", "r": "running", "t": "starting",
              "Rr": "running again", "Rq": "waiting again", "Eqw": "error",
              "dr": "being deleted"}  # fmt: skip
PBS_STATES = {"Q": "queued", "R": "running", "H": "held", "E": "ending",
              "F": "finished", "X": "expired", "B": "begun", "W": "waiting",
              "S": "suspended"}  # fmt: skip
CONDOR_STATES = {1: "idle", 2: "running", 3: "removed", 4: "completed", 5: "held"}


def name_workers(driver: str) -> str:
    """Name of the jobs of workers that a driver's job starts."""
    return f"gs{driver}w"


def _say(reason: str, nodes: str) -> str:
    return nodes if reason in ("None", "") else reason


def _sum_up(rows: Sequence[tuple[str, str]], over: set[str]) -> JobState:
    """One state of a job, or of all parts of an array."""
    if not rows:
        return GONE
    is_over = all(state in over for state, _ in rows)
    if len(rows) == 1:
        return JobState(*rows[0], is_over=is_over)
    counts = Counter(state for state, _ in rows)
    reasons = sorted({reason for _, reason in rows if reason})
    return JobState(
        ", ".join(f"{n} {state}" for state, n in counts.most_common()),
        shorten(", ".join(reasons)),
        is_over=is_over,
    )

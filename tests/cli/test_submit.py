"""Submitting: scripts as the manuals have them, and what they do when a run ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

import geoscale as gs
from geoscale.clusters import Script, load_profile, write_script, write_submit
from geoscale.errors import JobError
from geoscale.submitted import cancel, describe
from tests.cli.conftest import environment, geoscale

BASE = {
    "walltime": "4h",
    "jobs": 4,
    "cores": 8,
    "memory": "32GiB",
    "gpus": 1,
    "queue": "long",
    "account": "me",
    "environment": "module load python\nexport A=1",
    "driver": {"walltime": "24h", "cores": 1, "memory": "4GiB"},
    "python": "/opt/python",
}
COMMAND = [sys.executable, "-m", "geoscale.cli"]
ALIKE = "--batch --deadline"


def script_of(kind, name, **fields):
    shape = {"part": "array", "end": "array", "allocation": "one-allocation"}
    profile = load_profile(
        {"type": name, "shape": shape.get(kind, "driver-and-workers"), **BASE, **fields}
    )
    script = Script(
        kind=kind,
        name="geoscale-map",
        what="/w/job.yaml",
        cluster="/w/cluster.yaml",
        folder="/w/logs",
    )
    return profile, script


def directives(text, word):
    return [li.removeprefix(word) for li in text.splitlines() if li.startswith(word)]


def test_slurm_as_its_manual_has_it():
    # https://slurm.schedmd.com/sbatch.html
    text = write_script(*script_of("driver", "slurm"))
    assert directives(text, "#SBATCH ") == [
        "--job-name=geoscale-map", "--time=24:00:00", "--partition=long",
        "--account=me", "--ntasks=1", "--cpus-per-task=1", "--mem=4096M",
        "--output=/w/logs/%x-%j.log", "--open-mode=append", "--requeue",
        "--signal=B:USR1@300",
    ]  # fmt: skip
    run = "/opt/python -m geoscale.cli run /w/job.yaml --cluster /w/cluster.yaml"
    assert f'\n{run} {ALIKE} "$((86100 - SECONDS))s" &\n' in text
    assert "module load python\nexport A=1\nexport GEOSCALE_CPUS=1\n" in text
    part = write_script(*script_of("part", "slurm", walltime="2m"))
    found = directives(part, "#SBATCH ")
    assert {"--array=0-3", "--cpus-per-task=8", "--mem=32768M"} <= {*found}
    assert {"--gres=gpu:1", "--output=/w/logs/%x-%A-%a.log"} <= {*found}
    # notice may be given a minute too early, which is most of so short a time
    assert not [one for one in found if one.startswith("--signal")]
    assert '--shard "$SLURM_ARRAY_TASK_ID/4"' in part
    whole = directives(write_script(*script_of("allocation", "slurm")), "#SBATCH ")
    assert {"--ntasks=4", "--mem-per-cpu=4096M", "--gpus-per-task=1"} <= {*whole}


def test_pbs_as_its_manual_has_it():
    # PBS Professional 2022.1 Reference Guide, qsub
    text = write_script(*script_of("part", "pbs"))
    assert directives(text, "#PBS ") == [
        "-N geoscale-map", "-l select=1:ncpus=8:mem=32768mb:ngpus=1",
        "-l walltime=04:00:00", "-q long", "-A me", "-o /w/logs/", "-j oe", "-r y",
        "-V",
    ]  # fmt: skip
    assert '--shard "${GEOSCALE_PART:-$PBS_ARRAY_INDEX}/4"' in text
    assert "qsub -v" in text
    whole = write_script(*script_of("allocation", "pbs"))
    assert "-l select=4:ncpus=8:mem=32768mb:ngpus=1" in directives(whole, "#PBS ")


def test_lsf_as_its_manual_has_it():
    # IBM Spectrum LSF 10.1, bsub; exit codes that put a job back: -Q
    text = write_script(*script_of("part", "lsf"))
    assert directives(text, "#BSUB ") == [
        '-J "geoscale-map[1-4]"', "-W 4:00", "-q long", "-P me", "-n 8",
        '-R "span[hosts=1]"', '-R "rusage[mem=32768MB]"', '-gpu "num=1"',
        "-o /w/logs/geoscale-map-%J-%I.log", "-r", '-Q "75"',
    ]  # fmt: skip
    assert '--shard "$((LSB_JOBINDEX - 1))/4"' in text
    whole = directives(write_script(*script_of("allocation", "lsf")), "#BSUB ")
    assert {"-n 32", '-R "span[ptile=8]"'} <= {*whole}


def test_grid_engine_as_its_manual_has_it():
    # Son of Grid Engine 8.1.9, qsub(1); exit code 99 puts a job back
    text = write_script(*script_of("part", "sge", memory_name="h_vmem"))
    assert directives(text, "#$ ") == [
        "-N geoscale-map", "-S /bin/bash", "-cwd", "-V", "-r y", "-j y", "-o /w/logs/",
        "-l h_rt=04:00:00", "-q long", "-P me", "-pe smp 8", "-l h_vmem=4096M",
        "-l gpu=1", "-t 1-4",
    ]  # fmt: skip
    assert '--shard "$((SGE_TASK_ID - 1))/4"' in text
    assert "exit 99" in text


def test_htcondor_as_its_manual_has_it():
    # HTCondor 23 manual, condor_submit
    profile, script = script_of("part", "htcondor")
    text = write_submit(profile, script)
    lines = dict(li.split(" = ", 1) for li in text.splitlines() if " = " in li)
    assert lines["on_exit_remove"] == "(ExitCode =!= 75) || (NumJobStarts > 100)"
    assert lines["request_cpus"] == "8"
    assert lines["request_memory"] == "32768 MB"
    assert lines["request_gpus"] == "1"
    assert lines["allowed_job_duration"] == "14400"
    assert lines["executable"] == "/w/logs/part.sh"
    assert text.endswith("queue 4\n")
    assert '--shard "$GEOSCALE_PART/4"' in write_script(profile, script)


# What a script does when its command ends: run here, with programs in place of
# geoscale and of the batch system's.


@pytest.fixture
def stage(tmp_path, monkeypatch):
    """Folder of programs; `said` is written by those of the batch system."""
    for name in ("scontrol", "qsub"):
        program = tmp_path / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" >> {tmp_path}/said\n')
        program.chmod(0o755)
    (tmp_path / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "sleep").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return tmp_path


def play(stage, name, body, **env):
    """Run a driver's script, whose command is `body`; yield the process."""
    command = stage / "python"
    command.write_text(f"#!/bin/bash\necho began > {stage}/began\n{body}\n")
    command.chmod(0o755)
    profile, script = script_of("driver", name, python=str(command), environment="")
    path = stage / "job.sh"
    path.write_text(write_script(profile, script))
    return subprocess.Popen(
        ["bash", str(path)], env={**os.environ, "SLURM_JOB_ID": "7", **env}
    )


def said(stage):
    path = stage / "said"
    return path.read_text().split("\n")[:-1] if path.exists() else []


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 130])
@pytest.mark.parametrize("name", ["slurm", "pbs", "sge", "lsf"])
def test_an_end_is_the_end(stage, name, code):
    assert play(stage, name, f"exit {code}").wait(20) == code
    assert said(stage) == []


@pytest.mark.parametrize(
    ("name", "ends", "words"),
    [
        ("slurm", 75, ["scontrol requeue 7"]),
        ("sge", 99, []),
        ("lsf", 75, []),
        ("htcondor", 75, []),
        ("pbs", 75, None),
    ],
)
def test_what_would_go_on_is_queued_again(stage, name, ends, words):
    (stage / "w").mkdir()
    assert play(stage, name, "exit 75").wait(20) == ends
    if words is not None:
        assert said(stage) == words


def test_not_more_often_than_allowed(stage):
    process = play(stage, "slurm", "exit 75", SLURM_RESTART_COUNT="100")
    assert process.wait(20) == 75
    assert said(stage) == []


@pytest.mark.parametrize(
    ("number", "again"), [(signal.SIGUSR1, True), (signal.SIGTERM, False)]
)
def test_notice_is_passed_on_and_a_cancelled_job_stays_away(stage, number, again):
    # USR1 reaches the shell alone; TERM reaches every process of the job
    body = "trap 'exit 75' USR1; for i in $(seq 100); do /bin/sleep 0.1; done; exit 75"
    process = play(stage, "slurm", body)
    while not (stage / "began").exists():
        time.sleep(0.02)
    time.sleep(0.2)
    process.send_signal(number)
    if number == signal.SIGTERM:
        time.sleep(0.2)
        subprocess.run(["pkill", "-USR1", "-P", str(process.pid)], check=True)
    assert process.wait(20) == 75
    assert said(stage) == (["scontrol requeue 7"] if again else [])


# The command in a script: `geoscale run --batch`.


def small_job(demo, name, block=128):
    path = Path(demo["job"]).with_name(f"{name}.yaml")
    job = yaml.safe_load(Path(demo["job"]).read_text())
    job["output"]["to"] = f"{name}.zarr"
    job.setdefault("inference", {})["block"] = block
    path.write_text(yaml.safe_dump(job))
    return path


def test_nothing_made_before_the_deadline_is_no_reason_to_come_back(demo):
    job = small_job(demo, "near")
    done = geoscale("run", job, "--batch", "--deadline", "5s")
    assert done.returncode == 4, done.stderr
    assert "nothing was finished before the deadline" in done.stderr
    assert "more wall time" in done.stderr


def test_a_part_that_is_done_is_a_success(demo):
    job = small_job(demo, "parts", 256)
    first = geoscale("run", job, "--shard", "0/2", "--batch")
    assert first.returncode == 0, first.stderr
    assert "part 0 of 2 is done; others are not yet" in first.stdout
    # an output that was begun may be named instead of its job
    last = geoscale("run", job.with_suffix(".zarr"), "--batch")
    assert last.returncode == 0, last.stderr
    assert "complete and verified" in last.stdout


def test_scripts_are_printed_and_nothing_is_made(demo, tmp_path):
    job, profile = small_job(demo, "printed"), tmp_path / "mine.yaml"
    profile.write_text("type: slurm\nwalltime: 1h\ncores: 2\nmemory: 8GB\njobs: 3\n")
    done = geoscale("submit", job, "-c", profile, "--print")
    assert done.returncode == 0, done.stderr
    assert re.search(r"^#SBATCH --time=01:00:00$", done.stdout, re.M)
    assert "# workers, 3 jobs of it" in done.stdout
    assert "--no-requeue" in done.stdout
    assert not job.with_suffix(".zarr").exists()


def test_submitting_where_no_batch_system_is(demo, tmp_path):
    job = small_job(demo, "nowhere")
    for text, words in (
        ("type: local", "jobs are submitted to batch systems"),
        ("type: slurm\nwalltime: 1h\ncores: 2\nmemory: 8GB", "is not on this machine"),
        ("type: slurm\nwalltime: 1h\ncores: 2\nmemory: 1GB", "needs? .* allowed"),
    ):
        (tmp_path / "mine.yaml").write_text(text)
        done = subprocess.run(
            [*COMMAND, "submit", str(job), "-c", str(tmp_path / "mine.yaml")],
            capture_output=True, text=True, timeout=120,
            env={**environment(), "PATH": str(tmp_path)},
        )  # fmt: skip
        assert done.returncode == 2, done.stderr
        assert re.search(words, done.stderr), done.stderr


def test_what_was_submitted_is_told_from_files_alone(demo, tmp_path, monkeypatch):
    job = small_job(demo, "told", 256)
    out = job.with_suffix(".zarr")
    with pytest.raises(JobError, match="no job was submitted"):
        cancel(str(out))
    note = {"number": 1, "system": "slurm", "kind": "driver", "id": "41", "parts": 1,
            "walltime_s": 60.0, "script": "/w/driver.sh"}  # fmt: skip
    notes = out / ".geoscale" / "jobs"
    notes.mkdir(parents=True)
    (notes / "slurm-41.json").write_text(json.dumps(note))
    (notes / "slurm-42.json").write_text("{")
    monkeypatch.setenv("PATH", str(tmp_path))
    found = describe(str(out))
    assert found["blocks"] == 0
    (one,) = found["jobs"]
    assert one["state"] == "unknown (its queue cannot be asked from here)"
    assert not one["over"]
    assert geoscale("run", job).returncode == 0, "notes beside an output do not matter"
    found = describe(str(out))
    assert found["complete"]
    assert found["jobs"] == [one]
    with pytest.raises(JobError, match="cancel where Slurm is"):
        cancel(str(out))


def test_what_cannot_be_submitted_says_why(demo):
    profile = {"type": "slurm", "walltime": "1h", "cores": 1, "memory": "8GB"}
    plan = replace(gs.plan_job(small_job(demo, "noplace")), to=None)
    with pytest.raises(JobError, match="a plan needs an output"):
        gs.submit(plan, cluster=profile)

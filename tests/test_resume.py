"""The same job again goes on from the stored plan; anything else plans anew."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import geoscale as gs
from geoscale.errors import JobError, OutputError, SourceError
from geoscale.plans import RUN
from geoscale.sources.survey import Survey

JOB = """\
imagery: {items: items.json}
model: s2-landcover-unet
inference: {block: 128, patch: 184, stride: 128}
output: map.zarr
"""


@pytest.fixture
def job(tmp_path):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    prepare(tmp_path, 300)
    path = tmp_path / "job.yaml"
    path.write_text(JOB)
    return path


class Count:
    """How often items were looked at."""

    def __init__(self, monkeypatch):
        self.surveys = 0
        real = Survey.__init__

        def init(survey, *given, **named):
            self.surveys += 1
            real(survey, *given, **named)

        monkeypatch.setattr(Survey, "__init__", init)


def test_the_same_job_is_not_planned_again(job, monkeypatch):
    first = gs.plan_job(job)
    assert gs.run_job(job).complete
    count = Count(monkeypatch)
    again = gs.plan_job(job)
    assert count.surveys == 0
    assert again.hash == first.hash
    report = gs.run_job(job)
    assert (report.complete, report.computed, count.surveys) == (True, 0, 0)


def test_items_that_changed_are_planned_and_refused_by_name(job, monkeypatch):
    assert gs.run_job(job).complete
    items = job.with_name("items.json")
    found = json.loads(items.read_text())
    found["features"] = found["features"][1:]
    items.write_text(json.dumps(found))
    count = Count(monkeypatch)
    with pytest.raises(OutputError, match="imagery"):
        gs.run_job(job)
    assert count.surveys == 1


def test_another_option_is_refused_by_name(job):
    assert gs.run_job(job).complete
    job.write_text(JOB.replace("stride: 128", "stride: 64"))
    with pytest.raises(OutputError, match=r"inference\.stride: 128 there, 64 here"):
        gs.run_job(job)


def test_a_plan_holds_no_items_and_its_tables_travel_with_it(job, tmp_path):
    made = gs.plan_job(job)
    assert gs.run(made, tmp_path / "map.zarr").complete
    folder = tmp_path / "map.zarr" / ".geoscale"
    stored = json.loads((folder / "plan.json").read_text())["source"]
    assert stored["items"].keys() == {"count", "digest"}
    loaded = gs.plan_job(job)
    assert loaded.live is None
    assert gs.run(loaded, tmp_path / "copy.zarr").complete
    for name in ("items.parquet", "blocks.parquet"):
        copy = tmp_path / "copy.zarr" / ".geoscale" / name
        assert copy.read_bytes() == (folder / name).read_bytes()
    Path(folder / "items.parquet").unlink()
    with pytest.raises(SourceError, match=r"items\.parquet"):
        gs.repair(tmp_path / "map.zarr")


def test_a_plan_knows_the_output_of_its_job_before_and_after_it_is_begun(job):
    first = gs.plan_job(job)
    report = gs.run(first)
    assert report.complete
    assert report.output == str(job.parent / "map.zarr")
    again = gs.plan_job(job)
    assert again.live is None, "it is the stored one"
    assert gs.run(again).computed == 0
    with pytest.raises(JobError, match="a plan needs an output"):
        gs.run(dataclasses.replace(again, to=None))


def test_every_block_names_the_items_it_reads(job, tmp_path):
    made = gs.plan_job(job)
    assert gs.run(made, tmp_path / "map.zarr").complete
    table = pq.read_table(tmp_path / "map.zarr" / ".geoscale" / "blocks.parquet")
    assert table.num_rows == len(made.grid)
    for row in table.to_pylist():
        task = made.task(row["block"])
        assert (row["y0"], row["x0"], row["y1"], row["x1"]) == task.core.as_tuple()
        if row["state"] != RUN:
            assert row["items"] is None
            continue
        expected = {
            int(i) for t in task.times for i in made.live._touching(task.read, t)
        }
        assert set(row["items"]) == expected
        assert row["items"]


def test_loading_a_plan_leaves_no_native_thread_behind(job):
    assert gs.run(gs.plan_job(job)).complete
    home = job.parent / "map.zarr" / ".geoscale"
    code = (
        "import os, sys, pyarrow as pa, pyarrow.parquet\n"
        "from pathlib import Path\n"
        "import geoscale as gs\n"
        "from geoscale.plan_store import load_plan\n"
        "home = Path(sys.argv[1])\n"
        "plan, blocks = ((home / n).read_bytes() for n in sys.argv[2:])\n"
        "names = lambda: sorted(os.listdir('/proc/self/task'))\n"
        "pa.array([1]).to_numpy()\n"
        "before = names()\n"
        "load_plan(plan, blocks, str(home))\n"
        "print(len(names()) - len(before))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code, home, "plan.json", "blocks.parquet"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert ended.stdout.strip() == "0", "one that still runs at exit aborts a command"

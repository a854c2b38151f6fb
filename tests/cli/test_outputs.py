"""Commands on a real, small output: status, verify, repair, export, view, plan."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from geoscale.cli import main
from tests.cli.conftest import geoscale


@pytest.fixture
def copy(demo, tmp_path):
    """A copy of the demo's output that may be damaged."""
    return Path(shutil.copytree(demo["output"], tmp_path / "landcover.zarr"))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def test_status_of_a_complete_output(demo, capsys):
    assert main(["status", demo["output"]]) == 0
    text = capsys.readouterr().out
    assert "complete and verified" in text
    assert "4 of 4 done" in text
    assert main(["status", demo["output"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["complete"] is True
    assert found["blocks"] == found["done"] == 4


def test_verify_finds_damage_and_repair_mends_it(copy, capsys):
    assert main(["verify", str(copy)]) == 0
    assert "sound: " in capsys.readouterr().out
    flip(copy / "classes" / "c" / "0" / "0" / "1")
    assert main(["verify", str(copy)]) == 4
    text = capsys.readouterr().out
    assert "NOT sound" in text
    assert "changed: classes/c/0/0/1" in text
    assert f"geoscale repair {copy}" in text
    assert main(["verify", str(copy), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["damaged"][0]["reason"] == "changed"
    ended = geoscale("repair", copy, "--json")
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["computed"] == 1
    assert main(["verify", str(copy)]) == 0


def test_an_output_with_a_missing_block_is_not_complete(copy, capsys):
    (copy / ".geoscale" / "final.json").unlink()
    for segment in (copy / ".geoscale" / "ledger").iterdir():
        kept = [s for s in segment.read_text().splitlines() if '"b":2' not in s]
        segment.write_text("".join(f"{line}\n" for line in kept))
    assert main(["status", str(copy)]) == 3
    assert "3 of 4 done" in capsys.readouterr().out
    assert main(["verify", str(copy)]) == 3
    assert main(["export", str(copy), "--to", str(copy.parent / "x")]) == 2
    assert "is not complete" in capsys.readouterr().err
    assert main(["view", str(copy)]) == 0
    page = Path(capsys.readouterr().out.strip()).read_text()
    assert "not complete: 3 of 4 blocks" in page


def test_export_writes_cogs_and_stac(demo, tmp_path, capsys):
    args = ["export", demo["output"], "--to", str(tmp_path), "-l", "confidence"]
    assert main(args) == 0
    paths = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [p.name for p in paths][-1] == "catalog.json"
    assert paths[0].name.endswith("_confidence.tif")
    assert all(p.is_file() for p in paths)


def test_export_of_an_unknown_layer_names_the_known(demo, tmp_path, capsys):
    args = ["export", demo["output"], "--to", str(tmp_path), "--layer", "klasses"]
    assert main(args) == 2
    assert "`classes`" in capsys.readouterr().err


def test_view_prints_where_the_page_is(demo, tmp_path, capsys):
    page = tmp_path / "deep" / "map.html"
    assert main(["view", demo["output"], "--to", str(page)]) == 0
    assert capsys.readouterr().out.strip() == str(page)
    assert "trees" in page.read_text()
    assert main(["view", demo["output"], "--to", str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err


def test_plan_says_time_and_cost(demo, capsys):
    args = ["plan", demo["job"], "--mpx-per-s", "0.001", "--cost-per-hour", "10"]
    assert main(args) == 0
    text = capsys.readouterr().out
    assert "cost 1.00" in text
    assert "4 of 512 px" in text
    assert "landcover.zarr" in text


def test_plan_as_json(demo, capsys):
    assert main(["plan", demo["job"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["blocks"] == 4
    assert found["model"] == "s2-landcover-unet"
    assert len(found["hash"]) == 64
    assert found["memory_bytes"]["reserved"] > 0


def test_a_finished_run_again_computes_nothing(demo):
    ended = geoscale("run", demo["job"], "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["computed"] == 0
    assert report["complete"] is True
    assert "nothing left" in ended.stderr


def test_another_plan_for_the_same_output_is_refused(demo, tmp_path):
    text = Path(demo["job"]).read_text().replace("stride: 512", "stride: 256")
    job = Path(demo["job"]).with_name("other.yaml")
    job.write_text(text)
    ended = geoscale("run", job)
    assert ended.returncode == 2
    assert "inference.stride: 512 there, 256 here" in ended.stderr
    assert "choose another output" in ended.stderr


def test_an_output_on_a_file_is_refused(demo):
    mine = Path(demo["job"]).with_name("mine.txt")
    mine.write_text("mine")
    job = mine.with_name("onto.yaml")
    job.write_text(Path(demo["job"]).read_text().replace("landcover.zarr", mine.name))
    ended = geoscale("run", job)
    assert ended.returncode == 2
    assert "mine.txt is a file" in ended.stderr
    assert mine.read_text() == "mine"


def test_two_shards_make_the_whole(demo):
    job = Path(demo["job"]).with_name("shards.yaml")
    job.write_text(Path(demo["job"]).read_text().replace("landcover.z", "shards.z"))
    first = geoscale("run", job, "--shard", "0/2")
    assert first.returncode == 3, first.stderr
    assert "2 blocks left" in first.stdout
    last = geoscale("run", job, "--shard", "1/2")
    assert last.returncode == 0, last.stderr
    assert "complete and verified" in last.stdout

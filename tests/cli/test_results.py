"""The commands: what they print, where they write, how they refuse."""

from __future__ import annotations

import json

import numpy as np
import pyogrio
import pytest

from geoscale.cli import main
from tests.evaluation.conftest import UTM, blobs
from tests.results.test_transitions import write_change


@pytest.fixture
def place(tmp_path):
    before, after = blobs((150, 210), 3, 1), blobs((150, 210), 3, 2)
    changed = (before != after).astype(np.uint8)
    write_change(tmp_path / "change.zarr", (before, after, changed), UTM)
    return tmp_path


def test_polygons_are_counted_and_written_beside_the_map(place, capsys):
    assert main(["polygons", str(place / "change.zarr"), "--min-area", "2ha"]) == 0
    text = capsys.readouterr().out
    assert " polygons of `change`; " in text
    assert "smaller ones left out" in text
    assert str(place / "change-change.parquet") in text
    assert (place / "change-change.parquet").is_file()


def test_polygons_as_json(place, capsys):
    command = ["polygons", str(place / "change.zarr"), "--to", str(place / "x.gpkg")]
    command += ["--layer", "to_class", "--values", "1,bare_soil", "--json"]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["classes"]) == {"water", "bare soil"}
    assert told["count"] == pyogrio.read_info(told["path"])["features"]


def test_transitions_are_printed_and_written_beside_the_map(place, capsys):
    assert main(["transitions", str(place / "change.zarr")]) == 0
    text = capsys.readouterr().out
    assert " changed (" in text
    assert "land      → water " in text
    names = {path.name for path in (place / "change-transitions").iterdir()}
    assert names == {
        "transitions.json", "transitions.md", "transitions.svg", "flows.svg",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["polygons", "--classes", "watr"], "no class `watr`"),
        (["polygons", "--to", "a.kml"], "polygons go to .parquet"),
        (["transitions", "--time", "1999"], "no time step `1999`"),
    ],
)
def test_what_is_wrong_is_said(place, capsys, more, words):
    name, *options = more
    assert main([name, str(place / "change.zarr"), *options]) == 2
    said = capsys.readouterr().err
    assert words in " ".join(said.split())
    assert "Traceback" not in said

"""The command: what it prints, where it writes, how it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest

from geoscale.cli import main
from tests.evaluation.conftest import UTM, Scene, write_labels


@pytest.fixture
def place(tmp_path):
    """A map and labels with a value that means nothing, side by side."""
    made = Scene(UTM)
    made.write(tmp_path / "map.zarr")
    labels = made.truth.astype(np.int16)
    labels[0] = -1
    write_labels(tmp_path / "labels.tif", labels, UTM)
    return tmp_path


def command(place, *more):
    paths = (str(place / "map.zarr"), "--reference", str(place / "labels.tif"))
    return main(["evaluate", *paths, *more])


def test_figures_are_printed_and_written_beside_the_map(place, capsys):
    assert command(place, "--ignore", "-1", "--sample") == 0
    text = capsys.readouterr().out
    assert "overall accuracy 0." in text
    assert "±" in text
    assert "note: 210 pixels have labels that were to be ignored" in text
    names = {path.name for path in (place / "map-evaluation").iterdir()}
    assert names == {
        "agreement.png", "confusion.svg", "evaluation.json", "evaluation.md", "roc.svg",
    }  # fmt: skip
    assert str(place / "map-evaluation" / "evaluation.md") in text


def test_json_says_all(place, capsys):
    args = ("--map-labels", "-1:water", "--merge", "bare soil:land", "--to")
    both = (*args, str(place / "x"), "--map-labels", "2:land", "--json")
    assert command(place, *both) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["labels"] == {"-1": "water", "0": "land", "1": "water", "2": "land"}
    assert [one["name"] for one in found["classes"]] == ["land", "water"]
    assert all(str(place / "x") in path for path in found["files"])
    assert found == json.loads((place / "x" / "evaluation.json").read_text()) | {
        "files": found["files"]
    }


def test_what_cannot_be_is_refused(place, capsys):
    for more, said in (
        ((), "does not know: -1 (210 px)"),
        (("--map-labels", "5"), "--map-labels 5: write OLD:NEW, such as 3:water"),
        (("--merge", "land:a", "--merge", "land:b"), "land is both a and b"),
        (("--nodata", "x"), "--nodata x: write a number, or none"),
        (("--resampling", "cubic"), "choose nearest or mode"),
    ):
        assert command(place, *more) == 2
        assert said in capsys.readouterr().err
    assert not (place / "map-evaluation").exists()


def test_nodata_may_be_negative(place, capsys):
    assert command(place, "--nodata", "-1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ignored_px"] == 0

"""The doctor: every finding is named, and what is wrong says how to mend it."""

from __future__ import annotations

import json

from geoscale.cli import main
from geoscale.doctor import (
    check_gdal,
    check_proxies,
    compare_versions,
    examine,
)


def test_doctor_names_what_it_looked_at(capsys, tmp_path):
    code = main(["doctor", "--output", str(tmp_path / "out.zarr")])
    text = capsys.readouterr().out
    for name in ("python", "gdal", "PROJ", "torch", "cpus", "memory", "disk", "store"):
        assert name in text
    assert code in (0, 2)
    assert ("nothing wrong" in text) == (code == 0)
    assert list(tmp_path.iterdir()) == []


def test_doctor_as_json(capsys):
    main(["doctor", "--json"])
    rows = json.loads(capsys.readouterr().out)
    assert {"level", "name", "found", "fix"} == set(rows[0])


def test_a_check_that_breaks_is_a_finding(tmp_path):
    mine = tmp_path / "file"
    mine.write_text("mine")
    found = [f for f in examine(output=str(mine / "out.zarr")) if f.level == "wrong"]
    assert [f.name for f in found] == ["store"]


def test_traps_of_gdal_and_proj_are_named(tmp_path):
    traps = {"GDAL_NUM_THREADS": "ALL_CPUS", "PROJ_LIB": str(tmp_path)}
    found = {f.level: f for f in check_gdal(traps)}
    assert "unset it" in found["note"].fix
    assert "holds no proj.db" in found["wrong"].found
    assert "unset PROJ_LIB" in found["wrong"].fix


def test_proxies_are_named_without_their_values():
    (found,) = check_proxies({"https_proxy": "http://me:SECRET@proxy:3128"})
    assert found.found == "HTTPS_PROXY set"


def test_versions_that_differ_are_wrong():
    ours = dict.fromkeys(
        ("geoscale", "python", "numpy", "torch", "zarr", "dask", "distributed"), "1"
    )
    assert [f.level for f in compare_versions(ours, {"tcp://a": ours})] == ["ok"]
    theirs = {"tcp://a": ours, "tcp://b": {**ours, "torch": "2"}}
    (found,) = compare_versions(ours, theirs)
    assert found.level == "wrong"
    assert "torch is 2 on tcp://b, 1 here" in found.found
    assert "one environment" in found.fix


def test_an_unknown_cluster_is_a_finding(capsys):
    assert main(["doctor", "--cluster", "no.yaml"]) == 2
    assert "no.yaml does not exist" in capsys.readouterr().out

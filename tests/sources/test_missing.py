"""Assets that are not there: an error, or a hole that is counted and listed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio

import geoscale as gs
from geoscale.errors import ReadError
from geoscale.sources import open_source
from geoscale.sources.gdal import close_handles
from geoscale.windows import Window

SIDE = 128
WHOLE = Window(0, 0, SIDE, SIDE)


@pytest.fixture(autouse=True)
def fresh() -> None:
    close_handles()


@pytest.fixture
def files(write_tif: Any) -> list[str]:
    """Two scenes of one day over the same place, four bands each."""
    rng = np.random.default_rng(0)
    image = rng.integers(500, 3000, (4, SIDE, SIDE)).astype("uint16")
    return [write_tif(f"{name}.tif", image, nodata=0) for name in "ab"]


def imagery(files: list[str], **more: Any) -> dict[str, Any]:
    return {
        "files": files,
        "band_names": ["blue", "green", "red", "nir"],
        "times": ["2024-06-01", "2024-06-02"],
        "groupby": "item",
        **more,
    }


def open_both(files: list[str], **more: Any) -> Any:
    return open_source(imagery(files, **more), bands=["red", "nir"])


def test_an_asset_that_is_gone_is_an_error(files: list[str]) -> None:
    source = open_both(files)
    Path(files[0]).unlink()
    with pytest.raises(ReadError, match=r"cannot read .*a\.tif") as caught:
        source.read(WHOLE, [0])
    assert caught.value.kind == "permanent"


def test_where_the_job_allows_it_a_hole_is_left_and_named(files: list[str]) -> None:
    source = open_both(files, on_missing="nodata")
    Path(files[0]).unlink()
    found = source.read(WHOLE, [0, 1])
    assert not found.valid[0].any()
    assert not found.data[0].any()
    assert found.valid[1].all()
    (missing,) = found.missing
    assert missing.bands == ("red", "nir")
    assert "a.tif" in missing.why


def test_a_broken_file_is_a_hole_too(files: list[str]) -> None:
    source = open_both(files, on_missing="nodata")
    Path(files[1]).write_bytes(b"<!DOCTYPE html>")
    found = source.read(WHOLE, [1])
    assert not found.valid.any()
    assert len(found.missing) == 1


def test_what_refuses_or_may_pass_stays_an_error(
    files: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = open_both(files, on_missing="nodata")
    for kind in ("transient", "auth"):

        def fail(*_: Any, kind: str = kind) -> None:
            raise ReadError("said no", kind=kind)

        monkeypatch.setattr("geoscale.sources.strips.read_bands", fail)
        with pytest.raises(ReadError, match="said no"):
            source.read(WHOLE, [0])


def make_job(tmp_path: Path, files: list[str], **more: Any) -> Path:
    job = {
        "imagery": imagery(files, scale=1e-4, **more),
        "model": "s2-landcover-unet",
        "inference": {"patch": 120, "stride": 64, "block": 64},
        "output": str(tmp_path / "map.zarr"),
    }
    path = tmp_path / "job.yaml"
    path.write_text(json.dumps(job))
    return path


def test_a_map_with_holes_says_so_everywhere(tmp_path: Path, files: list[str]) -> None:
    job = make_job(tmp_path, files, on_missing="nodata")
    plan = gs.plan_job(job)
    Path(files[0]).unlink()
    report = gs.run(plan, tmp_path / "map.zarr")
    assert report.complete
    assert report.missing_assets == 1
    assert "1 assets were missing" in str(report)
    classes = gs.open_output(str(tmp_path / "map.zarr")).classes.values
    assert (classes[0] == 255).all()
    assert (classes[1] != 255).all()
    final = json.loads((tmp_path / "map.zarr/.geoscale/final.json").read_text())
    (row,) = final["missing_assets"]
    assert row["bands"] == ["blue", "green", "red", "nir"]
    assert row["blocks"] == 4
    gs.export(tmp_path / "map.zarr", tmp_path / "maps")
    items = [json.loads(p.read_text()) for p in (tmp_path / "maps").glob("*.json")]
    told = [i["properties"] for i in items if i.get("type") == "Feature"]
    assert all(p["geoscale:missing_assets"] == final["missing_assets"] for p in told)
    assert told


def test_more_holes_than_allowed_stop_the_run(tmp_path: Path, files: list[str]) -> None:
    job = make_job(tmp_path, files, on_missing="nodata", max_missing=1)
    plan = gs.plan_job(job)
    for path in files:
        Path(path).unlink()
    with pytest.raises(gs.GeoscaleError, match=r"2 assets are missing.*allows 1"):
        gs.run(plan, tmp_path / "map.zarr")


def test_without_leave_the_blocks_are_quarantined_and_made_later(
    tmp_path: Path, files: list[str]
) -> None:
    job = make_job(tmp_path, files)
    plan, data = gs.plan_job(job), Path(files[0]).read_bytes()
    Path(files[0]).unlink()
    report = gs.run(plan, tmp_path / "map.zarr")
    assert report.exit_code == 3
    assert len(report.quarantined) == 4
    trouble = next(iter(report.quarantined.values()))
    assert trouble.kind == "permanent"
    lon, lat = trouble.place
    with rasterio.open(files[1]) as file:
        left, bottom, right, top = file.bounds
    assert 9 < lon < 11
    assert 44 < lat < 46
    assert left < right
    assert bottom < top
    said = str(report)
    assert "4 blocks quarantined" in said
    assert "what to do: it would fail anywhere" in said
    assert "--only-quarantined" in said
    Path(files[0]).write_bytes(data)
    close_handles()
    # a part of a job array that has no block of its own makes none of the others'
    part = gs.run(plan, tmp_path / "map.zarr", shard=(98, 99), only_quarantined=True)
    assert part.computed == 0
    again = gs.run(plan, tmp_path / "map.zarr", only_quarantined=True)
    assert again.complete
    assert again.computed == 4

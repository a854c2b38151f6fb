"""The demo, small: the real job path over real imagery, from scenes to a page."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from geoscale.demo import run_demo
from geoscale.demo.scenes import (
    CUT_NOTE,
    LATER_ITEMS,
    NOTE,
    fell,
    lay_out,
    load_pixels,
)
from geoscale.errors import JobError, MissingDependencyError, OutputError
from geoscale.sinks.layout import open_output


def test_the_demo_makes_a_map_with_several_classes(demo):
    assert demo["report"]["complete"] is True
    data = open_output(demo["output"]).classes[0].to_numpy()
    assert data.shape == (600, 600)
    assert len(np.unique(data[data != 255])) > 1
    # but for one corner, what one scene lacks another has
    rows, columns = np.ogrid[:600, :600]
    corner = (599 - rows) + columns < 600 // 8
    assert np.array_equal(data == 255, corner)


def test_cog_and_stac_are_there(demo):
    import pystac
    import rasterio

    (path,) = demo["cogs"]
    with rasterio.open(path) as file:
        assert file.crs.to_epsg() == 32633
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.colormap(1)[1] == (0x39, 0x7D, 0x49, 255)
    (item,) = pystac.Catalog.from_file(demo["catalogue"]).get_items()
    assert item.properties["proj:code"] == "EPSG:32633"
    assert Path(item.assets["classes"].get_absolute_href()).is_file()


def test_the_page_shows_the_legend_and_says_that_it_is_mirrored(demo):
    page = Path(demo["page"]).read_text()
    for words in ("trees", "crops", "complete and verified", NOTE, "s2-landcover-unet"):
        assert words in page
    assert page.count("data:image/") >= 2


def test_it_says_what_it_does(demo):
    assert "mirrored" in demo["said"]
    assert "InferencePlan" in demo["said"]
    assert list(demo["seconds"]) == [
        "imagery", "plan", "cluster", "run", "change", "export", "report",
    ]  # fmt: skip


def test_the_simulated_clear_cut_is_found_and_nothing_else(demo):
    """The stand and what lies within reach of the network: no pixel elsewhere."""
    whole = load_pixels(600)
    stand = (fell(whole) != whole).any(axis=0)
    assert 1500 < stand.sum() < 2500
    found = open_output(demo["change"], raw=True)
    changed = found.change.values[0] == 1
    assert changed[stand].mean() > 0.6
    rows, columns = np.nonzero(stand)
    near = np.zeros_like(stand)
    near[: rows.max() + 29, columns.min() - 28 : columns.max() + 29] = True
    assert not changed[~near].any()
    where = found.from_class.values[0][changed & stand]
    assert (where == 1).mean() > 0.95  # trees
    (told,) = found.attrs["compared_dates"]
    assert (told["from"][:4], told["to"][:4]) == ("2024", "2025")


def test_wherever_the_change_is_shown_it_is_called_simulated(demo):
    assert "simulated" in demo["said"]
    for name in ("page", "change_page"):
        page = Path(demo[name]).read_text()
        assert CUT_NOTE in page
        assert "<figcaption>After (simulated): 2025-06-15</figcaption>" in page
    for name in ("change", "change_page", "polygons"):
        assert "simulated" in Path(demo[name]).name
    items = json.loads((demo["folder"] / LATER_ITEMS).read_text())["features"]
    (later,) = [one for one in items if one["properties"]["datetime"][:4] == "2025"]
    assert "SIMULATED" in later["id"]
    assert CUT_NOTE in later["properties"]["description"]


def test_the_outlines_say_what_the_stand_became(demo):
    found = json.loads(Path(demo["polygons"]).read_text())["features"]
    assert 1 <= len(found) <= 3
    for one in found:
        told = one["properties"]
        assert told["from_class"] == "trees"
        assert told["area_m2"] >= 5000
        assert 0.5 < told["probability"] <= 1


def test_items_are_plain_stac_with_overlap(demo):
    found = json.loads((demo["folder"] / "items.json").read_text())
    assert len(found["features"]) == 6
    for item in found["features"]:
        for asset in item["assets"].values():
            assert asset["href"].startswith("./scenes/")
            assert asset["raster:bands"][0]["scale"] == 0.0001


def test_scenes_overlap_and_cover_the_picture():
    seen = np.zeros((901, 901), int)
    for scene in lay_out(901):
        seen[scene.window.y0 : scene.window.y1, scene.window.x0 : scene.window.x1] += 1
    assert seen.min() == 1
    assert seen.max() == 4


def test_pixels_are_the_samples_own_and_mirrored():
    pytest.importorskip("spyndex")
    pixels = load_pixels(700)
    assert pixels.shape == (4, 700, 700)
    assert pixels.min() > 0
    assert np.array_equal(pixels[:, 300:599], pixels[:, 298::-1][:, :299])


def test_sizes_are_checked():
    with pytest.raises(JobError, match="choose 300 to 20000"):
        load_pixels(100)


def test_another_size_in_the_same_folder_is_refused(demo):
    with pytest.raises(OutputError, match="demo of 600 px, not of 700 px"):
        run_demo(demo["folder"], size=700)


def test_a_folder_with_other_things_is_refused(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="is not empty and is no demo"):
        run_demo(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_without_spyndex_the_extra_is_named(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "spyndex", None)
    with pytest.raises(MissingDependencyError, match=r"geoscale\[demo\]"):
        run_demo(tmp_path / "new")

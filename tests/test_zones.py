"""Jobs of several UTM zones: one map for each, together one map without gaps."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import geoscale as gs
from geoscale.cli import main
from geoscale.engine.stopping import Stop
from geoscale.errors import JobError, OutputError, PlanError, SourceError
from geoscale.job import parse_job
from geoscale.report import write_report
from geoscale.zones import ZonePlans
from tests.support.globe import (
    CLASSES,
    RADIUS,
    blur_card,
    centres,
    class_at,
    north_up,
    write_scene,
)
from tests.support.toy import stored_bytes
from tests.support.twozones import BBOX, make_job

ZONES = ["utm-36n", "utm-37n"]


def as_job(fields):
    return parse_job(fields, where="job", base=Path.cwd())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zones")
    fields = make_job(folder)
    report = gs.run_job(as_job(fields), trust_code=True)
    return folder, fields, report


def copy_of(made, tmp_path):
    return shutil.copytree(made[0] / "out", tmp_path / "out")


def read_map(out, plan):
    """Classes of the first time step, and longitude and latitude of every pixel."""
    found = gs.open_output(str(out)).classes.values[0]
    lon, lat = centres(str(plan.geobox.crs), plan.geobox.affine, plan.shape)
    return found, lon, lat


def blurred(classes):
    """Class of the largest mean around each pixel, as the network has it; (y, x)."""
    kernel = np.ones(2 * RADIUS + 1)
    data = np.where(classes == np.arange(CLASSES)[:, None, None], 1000.0, 100.0)
    for axis in (1, 2):
        data = np.apply_along_axis(np.convolve, axis, data, kernel, "same")
    return data.argmax(axis=0)


def test_both_zones_are_complete_and_reported_together(made):
    folder, _, report = made
    assert (report.complete, report.exit_code) == (True, 0)
    assert list(report.zones) == ZONES
    assert (
        report.blocks == report.computed == sum(z.blocks for z in report.zones.values())
    )
    assert "utm-37n  complete, " in str(report)
    found = gs.status(folder / "out")
    assert (found["complete"], found["left"], found["empty"]) == (True, 0, [])
    assert list(found["zones"]) == ZONES
    assert gs.verify(folder / "out").is_sound


def test_every_pixel_of_the_area_is_mapped_by_the_zone_of_its_middle(made):
    folder, fields, _ = made
    west, south, east, north = BBOX
    mapped = 0
    for name, plan in gs.plan_job(as_job(fields)).items():
        found, lon, lat = read_map(folder / "out" / name, plan)
        border = -180 + 6 * (int(name[4:6]) - 1)
        own = (lon >= border) & (lon < border + 6)
        area = (lon > west) & (lon < east) & (lat > south) & (lat < north)
        np.testing.assert_array_equal(found != 255, own & area)
        # fields of the chequered globe are some 11 px wide, and blurred as much
        assert (found == class_at(lon, lat))[own & area].mean() > 0.8
        mapped += (own & area).sum()
    assert mapped > 8000


def test_the_halo_is_read_across_the_border_of_a_zone(made):
    """Pixels at the border have the context that any others have."""
    folder, fields, _ = made
    plan = gs.plan_job(as_job(fields))["utm-36n"]
    found, _, _ = read_map(folder / "out" / "utm-36n", plan)
    # the file of zone 36 holds all of this, exactly, and more in the east
    height, width = plan.shape
    lon, lat = centres("EPSG:32636", plan.geobox.affine, (height, width + 20))
    whole = blurred(class_at(lon, lat))[:, :width]
    cut = blurred(np.where(lon < 36, class_at(lon, lat), 9))[:, :width]
    sure = found != 255
    sure[:RADIUS], sure[-RADIUS:], sure[:, :RADIUS] = False, False, False
    np.testing.assert_array_equal(found[sure], whole[sure])
    assert (cut != whole)[sure].sum() > 20, "without the halo it would be another map"


def test_items_go_to_the_zones_that_they_touch(tmp_path):
    fields = make_job(tmp_path / "in")
    write_scene(
        tmp_path / "in" / "c34_20240601.tif", "EPSG:32634",
        north_up(500_000, 5_553_000, 200.0), (110, 40),
    )  # fmt: skip
    plans = gs.plan_job(as_job(fields))
    ids = {name: plan.live.item_ids for name, plan in plans.items()}
    both = ["a36_20240601", "b37_20240601"]
    assert ids == {"utm-36n": both, "utm-37n": both}
    plans = gs.plan_job(as_job({**fields, "grid": {"crs": "utm"}}))
    ids = {name: plan.live.item_ids for name, plan in plans.items()}
    assert ids == {"utm-34n": ["c34_20240601"], "utm-36n": both, "utm-37n": both}


def test_a_zone_without_imagery_is_named_and_not_mapped(tmp_path):
    fields = make_job(tmp_path / "in", bbox=(29.0, 49.9, 36.15, 50.05))
    plans = gs.plan_job(as_job(fields))
    assert isinstance(plans, ZonePlans)
    assert (list(plans), plans.empty) == (ZONES, ("utm-35n",))
    assert "without imagery, not mapped: utm-35n" in str(plans)
    fields = make_job(tmp_path / "in", bbox=(-9.0, 49.9, 1.0, 50.05))
    with pytest.raises(PlanError, match=r"none of 3 UTM zones.*utm-29n.*has imagery"):
        gs.plan_job(as_job(fields))


def test_a_finished_run_computes_nothing_and_a_stopped_one_goes_on(made, tmp_path):
    folder, fields, _ = made
    job = as_job(fields)
    assert gs.run_job(job, trust_code=True).computed == 0
    out, plans = tmp_path / "out", gs.plan_job(job)
    stop = Stop()

    def stop_after_the_first_zone(tally, outcome):
        if outcome is not None and tally.done == tally.total:
            stop.ask("SIGTERM")

    report = gs.run(
        plans, out, stop=stop, progress=stop_after_the_first_zone, trust_code=True
    )
    assert (report.exit_code, report.stopped) == (75, "SIGTERM")
    assert [zone.complete for zone in report.zones.values()] == [True, False]
    found = gs.status(out)
    assert (found["complete"], found["left"]) == (False, report.zones["utm-37n"].blocks)
    assert gs.verify(out).missing
    with pytest.raises(OutputError, match="utm-37n was not begun: run its job first"):
        gs.export(out, tmp_path / "maps")
    report = gs.run(plans, out, trust_code=True)
    assert report.complete
    assert report.computed == report.zones["utm-37n"].blocks
    for name in ZONES:
        assert stored_bytes(f"{out}/{name}") == stored_bytes(f"{folder}/out/{name}")


def test_parts_without_dask_make_all_zones(made, tmp_path):
    folder, fields, _ = made
    plans = gs.plan_job(as_job(fields))
    ends = [
        gs.run(plans, tmp_path / "out", shard=(i, 2), trust_code=True) for i in range(2)
    ]
    assert [report.exit_code for report in ends] == [3, 0]
    for name in ZONES:
        assert stored_bytes(f"{tmp_path}/out/{name}") == stored_bytes(
            f"{folder}/out/{name}"
        )


def test_damage_in_one_zone_is_found_and_mended(made, tmp_path, capsys):
    out = copy_of(made, tmp_path)
    victim = sorted(p for p in out.glob("utm-37n/classes/c/**/*") if p.is_file())[0]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    found = gs.verify(out)
    assert [d.key for d in found.damaged] == [str(victim.relative_to(out))]
    assert found.zones["utm-36n"].is_sound
    assert main(["verify", str(out)]) == 4
    assert "utm-37n  NOT sound" in capsys.readouterr().out
    report = gs.repair(out, trust_code=True)
    assert (report.complete, report.computed) == (True, 1)
    assert gs.verify(out).is_sound
    assert stored_bytes(f"{out}/utm-37n") == stored_bytes(f"{made[0]}/out/utm-37n")


def test_the_worst_zone_decides_the_exit_code(made):
    zones = dict(made[2].zones)
    whole = made[2]

    def merged(**change):
        from geoscale.ending import merge_reports

        zones["utm-37n"] = replace(made[2].zones["utm-37n"], **change)
        return merge_reports(whole.output, zones)

    assert merged().exit_code == 0
    assert merged(complete=False, missing=2).exit_code == 3
    assert merged(complete=False, missing=2, stopped="SIGTERM").exit_code == 75
    assert merged(complete=False, missing=2, stopped="x", damaged=1).exit_code == 4


def test_export_puts_a_catalogue_above_those_of_the_zones(made, tmp_path):
    import pystac
    import rasterio

    *paths, catalogue = gs.export(made[0] / "out", tmp_path / "maps")
    cogs = [path for path in paths if path.suffix == ".tif"]
    assert [path.parent.name for path in cogs] == ZONES
    with rasterio.open(cogs[1]) as file:
        assert file.crs.to_epsg() == 32637
    root = pystac.Catalog.from_file(str(catalogue))
    items = list(root.get_items(recursive=True))
    assert len(items) == 2
    assert {item.properties["proj:code"] for item in items} == {
        "EPSG:32636",
        "EPSG:32637",
    }


def test_the_page_leads_to_those_of_the_zones(made, tmp_path):
    page = write_report(made[0] / "out", tmp_path / "map.html", notes=["made up"])
    text = page.read_text()
    for name in ZONES:
        below = tmp_path / f"map-{name}.html"
        assert f'href="{below.name}"' in text
        assert "default-src 'none'" in below.read_text()
    assert text.count("data:image/png") == 2
    assert "made up" in text
    assert "358.9 km²" in text, "0.3 x 0.15 degrees at 50° N"


def test_commands_speak_of_all_zones(tmp_path, capsys):
    import yaml

    fields = make_job(tmp_path / "in")
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(fields))))
    out = fields["output"]["to"]
    assert main(["plan", str(tmp_path / "job.yaml"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert list(told["zones"]) == ZONES
    assert told["zones"]["utm-37n"]["output"] == f"{out}/utm-37n"
    assert main(["plan", str(tmp_path / "job.yaml")]) == 0
    assert "2 UTM zones" in capsys.readouterr().out
    assert main(["run", str(tmp_path / "job.yaml"), "--trust-code", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["exit_code"], list(told["zones"])) == (0, ZONES)
    assert main(["status", out]) == 0
    assert "utm-36n  complete" in capsys.readouterr().out
    assert main(["verify", out, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["zones"]["utm-36n"]["sound"] is True
    assert main(["view", out]) == 0
    assert main(["export", out, "--to", str(tmp_path / "maps")]) == 0


def test_an_output_keeps_its_zones(made, tmp_path):
    folder, fields, _ = made
    wider = {**fields, "grid": {"crs": "utm", "bbox": (35.85, 49.9, 35.95, 50.05)}}
    said = "holds the zones utm-36n, utm-37n, the job makes utm-36n"
    with pytest.raises(OutputError, match=said):
        gs.run_job(as_job(wider), trust_code=True)
    moved = {**fields, "grid": {"crs": "utm", "bbox": (35.9, 49.9, 36.15, 50.05)}}
    with pytest.raises(OutputError, match="utm-36n was begun by another plan"):
        gs.run_job(as_job(moved), trust_code=True)
    plans = gs.plan_job(as_job(fields))
    with pytest.raises(OutputError, match="holds one map for each UTM zone"):
        gs.run(plans["utm-36n"], folder / "out", trust_code=True)
    with pytest.raises(OutputError, match=r"utm-37n; open one of them"):
        gs.open_output(str(folder / "out"))
    gs.run(plans["utm-36n"], tmp_path / "one", trust_code=True)
    with pytest.raises(OutputError, match="holds a map on one grid"):
        gs.run(plans, tmp_path / "one", trust_code=True)


def test_a_job_that_was_begun_is_not_planned_again(tmp_path):
    fields = make_job(tmp_path / "in")
    items = [
        {
            "type": "Feature",
            "id": path.stem,
            "geometry": None,
            "properties": {"datetime": "2024-06-01T09:00:00Z", "proj:code": crs},
            "assets": {
                "all": {
                    "href": str(path),
                    "type": "image/tiff",
                    "proj:transform": [200.0, 0, x, 0, -200.0, 5_553_000],
                    "proj:shape": [110, width],
                    "bands": [{"name": f"b{i}", "nodata": 0} for i in range(CLASSES)],
                }
            },
        }
        for path, crs, x, width in (
            (tmp_path / "in" / "a36_20240601.tif", "EPSG:32636", 700_000, 140),
            (tmp_path / "in" / "b37_20240601.tif", "EPSG:32637", 282_000, 100),
        )
    ]
    (tmp_path / "items.json").write_text(json.dumps(items))
    imagery = {"items": str(tmp_path / "items.json"), "groupby": "all"}
    job = as_job({**fields, "imagery": imagery})
    first = gs.plan_job(job)
    assert all(plan.live is not None for plan in first.values())
    gs.run(first["utm-36n"], tmp_path / "in" / "out" / "utm-36n", trust_code=True)
    assert all(plan.live is not None for plan in gs.plan_job(job).values())
    assert gs.run_job(job, trust_code=True).complete
    again = gs.plan_job(job)
    assert all(plan.live is None for plan in again.values())
    assert (again.hash, again.empty) == (first.hash, first.empty)
    assert gs.run_job(job, trust_code=True).computed == 0


def test_an_area_in_the_job_itself_is_cut_into_zones(made, tmp_path):
    ring = [[35.9, 49.92], [36.1, 49.92], [36.0, 50.04], [35.9, 49.92]]
    area = {"type": "Polygon", "coordinates": [ring]}
    job = as_job({**made[1], "grid": {"crs": "utm", "aoi": area}})
    mapped = 0
    for name, plan in gs.plan_job(job).items():
        gs.run(plan, tmp_path / name, trust_code=True)
        found, lon, lat = read_map(tmp_path / name, plan)
        inside = (lat > 49.92) & (np.abs(lon - 36) < 0.1 * (50.04 - lat) / 0.12)
        own = (lon < 36) if name == "utm-36n" else (lon >= 36)
        np.testing.assert_array_equal(found != 255, inside & own)
        mapped += int((found != 255).sum())
    assert mapped > 2000


def test_names_of_zones_that_lead_elsewhere_are_refused(made, tmp_path):
    out = copy_of(made, tmp_path)
    text = (out / "zarr.json").read_text().replace("utm-37n", "../elsewhere")
    (out / "zarr.json").write_text(text)
    with pytest.raises(OutputError, match="names what is no UTM zone"):
        gs.repair(out)


def test_parts_do_not_wait_for_a_choice_in_every_zone(made, tmp_path):
    fields = {**made[1], "inference": {"runtime": "auto"}}
    plans = gs.plan_job(
        as_job({**fields, "output": str(tmp_path / "out")}), measure=False
    )
    assert not plans.is_settled
    with pytest.raises(JobError, match=r"name inference.runtime"):
        gs.run(plans, tmp_path / "out", shard=(1, 2), trust_code=True)


@pytest.mark.parametrize(
    ("grid", "error", "match"),
    [
        ({"bounds": (0, 0, 1, 1)}, JobError, "bounds are in units of grid.crs.*bbox"),
        ({"bbox": (35, 83, 36, 85)}, SourceError, r"bbox reaches.*EPSG:3413"),
    ],
)
def test_what_has_no_zones_is_refused(made, grid, error, match):
    fields = {**made[1], "grid": {"crs": "utm", **grid}}
    with pytest.raises(error, match=match):
        gs.plan_job(as_job(fields))


def test_one_stack_has_one_grid(made):
    with pytest.raises(
        SourceError, match=r"grid.crs: utm makes several grids.*run_job"
    ):
        gs.open_stack(f"{made[0]}/*.tif", grid={"crs": "utm"})
    zarr = {**made[1], "imagery": {"zarr": f"{made[0]}/out/utm-36n"}}
    with pytest.raises(JobError, match="a Zarr store has a grid of its own"):
        gs.plan_job(as_job(zarr))


@pytest.mark.parametrize("bbox", [(179.85, 49.9, -179.85, 50.05), None])
def test_the_antimeridian_is_a_border_like_any_other(tmp_path, bbox):
    """Imagery in two zones, either side; all of the area is mapped, and right."""
    for name, crs, x in (
        ("a60", "EPSG:32660", 702_000),
        ("b01", "EPSG:32601", 280_000),
    ):
        write_scene(
            tmp_path / f"{name}_20240601.tif", crs, north_up(x, 5_553_000, 200.0),
            (110, 98),
        )  # fmt: skip
    grid = {"crs": "utm"} if bbox is None else {"crs": "utm", "bbox": bbox}
    job = as_job(
        {
            "imagery": {"files": str(tmp_path / "*.tif")},  # one pass, two dates
            "grid": grid,
            "model": blur_card(tmp_path),
            "output": {"to": str(tmp_path / "out")},
        }
    )
    plans = gs.plan_job(job)
    assert list(plans) == ["utm-01n", "utm-60n"]
    assert [len(plan.times) for plan in plans.values()] == [1, 1]
    assert gs.run_job(job, trust_code=True).complete
    total = 0
    for name, plan in plans.items():
        found, lon, lat = read_map(tmp_path / "out" / name, plan)
        own = (lon < -174) if name == "utm-01n" else (lon >= 174)
        area = own & (np.abs(lon) > 179.85) & (lat > 49.9) & (lat < 50.05)
        assert (found != 255)[area].all()
        assert not (found != 255)[~own].any()
        assert (found == class_at(lon, lat))[area].mean() > 0.8
        total += area.sum()
    assert total > 8000
    assert CLASSES == 3


def test_the_equator_is_a_border_like_any_other(tmp_path):
    write_scene(
        tmp_path / "s_20240601.tif", "EPSG:32636", north_up(500_000, 10_000, 200.0),
        (100, 60),
    )  # fmt: skip
    job = as_job(
        {
            "imagery": {"files": str(tmp_path / "*.tif")},
            "grid": {"crs": "utm", "bbox": (33.01, -0.08, 33.09, 0.08)},
            "model": blur_card(tmp_path),
            "output": {"to": str(tmp_path / "out")},
        }
    )
    plans = gs.plan_job(job)
    assert list(plans) == ["utm-36n", "utm-36s"]
    assert gs.run_job(job, trust_code=True).complete
    counts = []
    for name, plan in plans.items():
        found, lon, lat = read_map(tmp_path / "out" / name, plan)
        own = (lat >= 0) if name == "utm-36n" else (lat < 0)
        area = own & (lon > 33.01) & (lon < 33.09) & (np.abs(lat) < 0.08)
        np.testing.assert_array_equal(found != 255, area)
        counts.append(int(area.sum()))
    assert counts[0] == counts[1] > 1500

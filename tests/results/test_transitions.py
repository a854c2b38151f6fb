"""Transitions: sums that no cut changes, true areas, and words about them."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET

import numpy as np
import pytest

import geoscale as gs
from geoscale.errors import JobError, OutputError
from geoscale.results.flows import Flow, Transitions
from geoscale.results.ground import cell_areas
from geoscale.results.layers import Flag
from geoscale.windows import Window
from tests.evaluation.conftest import CLASSES, DEGREES, NAMES, UTM, blobs, write_output
from tests.results.test_polygons import CHANGE


def made_up(names):
    """A table of two classes, all that could be."""

    def table(a, b, c, d):
        return tuple(
            tuple(Flow(px=px, m2=100.0 * px) for px in row) for row in ((a, b), (c, d))
        )

    return Transitions(
        output="map.zarr",
        before="2023-06-01",
        after="2024-06-01",
        classes=tuple(Flag(i, name, "123456") for i, name in enumerate(names)),
        changed=table(0, 30, 10, 0),
        same=table(500, 2, 3, 400),
    )


@pytest.fixture(scope="module")
def sides():
    """Two dates with holes, and what a layer says of change."""
    before, after = blobs((150, 210), 3, 1), blobs((150, 210), 3, 1)
    after[60:100, 50:150] = blobs((40, 100), 3, 8, 5)
    changed = (before != after).astype(np.uint8)
    changed[60:66] = 0  # not sure enough
    for one, hole in ((before, 3), (after, 9), (changed, 20)):
        one[hole : hole + 4] = 255
    return before, after, changed


def write_change(url, sides, grid, **options):
    before, after, changed = (one[None] for one in sides)
    arrays = {"change": changed, "from_class": before, "to_class": after}
    arrays["probability"] = np.full_like(changed, 100)
    return write_output(url, arrays, grid, kinds=CHANGE, **options)


@pytest.mark.parametrize("grid", [UTM, DEGREES], ids=["utm", "degrees"])
def test_pixels_and_areas_of_a_change_map(sides, grid, tmp_path):
    before, after, changed = sides
    found = gs.transitions(write_change(tmp_path / "map.zarr", sides, grid))
    known = (before != 255) & (after != 255) & (changed != 255)
    area = np.broadcast_to(
        cell_areas(grid)(Window(0, 0, *grid.shape))[:, None], grid.shape
    )
    for i in range(3):
        for j in range(3):
            here = known & (before == i) & (after == j)
            for table, mark in ((found.changed, 1), (found.same, 0)):
                some = here & (changed == mark)
                assert table[i][j].px == some.sum()
                assert table[i][j].m2 == pytest.approx(area[some].sum(), rel=1e-9)
    assert found.total.px == known.sum()
    assert found.total_changed.px == (known & (changed == 1)).sum()
    doubtful = known & (before != after) & (changed == 0)
    assert found.doubtful.px == doubtful.sum() > 0
    assert [one.name for one in found.classes] == list(NAMES)


def test_the_cut_and_workers_decide_nothing(sides, tmp_path):
    from distributed import Client

    found = [
        gs.transitions(write_change(tmp_path / f"{n}.zarr", sides, DEGREES, block=n))
        for n in (37, 256)
    ]
    with Client(processes=False, dashboard_address=None) as client:
        found.append(gs.transitions(tmp_path / "37.zarr", client=client))
    tables = [(one.changed, one.same) for one in found]
    assert tables[0] == tables[1] == tables[2]


def test_two_time_steps_of_a_map(tmp_path):
    steps = np.stack([blobs((150, 210), 3, seed) for seed in (1, 2, 3)])
    url = write_output(tmp_path / "map.zarr", {"classes": steps}, UTM, times=3)

    def expected(first, last):
        return [
            [
                int(((steps[first] == i) & (steps[last] == j) & (i != j)).sum())
                for j in range(3)
            ]
            for i in range(3)
        ]

    found = gs.transitions(url)
    assert found.to_dict()["changed_px"] == expected(0, 2)
    assert (found.before[:7], found.after[:7]) == ("2024-05", "2024-07")
    assert found.doubtful.px == 0
    some = gs.transitions(url, before="2024-06", after="2024-07")
    assert some.to_dict()["changed_px"] == expected(1, 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"before": "2024-07", "after": "2024-05"}, "is not before"),
        ({"before": "2023"}, "no time step `2023`"),
        ({"time": "2024-05"}, "name both dates"),
        ({"layer": "clases"}, "no `clases`.*did you mean"),
    ],
)
def test_wrong_options_are_refused(tmp_path, options, words):
    steps = np.stack([blobs((64, 64), 3, seed) for seed in (1, 2, 3)])
    from odc.geo.geobox import GeoBox

    grid = GeoBox((64, 64), UTM.affine, UTM.crs)
    url = write_output(tmp_path / "map.zarr", {"classes": steps}, grid, times=3)
    with pytest.raises(JobError, match=words):
        gs.transitions(url, **options)


def test_one_date_has_no_transitions(output, tmp_path):
    with pytest.raises(JobError, match="1 time step: transitions need from_class"):
        gs.transitions(output)
    with pytest.raises(OutputError, match="not there"):
        gs.transitions(tmp_path / "none.zarr")


def test_it_is_written_as_json_markdown_and_figures(tmp_path):
    found = made_up(("old forest", "bare"))
    paths = found.write(tmp_path / "made")
    assert [path.name for path in paths] == [
        "transitions.json", "transitions.md", "transitions.svg", "flows.svg",
    ]  # fmt: skip
    told = json.loads(paths[0].read_text())
    assert told["changed_px"] == [[0, 30], [10, 0]]
    assert told["unchanged_m2"] == [[50_000.0, 200.0], [300.0, 40_000.0]]
    text = paths[1].read_text()
    assert "| **old forest** | 5.00 | 0.30 |" in text
    assert "| old forest | bare | 30 | 0.3 ha |" in text
    assert "5 px (500 m²) have other classes" in text
    for path in paths[2:]:
        words = "".join(ET.parse(path).getroot().itertext())
        assert "old forest" in words
    said = str(found)
    assert said.startswith("2023-06-01 to 2024-06-01: 0.4 ha of 9.4 ha changed (4.23%")
    assert said.index("old forest → bare") < said.index("bare       → old forest")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        found.write(tmp_path / "file")


def test_heights_of_flows_are_areas(tmp_path):
    """Bars of a side fill the same height, each its share."""
    from geoscale.results.figures import BAR, HIGH, draw_flows

    root = ET.fromstring(draw_flows(made_up(("a", "b"))))
    bars = [
        float(one.get("height"))
        for one in root.iter("{http://www.w3.org/2000/svg}rect")
        if one.get("width") == str(BAR)
    ]
    assert bars == pytest.approx([HIGH * 0.75, HIGH * 0.25, HIGH * 0.25, HIGH * 0.75])


_ = CLASSES

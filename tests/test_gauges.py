"""What NVML says of GPUs, shown while a run goes on; nothing where there is none."""

from __future__ import annotations

import dataclasses
import json
import sys

import pytest

import geoscale as gs
from geoscale.cli.look import _describe_status
from geoscale.cli.progress import describe
from geoscale.clusters import connect
from geoscale.engine import block
from geoscale.engine.drive import Tally
from geoscale.gauges import Gauge, GpuUse, say_after
from geoscale.models import name_processor
from geoscale.report import write_report
from geoscale.testing import FakeNvml
from tests.test_outputs import plan_of

BIG = {"uuid": "GPU-big", "name": "H100", "busy": 91, "used": 60e9, "total": 80e9}
SMALL = {"uuid": "GPU-small", "name": "T4", "busy": 40, "used": 4e9, "total": 16e9}
PART = {**BIG, "uuid": "MIG-part", "busy": None}


def look(devices, environ, **more):
    return Gauge(FakeNvml(devices, **more), environ).read().get("gpu")


def test_the_device_is_the_first_that_this_process_sees():
    twins = [{**SMALL, "uuid": "GPU-a"}, {**SMALL, "uuid": "GPU-b"}]
    assert look(twins, {})[0] == "GPU-a"
    assert look(twins, {"CUDA_VISIBLE_DEVICES": "1,0"})[0] == "GPU-b"
    both = [BIG, SMALL]
    assert look(both, {"CUDA_VISIBLE_DEVICES": "GPU-small"}) == [
        "GPU-small", 40, 4_000_000_000, 16_000_000_000,
    ]  # fmt: skip
    assert look([PART], {"CUDA_VISIBLE_DEVICES": "MIG-part"})[1] is None


def test_figures_of_another_device_are_not_shown():
    # CUDA numbers the fastest first, NVML by slot
    both, second = [BIG, SMALL], {"CUDA_VISIBLE_DEVICES": "1"}
    assert look(both, second) is None
    assert look(both, second | {"CUDA_DEVICE_ORDER": "PCI_BUS_ID"})[0] == "GPU-small"


@pytest.mark.parametrize("seen", ["", "-1", "7", "GPU-none", "NoDevFiles"])
def test_without_a_device_there_are_no_figures(seen):
    assert look([BIG], {"CUDA_VISIBLE_DEVICES": seen}) is None


def test_without_nvml_there_are_no_figures(monkeypatch):
    assert look([BIG], {}, works=False) is None
    assert look([], {}) is None
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gauge(environ={}).read() == {}


def test_it_is_looked_at_once_a_second_at_most():
    now = [0.0]
    nvml = FakeNvml([BIG])
    gauge = Gauge(nvml, {}, clock=lambda: now[0])
    seen = []
    for now[0] in (0.0, 0.4, 0.9, 1.0, 1.5, 2.1):
        seen.append(bool(gauge.read()))
    assert seen == [True, False, False, True, False, True]
    assert nvml.looks == 3


def test_a_run_tells_its_gpus_in_progress_status_and_report(tmp_path, monkeypatch):
    """The whole way from NVML to what is read, with a CPU in the GPU's place."""
    nvml = FakeNvml([BIG])
    made = block.Kernel.__init__

    def with_gauge(self, **fields):
        made(self, **(fields | {"gauge": Gauge(nvml, {})}))

    monkeypatch.setattr(block.Kernel, "__init__", with_gauge)
    monkeypatch.setattr("geoscale.engine.journal.PULSE_S", 0.0)
    lines, states = [], []
    place = tmp_path / "map.zarr"

    def progress(tally, outcome):
        lines.append(describe(tally, outcome))
        if outcome is not None:
            states.append(gs.status(place))

    report = gs.run(plan_of(tmp_path, side=300), place, progress=progress)
    assert "GPU 91 % 60.0 of 80.0 GB" in lines[-1]
    assert "GPU GPU-big  busy 91 %, at most 60.0 of 80.0 GB" in str(report)
    (one,) = [s for s in states if "gpus" in s][:1]
    assert one["gpus"]["GPU-big"]["used_bytes"] == 60e9
    told = "\n".join(_describe_status(one))
    assert "gpu     GPU-big  busy 91 %, at most 60.0 of 80.0 GB" in told
    json.dumps(one)
    page = write_report(place, tmp_path / "page.html").read_text()
    assert "GPU GPU-big  busy 91 %, at most 60.0 of 80.0 GB." in page


def test_where_there_is_none_nothing_is_said(tmp_path):
    tally = Tally(total=2)
    report = gs.run(plan_of(tmp_path, side=300), tmp_path / "map.zarr")
    assert report.gpus == {}
    assert "GPU" not in str(report)
    assert "gpus" not in gs.status(tmp_path / "map.zarr")
    assert "GPU" not in describe(tally, None)
    page = write_report(tmp_path / "map.zarr", tmp_path / "page.html").read_text()
    assert "GPU " not in page


def test_mean_and_peak_are_of_the_whole_run():
    use = GpuUse()
    for busy, used in ((100, 5), (None, 9), (50, 3)):
        use.note(busy, used * 10**9, 10**10)
    assert (use.mean, use.peak, use.used) == (75.0, 9 * 10**9, 3 * 10**9)
    assert say_after({"x": use.to_dict()}) == ["x  busy 75 %, at most 9.0 of 10.0 GB"]
    none = dataclasses.replace(GpuUse(), peak=10**9, total=10**10)
    assert say_after({"x": none.to_dict()}) == ["x  at most 1.0 of 10.0 GB"]


def test_an_output_says_on_which_processors_it_was_made(tmp_path):
    """Here and by workers, each kind once: other ones may give other last bits."""
    told = {}
    for name in ("here", "workers"):
        to, plan = tmp_path / f"{name}.zarr", plan_of(tmp_path, side=300)
        if name == "here":
            assert gs.run(plan, to).complete
        else:
            with connect(2, threads=1) as client:
                assert gs.run(plan, to, client=client).complete
        told[name] = json.loads((to / ".geoscale" / "final.json").read_text())
    assert told["here"]["processors"] == [name_processor("cpu")]
    assert told["here"]["processors"] == told["workers"]["processors"]
    assert name_processor("cpu") in write_report(to).read_text()

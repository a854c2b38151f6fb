"""GPUs: which there are, one process for each, one block at a time on each."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest

import geoscale as gs
from geoscale.clusters import connect, load_profile
from geoscale.clusters.devices import choose_device, list_devices, show_visible
from geoscale.errors import JobError
from tests.support.cards import SUPPORT, simplecnn_dict

UUID = "GPU-8932f937-d72c-4106-c12f-20bd9faed9f6"
MIG = "MIG-c7384736-a75d-5afc-978f-d2f1294409fd"
OLD_MIG = f"MIG-{UUID}/1/0"


@pytest.mark.parametrize(
    ("told", "devices"),
    [
        ("0", ("0",)),
        ("2,3", ("2", "3")),
        (" 1 , 0 ", ("1", "0")),
        (f"{UUID},1", (UUID, "1")),
        (MIG, (MIG,)),
        (OLD_MIG, (OLD_MIG,)),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),
        ("NoDevFiles", ()),
    ],
)
def test_devices_are_those_that_cuda_would_see(told, devices):
    assert list_devices({"CUDA_VISIBLE_DEVICES": told}) == devices


def test_a_device_that_is_named_twice_is_refused():
    with pytest.raises(JobError, match="names 1 twice"):
        list_devices({"CUDA_VISIBLE_DEVICES": "0,1,1"})


def test_without_the_variable_the_driver_is_asked(tmp_path, monkeypatch):
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!{sys.executable}\nprint('{UUID}\\nFailed to initialise')\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert list_devices({}) == (UUID,)
    program.write_text("#!/bin/false\n")
    assert list_devices({}) == ()
    program.unlink()
    assert list_devices({}) == ()


@pytest.mark.parametrize(
    "rank", ["SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK", "PMI_LOCAL_RANK"]
)
def test_processes_of_a_job_choose_devices_by_their_number(rank):
    environ = {"CUDA_VISIBLE_DEVICES": f"4,{UUID}"}
    assert choose_device({**environ, rank: "0"}) == "4"
    assert choose_device({**environ, rank: "1"}) == UUID
    assert choose_device(environ) == "4"
    assert choose_device({rank: "0"}) is None
    assert choose_device({"CUDA_VISIBLE_DEVICES": "4", rank: "3"}) is None
    with pytest.raises(JobError, match="process 2 of this machine finds 2 GPUs"):
        choose_device({**environ, rank: "2"})


def test_processes_of_one_command_choose_by_their_slot():
    own, all_four = {"CUDA_VISIBLE_DEVICES": "0,1"}, {"CUDA_VISIBLE_DEVICES": "0,1,2,3"}
    second = {"SLURM_LOCALID": "1"}
    two = {"processes": 2}
    assert [choose_device(own, slot=n, **two) for n in (0, 1)] == ["0", "1"]
    # a task whose devices are its own, whatever its number
    assert choose_device(own | second, slot=1, **two) == "1"
    assert [choose_device(all_four | second, slot=n, **two) for n in (0, 1)] == [
        "2",
        "3",
    ]
    with pytest.raises(JobError, match="two would share one"):
        choose_device({"CUDA_VISIBLE_DEVICES": "0"}, slot=1, **two)


def is_settled(dask_worker):
    return str(dask_worker.process.status.name) == "running"


@pytest.mark.slow
def test_workers_of_one_command_take_a_device_each(tmp_path):
    """As in a job of two GPUs and two processes; a worker that is killed gives way."""
    from distributed import Client

    from tests.support.workers import ROOT, empty_cluster

    environ = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "TMPDIR": str(tmp_path),
        "CUDA_VISIBLE_DEVICES": f"3,{UUID}",
        "GEOSCALE_PROCESSES": "2",
    }
    with empty_cluster() as cluster:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "distributed.cli.dask_worker",
                cluster.scheduler_address, "--nworkers", "2", "--nthreads", "1",
                "--nanny", "--no-dashboard", "--memory-limit", "0",
                "--preload", "geoscale.clusters.claim",
            ],
            env=environ, cwd=tmp_path,
        )  # fmt: skip
        try:
            with Client(cluster) as client:
                client.wait_for_workers(2, timeout=60)
                seen = client.run(show_visible)
                assert sorted(seen.values()) == ["3", UUID]
                (killed,) = (w for w, device in seen.items() if device == UUID)
                # a nanny that has not yet heard of its worker does not replace it
                while not all(client.run(is_settled, nanny=True).values()):
                    time.sleep(0.1)
                os.kill(client.run(os.getpid)[killed], signal.SIGKILL)
                until, now = time.monotonic() + 60, seen
                while now.keys() == seen.keys() or len(now) < 2:
                    assert time.monotonic() < until
                    time.sleep(0.2)
                    now = client.run(show_visible, on_error="ignore")
                assert sorted(now.values()) == ["3", UUID]
        finally:
            process.terminate()
            process.wait()


@pytest.mark.parametrize(
    ("devices", "said"),
    [
        (["0", "0"], "device 0 is named twice"),
        (["cuda:0"], "`cuda:0` is no device"),
        ([], "no device is named"),
    ],
)
def test_wrong_devices_of_a_profile_are_named(devices, said):
    with pytest.raises(JobError, match=said):
        load_profile({"type": "local-gpu", "devices": devices})


def test_no_gpu_is_said_and_never_replaced_by_a_cpu(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(JobError, match="no GPU is visible here"):
        connect({"type": "local-gpu"}).__enter__()


NET = '''

class Counted(SimpleCNN):
    """Notes when it begins and ends, and on which device."""

    def forward(self, x):
        import json
        import os
        import time

        began = time.monotonic()
        time.sleep(0.1)
        found = super().forward(x)
        device = os.environ["CUDA_VISIBLE_DEVICES"]
        note = [device, os.getpid(), began, time.monotonic()]
        path = os.path.join(os.environ["GEOSCALE_TEST_NOTES"], f"{os.getpid()}")
        with open(path, "a") as file:
            file.write(json.dumps(note) + "\\n")
        return found
'''


def overlaps(spans):
    """Whether one of them begins before the one before it has ended."""
    spans = sorted(spans)
    return any(a[1] > b[0] for a, b in itertools.pairwise(spans))


@pytest.mark.slow
def test_each_device_has_one_process_that_infers_one_block_at_a_time(
    data_dir, tmp_path, monkeypatch
):
    notes = tmp_path / "notes"
    notes.mkdir()
    monkeypatch.setenv("GEOSCALE_TEST_NOTES", str(notes))
    (tmp_path / "net.py").write_text((SUPPORT / "simplecnn.py").read_text() + NET)
    card = {**simplecnn_dict(data_dir), "architecture": "net.py:Counted"}
    monkeypatch.chdir(tmp_path)
    image = data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif"
    stack = gs.open_stack(image, sensor="sentinel-2", scale=1e-4, source_nodata="none")
    # three blocks in flight in each process, and two processes
    plan = gs.plan(stack, card, block_px=128, in_flight=3)
    profile = {"type": "local-gpu", "devices": [5, UUID], "threads_per_worker": 3}
    with connect(profile) as client:
        assert gs.run(plan, "map.zarr", client=client, trust_code=True).complete
    found = [
        json.loads(line) for p in notes.iterdir() for line in p.read_text().splitlines()
    ]
    spans = {device: [n[2:] for n in found if n[0] == device] for device in ("5", UUID)}
    assert {n[0] for n in found} == {"5", UUID}
    assert len({(n[0], n[1]) for n in found}) == 2
    assert len(found) >= 16
    assert not any(overlaps(one) for one in spans.values())
    assert overlaps([*spans["5"], *spans[UUID]])  # both work at once
    assert os.environ.get("CUDA_VISIBLE_DEVICES") not in ("5", UUID)

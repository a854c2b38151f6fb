"""Disks that fill up, drivers that are suspended, runs that go on for long."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from geoscale.engine.block import run_block
from geoscale.engine.lease import TTL_S
from geoscale.errors import StoppedError
from tests.support.toy import (
    run_toy,
    stored_bytes,
    toy_files,
    toy_kernel,
    toy_plan,
    toy_sink,
)

ROOT = Path(__file__).resolve().parents[1]


@contextlib.contextmanager
def small_disk(path, size):
    """A file system of its own; only root may have one."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system of its own: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="mounts a tmpfs")
def test_a_disk_that_fills_up_stops_the_run_and_more_room_lets_it_go_on(tmp_path):
    run_toy(str(tmp_path / "clean.zarr"))
    disk = tmp_path / "disk"
    with small_disk(disk, "640k"):
        url = str(disk / "out.zarr")
        with pytest.raises(StoppedError, match=r"no room|No space"):
            run_toy(url, delay=0.03)
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        again = run_toy(url)
        assert 0 < again.computed < 64, "what was finished before is kept"
        assert stored_bytes(url) == stored_bytes(str(tmp_path / "clean.zarr"))


def command(job):
    return [sys.executable, "-m", "geoscale.cli", "run", str(job)]


@pytest.mark.slow
def test_a_suspended_driver_leaves_the_map_to_the_one_that_took_over(tmp_path):
    pytest.importorskip("spyndex")
    import geoscale as gs
    from geoscale.demo.run import prepare

    prepare(tmp_path, 600)
    job = tmp_path / "twice.yaml"
    job.write_text(
        "imagery: {items: items.json}\nmodel: s2-landcover-unet\n"
        "inference: {block: 64, patch: 120, stride: 64}\noutput: twice.zarr\n"
    )
    other = tmp_path / "clean.yaml"
    other.write_text(job.read_text().replace("twice.zarr", "clean.zarr"))
    assert gs.run_job(other).complete
    first = subprocess.Popen(command(job), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    for line in first.stdout:
        if "/100 blocks" in line:
            break
    time.sleep(0.7)
    first.send_signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        second = subprocess.run(
            command(job), capture_output=True, text=True, check=False, cwd=ROOT
        )
        assert second.returncode == 0, second.stderr
        assert time.monotonic() - began > TTL_S, "it made sure that the first is still"
    finally:
        first.send_signal(signal.SIGCONT)
    said, _ = first.communicate(timeout=60)
    # it may have had its last block in hand; else it is told that another took over
    assert first.returncode in (0, 75), said
    done = gs.verify(tmp_path / "twice.zarr")
    assert done.is_sound
    found = stored_bytes(str(tmp_path / "twice.zarr"))
    assert found == stored_bytes(str(tmp_path / "clean.zarr"))


@pytest.mark.slow
def test_a_second_run_at_the_same_time_is_refused(tmp_path):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    prepare(tmp_path, 2400)  # many blocks: the first has to outlive the second's wait
    job = tmp_path / "twice.yaml"
    job.write_text(
        "imagery: {items: items.json}\nmodel: s2-landcover-unet\n"
        "inference: {block: 32, patch: 88, stride: 32}\noutput: twice.zarr\n"
    )
    first = subprocess.Popen(command(job), stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        for line in first.stdout:
            if "/5,625 blocks" in line:
                break
        second = subprocess.run(
            command(job), capture_output=True, text=True, check=False, cwd=ROOT
        )
    finally:
        first.kill()
        first.communicate()
    assert second.returncode == 2, second.stderr
    assert f"another run works on {tmp_path}/twice.zarr: process {first.pid}" in (
        second.stderr
    )


@pytest.mark.slow
def test_files_threads_and_memory_stay_few_over_20000_blocks(tmp_path, share, proof):
    """Of files that are opened and cached, as a worker does it for days."""
    url, plan = str(tmp_path / "out.zarr"), toy_plan()
    toy_sink(plan, url).create()
    kernel = toy_kernel(plan, url, source=toy_files(tmp_path))
    count, warm, me = max(1000, round(20_000 * share)), 500, psutil.Process()
    step, seen = count // 20, []
    for number in range(count + warm):
        assert run_block(kernel, number % len(plan.grid)).ok
        if number >= warm and (number - warm) % step == 0:
            seen.append((me.num_fds(), threading.active_count(), me.memory_info().rss))
    files, threads, memory = zip(*seen, strict=True)
    slope = np.polyfit(np.arange(len(memory)) * step, memory, 1)[0]
    print(f"{count} blocks: files {files}, threads {threads}")
    print(f"MB {[round(m / 2**20, 1) for m in memory]}: {slope:.0f} bytes a block")
    assert max(files) <= files[0] + 2
    assert max(threads) <= threads[0]
    # pages that are touched for the first time aside, nothing is kept
    assert memory[-1] <= memory[0] + 2**22 + 200 * count
    run_toy(str(tmp_path / "clean.zarr"))
    found, wanted = stored_bytes(url), stored_bytes(str(tmp_path / "clean.zarr"))
    assert found["scores"] == wanted["scores"], "what was read is what is there"
    proof(faults=0, compared=len(wanted["scores"]))

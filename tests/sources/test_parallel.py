from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from geoscale.errors import ReadError, SourceError
from geoscale.memory import allowed_cpus
from geoscale.sources import open_source
from geoscale.sources.gdal import COUNTS
from geoscale.sources.handles import Handle, HandlePool
from geoscale.sources.parallel import REMOTE_THREADS, count_threads, started
from geoscale.sources.strips import cut_rows
from geoscale.sources.tiles import TILES
from geoscale.windows import Window
from tests.sources.conftest import coordinates


class File:
    """What a handle needs of a dataset."""

    def __init__(self) -> None:
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


def handle() -> Handle:
    return Handle(File())


def test_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GEOSCALE_READ_THREADS", raising=False)
    assert count_threads(remote=True) == REMOTE_THREADS
    assert count_threads(remote=False) == allowed_cpus()
    monkeypatch.setenv("GEOSCALE_READ_THREADS", "3")
    assert count_threads(remote=True) == count_threads(remote=False) == 3
    for wrong in ("0", "many", "-1"):
        monkeypatch.setenv("GEOSCALE_READ_THREADS", wrong)
        with pytest.raises(SourceError, match=f"is `{wrong}`; set a whole number"):
            count_threads(remote=True)


def test_results_come_in_order_from_more_than_one_thread() -> None:
    meet = threading.Barrier(4)

    def task(k: int) -> Callable[[], tuple[int, int]]:
        def run() -> tuple[int, int]:
            meet.wait(10)
            return k, threading.get_ident()

        return run

    with started([task(k) for k in range(4)], remote=True) as results:
        found = [result() for result in results]
    assert [k for k, _ in found] == [0, 1, 2, 3]
    assert len({ident for _, ident in found}) == 4


def test_no_task_runs_on_after_the_context() -> None:
    running: list[int] = []

    def task() -> None:
        running.append(1)
        time.sleep(0.05)
        running.pop()

    with (
        pytest.raises(OSError, match="first"),
        started([fail, *[task] * 40], remote=True) as results,
    ):
        results[0]()
    assert not running
    time.sleep(0.02)
    assert not running


def fail() -> None:
    raise OSError("first")


def test_a_task_never_waits_for_the_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSCALE_READ_THREADS", "2")

    def outer() -> set[int]:
        with started([threading.get_ident] * 4, remote=True) as results:
            return {result() for result in results} | {threading.get_ident()}

    with started([outer] * 4, remote=True) as results:
        assert [len(result()) for result in results] == [1] * 4


def test_one_thread_runs_what_is_asked_for_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEOSCALE_READ_THREADS", "1")
    ran: list[int] = []
    with started([lambda k=k: ran.append(k) for k in range(3)], remote=True) as results:  # type: ignore[misc]
        results[1]()
    assert ran == [1]


def test_idle_handles_are_bounded_and_the_oldest_goes_first() -> None:
    pool = HandlePool(limit=2)
    made: dict[str, Handle] = {}
    for name in "abc":
        with pool.lend(name, None, handle, new=False) as found:
            made[name] = found
    assert len(pool) == 2
    assert [made[name].dataset.is_closed for name in "abc"] == [True, False, False]
    with pool.lend("b", None, handle, new=False) as found:
        assert found is made["b"]
        with pool.lend("b", None, handle, new=False) as other:
            assert other is not found
    with pool.lend("c", None, handle, new=True) as found:
        assert found is not made["c"]


def test_handles_that_failed_were_dropped_or_are_stale_are_closed() -> None:
    pool = HandlePool()
    with (
        pytest.raises(OSError, match="broken"),
        pool.lend("a", None, handle, new=False) as failed,
    ):
        raise OSError("broken")
    assert failed.dataset.is_closed
    with pool.lend("a", None, handle, new=False) as lent:
        pool.drop("a")
        assert not lent.dataset.is_closed
    assert lent.dataset.is_closed
    with pool.lend("a", None, handle, new=False) as old:
        pass
    with pool.lend("a", "changed", lambda: Handle(File(), "changed"), new=False):
        assert old.dataset.is_closed
    pool.clear()
    assert len(pool) == 0


def test_the_first_band_that_fails_is_named(write_tif: Any) -> None:
    names = {k: write_tif(f"{k}.tif", coordinates((64, 64))) for k in "abcd"}
    source = open_source({"files": names})
    for k in "bc":
        with open(names[k], "wb") as file:
            file.write(b"II*\x00")
    for _ in range(3):
        with pytest.raises(ReadError, match=r"cannot read .*b\.tif after 1 try"):
            source.read(Window(0, 0, 64, 64), [0])


@pytest.mark.parametrize("threads", ["1", "4"])
def test_later_items_are_read_only_where_needed(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("GEOSCALE_READ_THREADS", threads)
    first = np.full((2, 128, 128), 5, "uint16")
    first[:, 64:, 64:] = 0
    files = [
        write_tif("s_20240501T100000.tif", first, nodata=0),
        write_tif("s_20240501T100100.tif", first + 1, nodata=0),
    ]
    source = open_source({"files": files, "groupby": "all"})
    before = COUNTS.reads
    assert (source.read(Window(0, 0, 64, 128), [0]).data == 5).all()
    assert COUNTS.reads == before + 1
    got = source.read(Window(0, 0, 128, 128), [0])
    assert COUNTS.reads == before + 3
    assert (got.data[0, :, 64:, 64:] == 1).all()
    assert (got.data[0, :, :64] == 5).all()


@pytest.mark.parametrize("threads", ["1", "4"])
def test_what_one_band_lacks_leaves_no_pixels_of_the_others(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch, threads: str
) -> None:
    monkeypatch.setenv("GEOSCALE_READ_THREADS", threads)
    full, empty = np.full((128, 128), 7, "uint16"), np.zeros((128, 128), "uint16")
    names = {
        k: write_tif(f"{k}.tif", empty if k == "a" else full, nodata=0) for k in "abcd"
    }
    got = open_source({"files": names}).read(Window(0, 0, 128, 128), [0])
    assert not got.valid.any()
    assert not got.data.any()


@pytest.mark.parametrize("grid", [None, {"crs": "EPSG:32634", "resolution": 12}])
def test_strips_change_no_pixel(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch, grid: Any
) -> None:
    """More threads than files: each file is read in strips."""
    pixels = coordinates((1200, 300), "float32")
    pixels[500:700, 40:90] = 0
    names = {k: write_tif(f"{k}.tif", pixels + i, nodata=0)
             for i, k in enumerate("ab")}  # fmt: skip
    found = []
    for threads in ("1", "16"):
        monkeypatch.setenv("GEOSCALE_READ_THREADS", threads)
        TILES.value.clear()
        source = open_source({"files": names}, grid=grid)
        rows, columns = map(int, source.geobox.shape)
        before = COUNTS.reads
        # it begins and ends within a tile
        found.append(source.read(Window(7, 3, rows - 5, columns), [0]))
        assert COUNTS.reads - before == (2 if threads == "1" else 8)
    one, other = found
    assert one.valid.any()
    assert not one.valid.all()
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.valid, other.valid)


def test_a_file_that_ends_within_a_window_of_strips(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some strips see nothing of the short file."""
    long, short = coordinates((1100, 50)), coordinates((600, 50))
    names = {"a": write_tif("a.tif", long), "b": write_tif("b.tif", short)}
    source = open_source({"files": names}, bands=["a", "b"])
    found = []
    for threads in ("1", "16"):
        monkeypatch.setenv("GEOSCALE_READ_THREADS", threads)
        TILES.value.clear()
        found.append(source.read(Window(0, 0, 1100, 50), [0]))
    one, other = found
    assert one.valid[0, :600].all()
    assert not one.valid[0, 600:].any()
    np.testing.assert_array_equal(one.data, other.data)
    np.testing.assert_array_equal(one.valid, other.valid)


def test_over_a_network_and_in_low_windows_there_is_one_strip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("GEOSCALE_READ_THREADS", "16")
    assert cut_rows(2000, 4, remote=True) == [slice(0, 2000)]
    assert cut_rows(300, 1, remote=False) == [slice(0, 300)]
    assert cut_rows(2000, 20, remote=False) == [slice(0, 2000)]
    cut = cut_rows(1999, 4, remote=False)
    assert len(cut) == 4
    assert [a.stop for a in cut[:-1]] == [b.start for b in cut[1:]]

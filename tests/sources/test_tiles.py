from __future__ import annotations

import multiprocessing
import os
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st

from geoscale.sources import open_source, reading, tiles
from geoscale.sources.gdal import COUNTS, close_handles
from geoscale.sources.tiles import TILES, Key, Lattice, TileCache, rectangles
from geoscale.windows import Window
from tests.sources.conftest import coordinates


def key(k: int) -> Key:
    return "file", 1, 0, k


def decode(keys: list[Key]) -> dict[Key, Any]:
    return {k: np.full(100, k[3], "uint8") for k in keys}


@given(st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6))))
def test_rectangles_cover_each_tile_once(numbers: set[tuple[int, int]]) -> None:
    seen = Counter(
        (y, x)
        for w in rectangles(numbers)
        for y in range(w.y0, w.y1)
        for x in range(w.x0, w.x1)
    )
    assert seen == Counter(numbers)


@given(st.data())
def test_tiles_cover_a_window(data: st.DataObject) -> None:
    lattice = Lattice((50, 70), (16, 9))
    y0, x0 = data.draw(st.integers(0, 49)), data.draw(st.integers(0, 69))
    window = Window(
        y0, x0, data.draw(st.integers(y0 + 1, 50)), data.draw(st.integers(x0 + 1, 70))
    )
    seen = np.zeros(lattice.shape, int)
    for batch in lattice.batches(window, tiles.BATCH_BYTES // 3):
        for number in batch:
            seen[lattice.window(*number).within(Window(0, 0, 50, 70))] += 1
            assert not (lattice.window(*number) & window).is_empty
    assert seen.max() == 1
    assert seen[window.within(Window(0, 0, 50, 70))].all()


def test_cache_stays_within_its_bytes_and_forgets_the_oldest() -> None:
    cache = TileCache(limit=350)
    cache.get([key(0), key(1), key(2)], decode)
    cache.get([key(0)], decode)
    got = cache.get([key(3), key(4)], decode)
    assert (got[key(4)] == 4).all()
    assert cache.nbytes == 300
    asked: list[Key] = []
    cache.get([key(k) for k in range(5)], lambda k: asked.extend(k) or decode(k))
    assert asked == [key(1), key(2)]
    assert cache.nbytes <= 350
    assert TILES.value.limit == tiles.TILE_CACHE_BYTES


def test_a_tile_larger_than_the_cache_is_given_and_not_kept() -> None:
    cache = TileCache(limit=50)
    assert (cache.get([key(7)], decode)[key(7)] == 7).all()
    assert cache.nbytes == 0


def test_cached_tiles_cannot_be_written() -> None:
    tile = TileCache().get([key(1)], decode)[key(1)]
    with pytest.raises(ValueError, match="read-only"):
        tile[0] = 9


def test_threads_that_need_one_tile_decode_it_once() -> None:
    cache, calls = TileCache(), list[list[Key]]()
    started = threading.Event()

    def slowly(keys: list[Key]) -> dict[Key, Any]:
        calls.append(keys)
        started.set()
        threading.Event().wait(0.1)
        return decode(keys)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, [key(1), key(2)], slowly)
        started.wait()
        second = pool.submit(cache.get, [key(2), key(3)], slowly)
        assert first.result()[key(2)] is second.result()[key(2)]
    assert calls == [[key(1), key(2)], [key(3)]]


def test_a_failure_is_not_cached_and_those_who_wait_try_themselves() -> None:
    cache = TileCache()
    started, go_on = threading.Event(), threading.Event()

    def fail(_: list[Key]) -> dict[Key, Any]:
        started.set()
        go_on.wait()
        raise OSError("broken")

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(cache.get, [key(1)], fail)
        started.wait()
        second = pool.submit(cache.get, [key(1)], decode)
        go_on.set()
        with pytest.raises(OSError, match="broken"):
            first.result()
        assert (second.result()[key(1)] == 1).all()


def test_fresh_tiles_replace_the_cached() -> None:
    cache = TileCache()
    cache.get([key(1)], lambda keys: dict.fromkeys(keys, np.zeros(100, "uint8")))
    assert (cache.get([key(1)], decode, fresh=True)[key(1)] == 1).all()
    assert (cache.get([key(1)], decode)[key(1)] == 1).all()
    assert cache.nbytes == 100


@pytest.fixture
def empty() -> None:
    close_handles()
    TILES.value.clear()


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("threads", [1, 2])
def test_a_row_of_blocks_decodes_each_tile_once(write_tif: Any, threads: int) -> None:
    rng = np.random.default_rng(4)
    image = rng.integers(1, 9000, (256, 1000)).astype("uint16")
    names = {f"B{k}": write_tif(f"B{k}.tif", image + k) for k in range(3)}
    source = open_source({"files": names})
    before = COUNTS.tiles, COUNTS.tile_hits

    def block(k: int) -> bool:
        window = Window(64, 100 * k, 192, 100 * k + 100).grow(20).clip((256, 1000))
        got = source.read(window, [0])
        part = window.within(Window(0, 0, 256, 1000))
        return all((got.data[0, b] == image[part] + b).all() for b in range(3))

    with ThreadPoolExecutor(threads) as pool:
        assert all(pool.map(block, range(10)))
    unique = 3 * 4 * 16
    assert unique <= COUNTS.tiles - before[0] <= 1.1 * unique
    assert COUNTS.tile_hits - before[1] > 0.8 * unique


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize("resampling", ["nearest", "bilinear"])
def test_warped_tiles_are_kept_too(write_tif: Any, resampling: str) -> None:
    name = write_tif("a.tif", coordinates((250, 240)), nodata=0)
    source = open_source(
        {"files": name, "resampling": resampling},
        grid={"crs": "EPSG:32633", "resolution": 11},
    )
    window = Window(20, 20, 150, 160)
    first = source.read(window, [0])
    warped, hits = COUNTS.warped_tiles, COUNTS.tile_hits
    again = source.read(window, [0])
    assert COUNTS.warped_tiles == warped
    assert COUNTS.tile_hits > hits
    assert again.data.tobytes() == first.data.tobytes()
    assert (again.valid == first.valid).all()
    assert first.valid.any()


@pytest.mark.usefixtures("empty")
def test_the_process_cache_is_bounded(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TILES, "value", TileCache(limit=40_000))
    image = coordinates((250, 240))
    source = open_source({"files": write_tif("a.tif", image)})
    rng = np.random.default_rng(0)
    for _ in range(40):
        y, x = map(int, rng.integers(0, 150, 2))
        got = source.read(Window(y, x, y + 90, x + 90), [0])
        assert (got.data[0, 0] == image[y : y + 90, x : x + 90]).all()
        assert 0 < TILES.value.nbytes <= 40_000


@pytest.mark.usefixtures("empty")
@pytest.mark.parametrize(
    "layout",
    [
        {"tiled": False, "blockxsize": None, "blockysize": 3},
        {"tiled": False, "blockxsize": None, "blockysize": 100},
        {"interleave": "pixel"},
        {"interleave": "band", "compress": "deflate"},
    ],
)
def test_layouts_read_as_gdal_reads_them(
    write_tif: Any, layout: dict[str, Any]
) -> None:
    image = np.stack([coordinates((250, 240)), coordinates((250, 240))[::-1]])
    source = open_source({"files": write_tif("a.tif", image, **layout)})
    window = Window(13, 57, 201, 230)
    got = source.read(window, [0])
    assert (got.data[0] == image[:, 13:201, 57:230]).all()
    tiles_before = COUNTS.tiles
    assert source.read(window, [0]).data.tobytes() == got.data.tobytes()
    assert COUNTS.tiles == tiles_before


@pytest.mark.usefixtures("empty")
def test_a_giant_tile_goes_past_the_cache(
    write_tif: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "LARGEST_TILE_BYTES", 1000)
    image = coordinates((250, 240))
    source = open_source({"files": write_tif("a.tif", image)})
    before = COUNTS.tiles
    assert (source.read(Window(9, 9, 99, 99), [0]).data == image[9:99, 9:99]).all()
    assert COUNTS.tiles == before
    assert TILES.value.nbytes == 0


@pytest.mark.usefixtures("empty")
def test_masks_are_kept_and_hold_at_any_window(write_tif: Any) -> None:
    image = np.stack([coordinates((150, 140)), coordinates((150, 140))])
    name = write_tif("a.tif", image)
    mask = np.full((150, 140), 255, "uint8")
    mask[30:70, 60:90] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True), rasterio.open(name, "r+") as file:
        file.write_mask(mask)
    source = open_source({"files": name})
    for window in (Window(0, 0, 150, 140), Window(20, 50, 80, 80)):
        for _ in range(2):
            got = source.read(window, [0])
            good = mask[window.within(Window(0, 0, 150, 140))] > 0
            assert (got.valid[0] == good).all()
            part = image[:, *window.within(Window(0, 0, 150, 140))]
            assert (got.data[0] == np.where(good, part, 0)).all()


def test_a_file_that_was_replaced_is_read_anew(write_tif: Any) -> None:
    image = coordinates((100, 90))
    source = open_source({"files": write_tif("a.tif", image)})
    window = Window(0, 0, 100, 90)
    assert (source.read(window, [0]).data == image).all()
    os.replace(write_tif("b.tif", image[::-1]), Path(source.items[0].assets["B1"].href))
    assert (source.read(window, [0]).data == image[::-1]).all()


def test_a_fork_reads_with_handles_and_tiles_of_its_own(write_tif: Any) -> None:
    image = coordinates((100, 90))
    names = {"a": write_tif("a.tif", image), "b": write_tif("b.tif", image)}
    source = open_source({"files": names})
    window = Window(0, 0, 100, 90)
    source.read(window, [0])

    def child(queue: Any) -> None:
        opened = COUNTS.opened
        got = source.read(window, [0]).data
        queue.put(((got == image).all(), COUNTS.opened - opened, TILES.value.nbytes))

    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    process = context.Process(target=child, args=(queue,))
    process.start()
    equal, opened, nbytes = queue.get(timeout=60)
    process.join(60)
    assert equal
    assert opened == 2
    assert 0 < nbytes <= 4 * 64 * 64 * 2 * 2

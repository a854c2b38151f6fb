"""Reading from a server that fails on purpose: every window is right or an error."""

from __future__ import annotations

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.errors import ReadError
from geoscale.sources import hosts
from geoscale.sources.gdal import SETTINGS, close_handles
from geoscale.sources.hosts import HOSTS
from geoscale.sources.hrefs import Access
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.targets import Reading, Target
from geoscale.sources.tiles import TILES
from geoscale.windows import Window
from tests.support.fault_server import MODES, FaultServer, serving

SEED = int(os.environ.get("GEOSCALE_SEED", "20"))
SIDE = 512
TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)
SHARE = 0.2


@pytest.fixture(scope="module")
def scene() -> Any:
    rng = np.random.default_rng(SEED)
    return rng.integers(1, 4000, (SIDE, SIDE)).astype("uint16")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules in less time: no test waits for a minute."""
    monkeypatch.setitem(SETTINGS, "GDAL_HTTP_TIMEOUT", "2")
    monkeypatch.setitem(SETTINGS, "GDAL_HTTP_LOW_SPEED_TIME", "1")
    monkeypatch.setitem(SETTINGS, "GDAL_HTTP_RETRY_DELAY", "0.01")
    monkeypatch.setitem(SETTINGS, "GDAL_HTTP_MAX_RETRY", "1")
    monkeypatch.setattr(hosts, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(hosts, "LONGEST_PAUSE_S", 0.05)


def open_one(url: str) -> RasterSource:
    asset = Asset(
        href=url, name="red", dtype="uint16", nodata=0, crs="EPSG:32632",
        transform=TRANSFORM, shape=(SIDE, SIDE),
    )  # fmt: skip
    access = Access(allow_private=True, attempts=4, backoff_s=0.005)
    grid = Target("EPSG:32632", TRANSFORM, (SIDE, SIDE)).to_geobox()
    item = Item(id="x", datetime=None, assets={"red": asset})
    return RasterSource([item], ["red"], grid, reading=Reading(access=access))


def read_windows(url: str, scene: Any, count: int, seed: int) -> dict[str, int]:
    """Read random windows; each is what was written, or an error that says so."""
    rng, source = random.Random(seed), open_one(url)
    found = {"right": 0, "errors": 0, "silent": 0, "pixels": 0}
    for number in range(count):
        if number % 2 == 0:  # caches would spare the server most of the questions
            close_handles()
            TILES.value.clear()
        y, x = (rng.randrange(0, SIDE - 64) for _ in "yx")
        window = Window(y, x, y + rng.randrange(1, 64), x + rng.randrange(1, 64))
        try:
            got = source.read(window, [0])
        except ReadError:
            found["errors"] += 1
            continue
        same = (
            got.valid.all()
            and (
                got.data[0, 0] == scene[window.y0 : window.y1, window.x0 : window.x1]
            ).all()
        )
        found["right" if same else "silent"] += 1
        found["pixels"] += window.size
    return found


def serve(mode: str, scene: Any, write_tif: Any, count: int) -> dict[str, int]:
    path = write_tif("scene.tif", scene, nodata=0, compress="deflate")
    faults = FaultServer(Path(path).read_bytes(), mode, SHARE, SEED)
    close_handles()
    TILES.value.clear()
    HOSTS.value = hosts._Hosts()
    with serving(faults) as url:
        found = read_windows(url, scene, count, SEED)
    close_handles()
    assert faults.seen["wrong"] > 0, "the server never failed"
    print(f"{mode}: seed {SEED}, {dict(faults.seen)}, {found}")
    return found | {"faults": faults.seen["wrong"]}


def judge(found: dict[str, int], proof: Any) -> None:
    proof(faults=found["faults"], compared=found["pixels"], wrong=found["silent"])
    assert found["silent"] == 0


@pytest.mark.parametrize("mode", MODES)
def test_every_window_is_right_or_an_error(
    mode: str, scene: Any, write_tif: Any, quick: None, proof: Any
) -> None:
    found = serve(mode, scene, write_tif, 10 if mode == "stall" else 20)
    judge(found, proof)
    if mode in ("etag", "whole", "drip", "first"):
        assert found["right"], "what harms no byte is no failure"


@pytest.mark.slow
@pytest.mark.parametrize("threads", [None, "ALL_CPUS"])
@pytest.mark.parametrize("mode", MODES)
def test_of_500_windows_none_is_silently_wrong(  # noqa: PLR0917
    mode: str,
    threads: str | None,
    scene: Any,
    write_tif: Any,
    quick: None,
    monkeypatch: pytest.MonkeyPatch,
    proof: Any,
    share: float,
) -> None:
    if threads is not None:
        monkeypatch.setenv("GDAL_NUM_THREADS", threads)
    count = max(10, round(share * (100 if mode in ("stall", "drip") else 500)))
    judge(serve(mode, scene, write_tif, count), proof)

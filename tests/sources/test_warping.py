from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import Resampling
from rasterio.shutil import copy

from geoscale.errors import ReadError
from geoscale.sources import open_source
from geoscale.sources.gdal import COUNTS, close_handles
from geoscale.sources.items import Asset, Item
from geoscale.sources.raster import RasterSource
from geoscale.sources.targets import Reading, Target
from geoscale.sources.tiles import TILES
from geoscale.windows import Window

SHAPE = (1000, 1100)
TRANSFORM = (10.0, 0.0, 600000.0, 0.0, -10.0, 5000000.0)


@pytest.fixture(autouse=True)
def empty() -> None:
    close_handles()
    TILES.value.clear()


@pytest.fixture
def pair(write_tif: Any) -> tuple[str, str]:
    """A smooth image with a hole, without and with overviews."""
    y, x = np.mgrid[0 : SHAPE[0], 0 : SHAPE[1]]
    image = 5000 + 2000 * np.sin(y / 90) + 2000 * np.cos(x / 110)
    image = image.astype("uint16")
    image[400:500, 300:420] = 0
    plain = write_tif("plain.tif", image, nodata=0)
    quick = write_tif("quick.tif", image, nodata=0)
    with rasterio.open(quick, "r+") as file:
        file.build_overviews([2, 4, 8], Resampling.average)
    return plain, quick


def source(name: str, factor: float, resampling: str) -> RasterSource:
    step = 10 * factor
    # half a pixel off, so that it is a warp
    grid = (step, 0.0, 600005.0, 0.0, -step, 4999995.0)
    target = Target("EPSG:32632", grid, (int(980 / factor), int(1080 / factor)))
    asset = Asset(
        href=name, crs="EPSG:32632", transform=TRANSFORM, shape=SHAPE, dtype="uint16"
    )
    item = Item(id="x", datetime=None, assets={"a": asset})
    reading = Reading(resampling=resampling)
    return RasterSource([item], ["a"], target.to_geobox(), reading=reading)


@pytest.mark.parametrize("resampling", ["bilinear", "cubic", "lanczos", "average"])
@pytest.mark.parametrize("factor", [2, 5])
def test_coarse_grids_are_read_from_overviews(
    pair: tuple[str, str], factor: int, resampling: str
) -> None:
    found = []
    for name in pair:
        opened = COUNTS.opened
        one = source(name, factor, resampling)
        found.append(one.read(Window(0, 0, *one.target.shape), [0]))
        # overviews of 2, 4 and 8 are looked at until one is too coarse
        levels = {2: 2, 5: 3}[factor] if name == pair[1] else 1
        assert COUNTS.opened - opened == 1 + levels
    full, quick = found
    both = full.valid & quick.valid
    assert (full.valid != quick.valid).mean() < 0.02
    assert both.mean() > 0.9
    apart = np.abs(full.data[:, 0].astype(int) - quick.data[:, 0])[both]
    assert apart.mean() < 5
    assert np.quantile(apart, 0.99) < 60
    assert apart.max() > 0  # it was the overview


@pytest.mark.parametrize(
    ("factor", "resampling"),
    [(5, "nearest"), (5, "mode"), (5, "max"), (5, "q1"), (1.9, "bilinear")],
)
def test_other_methods_and_grids_see_every_pixel(
    pair: tuple[str, str], factor: float, resampling: str
) -> None:
    one, other = (source(name, factor, resampling) for name in pair)
    whole = Window(0, 0, *one.target.shape)
    got = [s.read(whole, [0]) for s in (one, other)]
    assert got[0].data.tobytes() == got[1].data.tobytes()


def test_cuts_do_not_change_what_overviews_give(pair: tuple[str, str]) -> None:
    one = source(pair[1], 2.3, "cubic")
    whole = Window(0, 0, *one.target.shape)
    expected = one.read(whole, [0])
    rng = np.random.default_rng(8)
    for _ in range(12):
        close_handles()
        TILES.value.clear()
        y, x = map(int, rng.integers(0, 300, 2))
        part = Window(y, x, y + 100, x + 150)
        got = one.read(part, [0])
        assert got.data.tobytes() == expected.data[:, :, *part.within(whole)].tobytes()
        assert (got.valid == expected.valid[:, *part.within(whole)]).all()


def test_overviews_need_fewer_bytes_of_the_file(
    pair: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from tests.sources.test_gdal import Server

    sent = []
    for name in pair:
        # a COG has its directories in front
        cog = Path(name).with_suffix(".cog.tif")
        has = "FORCE_USE_EXISTING" if name == pair[1] else "NONE"
        copy(name, cog, driver="COG", OVERVIEWS=has, BLOCKSIZE=128)
        server = Server(cog.read_bytes())
        monkeypatch.setenv("GEOSCALE_ALLOW_PRIVATE", "1")
        one = source(f"{server.url}/{Path(name).name}", 4, "bilinear")
        assert one.read(Window(0, 0, *one.target.shape), [0]).valid.any()
        sent.append(server.sent - len(server.body))  # the first request has no range
        server.http.shutdown()
    assert sent[1] < sent[0] / 2


def test_the_file_itself_is_held_against_its_item(pair: tuple[str, str]) -> None:
    one = source(pair[1], 4, "bilinear")
    asset = one.items[0].assets["a"]
    half = tuple(v // 4 for v in SHAPE)
    wrong = Item(
        id="x",
        datetime=None,
        assets={"a": Asset(href=asset.href, crs=asset.crs, shape=half, dtype="uint16")},
    )
    other = RasterSource([wrong], ["a"], one.geobox, reading=one.reading)
    with pytest.raises(ReadError, match=r"file has \(1000, 1100\) pixels"):
        other.read(Window(0, 0, 9, 9), [0])


def test_overviews_beside_a_file_of_many_bands(write_tif: Any) -> None:
    image = np.stack([np.full(SHAPE, 300 + k, "uint16") for k in range(3)])
    name = write_tif("a.tif", image)
    with rasterio.open(name, "r+") as file:
        file.build_overviews([2, 4], Resampling.nearest)
    got = open_source(
        {"files": name, "resampling": "bilinear"},
        grid={"crs": "EPSG:32633", "resolution": 40},
    )
    pixels = got.read(Window(0, 0, *map(int, got.geobox.shape)), [0])
    assert pixels.valid.mean() > 0.5
    for k in range(3):
        assert set(np.unique(pixels.data[0, k][pixels.valid[0]])) == {300 + k}

"""Readers: windows of six COG bands over HTTP with latency, by four readers."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import Options, context, median, rounded, say, scratch, timed
from benchmarks.http_server import counts, serving
from benchmarks.workloads import BANDS, six_band_items
from geoscale.sources import RasterSource, lazy_stack, open_source
from geoscale.sources.gdal import close_handles
from geoscale.sources.tiles import TILES
from geoscale.windows import Window

LATENCY_S = 0.02
BLOCK, HALO = 1024, 32


def run(options: Options) -> dict[str, Any]:
    """Read all blocks of a scene, with halo, cold each time; alternating."""
    before = context()
    size, repeat = options.pick_size(2048, 1024), options.pick_repeat(3)
    items = six_band_items(size)
    rows = [measure(items, size, repeat, latency) for latency in (LATENCY_S, None)]
    return {"context": before, "repeat": repeat, "rows": rows}


def measure(
    items: Path, size: int, repeat: int, latency_s: float | None
) -> dict[str, Any]:
    """Time every reader; without a latency the files are local."""
    if latency_s is None:
        return compare(items.parent, None, items, size, repeat)
    with serving(items.parent, latency_s) as url:
        return compare(items.parent, url, items, size, repeat) | {
            "latency_ms": latency_s * 1000
        }


def compare(
    folder: Path, url: str | None, items: Path, size: int, repeat: int
) -> dict[str, Any]:
    windows = [
        Window(y, x, y + BLOCK, x + BLOCK).grow(HALO).clip((size, size))
        for y in range(0, size, BLOCK)
        for x in range(0, size, BLOCK)
    ]
    readers = {
        name: Reader(name, folder, url, items, windows)
        for name in ("native", "odc", "stackstac", "async_geotiff")
        if name != "async_geotiff" or importlib.util.find_spec(name)
    }
    walls: dict[str, list[float]] = {name: [] for name in readers}
    cpus: dict[str, list[float]] = {name: [] for name in readers}
    traffic: dict[str, dict[str, int]] = {}
    digests = {name: reader.run() for name, reader in readers.items()}  # imports
    for _ in range(repeat):
        for name, reader in readers.items():
            reader.fresh()
            start = counts(url) if url else {}
            spent = timed(reader.run)
            walls[name].append(spent.wall)
            cpus[name].append(spent.cpu)
            end = counts(url) if url else {}
            traffic[name] = {k: end[k] - start[k] for k in end}
    for reader in readers.values():
        reader.close()
    best = min(median(v) for v in walls.values())
    row: dict[str, Any] = {
        "where": "http" if url else "local",
        "size_px": size,
        "windows": len(windows),
        "equal": len(set(digests.values())) == 1,
        "native_of_best": round(best / median(walls["native"]), 3),
    }
    for name, values in walls.items():
        row[name] = {
            "wall_s": round(median(values), 3),
            "runs_s": rounded(values),
            "cpu_s": round(median(cpus[name]), 3),
            **traffic[name],
        }
    seconds = ", ".join(f"{n} {row[n]['wall_s']} s" for n in readers)
    say(f"{row['where']}: native {row['native_of_best']} of the best; {seconds}")
    return row


class Reader:
    """One reader; each run sees files of a name that nobody has cached."""

    def __init__(
        self, name: str, folder: Path, url: str | None, items: Path, windows: list[Any]
    ) -> None:
        self.name, self.folder, self.url, self.items = name, folder, url, items
        self.windows, self.runs = windows, 0
        self.read: Callable[[], int] = self._open()

    def fresh(self) -> None:
        close_handles()
        TILES.value.clear()
        self.runs += 1
        self.read = self._open()

    def run(self) -> int:
        return self.read()

    def close(self) -> None:
        shutil.rmtree(self._links(), ignore_errors=True)

    def _links(self) -> Path:
        return scratch() / "readers" / self.name

    def _href(self, band: str) -> str:
        # a query is another file to every cache, and the same to the server
        if self.url:
            return f"{self.url}/{band}.tif?{self.name}={self.runs}"
        return str(self.folder / f"{band}.tif")

    def _source(self) -> RasterSource:
        collection = json.loads(self.items.read_text(encoding="utf-8"))
        for band in BANDS:
            asset = collection["features"][0]["assets"][band]
            asset["href"] = self._href(band)
        source = open_source(
            {
                "items": collection["features"],
                "allow_private": self.url is not None,
                "dtype": "uint16",
            },
            bands=list(BANDS),
        )
        assert isinstance(source, RasterSource)
        return source

    def _open(self) -> Callable[[], int]:
        if self.name == "async_geotiff":
            return lambda: asyncio.run(self._read_async())
        source = self._source()
        if self.name == "native":
            return lambda: self._sum(source.read(w, [0]).data[0] for w in self.windows)
        return lambda: self._read_lazily(source)

    def _read_lazily(self, source: RasterSource) -> int:
        import dask

        stack = lazy_stack(source, self.name, chunks=512).data  # type: ignore[arg-type]
        with dask.config.set(scheduler="threads", num_workers=16 if self.url else None):
            return self._sum(
                stack[0, :, w.y0 : w.y1, w.x0 : w.x1].compute() for w in self.windows
            )

    async def _read_async(self) -> int:
        from async_geotiff import GeoTIFF
        from async_geotiff import Window as FileWindow
        from obstore.store import HTTPStore, LocalStore

        store: Any
        if self.url:
            options = {"allow_http": True}
            store = HTTPStore.from_url(self.url, client_options=options)
        else:
            store = LocalStore(self.folder)
        files = await asyncio.gather(
            *(GeoTIFF.open(f"{band}.tif", store=store) for band in BANDS)
        )
        total = 0
        for w in self.windows:
            part = FileWindow(
                col_off=w.x0, row_off=w.y0, width=w.width, height=w.height
            )
            found = await asyncio.gather(*(f.read(window=part) for f in files))
            total += self._sum([np.concatenate([f.data for f in found])])
        return total

    @staticmethod
    def _sum(blocks: Any) -> int:
        return sum(int(block.sum(dtype=np.int64)) for block in blocks)

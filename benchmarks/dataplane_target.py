"""One pass over the data without a network, in a process of its own.

``python -m benchmarks.dataplane_target MODE ITEMS [--like MAP]`` prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import peak_mb, scratch, timed
from benchmarks.workloads import CLASSES, SEED, get_workload

PATCH, BLOCK = 512, 1024
IN_FLIGHT = int(os.environ.get("GEOSCALE_BENCH_IN_FLIGHT", "3"))
"""Blocks worked on at a time."""


class NullPredictor:
    """Gives the same scores for every patch, made once: a network that costs nothing.

    The scores are blobs, not one value, so that the map has bytes to store.
    """

    def __init__(self, inner: Any) -> None:
        self.batch, self.model_id, self._inner = inner.batch, inner.model_id, inner
        rng = np.random.default_rng(SEED)
        blobs = rng.random((CLASSES, PATCH // 16, PATCH // 16)).repeat(16, 1)
        scores = blobs.repeat(16, 2).astype(np.float32) + 0.1
        scores /= scores.sum(axis=0)
        self._scores = np.ascontiguousarray(
            np.broadcast_to(scores, (inner.batch, *scores.shape))
        )

    def predict(self, patches: np.ndarray) -> np.ndarray:
        return self._scores[: len(patches)]

    def open_canvas(self, *args: Any, **more: Any) -> None:
        """No path on the device: that would run the network."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_inner"], name)


@contextmanager
def null_model() -> Iterator[None]:
    """Runs of `geoscale.run` get the null predictor; all else is as always."""
    from geoscale import api

    usual = api.make_executor

    def make_executor(*args: Any, **more: Any) -> Any:
        executor: Any = usual(*args, **more)
        kernel = executor._kernel
        executor._kernel = replace(kernel, predictor=NullPredictor(kernel.predictor))
        return executor

    api.make_executor = make_executor
    try:
        yield
    finally:
        api.make_executor = usual


def run_geoscale(items: Path, keep: Path | None, **output: Any) -> dict[str, Any]:
    """A whole job, verified, with the null model."""
    import rasterio  # noqa: F401  loaded before the clock runs, as for raw
    import zarr  # noqa: F401

    import geoscale as gs
    from benchmarks.kernels import local_kernel, make_plan

    # The model takes no core, as one on a GPU: then blocks are to overlap.
    plan = make_plan(get_workload("tiny"), items, output=output, in_flight=IN_FLIGHT)
    local_kernel(plan)
    folder = Path(tempfile.mkdtemp(prefix="null-", dir=scratch()))
    out = folder / "map.zarr"
    before = io_counts()
    with null_model():
        spent = timed(lambda: gs.run(plan, out))
    after = io_counts()
    assert spent.value.complete, str(spent.value)
    final = json.loads((out / ".geoscale" / "final.json").read_text(encoding="utf-8"))
    stored = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    if keep is not None:
        shutil.copytree(out, keep)
    shutil.rmtree(folder)
    return {
        "wall_s": round(spent.wall, 4),
        "cpu_s": round(spent.cpu, 4),
        "totals": final["totals"],
        "stored_bytes": stored,
        "read_calls_bytes": after["rchar"] - before["rchar"],
        "written_calls_bytes": after["wchar"] - before["wchar"],
        "blocks": len(plan.numbers()),
    }


def io_counts() -> dict[str, int]:
    """Bytes that this process has asked the kernel to read and write."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return {k: int(v) for k, v in (x.split(": ") for x in lines)}


def run_raw(items: Path, like: Path) -> dict[str, Any]:
    """Raw GDAL read of every block, raw Zarr write of the same bytes, on all cores."""
    import rasterio  # noqa: F401  loaded before the clock runs, as for ours
    import zarr

    from geoscale.memory import allowed_cpus

    paths = band_paths(items)
    names = ("classes", "confidence")
    models = {name: zarr.open_array(str(like / name), mode="r") for name in names}
    arrays = {name: np.asarray(found[:]) for name, found in models.items()}
    folder = Path(tempfile.mkdtemp(prefix="raw-", dir=scratch()))
    height, width = arrays["classes"].shape[-2:]
    cuts = [(y, x) for y in range(0, height, BLOCK) for x in range(0, width, BLOCK)]
    held = threading.local()

    def work() -> None:
        stores = {name: copy_layout(folder / name, models[name]) for name in names}

        def one(at: tuple[int, int]) -> None:
            read_block(held, paths, at)
            ys, xs = (slice(n, n + BLOCK) for n in at)
            for name, store in stores.items():
                store[:, ys, xs] = arrays[name][:, ys, xs]

        with ThreadPoolExecutor(allowed_cpus()) as pool:
            list(pool.map(one, cuts))

    spent = timed(work)
    shutil.rmtree(folder)
    return {"wall_s": round(spent.wall, 4), "cpu_s": round(spent.cpu, 4)}


def band_paths(items: Path) -> list[str]:
    """Files of the first item's bands."""
    feature = json.loads(items.read_text(encoding="utf-8"))["features"][0]
    return [str(items.parent / a["href"]) for a in feature["assets"].values()]


def read_block(held: Any, paths: list[str], at: tuple[int, int]) -> None:
    """Read a block of every band; each thread keeps its files open."""
    import rasterio
    from rasterio.windows import Window

    if not hasattr(held, "files"):
        held.files = [rasterio.open(path) for path in paths]
    for file in held.files:
        file.read(1, window=Window(at[1], at[0], BLOCK, BLOCK))


def copy_layout(path: Path, like: Any) -> Any:
    """An empty array with the layout and codecs of another."""
    import zarr

    return zarr.create_array(
        str(path), shape=like.shape, dtype=like.dtype, chunks=like.chunks,
        shards=like.shards, compressors=like.compressors, fill_value=like.fill_value,
    )  # fmt: skip


def run_reader(items: Path, engine: str) -> dict[str, Any]:
    """A reader alone: every block of every band, through Dask's threads."""
    import odc.stac

    import geoscale as gs

    # what the documentation of odc-stac tells to do before reading from the web
    odc.stac.configure_rio(cloud_defaults=True)
    bands = list(get_workload("tiny").card.input.bands)

    def work() -> int:
        stack = gs.open_stack(str(items), bands=bands, engine=engine, chunks=BLOCK)
        corners = stack.data.map_blocks(
            lambda block: block[..., :1, :1],
            dtype=stack.dtype,
            chunks=tuple((1,) * len(c) if i > 1 else c
                         for i, c in enumerate(stack.data.chunks)),
        )  # fmt: skip
        return int(corners.compute().size)

    spent = timed(work)
    return {"wall_s": round(spent.wall, 4), "cpu_s": round(spent.cpu, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode")
    parser.add_argument("items", type=Path)
    parser.add_argument("--like", type=Path)
    parser.add_argument("--keep", type=Path)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.mode == "raw":
        found = run_raw(args.items, args.like)
    elif args.mode.startswith("read-"):
        found = run_reader(args.items, args.mode.removeprefix("read-"))
    else:
        found = run_geoscale(args.items, args.keep, overviews=args.mode == "geoscale")
    print(json.dumps(found | {"peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()

"""Shards: a block of a map encoded by geoscale, and through zarr's arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import Options, alternate, context, median, rounded, say
from benchmarks.workloads import CLASSES, SEED, mirror, sample

BLOCK, CHUNK, FILL = 1024, 512, 255


def run(options: Options) -> dict[str, Any]:
    """Both ways in turn, for a layer of classes and one of noisy scores."""
    before, repeat = context(), options.pick_repeat(9)
    layers = make_layers()
    rows = [measure(name, data, repeat) for name, data in layers.items()]
    return {"context": before, "repeat": repeat, "rows": rows}


def make_layers() -> dict[str, np.ndarray]:
    """Classes with borders as in imagery, and confidences with its noise."""
    band = mirror(sample()[0][3], BLOCK).astype(np.float32)
    edges = np.quantile(band, np.linspace(0, 1, CLASSES + 1)[1:-1])
    rng = np.random.default_rng(SEED)
    noisy = 200 + 20 * rng.standard_normal(band.shape)
    return {
        "classes": np.digitize(band, edges).astype(np.uint8),
        "confidence": noisy.clip(0, 254).astype(np.uint8),
    }


def measure(name: str, data: np.ndarray, repeat: int) -> dict[str, Any]:
    """Milliseconds of each way; both give the same pixels."""
    from geoscale.sinks.shards import encode_shard

    ours = lambda: encode_shard(data, FILL, block_px=BLOCK, chunk_px=CHUNK)  # noqa: E731
    found = alternate({"geoscale": ours, "zarr": lambda: through_zarr(data)}, repeat)
    row: dict[str, Any] = {"layer": name, "block_px": BLOCK, "chunk_px": CHUNK}
    for way, spent in found.items():
        row[f"{way}_ms"] = round(1000 * median([s.wall for s in spent]), 2)
        row[f"{way}_cpu_ms"] = round(1000 * median([s.cpu for s in spent]), 2)
        row[f"{way}_bytes"] = len(spent[0].value)
    row["speed_ratio"] = rounded([row["zarr_ms"] / row["geoscale_ms"]])[0]
    say(f"{name}: {row}")
    return row


def through_zarr(data: np.ndarray) -> bytes:
    """One shard of a new array in memory."""
    import zarr
    from zarr.codecs import ZstdCodec
    from zarr.storage import MemoryStore

    from geoscale.sinks.shards import ZSTD_LEVEL

    objects: dict[str, Any] = {}
    array = zarr.create_array(
        MemoryStore(objects),
        shape=data.shape,
        dtype=data.dtype,
        shards=data.shape,
        chunks=(CHUNK, CHUNK),
        compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=True)],
        fill_value=FILL,
    )
    array[:] = data
    return bytes(objects["c/0/0"].to_bytes())

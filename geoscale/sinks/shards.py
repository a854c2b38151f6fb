"""One block of a layer to the bytes of one Zarr v3 shard, on all allowed cores.

zarr hands every chunk through its event loop; a shard took it several times as long
as compressing does (`python -m benchmarks shards`). Written here is the one layout that
`layout.lay_out` declares: chunks of little-endian bytes in zstd with a checksum, then
the index with its CRC32C. zarr reads it; tests hold both to each other.

References
----------
.. [1] https://zarr-specs.readthedocs.io/en/latest/v3/codecs/sharding-indexed/
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from geoscale.spread import WORTH_BYTES, spread
from geoscale.types import Array

ZSTD_LEVEL = 3
_ABSENT = np.uint64(2**64 - 1)
"""Offset and length of a chunk that is all fill value, and so not stored."""


def encode_shard(
    data: Array, fill: float, *, block_px: int, chunk_px: int
) -> bytes | None:
    """Encode one shard without touching any store.

    Parameters
    ----------
    data : ndarray, (y, x) or (class, y, x)
        Its pixels; smaller than a block at the edge of the array.
    fill : float
        The array's fill value; what is missing of a chunk.
    block_px : int
        Height and width of a shard.
    chunk_px : int
        Height and width of a chunk.

    Returns
    -------
    bytes or None
        The object to store; None where all of it is the fill value.
    """
    planes = data if data.ndim == 3 else data[None]
    across = block_px // chunk_px
    index = np.full((len(planes), across, across, 2), _ABSENT, "<u8")
    numbers, chunks = [], []
    for number, chunk in _iter_chunks(planes, fill, chunk_px):
        numbers.append(number)
        chunks.append(chunk)
    if not chunks:
        return None
    parts, at = [], 0
    compress = spread if data.nbytes >= WORTH_BYTES else map
    for number, part in zip(numbers, compress(_zstd, chunks), strict=True):
        index[number] = at, len(part)
        parts.append(part)
        at += len(part)
    table = index.tobytes()
    return b"".join([*parts, table, _crc32c(table)])


def _iter_chunks(
    planes: Array, fill: float, step: int
) -> Iterator[tuple[tuple[int, int, int], Array]]:
    """Yield chunks that hold more than the fill value, by plane, row and column."""
    height, width = planes.shape[1:]
    nothing = planes.dtype.type(fill)
    for plane, pixels in enumerate(planes):
        for y in range(0, height, step):
            for x in range(0, width, step):
                part = pixels[y : y + step, x : x + step]
                if _is_all(part, nothing):
                    continue
                if part.shape != (step, step):
                    whole = np.full((step, step), nothing)
                    whole[: part.shape[0], : part.shape[1]] = part
                    part = whole
                chunk = np.ascontiguousarray(part, part.dtype.newbyteorder("<"))
                yield (plane, y // step, x // step), chunk


def _is_all(part: Array, value: np.generic) -> bool:
    if np.isnan(value):
        return bool(np.isnan(part).all())
    # most chunks differ at once
    return bool(part[0, 0] == value and (part == value).all())


def _zstd(chunk: Array) -> bytes:
    from numcodecs.zstd import Zstd

    return bytes(Zstd(level=ZSTD_LEVEL, checksum=True).encode(chunk))


def _crc32c(data: bytes) -> bytes:
    import google_crc32c

    return int(google_crc32c.value(data)).to_bytes(4, "little")

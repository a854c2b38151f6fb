"""Shards are what zarr itself makes of the same pixels, and zarr reads them."""

from __future__ import annotations

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from geoscale.sinks.shards import ZSTD_LEVEL, encode_shard


def open_array(dtype, fill, classes, block, chunk, shape):
    lead = (classes,) if classes else ()
    return zarr.create_array(
        MemoryStore(),
        shape=(1, *lead, *shape),
        dtype=dtype,
        shards=(1, *lead, block, block),
        chunks=(1, *[1] * len(lead), chunk, chunk),
        compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=True)],
        fill_value=fill,
    )


def key_of(classes):
    return "c/0/0/0/0" if classes else "c/0/0/0"


@pytest.mark.parametrize(
    ("dtype", "fill"), [("uint8", 255), ("float16", np.nan), (">u2", 0), ("int32", -1)]
)
@given(
    classes=st.integers(0, 3),
    chunk=st.sampled_from([1, 3, 8]),
    across=st.integers(1, 4),
    shape=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    holes=st.sampled_from([0.0, 0.5, 0.99, 1.0]),
    seed=st.integers(0, 99),
)
def test_zarr_reads_back_what_was_given(  # noqa: PLR0917
    dtype, fill, classes, chunk, across, shape, holes, seed
):
    block = chunk * across
    shape = tuple(min(n, block) for n in shape)
    rng = np.random.default_rng(seed)
    data = rng.integers(0, 5, ((classes,) if classes else ()) + shape).astype(dtype)
    data[..., rng.random(shape) < holes] = fill
    array = open_array(dtype.lstrip(">"), fill, classes, block, chunk, shape)
    shard = encode_shard(data, fill, block_px=block, chunk_px=chunk)
    objects = array.store._store_dict
    array[0] = data
    theirs = objects.pop(key_of(classes), None)
    assert (shard is None) == (theirs is None)
    if shard is None:
        return
    assert len(shard) == len(theirs.to_bytes())
    objects[key_of(classes)] = type(theirs).from_bytes(shard)
    np.testing.assert_array_equal(array[0], data)


def test_a_large_shard_in_threads_is_the_same_as_one_by_one(monkeypatch):
    data = np.random.default_rng(0).integers(0, 9, (900, 700)).astype("uint8")
    pooled = encode_shard(data, 255, block_px=1024, chunk_px=128)
    monkeypatch.setattr("geoscale.sinks.shards.WORTH_BYTES", 2**40)
    assert encode_shard(data, 255, block_px=1024, chunk_px=128) == pooled


def test_a_flipped_bit_is_seen_by_zarr():
    data = np.random.default_rng(0).integers(0, 9, (64, 64)).astype("uint8")
    shard = bytearray(encode_shard(data, 255, block_px=64, chunk_px=32))
    shard[len(shard) // 3] ^= 1
    array = open_array("uint8", 255, 0, 64, 32, (64, 64))
    array[0] = data
    objects = array.store._store_dict
    objects[key_of(0)] = type(objects[key_of(0)]).from_bytes(bytes(shard))
    with pytest.raises((ValueError, RuntimeError)):
        array[0]

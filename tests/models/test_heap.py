"""Freed memory is kept for the next layer, and goes back every now and then."""

import os
import subprocess
import sys

import pytest

from geoscale.models.heap import TIDY_S, Heap

GROWTH = """
import sys
import torch
from geoscale.models.heap import keep_freed_memory
def faults():
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
kept = keep_freed_memory()
for _ in range(3):
    torch.ones(2**24)
before = faults()
for _ in range(20):
    torch.ones(2**24)
print(int(kept is not None), faults() - before)
"""


def test_it_is_tidied_when_due_and_not_before():
    now, given = [100.0], []
    heap = Heap(lambda: given.append(now[0]), clock=lambda: now[0])
    assert not heap.tidy()
    now[0] += TIDY_S
    assert heap.tidy()
    assert not heap.tidy()
    now[0] += TIDY_S
    assert heap.tidy()
    assert given == [100.0 + TIDY_S, 100.0 + 2 * TIDY_S]


@pytest.mark.skipif(sys.platform != "linux", reason="settings of glibc")
@pytest.mark.parametrize("way", ["keep", "system"])
def test_kept_memory_is_not_mapped_again(way):
    found = subprocess.run(
        [sys.executable, "-c", GROWTH],
        env=os.environ | {"GEOSCALE_MALLOC": way},
        capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    kept, faults = map(int, found)
    pages = 20 * 2**26 // 4096
    if way == "system":
        assert not kept
    elif not kept:
        pytest.skip("this C library takes no such settings")
    else:
        assert faults < pages / 4

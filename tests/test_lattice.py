"""Algebra of the lattice: covers once, enough context, independent of blocks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from geoscale.errors import PlanError
from geoscale.patches import Axis, Lattice, reflect_index
from geoscale.windows import Window


@st.composite
def axes(draw):
    alignment = draw(st.sampled_from([1, 1, 2, 4, 8]))
    patch = draw(st.integers(1, 12)) * alignment
    stride = draw(st.integers(1, patch // alignment)) * alignment
    return Axis(draw(st.integers(1, 120)), patch, stride, alignment)


@given(axes())
def test_cores_cover_every_pixel_once(axis):
    cores = [axis.core(k) for k in range(axis.count)]
    assert cores[0][0] == 0
    assert cores[-1][1] == axis.length
    assert all(a[1] == b[0] and a[0] < a[1] for a, b in pairwise(cores))


@given(axes())
def test_every_core_has_its_margin_inside_the_stack(axis):
    for k in range(axis.count):
        start, (lo, hi) = axis.start(k), axis.core(k)
        assert start % axis.alignment == 0
        assert start <= lo
        assert hi <= start + axis.patch
        assert start == 0 or lo - start >= axis.margin
        end = start + axis.patch
        assert end >= axis.length or end - hi >= axis.margin


@given(axes(), st.data())
def test_owning_and_covering_list_just_the_patches_that_do(axis, data):
    lo = data.draw(st.integers(0, axis.length - 1))
    hi = data.draw(st.integers(lo + 1, axis.length))
    every = range(axis.count)
    owning = [k for k in every if axis.core(k)[0] < hi and axis.core(k)[1] > lo]
    covering = [
        k for k in every if axis.start(k) < hi and axis.start(k) + axis.patch > lo
    ]
    assert list(axis.owning(lo, hi)) == owning
    assert list(axis.covering(lo, hi)) == covering


@given(axes(), axes(), st.sampled_from(["crop", "blend"]), st.data())
def test_gives_fill_the_block(rows, columns, merge, data):
    alignment = min(rows.alignment, columns.alignment)
    lattice = Lattice.over(
        (rows.length, columns.length),
        patch=rows.patch,
        stride=rows.stride,
        merge=merge,
        alignment=rows.alignment,
        multiple_of=data.draw(st.sampled_from([None, alignment])),
    )
    rows, columns = lattice.y, lattice.x
    y0 = data.draw(st.integers(0, rows.length - 1))
    x0 = data.draw(st.integers(0, columns.length - 1))
    core = Window(y0, x0, y0 + 7, x0 + 5).clip(lattice.shape)
    seen = np.zeros(core.shape, int)
    patches = lattice.touching(core)
    for patch in patches:
        assert patch.gives in patch.window
        seen[patch.gives.within(core)] += 1
    assert (seen == 1).all() if merge == "crop" else (seen >= 1).all()
    assert lattice.count_touching(core) == len(patches)
    read = lattice.read_window(core)
    assert all(p.window.clip(lattice.shape) in read for p in patches)
    for patch in patches:
        # what is mirrored must have been read, whatever the block
        ys = reflect_index(patch.window.y0, patch.window.y1, 0, rows.length)
        xs = reflect_index(patch.window.x0, patch.window.x1, 0, columns.length)
        assert read.y0 <= ys.min()
        assert ys.max() < read.y1
        assert read.x0 <= xs.min()
        assert xs.max() < read.x1


def test_a_block_of_whole_strides_recomputes_nothing():
    lattice = Lattice.over((4096, 4096), patch=256, stride=192, merge="crop")
    blocks = [
        Window(y, x, y + 768, x + 768).clip(lattice.shape)
        for y in range(0, 4096, 768)
        for x in range(0, 4096, 768)
    ]
    assert sum(lattice.count_touching(b) for b in blocks) == len(lattice)


@given(st.integers(-40, 40), st.integers(0, 60), st.integers(2, 30))
def test_reflect_index_is_numpys_reflect(start, size, length):
    stop = start + size
    assume(start >= -40)
    before, after = max(0, -start), max(0, stop - length)
    padded = np.pad(np.arange(length), (before, after), mode="reflect")
    want = padded[start + before : stop + before]
    assert reflect_index(start, stop, 0, length).tolist() == want.tolist()


def test_stride_larger_than_patch_is_refused():
    with pytest.raises(PlanError, match=r"stride of 320 px leaves gaps.* 256 px"):
        Axis(512, 256, 320)
    with pytest.raises(PlanError, match=r"no multiple of the model's alignment of 8"):
        Axis(512, 256, 100, 8)


def test_a_patch_that_reaches_further_out_than_in_has_its_mirror_read():
    """Found by hypothesis: pixel 3 is mirrored to 5, and was not read."""
    lattice = Lattice.over((1, 5), patch=2, stride=2, merge="crop", alignment=2)
    (patch,) = lattice.touching(Window(0, 4, 1, 5))
    assert patch.window == Window(0, 4, 2, 6)
    assert lattice.read_window(Window(0, 4, 1, 5)) == Window(0, 3, 1, 5)

"""The Zarr sink: what is written is read, whatever is torn, twice or at once."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import random
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import odc.geo.xr  # noqa: F401  (registers the accessor)
import pytest
import rioxarray  # noqa: F401  (registers the accessor)
import xarray as xr

from geoscale.errors import OutputError, SinkError, StoppedError
from geoscale.sinks.layout import load_template, open_output
from geoscale.sinks.zarr import ZarrSink
from geoscale.types import Layer, Sink
from geoscale.windows import Window


def stored(sink: ZarrSink) -> dict[str, bytes]:
    root = Path(sink.url)
    return {
        str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()
    }


def test_it_is_a_sink(sink):
    checked: Sink = sink
    assert checked is sink


def test_every_pixel_comes_back_with_ragged_edges(kit, finished):
    ds = xr.open_zarr(finished, chunks=None, mask_and_scale=False)
    for time in (0, 1):
        for name, pixels in kit.full(time).items():
            got = ds[name].isel(time=time).values
            assert got.dtype == pixels.dtype
            np.testing.assert_array_equal(got, pixels)


def test_plain_readers_find_grid_crs_and_times(kit, finished):
    ds = xr.open_zarr(finished, chunks=None)
    grid = kit.template().geobox
    assert ds.rio.crs.to_epsg() == 32636
    assert ds.classes.dtype == np.uint8
    assert ds.classes.rio.nodata == 255
    assert ds.odc.geobox == grid
    found = ds.classes.rio.transform()
    assert tuple(found) == pytest.approx(tuple(grid.transform), abs=1e-9)
    assert [str(t)[:19] for t in ds.time.values] == list(kit.template().times)
    assert ds.x.values[0] == 300_005.5
    assert ds.y.values[-1] == 5_000_000.25 - 1495
    scale = ds.confidence.isel(time=0).values
    raw = kit.full(0)["confidence"]
    np.testing.assert_allclose(scale[raw != 255], raw[raw != 255] / 254)
    assert np.isnan(scale[raw == 255]).all()


def test_open_output_is_lazy_and_knows_the_classes(finished):
    ds = open_output(finished)
    assert ds.attrs["class_names"] == ["bare land", "water", "cloud"]
    assert ds.classes.attrs["flag_meanings"] == "bare_land water cloud"
    assert ds.classes.attrs["flag_values"] == [0, 1, 7]
    assert ds.classes.attrs["flag_colors"].startswith("#AABBCC #0000FF #")
    assert ds.attrs["proj:code"] == "EPSG:32636"
    assert ds.attrs["spatial:shape"] == [150, 210]
    assert ds.attrs["plan_hash"] == "abc"
    assert not ds.classes.variable._in_memory


def test_open_output_says_that_nothing_is_there(tmp_path):
    with pytest.raises(OutputError, match="is not there; run the job first"):
        open_output(str(tmp_path / "no.zarr"))


def test_the_template_comes_back_from_the_store(kit, finished, tmp_path):
    assert load_template(finished).layout() == kit.template().layout()
    with pytest.raises(OutputError, match="no map of geoscale"):
        load_template(str(tmp_path))


def test_one_shard_is_one_object_and_its_digest_is_that_of_the_store(kit, sink):
    core = Window(128, 192, 150, 210)
    digests = sink.write(1, core, kit.pixels(1, core))
    assert list(digests) == [
        "classes/c/1/2/3",
        "confidence/c/1/2/3",
        "scores/c/1/0/2/3",
    ]
    assert list(sink.keys()) == list(digests)
    assert {k: sink.fetch_digest(k) for k in digests} == digests


def test_a_core_of_several_shards_equals_single_shards(kit, sink, tmp_path):
    other = ZarrSink(str(tmp_path / "other.zarr"), kit.template())
    other.create()
    full = Window(0, 0, *kit.shape)
    digests = kit.write_all(sink)
    wide: dict = {}
    for time in (0, 1):
        wide |= other.write(time, full, kit.pixels(time, full))
    assert wide == digests


@pytest.mark.parametrize(
    ("core", "words"),
    [
        ((0, 0, 63, 64), "core y 0 to 63 px is not a multiple of the shard's 64 px"),
        ((32, 0, 64, 64), "core y 32 to 64 px is not a multiple"),
        ((0, 192, 64, 209), "core x 192 to 209 px .* ends at 210 px"),
        ((128, 192, 192, 256), "leaves the output of"),
        ((64, 64, 64, 64), "is empty or leaves"),
    ],
)
def test_a_misaligned_core_is_refused(kit, sink, core, words):
    window = Window(*core)
    with pytest.raises(SinkError, match=words):
        sink.write(0, window, kit.pixels(0, window))
    assert not list(sink.keys())


def test_wrong_layers_are_refused_before_anything_is_written(kit, sink):
    core = kit.cores()[0]
    good = kit.pixels(0, core)
    with pytest.raises(SinkError, match="time step 2 is outside the output's 2"):
        sink.write(2, core, good)
    with pytest.raises(SinkError, match="give every layer once"):
        sink.write(0, core, {"classes": good["classes"]})
    with pytest.raises(SinkError, match="`confidence` is uint16"):
        sink.write(0, core, {**good, "confidence": good["confidence"].astype("u2")})
    with pytest.raises(SinkError, match=r"`scores` is float16 \(2, 64, 64\)"):
        sink.write(0, core, {**good, "scores": good["scores"][:2]})
    assert not list(sink.keys())


def test_writing_before_create_is_refused(kit, tmp_path):
    early = ZarrSink(str(tmp_path / "out.zarr"), kit.template())
    core = kit.cores()[0]
    with pytest.raises(SinkError, match="call `create` before"):
        early.write(0, core, kit.pixels(0, core))


def test_a_store_of_another_shape_is_not_written(kit, sink):
    other = ZarrSink(sink.url, kit.template(block_px=128))
    core = Window(0, 0, 128, 128)
    with pytest.raises(SinkError, match="do not mix two outputs"):
        other.write(0, core, kit.pixels(0, core))


def test_a_block_without_data_is_not_stored_and_reads_as_nodata(kit, sink):
    core = kit.cores()[0]
    empty = {
        layer.name: np.full(
            layer.block_shape(core.shape), layer.fill_value, layer.dtype
        )
        for layer in sink.template.layers
    }
    sink.write(0, core, kit.pixels(0, core))
    assert set(sink.write(0, core, empty).values()) == {None}
    assert not list(sink.keys())
    ds = open_output(sink.url)
    assert (ds.classes.values == 255).all()
    assert np.isnan(ds.scores.values).all()


def test_dropping_a_shard_makes_it_nodata_and_not_a_class(kit, sink):
    kit.write_all(sink)
    sink.drop("classes/c/0/1/1")
    sink.drop("classes/c/0/1/1")
    assert sink.fetch_digest("classes/c/0/1/1") is None
    classes = open_output(sink.url).classes[0].values
    assert (classes[64:128, 64:128] == 255).all()
    np.testing.assert_array_equal(classes[:64], kit.full(0)["classes"][:64])


def test_a_flipped_bit_anywhere_changes_the_digest_and_never_the_pixels(kit, sink):
    core = kit.cores()[0]
    digests = sink.write(0, core, kit.pixels(0, core))
    expected = kit.pixels(0, core)["classes"]
    path = Path(sink.url) / "classes/c/0/0/0"
    good = path.read_bytes()
    bits = range(8 * len(good))
    for bit in random.Random(5).sample(bits, 60):
        bad = bytearray(good)
        bad[bit // 8] ^= 1 << bit % 8
        path.write_bytes(bad)
        assert sink.fetch_digest("classes/c/0/0/0") != digests["classes/c/0/0/0"]
        # Zarr finds it too; only bits that mean nothing may pass, never as data.
        try:
            got = open_output(sink.url).classes[0, :64, :64].values
        except Exception:
            continue
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("left", [0, 1, 50, -1])
def test_a_torn_shard_is_found_and_a_retry_mends_it(kit, sink, left):
    core = kit.cores()[0]
    digests = sink.write(0, core, kit.pixels(0, core))
    for key in digests:
        path = Path(sink.url) / key
        path.write_bytes(path.read_bytes()[:left])
        assert sink.fetch_digest(key) != digests[key]
    assert sink.write(0, core, kit.pixels(0, core)) == digests
    assert {k: sink.fetch_digest(k) for k in digests} == digests
    got = open_output(sink.url).classes[0, :64, :64].values
    np.testing.assert_array_equal(got, kit.pixels(0, core)["classes"])


def test_threads_that_write_everything_twice_equal_one_writer(kit, sink, finished):
    jobs = [(t, c) for t in (0, 1) for c in kit.cores()] * 2
    random.Random(1).shuffle(jobs)
    with ThreadPoolExecutor(6) as pool:
        for digests in pool.map(lambda j: sink.write(*j, kit.pixels(*j)), jobs):
            assert {k: sink.fetch_digest(k) for k in digests} == digests
    plain = stored(ZarrSink(finished, kit.template()))
    got = stored(sink)
    assert plain.keys() == got.keys()
    assert all(got[k] == plain[k] for k in got if k != "zarr.json")


def test_threads_on_one_block_leave_one_whole_block(kit, sink):
    core = kit.cores()[5]
    start = threading.Barrier(4)

    def work(_):
        start.wait()
        return sink.write(0, core, kit.pixels(0, core))

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(work, range(4)))
    assert all(r == results[0] for r in results)
    assert {k: sink.fetch_digest(k) for k in results[0]} == results[0]
    assert not [k for k in stored(sink) if k.endswith(".partial")]


def _write_in_process(job):
    sink, kit, part = job
    cores = kit.cores()
    return {
        k: v
        for core in [*cores[part:], *cores[:part]]
        for k, v in sink.write(1, core, kit.pixels(1, core)).items()
    }


def test_processes_that_write_the_same_blocks_equal_one_writer(kit, sink):
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        first, second = pool.map(_write_in_process, [(sink, kit, 0), (sink, kit, 6)])
    assert first == second
    assert {k: sink.fetch_digest(k) for k in first} == first


def test_only_url_and_template_travel(kit, sink):
    core = kit.cores()[0]
    sink.write(0, core, kit.pixels(0, core))
    data = pickle.dumps(sink)
    assert len(data) < 4000
    twin = pickle.loads(data)
    assert twin._folder is None
    assert twin._checked == set()
    assert twin.url == sink.url


def test_workers_never_touch_metadata(kit, sink):
    before = {k: v for k, v in stored(sink).items() if k.endswith("zarr.json")}
    stamps = {k: os.stat(Path(sink.url) / k).st_mtime_ns for k in before}
    kit.write_all(sink)
    assert {k: v for k, v in stored(sink).items() if k.endswith("zarr.json")} == before
    assert {k: os.stat(Path(sink.url) / k).st_mtime_ns for k in before} == stamps


def test_create_again_keeps_everything_and_mends_what_is_missing(kit, sink):
    digests = kit.write_all(sink)
    sink.finalize({"done": True})
    before = stored(sink)
    (Path(sink.url) / "classes/zarr.json").write_bytes(b"")
    (Path(sink.url) / "x/c/0").unlink()
    sink.create()
    assert stored(sink) == before
    assert {k: sink.fetch_digest(k) for k in digests} == digests


def test_damaged_metadata_and_coordinates_are_found(kit, sink):
    kit.write_all(sink)
    sink.finalize({"done": True})
    assert sink.damaged_metadata() == []
    root = Path(sink.url)
    whole = stored(sink)
    for key in ("x/c/0", "time/c/0"):
        data = bytearray((root / key).read_bytes())
        data[-6] ^= 4
        (root / key).write_bytes(data)
    text = (root / "classes/zarr.json").read_text()
    (root / "classes/zarr.json").write_text(text.replace("255", "254"))
    (root / "scores/zarr.json").write_bytes(b"")
    (root / "y/zarr.json").unlink()
    bad = ["classes/zarr.json", "scores/zarr.json", "time/c/0", "x/c/0", "y/zarr.json"]
    assert sink.damaged_metadata() == bad
    sink.create()
    assert sink.damaged_metadata() == ["classes/zarr.json"]
    fresh = ZarrSink(sink.url, sink.template)
    core = kit.cores()[0]
    with pytest.raises(SinkError, match="has `fill_value` 254, the plan's is 255"):
        fresh.write(0, core, kit.pixels(0, core))
    (root / "classes/zarr.json").unlink()
    sink.create()
    assert stored(sink) == whole


def test_create_goes_on_after_an_interruption(kit, tmp_path):
    root = tmp_path / "out.zarr"
    made = ZarrSink(str(root), kit.template())
    made.create()
    whole = stored(made)
    (root / "zarr.json").write_bytes(b"{")
    (root / "scores/zarr.json").unlink()
    (root / "scores").rmdir()
    (root / ".geoscale").mkdir()
    (root / ".geoscale" / "plan.json").write_text("{}")
    made.create()
    assert {k: v for k, v in stored(made).items() if ".geoscale" not in k} == whole


def test_create_refuses_what_is_not_ours(kit, tmp_path):
    (tmp_path / "thesis.docx").write_text("years of work")
    with pytest.raises(OutputError, match=r"is something else: it holds `thesis.docx`"):
        ZarrSink(str(tmp_path), kit.template()).create()
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(OutputError, match="is something else"):
        ZarrSink(str(file), kit.template()).create()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "thesis.docx"]


def test_create_refuses_another_zarr(kit, tmp_path):
    xr.Dataset({"a": ("x", [1, 2])}).to_zarr(
        tmp_path / "a.zarr", zarr_format=3, consolidated=False
    )
    with pytest.raises(OutputError, match="a Zarr store that geoscale did not make"):
        ZarrSink(str(tmp_path / "a.zarr"), kit.template()).create()


def test_create_refuses_another_layout_and_names_the_field(kit, sink):
    other = ZarrSink(sink.url, kit.template(times=("2024-05-01",)))
    with pytest.raises(OutputError, match=r"`times` is .* there and .* here"):
        other.create()


def test_a_full_disk_stops_the_run_and_leaves_nothing_torn(kit, sink):
    core = kit.cores()[0]
    code = (
        "import pickle, resource, signal, sys\n"
        "sink, core, pixels = pickle.load(sys.stdin.buffer)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (300, 300))\n"
        "from geoscale.errors import StoppedError\n"
        "try:\n"
        "    sink.write(0, core, pixels)\n"
        "except StoppedError as err:\n"
        "    sys.exit(str(err))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=pickle.dumps((sink, core, kit.pixels(0, core))),
        capture_output=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert b"no room left" in done.stderr
    assert not list(sink.keys())
    assert not [k for k in stored(sink) if k.endswith(".partial")]


def test_a_folder_without_rights_stops_the_run(kit, sink, monkeypatch):
    core = kit.cores()[0]

    def deny(_name):
        raise PermissionError(13, "no")

    monkeypatch.setattr(sink.folder._fs, "rm_file", deny)
    with pytest.raises(StoppedError, match="not allowed to delete in"):
        sink.drop("classes/c/0/0/0")
    sink.write(0, core, kit.pixels(0, core))


def test_old_partials_are_swept_and_young_ones_kept(sink):
    root = Path(sink.url)
    old = root / "classes/.0.1f.partial"
    young = root / "classes/.0.2f.partial"
    for path in (old, young):
        path.write_bytes(b"half")
    os.utime(old, (1, 1))
    assert sink.sweep() == ["classes/.0.1f.partial"]
    assert young.exists()
    assert not old.exists()
    assert not (root / ".clock").exists()
    assert sink.sweep(older_s=-1) == ["classes/.0.2f.partial"]


def test_finalize_needs_a_store(kit, tmp_path):
    with pytest.raises(OutputError, match="run the job first"):
        ZarrSink(str(tmp_path / "no.zarr"), kit.template()).finalize()


def test_an_object_store_holds_the_same_bytes(kit, sink, finished):
    url = "memory://bucket/out.zarr"
    remote = ZarrSink(url, kit.template())
    remote.create()
    remote.create()
    core = kit.cores()[3]
    digests = remote.write(0, core, kit.pixels(0, core))
    assert digests == sink.write(0, core, kit.pixels(0, core))
    assert list(remote.keys()) == list(digests)
    assert remote.sweep() == []
    remote.finalize()
    assert load_template(url).layout() == kit.template().layout()
    remote.drop("classes/c/0/0/3")
    assert remote.fetch_digest("classes/c/0/0/3") is None


def test_a_layer_of_floats_and_a_large_block_work(kit, tmp_path):
    layer = Layer(name="height", dtype="float32", fill_value=float("nan"))
    template = kit.template(layers=(layer,), block_px=256, chunk_px=256, classes=())
    sink = ZarrSink(str(tmp_path / "out.zarr"), template)
    sink.create()
    core = Window(0, 0, *kit.shape)
    data = np.arange(150 * 210, dtype=np.float32).reshape(150, 210)
    data[3, 4] = np.nan
    assert len(sink.write(0, core, {"height": data})) == 1
    np.testing.assert_array_equal(open_output(sink.url).height[0].values, data)

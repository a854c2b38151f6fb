"""The benchmarks' own tools: what a figure rests on."""

import json
import time
import urllib.request
from collections import Counter

import numpy as np
import pytest

from benchmarks import flame, quality
from benchmarks.curve_bench import fit, growth
from benchmarks.latency import serve, take_stats
from benchmarks.page import write_page
from benchmarks.peers_bench import compare_to_peers
from benchmarks.sections import SECTIONS
from benchmarks.workloads import mirror, mirror_window


def test_a_page_without_results_invents_none(tmp_path):
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert page.count("**Missing**") == len(SECTIONS)
    assert "## Targets" not in page
    assert "no result yet" in page


def test_a_page_says_what_was_not_met(tmp_path):
    rows = [{"workload": "unet", "why": "PlanError: no such runtime", "asked": {}}]
    result = {"context": {}, "target": 0.95, "rows": rows}
    (tmp_path / "efficiency.json").write_text(json.dumps(result))
    http = {"size_px": 9, "mpx_s": {}, "ratios": {"geoscale": 0.5}, "base": "odc"}
    plane = {"context": {}, "targets": {"http": 0.8}, "http": http}
    (tmp_path / "dataplane.json").write_text(json.dumps(plane))
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "| data plane, http: over odc | ≥ 0.8 | 0.5 | **not met** |" in page
    assert "PlanError: no such runtime" in page


def test_the_server_waits_answers_ranges_and_counts(tmp_path):
    (tmp_path / "a.tif").write_bytes(bytes(range(100)))
    with serve(tmp_path, delay_ms=1) as url:
        ask = urllib.request.Request(f"{url}/a.tif", headers={"Range": "bytes=10-19"})
        with urllib.request.urlopen(ask, timeout=10) as answer:
            assert answer.status == 206
            assert answer.headers["Content-Range"] == "bytes 10-19/100"
            assert answer.read() == bytes(range(10, 20))
        time.sleep(0.3)  # the server counts once it has sent
        assert take_stats(url) == {"requests": 1, "bytes": 10, "missing": 0}
        assert take_stats(url)["requests"] == 0


def test_a_window_of_a_mirrored_band_is_part_of_the_whole():
    band = np.arange(35, dtype=np.uint16).reshape(5, 7)
    whole = mirror(band, 40)
    assert (mirror_window(band, (7, 21), (3, 40)) == whole[7:21, 3:40]).all()


def test_kappa_and_seams_of_known_maps():
    a = np.array([[0, 0, 1, 1]] * 2, np.uint8)
    assert quality.kappa(a, a) == 1
    assert quality.kappa(a, np.array([[0, 1, 0, 1]] * 2, np.uint8)) == pytest.approx(0)
    rng = np.random.default_rng(1)
    speckle = rng.integers(0, 2, (64, 64)).astype(np.uint8)
    assert quality.seams(speckle, [[32], [32]])["seam_mean"] == pytest.approx(
        1, abs=0.4
    )
    speckle[:, 32] = 1 - speckle[:, 31]
    assert quality.seams(speckle, [[], [32]])["seam_mean"] > 1.5


def test_dense_patches_of_a_pointwise_network_are_the_whole_image():
    torch = pytest.importorskip("torch")

    class Net:
        fixed = 256
        card = type("Card", (), {"output": type("Out", (), {"classes": (0, 1)})})

        def scores(self, x):
            return torch.cat([x, 1 - x], 1)

    pixels = np.random.default_rng(2).random((1, 300, 270), np.float32)
    found = quality.infer_dense(Net(), pixels)
    assert (found == (pixels[0] < 0.5)).all()


def test_a_curve_that_is_a_line_fits_and_flat_memory_is_flat():
    rows = [{"mpx": m, "wall_s": 2 + m / 5, "peak_mb": 900} for m in (1, 25, 100, 400)]
    assert fit(rows)["s_per_mpx"] == pytest.approx(0.2)
    assert fit(rows)["r2"] == pytest.approx(1)
    assert growth(rows)["ratio"] == 1


def test_ours_is_held_to_the_fastest_peer():
    rows = [
        {"contender": "a", "ours": False, "mpx_s": 0.2, "agreement": 0.9},
        {"contender": "b", "ours": False, "mpx_s": 0.4, "agreement": 0.8},
        {"contender": "geoscale", "ours": True, "mpx_s": 0.6},
        {"contender": "geoscale auto", "ours": True, "why": "refused"},
    ]
    found = compare_to_peers(rows)
    assert (found["fastest_peer"], found["best_peer_agreement"]) == ("b", 0.9)
    assert found["ratios"] == {"geoscale": 1.5}


def test_a_flame_graph_is_small_and_names_no_machine():
    ours = ("boot (threading.py)", "run_block (geoscale/engine/block.py:12)")
    stacks = Counter({(*ours, "read (rasterio/io.py:3)"): 3, ours: 1})
    drawn = flame.draw_flame(stacks)
    assert drawn == flame.draw_flame(stacks)
    assert "run_block (geoscale/engine/block.py), 100.0%" in drawn
    assert "read (rasterio/io.py), 75.0%" in drawn
    assert "threading" not in drawn


def gpu_result(**more):
    context = {"cpu": "some", "cpus": 8, "python": "3", "versions": {"torch": "2"}}
    found = {"context": context | {"when": "2026", "commit": "abc", "cuda": "Card"}}
    return {"name": "gpu", "device": {"gpu": "Card", "cores": 8}} | found | more


def test_a_run_on_a_gpu_is_held_against_the_network_on_it(tmp_path):
    row = {
        "workload": "unet", "runtime": "torch", "precision": "float32", "batch": 8,
        "patch": 512, "stride": 465, "block": 930, "recompute": 1.5, "job_mpx_s": 30.0,
        "from_host_mpx_s": 35.0, "on_device_mpx_s": 40.0, "agreement": None,
        "gpus": {"GPU-1": {"mean_busy": 70.0}},
    }  # fmt: skip
    peer = {"peer": "monai", "precision": "float32", "mpx_s": 4.0, "wall_s": [1.0, 2.0],
            "agreement": 0.9, "how": "as it is written"}  # fmt: skip
    rate = {"precision": "float32", "order": "planes", "batch": 8, "mpx_s": 60.0}
    result = gpu_result(rows=[row], peers=[peer], batches=[rate])
    (tmp_path / "gpu.json").write_text(json.dumps(result))
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "Device: gpu Card, cores 8." in page
    assert "| **30.0** | 35 | 40 | 0.75 |  | 70 |" in page
    assert "| monai | float32 | 4 | 1.0, 2.0 | 0.9 |" in page
    assert "No whole run of" not in page


def test_looks_at_a_gpu_are_no_run_of_the_benchmark(tmp_path):
    looks = {"reading": [{"reader": "rasterio", "threads": 4, "Mpx/s": 28.1}]}
    (tmp_path / "gpu.json").write_text(json.dumps(gpu_result(looks=looks)))
    page = write_page(tmp_path).read_text(encoding="utf-8")
    assert "not a run of this benchmark" in page
    assert "| rasterio | 4 | 28.1 |" in page
    assert "No whole run of `python -m benchmarks gpu` is on this page" in page
    # the machine of the other figures is not the one with the device
    assert "Machine: some" not in page

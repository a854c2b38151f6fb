"""Signatures that live for a moment: a run outlives them, and none is left behind."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import rasterio

from geoscale.engine.block import Kernel
from geoscale.engine.drive import drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.loop import LoopExecutor
from geoscale.errors import SourceError, StoppedError
from geoscale.options import Inference, Output
from geoscale.planner import make_plan
from geoscale.preprocess import Preprocessor
from geoscale.sources import open_source
from geoscale.sources.gdal import close_handles
from geoscale.sources.tiles import TILES
from geoscale.tasks.segmentation import Segmentation
from geoscale.testing import toy_card
from tests.cli.conftest import environment
from tests.sources.conftest import write_tif  # noqa: F401
from tests.support.tokens import CALLS, CANARY, TokenServer, serving
from tests.support.toy import SlowPredictor, stored_bytes, toy_sink

ROOT = Path(__file__).resolve().parents[1]
SIDE = 256
SIGNER = "tests.support.tokens:sign"


@pytest.fixture(autouse=True)
def fresh():
    close_handles()
    TILES.value.clear()
    CALLS.clear()


@pytest.fixture
def scenes(tmp_path, write_tif):  # noqa: F811
    """Two bands as files of many tiles, so that reading goes on for the whole run."""
    rng = np.random.default_rng(0)
    for name in ("b0", "b1"):
        write_tif(f"{name}.tif", rng.integers(1, 4000, (SIDE, SIDE)).astype("uint16"))
    return tmp_path


def open_scenes(base, signer=SIGNER):
    asset = {"proj:code": "EPSG:32632", "proj:shape": [SIDE, SIDE]}
    asset |= {"proj:transform": [10, 0, 600000, 0, -10, 5000000]}
    asset |= {"raster:bands": [{"data_type": "uint16"}]}
    item = {
        "type": "Feature", "stac_version": "1.0.0", "id": "x",
        "geometry": None, "properties": {"datetime": "2024-06-01T00:00:00Z"},
        "assets": {n: asset | {"href": f"{base}/{n}.tif"} for n in ("b0", "b1")},
    }  # fmt: skip
    return open_source(
        {"items": [item], "bands": ["b0", "b1"], "signer": signer}
        | {"allow_private": True}
    )


def make_kernel(source, url, delay):
    plan = make_plan(
        source,
        toy_card(bands=2, patch={"size": 24}),
        weights_sha256="0" * 64,
        inference=Inference(block=32, batch=64),
        output=Output(layers=("classes", "confidence")),
    )
    toy_sink(plan, url).create()
    return plan, Kernel(
        plan=plan,
        source=source,
        prepare=Preprocessor.from_card(plan.card),
        predictor=SlowPredictor(delay),
        task=Segmentation(plan.card, plan.output.layers),
        device_lock=threading.Lock(),
        sink=toy_sink(plan, url),
    )


def run_scenes(base, url, delay, signer=SIGNER):
    plan, kernel = make_kernel(open_scenes(base, signer), url, delay)
    journal = Journal(url)
    tally = drive(plan, journal, LoopExecutor(kernel))
    return tally, finalize(plan, journal, kernel.sink, {})


def leaks(*places):
    """Files that hold a signature."""
    files = [p for place in places for p in Path(place).rglob("*") if p.is_file()]
    assert files
    return [p for p in files if CANARY.encode() in p.read_bytes()]


@pytest.mark.parametrize("refusal", [401, 403])
def test_a_run_of_many_lives_of_a_token_loses_no_block(scenes, tmp_path, refusal):
    tokens, url = TokenServer(scenes, 0.05, refusal), str(tmp_path / "out.zarr")
    with serving(tokens) as base:
        tally, found = run_scenes(base, url, 0.01)
    assert tally.seconds > 10 * tokens.life_s
    assert tokens.seen["expired"] > 5, "tokens ended while their files were open"
    assert tokens.seen["unsigned"] == 0
    assert (tally.computed, tally.failures) == (64, 0)
    assert found.is_sound
    assert leaks(url) == []


def test_tokens_that_had_ended_when_they_were_given_out_are_asked_for_anew(
    scenes, tmp_path
):
    tokens, url = TokenServer(scenes, 60.0), str(tmp_path / "out.zarr")
    with serving(tokens) as base:
        signer = "tests.support.tokens:sign_late"
        tally, _ = run_scenes(base, url, 0.0, signer)
    assert (tally.computed, tally.failures) == (64, 0)
    assert CALLS["renewed"] == tokens.seen["expired"] > 0


def test_credentials_that_are_refused_when_fresh_stop_the_run(scenes, tmp_path):
    tokens, url = TokenServer(scenes, -1.0), str(tmp_path / "out.zarr")
    with (
        serving(tokens) as base,
        pytest.raises(StoppedError, match="were refused 8 times in a row") as told,
    ):
        run_scenes(base, url, 0.0)
    assert CANARY not in str(told.value)
    # each of 8 blocks reads two files at a time, each signed anew once
    assert CALLS["signed"] <= 8 * 2 * 2
    assert leaks(url) == []


def test_a_signer_that_is_not_there_is_refused_before_a_pixel_is_read():
    for signer, words in [
        ("nonsense", "neither `planetary-computer` nor"),
        ("no.such.module:sign", "No module named"),
        ("tests.support.tokens:nothing", "has no `nothing`"),
    ]:
        with pytest.raises(SourceError, match=words):
            open_scenes("http://127.0.0.1:9", signer)


def cut_small(path):
    """Store a scene in many small tiles: it is asked for as long as the run goes on."""
    with rasterio.open(path) as file:
        data, profile = file.read(), file.profile
    how = {"driver": "GTiff", "tiled": True, "blockxsize": 64, "blockysize": 64}
    for name in ("compress", "predictor", "interleave"):
        profile.pop(name, None)
    with rasterio.open(path, "w", **profile | how) as file:
        file.write(data)


@pytest.mark.slow
def test_a_real_run_on_a_cluster_outlives_its_tokens(tmp_path, share, proof):
    """``geoscale run -w 2`` for a minute (less by default), tokens of two seconds."""
    pytest.importorskip("spyndex")
    import geoscale as gs
    from geoscale.demo.run import prepare

    prepare(tmp_path, max(512, round(2048 * share**0.5) // 64 * 64))
    for path in tmp_path.rglob("scenes/**/*.tif"):
        cut_small(path)
    job = tmp_path / "local.yaml"
    job.write_text(
        "imagery: {items: items.json}\nmodel: s2-landcover-unet\n"
        "inference: {block: 64, patch: 184, stride: 64}\noutput: local.zarr\n"
    )
    # a shorter run has shorter tokens: several have to expire while files are open
    tokens = TokenServer(tmp_path, 2.0 if share >= 1 else 1.0)
    with serving(tokens) as base:
        found = json.loads((tmp_path / "items.json").read_text())
        for item in found["features"]:
            for asset in item["assets"].values():
                asset["href"] = asset["href"].replace("./", f"{base}/")
        (tmp_path / "signed.json").write_text(json.dumps(found))
        signed = tmp_path / "signed.yaml"
        text = job.read_text().replace("local.zarr", "signed.zarr")
        signed.write_text(
            text.replace(
                "items.json", f"signed.json, allow_private: true, signer: '{SIGNER}'"
            )
        )
        done = subprocess.run(
            [sys.executable, "-m", "geoscale.cli", "run", signed, "-w", "2", "--json"],
            capture_output=True, text=True, check=False, env=environment(), cwd=ROOT,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    print(f"{report['seconds']:.0f} s, {dict(tokens.seen)}")
    assert report["seconds"] > 2 * tokens.life_s
    assert tokens.seen["expired"] > 0
    assert report["failures"] == 0
    assert CANARY not in done.stdout + done.stderr
    gs.export(tmp_path / "signed.zarr", tmp_path / "export")
    assert leaks(tmp_path / "signed.zarr", tmp_path / "export") == []
    assert gs.run_job(job).complete
    local = stored_bytes(str(tmp_path / "local.zarr"))
    assert stored_bytes(str(tmp_path / "signed.zarr"))["classes"] == local["classes"]
    proof(faults=tokens.seen["expired"], compared=len(local["classes"]))

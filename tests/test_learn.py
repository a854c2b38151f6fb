"""What a change job learns from its whole area: found once, kept, whatever the cut."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import fourier_shift
from skimage.filters import threshold_otsu
from sklearn.metrics import roc_auc_score

import geoscale as gs
from geoscale.contrast.vectors import fit_vectors
from geoscale.engine.journal import Journal
from geoscale.errors import PlanError
from geoscale.job import parse_job
from geoscale.learn import learn
from geoscale.testing import FakeSource
from tests.support.held import Held


@pytest.fixture
def job(data_dir, tmp_path):
    """Make a job of the Taizhou pair."""

    def make(to="out", block=None, **change):
        files = [str(data_dir / "taizhou" / name) for name in ("2000TM", "2003TM")]
        names = ["blue", "green", "red", "nir", "swir16", "swir22"]
        imagery = {
            "files": files,
            "band_names": names,
            "times": ["2000-03-17", "2003-02-06"],
        }
        data = {
            "imagery": imagery,
            "task": "change",
            "change": {"method": "cva", **change},
            "output": {"to": str(tmp_path / to)},
            "inference": {"device": "cpu"} | ({"block": block} if block else {}),
        }
        return parse_job(data, where="test", base=tmp_path)

    return make


def layers(to):
    found = xr.open_zarr(to, mask_and_scale=False, decode_times=False)
    return {name: found[name].values[0] for name in ("change", "probability")}


def auc(labels, scores):
    known = labels >= 0
    return roc_auc_score(labels[known], scores[known])


@pytest.mark.parametrize(("method", "least"), [("cva", 0.990), ("irmad", 0.994)])
def test_taizhou_is_the_same_to_the_last_bit_for_every_cut(
    job,
    taizhou,
    tmp_path,
    method,
    least,
):
    before, after, labels = taizhou
    maps = []
    for block in (64, 100, 400):
        asked = job(f"out{block}", block, method=method)
        assert gs.run_job(asked).complete
        maps.append(layers(tmp_path / f"out{block}"))
    for name in ("change", "probability"):
        for other in maps[1:]:
            np.testing.assert_array_equal(other[name], maps[0][name])
    assert auc(labels, maps[0]["probability"]) >= least
    plan = Journal(str(tmp_path / "out64")).load_plan()
    told = plan.statistics
    assert (told["pixels"], told["places"], told["by"]) == (160_000, 4, "otsu")
    if method == "cva":
        m = fit_vectors(Held(before, after), "abcdef")
        assert told["threshold"] == find_by_skimage(m, before, after)
    share = (maps[0]["change"] == 1).mean()
    assert 0.05 < share < 0.10
    assert f"threshold {told['threshold']:.3g}" in plan.explain()


def find_by_skimage(vectors, before, after):
    from geoscale.contrast.pairs import Pair
    from geoscale.windows import Window

    shape = before.shape[1:]
    pair = Pair(Window(0, 0, *shape), before, after, np.ones(shape, bool))
    return threshold_otsu(vectors(pair))


def noisy(shape=(300, 280), seed=0, bands=3):
    """Two dates of one ground, of which a square changed."""
    rng = np.random.default_rng(seed)
    ground = rng.normal(1000, 300, (bands, *shape))
    data = np.stack([ground, 1.2 * ground + rng.normal(50, 30, ground.shape)])
    data[1, :, 40:90, 100:170] += 2500
    return FakeSource(data.astype(np.float32), np.ones((2, *shape), bool))


def test_a_given_magnitude_is_kept_and_no_histogram_is_needed():
    plan = gs.plan(noisy(), None, change={"method": "cva", "magnitude": 2.25})
    assert plan.card.architecture_args["threshold"] == 2.25
    assert (plan.statistics["by"], plan.statistics["threshold"]) == ("job", 2.25)


def test_no_block_or_order_changes_a_number():
    plans = [
        gs.plan(noisy(), None, change={"method": "irmad"}, block_px=block)
        for block in (32, 256)
    ]
    args = [plan.card.architecture_args for plan in plans]
    assert args[0] == args[1]
    assert plans[0].is_learned


def test_planning_without_measuring_reads_nothing():
    source = noisy()
    refusing = FakeSource(source.data, source.valid, refuse=True)
    plan = gs.plan(refusing, None, change={"method": "cva"}, measure=False)
    assert refusing.reads == 0
    assert not plan.is_learned
    assert "first pass" in plan.explain()


def test_a_run_that_goes_on_keeps_what_the_first_learned(tmp_path):
    source, to = noisy(), tmp_path / "out"
    asked = {"change": {"method": "cva"}, "block_px": 128, "measure": False}
    gs.run(gs.plan(source, None, **asked), to)
    first = Journal(str(to)).load_plan()
    refusing = FakeSource(source.data, source.valid, refuse=True)
    again = learn(gs.plan(refusing, None, **asked), str(to))
    assert again.hash == first.hash
    assert again.statistics == first.statistics
    assert gs.run(gs.plan(refusing, None, **asked), to).complete


def test_another_job_on_the_output_is_refused(tmp_path):
    asked = {"block_px": 128, "measure": False}
    gs.run(gs.plan(noisy(), None, change={"method": "cva"}, **asked), tmp_path / "out")
    other = gs.plan(noisy(), None, change={"method": "irmad"}, **asked)
    with pytest.raises(PlanError, match="begun by another plan"):
        gs.run(other, tmp_path / "out")


def test_workers_give_the_same_bits():
    with gs.connect(2) as client:
        for method in ("cva", "irmad"):
            plan = gs.plan(noisy(), None, change={"method": method}, measure=False)
            here = learn(plan)
            there = learn(plan, client=client)
            assert there.card.architecture_args == here.card.architecture_args
            assert there.statistics == here.statistics


def test_later_parts_wait_for_what_the_first_learns(tmp_path):
    source = noisy()
    refusing = FakeSource(source.data, source.valid)
    plans = [
        gs.plan(one, None, change={"method": "cva"}, block_px=128, measure=False)
        for one in (source, refusing)
    ]
    with ThreadPoolExecutor(1) as pool:
        later = pool.submit(gs.run, plans[1], tmp_path / "out", shard=(1, 2))
        time.sleep(0.3)
        assert (later.done(), refusing.reads) == (False, 0)
        gs.run(plans[0], tmp_path / "out", shard=(0, 2))
        later.result(timeout=60)
    assert gs.status(tmp_path / "out")["complete"]


def test_nothing_in_common_is_said():
    source = noisy()
    source.valid[0, :150] = False
    source.valid[1, 150:] = False
    with pytest.raises(PlanError, match=r"only 0 pixels .* valid at both dates"):
        gs.plan(source, None, change={"method": "cva"})


def test_three_dates_are_too_many():
    source = noisy()
    three = FakeSource(
        np.concatenate([source.data, source.data[:1]]), np.ones((3, 300, 280), bool)
    )
    with pytest.raises(PlanError, match="cva compares two dates, the stack has 3"):
        gs.plan(three, None, change={"method": "cva"})


def test_an_area_of_interest_is_all_that_counts():
    plan = gs.plan(noisy(), None, change={"method": "cva"})
    west, south, east, north = _lonlat(noisy().geobox, (0, 0, 150, 280))
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    inside = gs.plan(
        noisy(),
        None,
        change={"method": "cva"},
        aoi={"type": "Polygon", "coordinates": [ring]},
    )
    assert inside.statistics["pixels"] < 0.6 * plan.statistics["pixels"]
    assert inside.card.architecture_args["mean"] != plan.card.architecture_args["mean"]


def _lonlat(geobox, rows):
    from odc.geo.geom import box

    y0, x0, y1, x1 = rows
    a = geobox.affine
    left, top = a * (x0, y0)
    right, bottom = a * (x1, y1)
    found = box(left, bottom, right, top, geobox.crs).to_crs("EPSG:4326").boundingbox
    return tuple(found)


def shifted(y, x, seed=3):
    """Two dates of smooth ground; the second lies y, x beside."""
    rng = np.random.default_rng(seed)
    ground = np.cumsum(np.cumsum(rng.normal(0, 1, (1, 256, 256)), 1), 2)
    ground -= ground.mean()
    moved = np.fft.ifft2(fourier_shift(np.fft.fft2(ground[0]), (y, x))).real[None]
    data = np.stack([ground, moved]) + rng.normal(0, 0.01, (2, 1, 256, 256))
    return FakeSource(data.astype(np.float32), np.ones((2, 256, 256), bool))


def test_a_shift_is_reported_and_warned_about():
    plan = gs.plan(shifted(0.35, -0.6), None, change={"method": "cva"})
    told = plan.statistics["shifts"][0]
    assert told["y"] == pytest.approx(0.35, abs=0.05)
    assert told["x"] == pytest.approx(-0.6, abs=0.05)
    assert any("register the scenes" in note for note in plan.notes)
    assert "px beside" in plan.explain()
    calm = gs.plan(shifted(0.1, 0.2), None, change={"method": "cva"})
    assert not any("beside" in note for note in calm.notes)
    assert calm.statistics["shifts"][0]["places"] == 1
    off = gs.plan(
        shifted(0.35, -0.6), None, change={"method": "cva", "coregister": "none"}
    )
    assert "shifts" not in off.statistics


def test_what_is_only_reported_does_not_name_another_result():
    one, two = (
        gs.plan(noisy(), None, change={"method": "cva", "coregister": how})
        for how in ("none", "report")
    )
    assert one.hash == two.hash
    other = gs.plan(noisy(), None, change={"method": "cva", "magnitude": 9})
    assert other.hash != one.hash

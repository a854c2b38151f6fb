"""Monte Carlo dropout: means and spreads that know nothing of blocks and batches."""

from __future__ import annotations

import numpy as np
import pytest

import geoscale
from geoscale.errors import CardError, JobError, PlanError
from geoscale.models import ModelSettings, get_predictor
from geoscale.models.dropping import DroppedPredictor, Masks, open_dropout
from geoscale.options import Inference
from geoscale.sinks.layout import open_output
from tests.support.coarse import build, classes, imagery, make_card
from tests.support.forecasts import forecast_card, series

torch = pytest.importorskip("torch")


def doubtful(folder, net="Doubtful", task="segmentation", **output):
    said = output or {"classes": classes()}
    return make_card(folder, net, task, said, size=16, halo=1)


def run(card, to, source=None, **options):
    source = imagery((37, 45)) if source is None else source
    plan = geoscale.plan(source, card, trust_code=True, **options)
    assert geoscale.run(plan, to, trust_code=True).complete
    return plan, open_output(str(to))


@pytest.fixture
def predictor(tmp_path):
    settings = ModelSettings(device="cpu", batch=3, trust_code=True, drops=True)
    return get_predictor(doubtful(tmp_path), settings)


def patches(count=3):
    rng = np.random.default_rng(0)
    return rng.normal(size=(count, 2, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_blocks_change_neither_means_nor_spreads(tmp_path, merge):
    card, found = doubtful(tmp_path), []
    for block in (24, 48):
        plan, data = run(
            card, tmp_path / f"{merge}{block}.zarr", block_px=block, stride_px=8,
            merge=merge, mc_dropout=5, batch=2,
            output={"layers": ["classes", "scores"], "overviews": False},
        )  # fmt: skip
        found.append(data)
    for name in ("classes", "scores", "spread"):
        np.testing.assert_array_equal(found[0][name].values, found[1][name].values)
    assert "each run 5 times with dropout: 5 x the work" in str(plan)
    assert "classes, scores, spread" in str(plan)


def test_a_run_that_was_cut_off_goes_on_to_the_same_map(tmp_path):
    plan = geoscale.plan(
        imagery((37, 45)), doubtful(tmp_path), mc_dropout=3, block_px=24
    )
    to = tmp_path / "a.zarr"
    assert not geoscale.run(plan, to, trust_code=True, shard=(1, 2)).complete
    assert geoscale.run(plan, to, trust_code=True).complete
    geoscale.run(plan, tmp_path / "b.zarr", trust_code=True)
    one, other = open_output(str(to)), open_output(str(tmp_path / "b.zarr"))
    for name in ("classes", "confidence", "spread"):
        np.testing.assert_array_equal(one[name].values, other[name].values)


def test_a_patch_has_its_result_wherever_it_comes(predictor):
    x = patches()
    several = DroppedPredictor(predictor, 4)
    said = several.predict(x)
    order = [2, 0, 1]
    np.testing.assert_array_equal(several.predict(x[order]), said[order])
    assert (said[:, 3:] > 0).mean() > 0.9
    # without runs it is the plain network, which leaves nothing out
    plain = predictor.predict(x)
    assert np.abs(said[:, :3] - plain).max() > 0.01
    assert np.abs(plain.sum(axis=1) - 1).max() < 1e-5


def test_mean_and_spread_are_those_of_the_runs(predictor):
    x, runs = patches(), []
    for number in range(6):
        predictor.masks.run = number
        runs.append(predictor.predict(x))
    predictor.masks.run = None
    said = DroppedPredictor(predictor, 6).predict(x)
    np.testing.assert_allclose(said[:, :3], np.mean(runs, axis=0), atol=1e-6)
    np.testing.assert_allclose(said[:, 3:], np.std(runs, axis=0, ddof=1), atol=1e-6)


def test_it_agrees_with_torchs_own_dropout(tmp_path, predictor):
    """Means over very many runs: of ours, and of the network left in training mode."""
    x = patches()
    said = DroppedPredictor(predictor, 300).predict(x)
    network = build(doubtful(tmp_path))
    network.some.train()
    network.planes.train()
    torch.manual_seed(3)
    with torch.inference_mode():
        given = torch.from_numpy(x)
        runs = torch.stack([network(given).softmax(1) for _ in range(300)])
    np.testing.assert_allclose(said[:, :3], runs.mean(0), atol=0.08)
    np.testing.assert_allclose(said[:, 3:], runs.std(0), atol=0.08)
    assert np.abs(said[:, :3] - runs.mean(0).numpy()).mean() < 0.01


def test_numbers_are_drawn_by_their_chance():
    masks = Masks()
    masks.run = 0
    masks.begin(patches(2))
    drawn = masks.draw((2, 40, 50, 50), 0.25)
    assert set(np.unique(drawn)) == {0, np.float32(4 / 3)}
    assert drawn.mean() == pytest.approx(1, abs=0.01)
    assert (drawn[0] != drawn[1]).any()
    again = masks.draw((2, 40, 50, 50), 0.25)
    assert (again != drawn).any(), "the second layer leaves out what the first did"
    planes = masks.share((4000, 1, 1), 0.5)
    assert planes.shape == (1, 4000, 1, 1)
    assert planes.mean() == pytest.approx(1, abs=0.05)
    masks.begin(patches()[2:])
    for _ in range(2):
        masks.draw((1, 1), 0.5)
    np.testing.assert_array_equal(masks.share((4000, 1, 1), 0.5), planes)


def test_masks_are_the_same_for_ever():
    """Numbers that went into stored maps: a resume years later needs them."""
    masks = Masks()
    masks.run = 2
    masks.begin(np.arange(8, dtype=np.float32).reshape(1, 2, 2, 2))
    drawn = masks.draw((1, 2, 3, 3), 0.5).astype(int).ravel()
    assert "".join(map(str, drawn)) == "022222202000000202"


def test_planes_that_are_left_out_make_no_seams(tmp_path):
    """Each run is the map of one smaller network: cropped, that of the whole image."""
    card, source = doubtful(tmp_path, "Planes"), imagery((37, 45))
    _, data = run(
        card, tmp_path / "out.zarr", source, mc_dropout=4, merge="crop", block_px=14,
        output={"layers": ["scores"], "scores_dtype": "float16"},
    )  # fmt: skip
    network = build(card)
    masks, runs = open_dropout(network, card.name), []
    x = np.where(source.valid[0], source.data[0], 0)[None]
    for number in range(4):
        masks.run = number
        masks.begin(x)
        with torch.inference_mode():
            runs.append(network(torch.from_numpy(x)).softmax(1)[0].numpy())
    valid = source.valid[0]
    scores, spread = data["scores"].values[0], data["spread"].values[0]
    np.testing.assert_allclose(
        scores[:, valid], np.mean(runs, axis=0)[:, valid], atol=1e-3
    )
    best = np.mean(runs, axis=0).argmax(0)[None]
    want = np.take_along_axis(np.std(runs, axis=0, ddof=1), best, 0)[0]
    np.testing.assert_allclose(spread[valid], want[valid], atol=0.6 / 254)
    assert spread[valid].max() > 0.1


def test_entries_of_a_patch_are_its_own(tmp_path):
    card = doubtful(tmp_path, "Entries")
    settings = ModelSettings(device="cpu", batch=3, trust_code=True, drops=True)
    several = DroppedPredictor(get_predictor(card, settings), 3)
    x = patches()
    np.testing.assert_array_equal(several.predict(x[::-1]), several.predict(x)[::-1])
    card = doubtful(tmp_path, "Mixed")
    mixed = DroppedPredictor(get_predictor(card, settings), 3)
    with pytest.raises(CardError, match="cannot tell which part is whose"):
        mixed.predict(x)


def test_the_spread_is_that_of_the_class_in_the_map(tmp_path):
    from geoscale.tasks.segmentation import Segmentation
    from geoscale.tasks.spread import WithSpread

    card = doubtful(tmp_path)
    task = WithSpread(Segmentation(card, ("classes",), "uint8"), card)
    means = np.float32([[[0.2, 0.5]], [[0.7, 0.5]], [[0.1, 0.0]]])
    spreads = np.float32([[[0.1, 0.5]], [[0.25, 0.3]], [[0.4, 0.0]]])
    done = task.finish(np.concatenate([means, spreads]), np.array([[True, True]]))
    assert done["spread"].tolist() == [[round(0.25 * 254), 127]]
    done = task.finish(np.concatenate([means, spreads]), np.array([[False, True]]))
    assert done["spread"].tolist() == [[255, 127]]


def test_numbers_have_a_spread_in_their_units(tmp_path):
    bands = [{"name": "height", "units": "m", "multiply": -10.0}, {"name": "cover"}]
    card = doubtful(tmp_path, task="regression", bands=bands)
    _, data = run(card, tmp_path / "out.zarr", mc_dropout=4)
    assert data["height_spread"].attrs["units"] == "m"
    valid = np.isfinite(data["height"].values)
    np.testing.assert_array_equal(np.isfinite(data["height_spread"].values), valid)
    assert (data["height_spread"].values[valid] >= 0).all()
    assert data["height_spread"].values[valid].mean() > 0.1


def test_a_forecast_has_a_spread_for_each_of_its_dates(tmp_path):
    card = forecast_card(tmp_path, "Dropped")
    _, data = run(card, tmp_path / "out.zarr", series(shape=(37, 45)), mc_dropout=3)
    assert data["forecast_spread"].shape == data["forecast"].shape == (3, 4, 37, 45)
    assert (data["forecast_spread"].values[np.isfinite(data["forecast"])] >= 0).all()


def test_a_plan_without_it_is_what_it_was():
    assert "mc_dropout" not in Inference().model_dump()
    again = Inference.model_validate(Inference(mc_dropout=7).model_dump())
    assert again.mc_dropout == 7


def test_a_network_without_dropout_is_refused(tmp_path):
    card = make_card(tmp_path, "Strided", "segmentation",
                     {"classes": classes(), "reduction": 4}, size=16)  # fmt: skip
    with pytest.raises(CardError, match="has none with a chance above 0: leave it out"):
        open_dropout(build(card), card.name)
    plan = geoscale.plan(imagery(), card, mc_dropout=3)
    with pytest.raises(CardError, match="mc_dropout"):
        geoscale.run(plan, tmp_path / "out.zarr", trust_code=True)


def test_what_does_not_go_together_is_refused(tmp_path):
    source, card = imagery(), doubtful(tmp_path)
    for runtime in ("compile", "onnx", "openvino"):
        with pytest.raises(PlanError, match=f"runtime `{runtime}` has closed for good"):
            geoscale.plan(source, card, mc_dropout=3, runtime=runtime)
    with pytest.raises(PlanError, match=r"does not go with `tta: all`"):
        geoscale.plan(source, card, mc_dropout=3, tta="all")
    with pytest.raises(PlanError, match=r"does not go with `runtime: auto`"):
        geoscale.plan(source, card, mc_dropout=3, runtime="auto", measure=False)
    with pytest.raises(JobError, match="one run has no spread; say 2 or more"):
        geoscale.plan(source, card, mc_dropout=1)
    onnx = card.model_copy(
        update={"weights": card.weights.model_copy(update={"format": "onnx"})}
    )
    with pytest.raises(PlanError, match=r"a file that holds `toy-doubtful` has closed"):
        geoscale.plan(source, onnx, mc_dropout=3)
    said = {"features": 8, "reduction": 4, "activation": "none"}
    bone = make_card(tmp_path, "Backbone", "backbone", said, size=16)
    with pytest.raises(PlanError, match="this job makes embedding: leave it out"):
        geoscale.plan(source, bone, task="embedding", mc_dropout=3)


def test_spreads_are_had_lazily_too(tmp_path):
    source, card = imagery((37, 45)), doubtful(tmp_path)
    _, data = run(card, tmp_path / "out.zarr", source, mc_dropout=3, block_px=24)
    how = {"trust_code": True, "block_px": 24}
    lazy = geoscale.predict(source, card, layer="spread", mc_dropout=3, **how)
    decoded = np.where(lazy.values == 255, np.nan, lazy.values / 254)
    np.testing.assert_allclose(decoded, data["spread"].values, atol=1e-6)
    with pytest.raises(JobError, match="say how many: mc_dropout=20"):
        geoscale.predict(source, card, layer="spread", **how)
    said = doubtful(tmp_path, task="regression", bands=[{"name": "height"}])
    lazy = geoscale.predict(source, said, layer="height_spread", mc_dropout=3, **how)
    assert (lazy.values[np.isfinite(lazy.values)] >= 0).all()


def test_a_layer_of_two_names_drops_under_both():
    from torch import nn

    net = nn.Module()
    net.one = net.two = nn.Dropout(0.5)
    inner = nn.Sequential(nn.Conv2d(1, 1, 1), nn.Dropout(0.0), nn.Dropout3d(0.5))
    net.inner = inner
    net.eval()
    masks = open_dropout(net, "net")
    masks.run = 0
    masks.begin(patches(1))
    x = torch.ones(1, 1, 20, 20)
    for name in ("one", "two"):
        assert (getattr(net, name)(x) == 0).any()
    assert isinstance(inner[1], nn.Dropout), "a chance of 0 leaves nothing out"
    masks.run = None
    assert (net.one(x) == x).all()

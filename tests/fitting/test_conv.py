"""A head of convolutions: it sees what lies around a pixel, and so does its map."""

import numpy as np
import pytest
import torch
import xarray as xr

import geoscale as gs
from geoscale.errors import JobError, MemoryPlanError
from geoscale.fitting.chips import check_room, cut_chips, middle
from geoscale.fitting.heads import fit_head
from geoscale.heads import Head
from geoscale.models import conv_head
from geoscale.models.conv_head import REACH, ConvHead, train_conv
from geoscale.models.heads import make_head
from geoscale.testing import toy_geobox
from tests.fitting.test_fit import SIZE, fit, seeded_net, write_labels

pytest.importorskip("sklearn")
pytest.importorskip("spyndex")


def make_texture(seed=0):
    """Stripes of even and of chequered land: any one pixel says nothing of either."""
    from odc.geo.xr import xr_coords

    rng = np.random.default_rng(seed)
    kind = (np.arange(SIZE) // 16 % 2)[None, :].repeat(SIZE, 0)
    y, x = np.mgrid[:SIZE, :SIZE]
    chequered = np.where((y + x) % 2, 0.1, 0.3)
    even = np.where((y // 16) % 2, 0.1, 0.3)
    red = np.where(kind == 1, chequered, even)
    data = np.stack([red, 0.4 - red]) + rng.normal(0, 0.02, (2, SIZE, SIZE))
    coords = {"band": ["red", "nir"], **xr_coords(toy_geobox((SIZE, SIZE)))}
    return xr.DataArray(
        data.astype(np.float32), dims=("band", "y", "x"), coords=coords,
        attrs={"scale": 1.0},
    ), kind  # fmt: skip


@pytest.fixture(autouse=True)
def few_passes(monkeypatch):
    monkeypatch.setattr(conv_head, "EPOCHS", 40)


@pytest.fixture
def labels(tmp_path):
    _, kind = make_texture()
    picked = np.random.default_rng(1).permutation(SIZE * SIZE)[:150]
    names = ("even", "rough")
    rows = [(p // SIZE, p % SIZE, names[kind[p // SIZE, p % SIZE]]) for p in picked]
    return write_labels(tmp_path / "l.gpkg", rows)


@pytest.fixture
def found(tmp_path, labels):
    return fit(tmp_path, labels, stack=make_texture()[0], head="conv")


def test_texture_becomes_a_map_whatever_the_blocks(tmp_path, found):
    assert set(found.report["features"]) == {"chosen", "indices", "pixel"}
    held = {k: v["pooled"]["accuracy"] for k, v in found.report["features"].items()}
    assert held["chosen"] > 0.9
    assert held["pixel"] < 0.7, "one pixel says nothing"
    assert len(found.report["features"]["chosen"]["epochs"]) == 3
    assert "`bands`, conv " in str(found)
    assert "`bands`, logistic " in str(found)
    card = gs.load_model(found.card)
    assert card.output.head.reach == card.input.patch.halo == REACH
    stack, kind = make_texture(seed=3)
    maps = []
    for block, patch in ((16, 32), (64, 32), (64, 64)):
        plan = gs.plan(
            stack, card, block_px=block, patch_px=patch,
            output={"layers": ["classes", "confidence"]},
        )  # fmt: skip
        gs.run(plan, tmp_path / f"{block}-{patch}.zarr")
        maps.append(gs.open_output(str(tmp_path / f"{block}-{patch}.zarr")).load())
    assert (maps[0].classes.values[0] == kind).mean() > 0.9
    assert maps[0].classes.equals(maps[1].classes)
    assert maps[0].confidence.equals(maps[1].confidence)
    # other patches, the same map: the halo holds all that the head sees
    assert maps[0].classes.equals(maps[2].classes)
    assert abs(maps[0].confidence - maps[2].confidence).max() < 0.01


def test_the_head_is_fitted_to_what_its_map_will_see():
    rng = np.random.default_rng(0)
    image = rng.normal(5, 2, (3, 12, 14)).astype(np.float32)
    y, x = (n.ravel() for n in np.mgrid[:12, :14])
    chips = cut_chips(image, y, x, REACH)
    assert chips.shape == (12 * 14, 3, 5, 5)
    made = start_of(chips, (image[0].ravel() > 5).astype(int), 2, seed=0, epochs=3)
    head = make_head(made.spec(), 2)
    state = {k: torch.from_numpy(np.array(v)) for k, v in made.tensors(2.0).items()}
    head.load_state_dict(state, strict=True)
    with torch.inference_mode():
        whole = head(torch.from_numpy(image)[None])[0].reshape(2, -1).numpy().T
    # every pixel, those at the edges too
    np.testing.assert_allclose(whole, made.logits(chips) / 2, atol=1e-5)


def start_of(chips, codes, classes, **more):
    """Train from the linear head of the chips' middles."""
    stop = more.get("stop")
    mine = slice(None) if stop is None else ~stop
    start = fit_head("logistic", middle(chips)[mine], codes[mine], classes)
    return train_conv(chips, codes, start.tensors(1.0), **more)


def make_chips(n=120, seed=0):
    rng = np.random.default_rng(seed)
    codes = np.arange(n) % 3
    x = rng.normal(size=(n, 4, 5, 5)) + codes[:, None, None, None]
    return x.astype(np.float32), codes


def test_training_follows_the_seed_and_leaves_random_numbers_alone():
    x, codes = make_chips()
    torch.manual_seed(9)
    want = torch.rand(1)
    torch.manual_seed(9)
    first, second = (start_of(x, codes, 3, seed=4, epochs=2) for _ in range(2))
    assert torch.rand(1) == want
    other = start_of(x, codes, 3, seed=5, epochs=2)
    for name, value in first.state.items():
        assert (value == second.state[name]).all()
    assert (first.state["mix.weight"] != other.state["mix.weight"]).any()


def test_ground_that_says_when_to_stop_teaches_nothing():
    x, codes = make_chips()
    stop = np.arange(120) >= 90
    changed = x.copy()
    changed[stop] *= 1.1
    first = start_of(x, codes, 3, seed=0, stop=stop, epochs=1)
    second = start_of(changed, codes, 3, seed=0, stop=stop, epochs=1)
    for name, value in first.state.items():
        assert (value == second.state[name]).all()
    # labels of chance there: what is learned does not help, and it stops early
    chance = np.where(stop, np.random.default_rng(0).permutation(codes), codes)
    assert start_of(x, chance, 3, seed=0, stop=stop).epochs < 30
    assert start_of(x, codes, 3, seed=0, epochs=7).epochs == 7


def test_a_class_without_a_pixel_gets_nothing():
    x, codes = make_chips()
    made = start_of(x, codes // 2 * 2, 3, seed=0, epochs=2)
    assert made.logits(x)[:, 1].max() == -30


def test_it_begins_as_the_logistic_head_and_stays_so_where_nothing_is_to_be_learned():
    x, codes = make_chips()
    made = start_of(x, codes, 3, seed=0, epochs=0)
    plain = fit_head("logistic", middle(x), codes, 3)
    np.testing.assert_allclose(made.logits(x), plain.logits(middle(x)), atol=1e-4)
    assert made.epochs == 0
    assert (start_of(x, codes, 3, seed=0, epochs=1).logits(x) != made.logits(x)).any()


def test_a_networks_features_and_its_ring(tmp_path, labels):
    stack, _ = make_texture()
    card = seeded_net(tmp_path)
    ring = {**card.input.patch.model_dump(), "halo": 4}
    fields = {**card.model_dump(), "input": {**card.input.model_dump(), "patch": ring}}
    card = type(card).model_validate(fields)
    found = fit(
        tmp_path, labels, card, stack=stack, head="conv", with_bands=True,
        calibrate="sigmoid", trust_code=True, per_class=20, block_m=100, floor=False,
    )  # fmt: skip
    made = gs.load_model(found.card)
    assert made.input.patch.halo == 4 + REACH
    assert made.output.head.inputs == 6 + 2
    assert set(found.report["features"]) == {"chosen"}
    assert found.report["features"]["chosen"]["count"] == 8


def test_two_folds_leave_none_to_stop_by(tmp_path, labels):
    with pytest.raises(JobError, match="a conv head needs 3 or more"):
        fit(tmp_path, labels, stack=make_texture()[0], head="conv", folds=2)


def test_labels_that_memory_does_not_hold_are_refused(tmp_path):
    card = seeded_net(tmp_path)
    # (6 features + 2 bands) x 4 copies x 4 bytes = 128 bytes a pixel, x 25 in a chip
    check_room(card, 1000, 0, 161_000)
    with pytest.raises(
        MemoryPlanError,
        match=r"1,000 labelled pixels of 8 features take .*take about 800 in all",
    ):
        check_room(card, 1000, 0, 128_000)
    with pytest.raises(MemoryPlanError, match=r"what lies 2 px around them take"):
        check_room(card, 1000, 2, 3_900_000)
    check_room(card, 1000, 2, 4_100_000)


def test_what_the_card_says_is_what_the_network_sees():
    torch.manual_seed(0)
    head = ConvHead(2, 2)
    x = torch.zeros(1, 2, 32, 32)
    near, far = x.clone(), x.clone()
    near[..., 16, 16 + REACH], far[..., 16, 16 + REACH + 1] = 9, 9
    assert Head(kind="conv", inputs=2, hidden=32, reach=REACH).reach == REACH
    with torch.inference_mode():
        middle = [head(one)[..., 16, 16] for one in (x, near, far)]
    assert not torch.equal(middle[0], middle[1])
    assert torch.equal(middle[0], middle[2])

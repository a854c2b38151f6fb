"""Test-time augmentation: turned, undone exactly, and nothing of the cut in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import geoscale as gs
from geoscale.errors import JobError, PlanError
from geoscale.models import ModelSettings, get_predictor
from geoscale.models.turning import TURNS, TurnedPredictor, turn, turn_back
from geoscale.options import RUNS, Inference
from tests.support.cards import simplecnn
from tests.support.chips import crop_chip, open_chip

PX = np.arange(2 * 3 * 6 * 6, dtype=np.float32).reshape(2, 3, 6, 6)


@pytest.fixture(scope="module")
def corner(data_dir: Path, tmp_path_factory: Any) -> Any:
    to = tmp_path_factory.mktemp("corner") / "corner.tif"
    return open_chip(crop_chip(data_dir, to, 110, 120))


@pytest.mark.parametrize("name", TURNS)
def test_turns_differ_and_are_undone(name: str) -> None:
    turned = [turn(PX, how) for how in TURNS[name]]
    assert len(turned) == RUNS[name]
    assert len({x.tobytes() for x in turned}) == RUNS[name]
    for x, how in zip(turned, TURNS[name], strict=True):
        np.testing.assert_array_equal(turn_back(x, how), PX)


def test_flips_keep_patches_that_are_not_square() -> None:
    assert all(turn(PX[..., :4], how).shape == (2, 3, 6, 4) for how in TURNS["flips"])


class Pointwise:
    """Knows of no place: turned or not, it says the same of a pixel."""

    batch, model_id, device_name = 2, "", "cpu"

    def predict(self, patches: Any) -> Any:
        return np.abs(patches[:, :2]) / 256

    def describe(self) -> dict[str, Any]:
        return {}


class Corner(Pointwise):
    """Knows of places: it counts pixels from the first."""

    def predict(self, patches: Any) -> Any:
        n, _, *shape = patches.shape
        places = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        return np.broadcast_to(places, (n, 2, *shape)).copy()


@pytest.mark.parametrize("name", TURNS)
def test_the_mean_is_exact(name: str) -> None:
    alike: Any = Pointwise()
    said = TurnedPredictor(alike, name).predict(PX)
    np.testing.assert_array_equal(said, alike.predict(PX))
    corner: Any = Corner()
    said = TurnedPredictor(corner, name).predict(PX)
    # every turn has its opposite, so places cancel out
    np.testing.assert_array_equal(said, np.full_like(said, (36 - 1) / 2))


def test_a_plan_without_it_is_what_it_was() -> None:
    assert "tta" not in Inference().model_dump()
    assert Inference(tta="flips").model_dump()["tta"] == "flips"
    assert Inference.model_validate(Inference(tta="all").model_dump()).tta == "all"


def test_maps_with_it_know_nothing_of_blocks(
    data_dir: Path, corner: Any, tmp_path: Path
) -> None:
    card, maps = simplecnn(data_dir), []
    layers: Any = {"output": {"layers": ["classes", "scores"]}, "patch_px": 64}
    for block in (56, 80):
        plan = gs.plan(corner, card, block_px=block, tta="all", **layers)
        assert "each run 8 times (tta all): 8 x the work" in plan.explain()
        to = tmp_path / str(block)
        assert gs.run(plan, to, trust_code=True).exit_code == 0
        maps.append(gs.open_output(str(to)))
    for name in ("classes", "scores"):
        np.testing.assert_array_equal(maps[0][name], maps[1][name])
    plain = gs.plan(corner, card, block_px=56, **layers)
    assert plain.hash != plan.hash
    assert gs.run(plain, tmp_path / "plain", trust_code=True).exit_code == 0
    other = gs.open_output(str(tmp_path / "plain"))
    assert (other.scores.values != maps[0].scores.values).any()
    assert (other.classes.values == maps[0].classes.values).mean() > 0.9


def test_turned_maps_turn_with_the_image(data_dir: Path) -> None:
    """The mean over all turns of a patch is the turned mean of the turned patch."""
    card = simplecnn(data_dir)
    settings = ModelSettings(device="cpu", batch=1, trust_code=True)
    predictor = TurnedPredictor(get_predictor(card, settings), "all")
    x = np.random.default_rng(0).normal(size=(1, 13, 128, 128)).astype(np.float32)
    how = (1, True)
    one, other = predictor.predict(x), predictor.predict(turn(x, how))
    np.testing.assert_allclose(turn_back(other, how), one, atol=1e-6)


def test_rotations_want_squares(data_dir: Path, corner: Any) -> None:
    from geoscale.planner import make_plan
    from geoscale.testing import scene, toy_card

    card = toy_card(patch={"size": 64, "halo": 1})
    source = scene((40, 90), bands=len(card.input.bands))
    options: Any = {"weights_sha256": "0"}
    with pytest.raises(PlanError, match=r"not square: say `tta: flips`"):
        make_plan(source, card, inference=Inference(tta="rotations"), **options)
    make_plan(source, card, inference=Inference(tta="flips"), **options)
    with pytest.raises(JobError, match="tta"):
        gs.plan(corner, simplecnn(data_dir), tta="sideways")

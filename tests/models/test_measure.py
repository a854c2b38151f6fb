from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.models.measure import measure_alignment, measure_halo
from geoscale.preprocess import Preprocessor
from tests.support import cards

CPU = ModelSettings(device="cpu", trust_code=True, batch=1, patch=64)


def crop(card: Any, spain: np.ndarray, bands: list[str], size: int) -> np.ndarray:
    index = [cards.S2_BANDS.index(b) for b in bands]
    scale = card.input.multiply / 10000
    data = spain[None, index, :size, :size] * scale
    prep = Preprocessor.from_card(card, trust_code=True)
    return prep.prepare(data, np.ones((1, size, size), bool))[0]


def test_measures_agree_with_the_cards(data_dir: Path, spain: np.ndarray) -> None:
    simple = cards.simplecnn(data_dir)
    x = crop(simple, spain, cards.S2_BANDS, 64)
    run = get_predictor(simple, CPU).predict
    assert measure_halo(run, x, limit=8) == simple.input.patch.halo == 4
    assert measure_alignment(run, x, halo=4) == simple.input.patch.alignment == 1

    world = cards.dynamic_world(data_dir)
    x = crop(world, spain, cards.DYNAMIC_WORLD_BANDS, 128)
    run = get_predictor(world, CPU).predict
    halo = measure_halo(run, x, alignment=2, limit=32, tolerance=1e-5)
    assert halo is not None
    assert halo <= (world.input.patch.halo or 0)
    assert measure_alignment(run, x, halo=22) == world.input.patch.alignment == 2

    demo = find_card("s2-landcover-unet")
    x = crop(demo, spain, ["B2", "B3", "B4", "B8"], 128)
    run = get_predictor(demo, CPU).predict
    halo = measure_halo(run, x, alignment=4, limit=32)
    assert halo is not None
    assert halo <= (demo.input.patch.halo or 0)
    assert measure_alignment(run, x, halo=28) == demo.input.patch.alignment == 4


def test_a_network_that_looks_at_the_whole_patch_has_no_halo() -> None:
    x = np.random.default_rng(0).normal(size=(1, 64, 64)).astype(np.float32)
    assert measure_halo(lambda p: p - p.mean(), x, limit=16) is None


def test_an_image_too_small_is_refused() -> None:
    x = np.zeros((1, 20, 20), np.float32)
    with pytest.raises(ValueError, match="too small to try a halo of 16 px"):
        measure_halo(lambda p: p, x, limit=16)
    with pytest.raises(ValueError, match="too small for a halo of 16 px"):
        measure_alignment(lambda p: p, x, halo=16)

"""Real weights on real imagery must give what their authors' code gave."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from geoscale.errors import CardError
from geoscale.models import ModelSettings, find_card, get_predictor
from geoscale.preprocess import Preprocessor
from tests.support import cards

ONE = ModelSettings(device="cpu", trust_code=True, batch=1, patch=64)


@pytest.mark.parametrize("weights", ["simplecnn.safetensors", "simplecnn.pt"])
def test_simplecnn_gives_the_stored_map(
    data_dir: Path, spain: np.ndarray, weights: str
) -> None:
    card = cards.simplecnn(data_dir, weights=weights)
    x, valid = Preprocessor.from_card(card).prepare(
        spain[None], np.ones((1, 512, 512), bool)
    )
    out = get_predictor(card, ONE).predict(x[None])[0]
    with np.load(data_dir / "worldfloods_simplecnn" / "spain_reference.npz") as want:
        np.testing.assert_array_equal(out.argmax(0), want["cls"])
        assert np.abs(out - want["prob"]).max() < 1e-3
    assert valid.all()


def test_a_tile_with_the_cards_halo_equals_the_whole(
    data_dir: Path, spain: np.ndarray
) -> None:
    card = cards.simplecnn(data_dir)
    halo = card.input.patch.halo
    assert halo == 4
    x, _ = Preprocessor.from_card(card).prepare(
        spain[None, :, :96, :96], np.ones((1, 96, 96), bool)
    )
    predictor = get_predictor(card, ONE)
    whole = predictor.predict(x[None])[0, :, 40:60, 40:60]
    for ring, equal in ((halo, True), (halo - 1, False)):
        part = x[None, :, 40 - ring : 60 + ring, 40 - ring : 60 + ring]
        inner = predictor.predict(part)[0, :, ring:-ring, ring:-ring]
        assert bool(np.abs(inner - whole).max() < 1e-5) is equal


def test_dynamic_world_from_a_users_own_file(
    data_dir: Path, spain: np.ndarray, tmp_path: Path
) -> None:
    """A card in YAML with the file and the weights beside it, as users have them."""
    fields = cards.dynamic_world_dict(data_dir)
    for name in ("dynamicworld_torch.py", "dynamicworld.safetensors"):
        shutil.copyfile(data_dir / "dynamicworld" / name, tmp_path / name)
    folder = f"{data_dir / 'dynamicworld'}/"
    text = yaml.safe_dump(fields).replace(folder, "")
    (tmp_path / "dw.yaml").write_text(text)
    card = find_card(tmp_path / "dw.yaml")
    assert card.architecture == "dynamicworld_torch.py:DynamicWorld"
    index = [cards.S2_BANDS.index(b) for b in card.input.bands]
    valid = np.ones((1, 512, 512), bool)

    with pytest.raises(CardError, match="trust-code"):
        Preprocessor.from_card(card)
    with pytest.raises(CardError, match="trust-code"):
        get_predictor(card, ModelSettings(device="cpu"))

    prep = Preprocessor.from_card(card, trust_code=True)
    x, _ = prep.prepare(spain[None, index], valid)
    out = get_predictor(card, ONE).predict(x[None])[0]
    with np.load(data_dir / "dynamicworld" / "spain_reference.npz") as want:
        same = (out.argmax(0) == want["cls"]).mean()
    assert same >= 0.9999


def test_one_nan_pixel_leaves_its_neighbours_in_place(
    data_dir: Path, spain: np.ndarray
) -> None:
    card = cards.simplecnn(data_dir)
    crop = spain[None, :, :64, :64].copy()
    crop[0, 3, 30, 30] = np.nan
    x, valid = Preprocessor.from_card(card).prepare(crop, np.ones((1, 64, 64), bool))
    out = get_predictor(card, ONE).predict(x[None])
    assert np.isfinite(out).all()
    assert valid.sum() == 64 * 64 - 1


def test_ukis_gives_its_own_sessions_scores(data_dir: Path) -> None:
    ort = pytest.importorskip("onnxruntime")
    card = cards.ukis(6, "l1c")
    with np.load(data_dir / "ukis_csmask" / "sentinel2.npz") as file:
        image = np.moveaxis(file["img"], -1, 0)
    x, _ = Preprocessor.from_card(card).prepare(
        image[None, :, :256, 256:], np.ones((1, 256, 256), bool)
    )
    predictor = get_predictor(card, ModelSettings(device="cpu", batch=2))
    out = predictor.predict(x[None])

    from geoscale.models import resolve_weights

    path, sha256 = resolve_weights(card)
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    logits = session.run(None, {"input": x[None]})[0].astype(np.float64)
    e = np.exp(logits - logits.max(1, keepdims=True))
    np.testing.assert_allclose(out, e / e.sum(1, keepdims=True), atol=1e-5)
    assert predictor.model_id == sha256


def test_ukis_gives_the_stored_logits(data_dir: Path) -> None:
    pytest.importorskip("onnxruntime")
    card = cards.ukis(6, "l1c")
    with np.load(data_dir / "ukis_csmask" / "sentinel2.npz") as file:
        image = np.moveaxis(file["img"], -1, 0)
    x, _ = Preprocessor.from_card(card).prepare(
        image[None, :, :256, :256], np.ones((1, 256, 256), bool)
    )
    out = get_predictor(card, ModelSettings(device="cpu", batch=1)).predict(x[None])[0]
    with np.load(data_dir / "ukis_csmask" / "sentinel2_reference.npz") as want:
        logits = want["logits_tile0"].astype(np.float64)
    e = np.exp(logits - logits.max(0))
    np.testing.assert_allclose(out, e / e.sum(0), atol=1e-5)


def test_the_demo_network_is_seamless_with_its_cards_halo(spain: np.ndarray) -> None:
    card = find_card("s2-landcover-unet")
    halo, step = card.input.patch.halo, card.input.patch.alignment
    assert halo is not None
    index = [cards.S2_BANDS.index(b) for b in ("B2", "B3", "B4", "B8")]
    data = spain[None, index, :160, :160] / 10000
    x, _ = Preprocessor.from_card(card).prepare(data, np.ones((1, 160, 160), bool))
    predictor = get_predictor(card, ONE)
    whole = predictor.predict(x[None])[0]
    start, stop = 15 * step, 25 * step
    part = x[None, :, start - halo : stop + halo, start - halo : stop + halo]
    inner = predictor.predict(part)[0, :, halo:-halo, halo:-halo]
    assert np.abs(inner - whole[:, start:stop, start:stop]).max() < 1e-5
    # the alignment is needed: one pixel off, and the pooling is out of phase
    part = x[None, :, start - halo : stop + halo, start - halo + 1 : stop + halo + 1]
    inner = predictor.predict(part)[0, :, halo:-halo, halo:-halo]
    want = whole[:, start:stop, start + 1 : stop + 1]
    assert np.abs(inner - want).max() > 1e-3

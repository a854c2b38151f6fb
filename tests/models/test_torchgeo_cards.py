from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.errors import WeightsError
from geoscale.models import ModelSettings, find_card, get_predictor, resolve_weights
from geoscale.models.torchgeo_cards import TORCHGEO, read_normalization
from geoscale.preprocess import Preprocessor

pytest.importorskip("torchgeo")


def hub_file(tmp_path: Path, name: str) -> Path:
    """Where torch.hub would keep the file of a weight."""
    from torchgeo.models import Unet_Weights

    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / Unet_Weights[name].url.rpartition("/")[2]


def test_every_map_of_torchgeo_is_in_the_catalogue() -> None:
    from torchgeo.models import Unet_Weights

    assert {f"Unet_Weights.{n}" for n in Unet_Weights.__members__} == set(TORCHGEO)


def test_field_boundaries_take_two_dates_of_four_bands() -> None:
    card = find_card("torchgeo:Unet_Weights.SENTINEL2_3CLASS_FTW")
    spec = card.input
    assert (spec.bands, spec.frames, spec.channels) == (("B4", "B3", "B2", "B8"), 2, 8)
    assert spec.frame_order == "newest-first"
    assert (spec.sensor, spec.units, spec.multiply) == (
        "sentinel-2",
        "reflectance",
        10000.0,
    )
    assert spec.normalization.std == (3000.0,) * 8
    assert (spec.patch.multiple_of, spec.patch.halo) == (32, None)
    assert card.architecture_args["encoder_name"] == "efficientnet-b3"
    assert card.class_names == ("background", "field", "boundary")
    assert card.license == "CC-BY-4.0"


def test_tree_canopy_takes_aerial_pixels_as_they_are() -> None:
    card = find_card("torchgeo:Unet_Weights.OAM_RGB_RESNET34_TCD")
    assert card.input.bands == ("red", "green", "blue")
    assert (card.input.units, card.input.normalization.type) == ("raw", "none")
    assert (card.input.patch.size, card.input.gsd_m) == (1024, (0.1, 0.1))


def test_our_scaling_is_torchgeos_without_its_traps() -> None:
    """Its transforms write into the array they are given; ours must not."""
    import torch
    from torchgeo.models import Unet_Weights

    rng = np.random.default_rng(0)
    data = rng.integers(1, 10000, (2, 4, 6, 6)).astype(np.float32)
    before = data.copy()
    card = find_card("torchgeo:Unet_Weights.SENTINEL2_2CLASS_FTW")
    ours, _ = Preprocessor.from_card(card).prepare(data, np.ones((2, 6, 6), bool))
    np.testing.assert_array_equal(data, before)
    stacked = torch.from_numpy(data[::-1].reshape(8, 6, 6).copy())
    theirs = Unet_Weights.SENTINEL2_2CLASS_FTW.transforms(stacked).numpy()
    np.testing.assert_array_equal(ours, theirs)
    # the trap is real: their input was overwritten
    assert stacked.max() < 10


def test_two_normalisations_become_one() -> None:
    import torch
    import torchvision.transforms.v2 as transforms

    steps = [transforms.Normalize([m], [s]) for m, s in ((1.0, 2.0), (3.0, 5.0))]
    found = read_normalization(torch.nn.Sequential(*steps), 2)
    assert found == {"type": "mean-std", "mean": [7.0, 7.0], "std": [10.0, 10.0]}


def seed(path: Path, **args: Any) -> Any:
    """Save a network of random weights as torchgeo's file would be."""
    import segmentation_models_pytorch as smp
    import torch

    torch.manual_seed(3)
    module = smp.Unet(encoder_weights=None, **args).eval()
    torch.save(module.state_dict(), path)
    return module


def test_weights_in_torchs_cache_are_loaded_and_run(tmp_path: Path) -> None:
    """Seeded numbers stand in for the real ones: this file's name has no hash."""
    import torch

    name = "SENTINEL2_FTW_PRUE_EFNETB3"
    module = seed(
        hub_file(tmp_path, name),
        encoder_name="efficientnet-b3",
        in_channels=8,
        classes=3,
    )
    card = find_card(f"torchgeo:Unet_Weights.{name}")
    predictor = get_predictor(card, ModelSettings(device="cpu", patch=64, batch=1))
    x = np.random.default_rng(0).normal(size=(1, 8, 64, 64)).astype(np.float32)
    with torch.inference_mode():
        want = module(torch.from_numpy(x)).softmax(1).numpy()
    np.testing.assert_allclose(predictor.predict(x), want, atol=1e-5)


def test_a_cached_file_must_keep_the_promise_of_its_name(tmp_path: Path) -> None:
    """torch.hub checks the hash while downloading only; we check what lies there."""
    path = hub_file(tmp_path, "OAM_RGB_RESNET34_TCD")
    seed(path, encoder_name="resnet18", in_channels=3, classes=2)
    card = find_card("torchgeo:Unet_Weights.OAM_RGB_RESNET34_TCD")
    with pytest.raises(WeightsError, match=r"its name promises 9472042e…; delete it"):
        resolve_weights(card)


def test_without_internet_the_way_out_is_named(monkeypatch: Any) -> None:
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    with pytest.raises(WeightsError, match="on nodes without internet fetch them"):
        resolve_weights(find_card("torchgeo:Unet_Weights.OAM_RGB_RESNET34_TCD"))

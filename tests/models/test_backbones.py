"""torchgeo's backbones: every weight has a card, scaled as its authors say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from geoscale.admission import admit, judge_license
from geoscale.bands import guess_sensor
from geoscale.errors import CardError, WeightsError
from geoscale.models import (
    ModelSettings,
    find_card,
    get_predictor,
    list_models,
    resolve_weights,
)
from geoscale.models.build import build_module
from geoscale.models.check import check_model
from geoscale.preprocess import Preprocessor

torch = pytest.importorskip("torch")
pytest.importorskip("torchgeo")


@pytest.fixture(scope="module")
def rows() -> list[Any]:
    return [r for r in list_models(backbones=True) if r.origin == "torchgeo"]


def test_every_weight_of_torchgeo_is_listed(rows: list[Any]) -> None:
    from torchgeo.models import get_model_weights
    from torchgeo.models import list_models as theirs

    names = set()
    for model in theirs():
        try:
            names |= {f"torchgeo:{w}" for w in get_model_weights(model)}
        except KeyError:
            continue
    assert {row.name for row in rows} == names
    for row in rows:
        assert row.refused or (row.bands and row.scaling and row.size_mb), row


def test_licences_are_those_of_torchgeos_table(rows: list[Any]) -> None:
    import torchgeo

    if not torchgeo.__version__.startswith("0.8."):
        pytest.skip("the counts are of torchgeo 0.8")
    assert Counter(row.license for row in rows) == {
        "CC-BY-4.0": 37, "CC0-1.0": 30, "ODC-BY": 22, "MIT": 10, "OpenRAIL": 8,
        "non-commercial": 5, "Apache-2.0": 5, None: 4, "CC-BY-NC-4.0": 3,
    }  # fmt: skip
    assert Counter(judge_license(row.license) for row in rows) == {
        "": 112, "non-commercial": 8, "unknown": 4,
    }  # fmt: skip


def test_weather_is_refused_in_words() -> None:
    with pytest.raises(CardError, match=r"forecasts the weather.*not from imagery"):
        find_card("torchgeo:Aurora_Weights.HRES_T0_AURORA")


def prepared(card: Any, values: list[float]) -> list[float]:
    """What the network sees of one pixel, after its own clamp."""
    data = np.float32(values).reshape(1, -1, 1, 1) * np.float32(card.input.multiply)
    out = Preprocessor.from_card(card).prepare(data, np.ones((1, 1, 1), bool))[0]
    low, high = card.architecture_args.get("clamp") or (-np.inf, np.inf)
    return [round(float(v), 4) for v in out.ravel().clip(low, high)]


@pytest.mark.parametrize(
    ("name", "pixel", "seen"),
    [
        # SSL4EO-S12: digital numbers / 10000 are reflectance
        ("ResNet18_Weights.SENTINEL2_RGB_MOCO", [0.1, 0.2, 1.1], [0.1, 0.2, 1.1]),
        # Satlas: 8-bit true colour ends at 0.3558; other bands / 8160; cut to 0..1
        (
            "Swin_V2_T_Weights.SENTINEL2_SI_MS_SATLAS",
            [0.1779, 0.5, 0.0, 0.408, 0.9, 0, 0, 0, 0],
            [0.5, 1.0, 0.0, 0.5, 1.0, 0, 0, 0, 0],
        ),
        # Satlas Landsat: (digital number - 4000) / 16320
        ("Swin_V2_B_Weights.LANDSAT_SI_SATLAS", [4000, 12160] + [0] * 9,
         [0.0, 0.5] + [0.0] * 9),
        # SSL4EO-L: stretched over 0..0.4 and 248.15..318.15 K, or 0..0.3
        ("ResNet18_Weights.LANDSAT_TM_TOA_MOCO", [0.2] * 5 + [283.15, 0.5],
         [0.5] * 5 + [0.5, 1.0]),
        ("ResNet18_Weights.LANDSAT_OLI_SR_MOCO", [0.15] * 7, [0.5] * 7),
        # SoftCon: mean and std of digital numbers
        ("ViTSmall14_DINOv2_Weights.SENTINEL1_GRD_SOFTCON", [-12.59, -14.35],
         [0.0, 1.0]),
        # Cityscapes: 8 bits to 0..1, then ImageNet
        ("Swin_T_Weights.CITYSCAPES_SEMSEG", [255 * 0.485, 255 * 0.68, 0],
         [0.0, 1.0, -1.8044]),
    ],
)  # fmt: skip
def test_scaling_family_by_family(
    name: str, pixel: list[float], seen: list[float]
) -> None:
    assert prepared(find_card(f"torchgeo:{name}"), pixel) == pytest.approx(
        seen, abs=2e-4
    )


@pytest.mark.parametrize(
    "name",
    ["ResNet50_Weights.FMOW_RGB_GASSL", "EarthLoc_Weights.SENTINEL2_RESNET50"],
)
def test_two_normalisations_in_a_row_are_one(name: str) -> None:
    from torchgeo.models import get_weight

    steps = [s for s in get_weight(name).transforms.modules() if hasattr(s, "inplace")]
    pixel = torch.tensor([12.0, 100.0, 255.0]).reshape(1, 3, 1, 1)
    want = pixel.clone()
    for step in steps:
        want = step(want)
    card = find_card(f"torchgeo:{name}")
    assert len(steps) == 2
    assert prepared(card, [12, 100, 255]) == pytest.approx(
        want.ravel().tolist(), abs=1e-4
    )


def test_seco_takes_its_authors_order_not_torchgeos() -> None:
    """Least and largest of red, green, blue: 0..129, 2..103, 3..88 of 255."""
    card = find_card("torchgeo:ResNet18_Weights.SENTINEL2_RGB_SECO")
    imagenet = [
        (1 - m) / s for m, s in ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
    ]
    largest = [129 / 255, 103 / 255, 88 / 255]
    assert card.input.bands == ("B4", "B3", "B2")
    assert prepared(card, largest) == pytest.approx(imagenet, abs=1e-3)


@pytest.mark.parametrize(
    ("name", "sensor", "first", "last"),
    [
        ("ResNet50_Weights.SENTINEL2_ALL_MOCO", "sentinel-2", "B1", "B12"),
        ("Swin_V2_B_Weights.SENTINEL1_SI_SATLAS", "sentinel-1", "VH", "VV"),
        ("ResNet50_Weights.SENTINEL1_ALL_MOCO", "sentinel-1", "VV", "VH"),
        ("ViTSmall16_Weights.LANDSAT_ETM_SR_MOCO", "landsat-tm", "B1", "B7"),
        ("Swin_V2_B_Weights.LANDSAT_MI_SATLAS", "landsat-8", "B1", "B11"),
        ("Swin_V2_B_Weights.NAIP_RGB_MI_SATLAS", None, "red", "blue"),
        ("CROMABase_Weights.CROMA_VIT", "sentinel-2", "B1", "B12"),
    ],
)
def test_bands_are_named_as_here(
    name: str, sensor: str | None, first: str, last: str
) -> None:
    spec = find_card(f"torchgeo:{name}").input
    assert (spec.sensor, spec.bands[0], spec.bands[-1]) == (sensor, first, last)
    assert guess_sensor("sentinel-2a") == "sentinel-2"


def test_networks_that_are_told_wavelengths_take_any_bands() -> None:
    name = "torchgeo:DOFABase16_Weights.DOFA_MAE"
    card = find_card(f"{name}?sensor=landsat-8&bands=B4,nir08")
    assert card.architecture_args["wavelengths"] == [655.0, 865.0]
    assert (card.input.bands, card.input.sensor) == (("B4", "nir08"), "landsat-8")
    for query, match in (
        ("bands=B99", "band `B99` of sentinel-2 has no wavelength"),
        ("sensor=spot", "sensor `spot` is not known; known are"),
    ):
        with pytest.raises(CardError, match=match):
            find_card(f"{name}?{query}")
    with pytest.raises(CardError, match="takes bands B4, B3, B2, and no others"):
        find_card("torchgeo:ResNet18_Weights.SENTINEL2_RGB_MOCO?bands=B8")
    with pytest.raises(CardError, match="wavelengths of sensor sentinel-1 are not"):
        find_card(f"{name}?sensor=sentinel-1&bands=VV")


def seeded(name: str) -> Any:
    from geoscale.models.seeding import hub_path, seed_weights

    card = find_card(f"torchgeo:{name}")
    return seed_weights(card, hub_path(card))


def test_features_are_those_of_torchgeos_network(spain: np.ndarray) -> None:
    """Theirs with its random head, ours without; the same file and pixels."""
    from torchgeo.models import resnet18

    card = seeded("ResNet18_Weights.SENTINEL2_ALL_MOCO")
    path = Path(card.weights.href)
    theirs = resnet18(in_chans=13)
    left = theirs.load_state_dict(torch.load(path), strict=False)
    assert left.missing_keys == ["fc.weight", "fc.bias"]
    ours = build_module(card, path)
    assert not any("fc." in key for key in ours.state_dict())
    data = spain[None, :, :64, :64]
    before = data.copy()
    x, _ = Preprocessor.from_card(card).prepare(data, np.ones((1, 64, 64), bool))
    np.testing.assert_array_equal(data, before)
    with torch.inference_mode():
        given = torch.from_numpy(x[None])
        out, want = ours(given), theirs.eval().forward_features(given)
    np.testing.assert_array_equal(out.numpy(), want.numpy())
    assert out.shape == (1, card.output.features, 2, 2)


def test_a_backbone_is_no_segmenter() -> None:
    card = seeded("ResNet18_Weights.SENTINEL2_RGB_MOCO")
    with pytest.raises(CardError, match=r"backbone.*use task embedding or fit a head"):
        admit(card)
    admit(card, embeds=True)
    get_predictor(card, ModelSettings(device="cpu"))


@pytest.mark.slow
def test_a_head_of_photographs_is_dropped_and_said(caplog: Any) -> None:
    """Satlas' files carry torchvision's thousand classes."""
    card = seeded("Swin_V2_T_Weights.SENTINEL2_SI_RGB_SATLAS")
    found = check_model(card, measure=False)
    assert found.output == (1, 768, 8, 8)
    assert any("left out head.weight, head.bias" in line for line in found.said)


def test_keys_that_are_no_head_are_named() -> None:
    card = seeded("ResNet18_Weights.SENTINEL2_RGB_MOCO")
    path = Path(card.weights.href)
    state = torch.load(path)
    del state["layer1.0.conv1.weight"]
    torch.save({**state, "layer9.weight": torch.zeros(1)}, path)
    with pytest.raises(
        WeightsError, match=r"1 missing \(layer1.0.conv1.weight\); 1 extra \(layer9"
    ):
        build_module(card, path)


def test_a_seeded_file_does_not_pass_for_the_real_one() -> None:
    seeded("ResNet18_Weights.SENTINEL2_RGB_MOCO")
    card = find_card("torchgeo:ResNet18_Weights.SENTINEL2_RGB_MOCO")
    with pytest.raises(WeightsError, match="its name promises e3a335e3"):
        resolve_weights(card)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ViTSmall16_Weights.SENTINEL2_ALL_DINO", (1, 384, 14, 14)),
        ("ViTSmall14_DINOv2_Weights.SENTINEL2_ALL_SOFTCON", (1, 384, 16, 16)),
        ("Swin_T_Weights.CITYSCAPES_SEMSEG", (1, 768, 8, 8)),
        ("DOFABase16_Weights.DOFA_MAE", (1, 768, 14, 14)),
        ("CopernicusFM_Base_Weights.CopernicusFM_ViT", (1, 768, 14, 14)),
        ("CROMABase_Weights.CROMA_VIT", (1, 768, 15, 15)),
        ("Panopticon_Weights.VIT_BASE14", (1, 768, 16, 16)),
        ("EarthLoc_Weights.SENTINEL2_RESNET50", (1, 4096, 1, 1)),
        ("ScaleMAELarge16_Weights.FMOW_RGB", (1, 1024, 14, 14)),
    ],
)
def test_each_family_runs(name: str, shape: tuple[int, ...]) -> None:
    card = seeded(name)
    assert check_model(card, measure=False).output == shape
    Path(card.weights.href).unlink()


@pytest.mark.slow
def test_every_weight_runs(tmp_path: Path, data_dir: Path) -> None:
    """As tools/torchgeo_table.py writes it into the docs."""
    import subprocess
    import sys

    root = Path(__file__).resolve().parents[2]
    page = tmp_path / "t.md"
    subprocess.run(
        [sys.executable, str(root / "tools" / "torchgeo_table.py"), str(data_dir),
         "--rows", str(tmp_path / "rows.jsonl"), "--to", str(page)],
        check=True, cwd=root,
    )  # fmt: skip
    lines = [x for x in page.read_text().splitlines() if "_Weights." in x]
    assert len(lines) == len(
        [r for r in list_models(backbones=True) if r.origin == "torchgeo"]
    )
    assert not [x for x in lines if "TRACEBACK" in x]


def test_what_eight_bits_could_not_hold_is_cut_in_the_network() -> None:
    from geoscale.models.backbones import Backbone

    torch.manual_seed(0)
    network = Backbone("resnet18", 1, clamp=(0.0, 1.0)).eval()
    bright, top = torch.full((1, 1, 32, 32), 5.0), torch.ones(1, 1, 32, 32)
    with torch.inference_mode():
        assert torch.equal(network(bright), network(top))
        network.clamp = None
        assert not torch.equal(network(bright), network(top))

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from geoscale.errors import CardError
from geoscale.models import find_card, list_models
from tests.support import cards

CARD: dict[str, Any] = {
    "name": "mine",
    "architecture": "torchgeo.models:FCN",
    "weights": {"href": "w.safetensors"},
    "input": {"bands": ["red", "nir"]},
    "output": {"classes": cards.classes("land", "water")},
}


def test_the_list_and_the_cards_agree() -> None:
    pytest.importorskip("ukis_csmask")
    rows = list_models()
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        card = find_card(row.name)
        assert card.name == row.name
        assert card.title == row.title
        assert card.license == row.license
        assert not card.needs_trust


def test_listing_imports_no_heavy_library() -> None:
    code = (
        "import sys, geoscale.models as m; m.list_models();"
        "print([n for n in ('torch', 'torchgeo', 'onnxruntime', 'dask', 'rasterio')"
        " if n in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_our_own_cards_are_whole() -> None:
    from geoscale.models import resolve_weights

    for row in list_models():
        if row.origin == "geoscale":
            card = find_card(row.name)
            assert card.weights.sha256 is not None
            assert resolve_weights(card)[1] == card.weights.sha256
            assert card.input.patch.halo is not None
            assert card.license


@pytest.mark.parametrize(("bands", "level"), [(4, "l1c"), (6, "l1c"), (6, "l2a")])
def test_ukis_cards_are_its_own_json(bands: int, level: str) -> None:
    ukis = pytest.importorskip("ukis_csmask")
    path = Path(ukis.__file__).with_name(f"model_{bands}b_{level}.json")
    data = json.loads(path.read_text())["data"]
    card = find_card(f"ukis-csmask-{bands}b-{level}")
    stats = data["dataset_statistics"]
    assert list(card.input.bands) == stats["band_names"]
    assert list(card.input.normalization.mean) == stats["img"][0]
    assert list(card.input.normalization.std) == stats["img"][1]
    assert [card.input.patch.size] * 2 == data["target_size"]
    assert card.input.patch.fixed
    assert card.input.patch.halo is None
    assert card.input.units == "reflectance"
    assert card.class_names == ("background", "clouds", "cloud_shadows")
    assert card.license == "Apache-2.0"


@pytest.mark.parametrize("suffix", ["yaml", "json"])
def test_a_path_gives_the_card_that_lies_there(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"card.{suffix}"
    text = json.dumps(CARD) if suffix == "json" else yaml.safe_dump(CARD)
    path.write_text(text)
    for name in (path, str(path)):
        card = find_card(name)
        assert (card.name, card.base) == ("mine", str(tmp_path))


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("ukis-csmask-6b-l1d", "did you mean `ukis-csmask-6b-l1c`"),
        ("zzz", "neither in the catalogue nor a .yaml.*known are"),
        ("gone.yaml", r"gone\.yaml does not exist"),
        ("torchgeo:Unet_Weights.SENTINEL2_3CLAS_FTW", "did you mean .*3CLASS_FTW"),
        ("torchgeo:Nothing", "torchgeo has no weights `Nothing`"),
        (
            "torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOC",
            "did you mean .*ResNet50_Weights.SENTINEL2_ALL_MOCO",
        ),
    ],
)
def test_an_unknown_name_gets_the_nearest(name: str, match: str) -> None:
    with pytest.raises(CardError, match=match):
        find_card(name)


def test_a_url_gives_the_card_and_its_weights_lie_beside_it(
    server: Any, tmp_path: Path
) -> None:
    (tmp_path / "www" / "m").mkdir()
    (tmp_path / "www" / "m" / "card.yaml").write_text(yaml.safe_dump(CARD))
    card = find_card(f"{server.url}/m/card.yaml")
    assert card.weights.href == f"{server.url}/m/w.safetensors"
    assert card.base is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("a: [", "is not plain YAML"),
        ("- 1", "holds list, not fields"),
        ("#" * (2 << 20), "larger than 256 kB"),
        (yaml.safe_dump(CARD | {"archtecture": "x"}), "did you mean `architecture`"),
        (yaml.safe_dump(CARD | {"architecture": "net.py:Net"}), "names a local file"),
        (yaml.safe_dump(CARD | {"weights": {"href": "/etc/passwd"}}), "a local file"),
        (yaml.safe_dump(CARD | {"weights": {"href": "file:///x"}}), "a local file"),
        ("!!python/object/apply:os.system ['true']", "is not plain YAML"),
    ],
)
def test_a_hostile_or_broken_card_from_the_web_is_refused(
    server: Any, tmp_path: Path, text: str, match: str
) -> None:
    (tmp_path / "www" / "card.yaml").write_text(text)
    with pytest.raises(CardError, match=match):
        find_card(f"{server.url}/card.yaml")


def test_a_missing_url_is_named_without_its_secrets(server: Any) -> None:
    with pytest.raises(CardError, match=r"cannot be fetched.*404") as info:
        find_card(f"{server.url}/none.yaml?sig=secret")
    assert "secret" not in str(info.value)


def test_the_demo_card_is_what_its_training_measured() -> None:
    from importlib.resources import files

    folder = Path(str(files("geoscale"))) / "data"
    measured = json.loads((folder / "s2-landcover-unet.metrics.json").read_text())
    card = find_card("s2-landcover-unet")
    assert card.weights.sha256 == measured["weights"]["sha256"]
    assert card.architecture == measured["architecture"]
    assert card.architecture_args == measured["arguments"]
    assert list(card.input.bands) == measured["bands"]
    assert list(card.input.normalization.mean) == measured["mean"]
    assert list(card.input.normalization.std) == measured["std"]
    assert card.input.patch.alignment == measured["alignment"]
    assert card.input.patch.halo == measured["halo"]["measured_px"]
    assert list(card.class_names) == [c["name"] for c in measured["classes"]]

"""Networks by name, as whole jobs: from a card's file to a verified map."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geoscale as gs
from geoscale.errors import WeightsError
from geoscale.imports import load_object
from tests.support.chips import crop_chip, open_chip

torch = pytest.importorskip("torch")

BANDS = ["B2", "B3", "B4", "B8"]
MEAN, STD = (1300.0, 1300.0, 1300.0, 2200.0), (500.0, 500.0, 600.0, 900.0)
SIZE = 128


@pytest.fixture(scope="module")
def scene(data_dir: Path, tmp_path_factory: Any) -> Path:
    return crop_chip(data_dir, tmp_path_factory.mktemp("a") / "corner.tif", SIZE, SIZE)


def save_card(
    folder: Path, path: str, args: dict[str, Any], *, trust_code: bool = False
) -> tuple[Path, Any]:
    """A card with seeded weights beside it, and the network that they are of."""
    from safetensors.torch import save_file

    torch.manual_seed(7)
    free = {"encoder_weights": None} if "models_pytorch" in path else {}
    network = load_object(path, trust_code=trust_code)(**args, **free)
    # biases of a network that was never trained would decide every pixel
    plain = not any("running_mean" in name for name in network.state_dict())
    for part in network.modules():
        if isinstance(part, torch.nn.Conv2d) and part.bias is not None:
            torch.nn.init.zeros_(part.bias)
            if plain:
                torch.nn.init.kaiming_normal_(part.weight)
    # as would what its batch norm has not seen
    network.train()
    with torch.no_grad():
        network(torch.randn(4, len(args_bands(args)), 64, 64))
    state = {k: v.contiguous() for k, v in network.eval().state_dict().items()}
    save_file(state, folder / "w.safetensors")
    card = {
        "name": "own",
        "architecture": path,
        "architecture_args": args,
        "weights": {"href": "w.safetensors"},
        "input": {
            "bands": args_bands(args),
            "sensor": "sentinel-2",
            "multiply": 10000.0,
            "normalization": {
                "type": "mean-std",
                "mean": list(MEAN[: len(args_bands(args))]),
                "std": list(STD[: len(args_bands(args))]),
            },
            "patch": {"size": 64, "multiple_of": 32},
        },
        "output": {"classes": "schema:ftw-3"},
    }
    (folder / "card.yaml").write_text(yaml.safe_dump(card, sort_keys=False))
    return folder / "card.yaml", network


def args_bands(args: dict[str, Any]) -> list[str]:
    """Bands of a network; some have three and no argument for them."""
    return BANDS[: args.get("in_channels", 3)]


def run(scene: Path, card: Path, to: Path, **options: Any) -> np.ndarray:
    """Classes by a whole job, whose every stored byte was verified."""
    plan = gs.plan(open_chip(scene), card, **options)
    report = gs.run(plan, to, trust_code=True)
    assert report.complete
    assert report.exit_code == 0
    return np.asarray(gs.open_output(str(to)).classes.values[0])


def check_whole_job(scene: Path, tmp_path: Path, card: Path, network: Any) -> None:
    """The map of one patch is the network's own; no map depends on its blocks."""
    import rasterio

    bands = gs.load_model(card).input.bands
    with rasterio.open(scene) as file:
        names = [f"B{n}" for n in (*range(1, 9), "8A", *range(9, 13))]
        pixels = file.read([names.index(b) + 1 for b in bands]).astype(np.float32)
    wide = [np.float32(v)[: len(bands), None, None] for v in (MEAN, STD)]
    x = torch.from_numpy((pixels - wide[0]) / wide[1])[None]
    with torch.inference_mode():
        logits = network(x)
    want = logits.argmax(1)[0].numpy()
    whole = run(scene, card, tmp_path / "whole", patch_px=SIZE, stride_px=SIZE)
    assert (whole == want).mean() > 0.999
    maps = [
        run(scene, card, tmp_path / str(block), block_px=block, batch=2)
        for block in (64, 96)
    ]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert len(np.unique(maps[0])) > 1


SMP = {"encoder_name": "resnet18", "in_channels": 4, "classes": 3}
NETWORKS: list[Any] = [
    ("segmentation_models_pytorch:Unet", SMP),
    ("segmentation_models_pytorch:DeepLabV3Plus", SMP),
    ("torchgeo.models:FCN", {"in_channels": 4, "classes": 3, "num_filters": 8}),
    pytest.param(
        "torchgeo.models:FarSeg",
        {"backbone": "resnet18", "classes": 3, "backbone_pretrained": False},
        marks=pytest.mark.slow,
    ),
    pytest.param("segmentation_models_pytorch:UPerNet", SMP, marks=pytest.mark.slow),
    pytest.param(
        "segmentation_models_pytorch:UnetPlusPlus", SMP, marks=pytest.mark.slow
    ),
    pytest.param(
        "segmentation_models_pytorch:Segformer",
        SMP | {"encoder_name": "mit_b0", "in_channels": 3},
        marks=pytest.mark.slow,
    ),
]


@pytest.mark.parametrize(("path", "args"), NETWORKS)
def test_networks_make_maps_from_cards(
    scene: Path, tmp_path: Path, path: str, args: dict[str, Any]
) -> None:
    card, network = save_card(tmp_path, path, args)
    check_whole_job(scene, tmp_path, card, network)


def test_a_lightning_checkpoint_is_mended_in_a_whole_job(
    scene: Path, tmp_path: Path, caplog: Any
) -> None:
    path, args = NETWORKS[2]
    card, network = save_card(tmp_path, path, args)
    state = {f"model.{k}": v for k, v in network.state_dict().items()}
    lightning = {
        "state_dict": state | {"criterion.weight": torch.ones(3)},
        "hyper_parameters": {"lr": 1e-3, "model": "fcn"},
        "epoch": 3,
    }
    torch.save(lightning, tmp_path / "w.ckpt")
    mended = tmp_path / "mended.yaml"
    mended.write_text(card.read_text().replace("w.safetensors", "w.ckpt"))
    with caplog.at_level("INFO"):
        found = run(scene, mended, tmp_path / "a")
    assert "prefix `model.` taken off" in caplog.text
    assert "left out: criterion.weight" in caplog.text
    np.testing.assert_array_equal(found, run(scene, card, tmp_path / "b"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("last.bias"), r"1 missing \(last\.bias\); 0 extra"),
        (lambda s: s.update(more=torch.ones(2)), r"0 missing; 1 extra \(more\)"),
    ],
)
def test_keys_that_do_not_fit_are_named_before_a_pixel_is_read(
    scene: Path, tmp_path: Path, change: Any, said: str
) -> None:
    path, args = NETWORKS[2]
    card, network = save_card(tmp_path, path, args)
    state = dict(network.state_dict())
    change(state)
    torch.save(state, tmp_path / "w.ckpt")
    card.write_text(card.read_text().replace("w.safetensors", "w.ckpt"))
    with pytest.raises(WeightsError, match=said):
        run(scene, card, tmp_path / "map")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "onnx"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"<!DOCTYPE html><html>Sign in</html>", "is HTML or XML"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git-LFS pointer",
        ),
    ],
)
def test_pages_and_pointers_saved_as_weights_are_refused(
    scene: Path, tmp_path: Path, suffix: str, content: bytes, said: str
) -> None:
    path, args = NETWORKS[2]
    card, _ = save_card(tmp_path, path, args)
    (tmp_path / f"w2.{suffix}").write_bytes(content)
    card.write_text(card.read_text().replace("w.safetensors", f"w2.{suffix}"))
    with pytest.raises(WeightsError, match=said):
        run(scene, card, tmp_path / "map")

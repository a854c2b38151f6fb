"""GeoTorchAI's networks, as whole jobs: only where somebody installed it.

It is under the AGPL and never a dependency. Put it into a folder of its own, and that
on PYTHONPATH: ``pip install --no-deps --target FOLDER geotorchai``.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geoscale as gs
from tests.support.chips import crop_chip, open_chip
from tests.test_docs import ROOT, blocks
from tests.test_networks import check_whole_job, save_card

torch = pytest.importorskip("torch")
raster = pytest.importorskip(
    "geotorchai.models.raster",
    reason="geotorchai is AGPL and never a dependency: install it where you want it, "
    "and put that folder on PYTHONPATH",
)

SIDE = 64
BANDS = (3, 4, 8, 11)
"""Of the chip, whose bands have no names but their numbers: B3, B4, B8, B11."""


@pytest.fixture(scope="module")
def scene(data_dir: Path, tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("a")
    return crop_chip(data_dir, folder / "corner.tif", 2 * SIDE, 3 * SIDE)


@pytest.mark.parametrize(
    ("path", "args"),
    [
        ("geotorchai.models.raster:UNet", {"in_channels": 4, "num_classes": 3}),
        (
            "geotorchai.models.raster:FullyConvolutionalNetwork",
            {"in_channels": 4, "out_channels": 3},
        ),
    ],
)
def test_networks_of_pixels_make_maps_from_cards(
    data_dir: Path, tmp_path: Path, path: str, args: dict[str, Any]
) -> None:
    scene = crop_chip(data_dir, tmp_path / "corner.tif", 128, 128)
    card, network = save_card(tmp_path, path, args, trust_code=True)
    check_whole_job(scene, tmp_path, card, network)


def read_patches(scene: Path) -> Any:
    """Reflectance of the patches, in reading order, (n, 4, y, x)."""
    import rasterio

    with rasterio.open(scene) as file:
        pixels = file.read(BANDS).astype(np.float32) * np.float32(1e-4)
    cut = pixels.reshape(4, 2, SIDE, 3, SIDE).transpose(1, 3, 0, 2, 4)
    return torch.from_numpy(np.ascontiguousarray(cut.reshape(6, 4, SIDE, SIDE)))


def run_sharp(network: Any, *inputs: Any) -> Any:
    """Scores, once the last layer tells the patches apart.

    What was never trained is unsure: nearly equal scores would hide mistakes.
    """
    last, kept = network.eval().sequences_part2[-1], []
    handle = last.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
    with torch.inference_mode():
        network(*inputs)
        handle.remove()
        last.bias.zero_()
        logits = last(kept[0])
        last.weight *= 2 / logits.std(0).mean()
        last.bias -= last(kept[0]).mean(0)
        return network(*inputs)


def save_scenes(network: Any, folder: Path, **change: Any) -> Path:
    """The card of the page on models, with these weights beside it."""
    card = yaml.safe_load(blocks(ROOT / "docs" / "models.md", "yaml")[2])
    torch.save(network.state_dict(), folder / "satcnn.pt")
    card["architecture_args"] |= change.pop("args", {})
    card["input"] |= change.pop("input", {})
    (folder / "card.yaml").write_text(yaml.safe_dump(card | change, sort_keys=False))
    return folder / "card.yaml"


def check_scenes(scene: Path, tmp_path: Path, card: Path, want: Any) -> None:
    """Cells are the network's own answers, whatever the blocks and batches."""
    found = []
    for block, batch in ((SIDE, 1), (3 * SIDE, 4)):
        to = tmp_path / f"{block}.zarr"
        plan = gs.plan(open_chip(scene), card, block_px=block, batch=batch,
                       output={"layers": ("classes", "scores")})  # fmt: skip
        assert gs.run(plan, to, trust_code=True).complete
        data = gs.open_output(str(to))
        found.append((data.classes.values[0], data.scores.values[0]))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    classes, scores = found[0]
    assert classes.shape == (2, 3)
    assert len(np.unique(classes)) > 1
    np.testing.assert_array_equal(classes.ravel(), want.argmax(1).numpy())
    wanted = want.numpy().T.reshape(10, 2, 3)
    np.testing.assert_allclose(scores, wanted, atol=0.004)  # a step of uint8


def test_satcnn_gives_the_class_of_each_patch(scene: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    network = raster.SatCNN(4, SIDE, SIDE, 10)
    want = run_sharp(network, normalize(read_patches(scene)))
    card = save_scenes(network, tmp_path)
    check_scenes(scene, tmp_path, card, want)


def normalize(patches: Any) -> Any:
    """As the page on models says it, in both ways."""
    spec = yaml.safe_load(blocks(ROOT / "docs" / "models.md", "yaml")[2])
    said = spec["input"]["normalization"]
    mean, std = (torch.tensor(said[k])[:, None, None] for k in ("mean", "std"))
    return (patches - mean) / std


def load_indices() -> Any:
    """GeoTorchAI's own spectral indices; their package wants more than is needed."""
    folder = Path(raster.__file__).parents[2]
    file = folder / "datasets" / "raster" / "utility" / "spectral_indices.py"
    spec = importlib.util.spec_from_file_location("spectral_indices", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_deepsat_gets_its_features_from_the_file_beside_the_card(
    scene: Path, tmp_path: Path
) -> None:
    (code,) = blocks(ROOT / "docs" / "models.md", "python")
    (tmp_path / "deepsat.py").write_text(code)
    torch.manual_seed(5)
    network = raster.DeepSatV2(4, SIDE, SIDE, 10, 4)
    patches, own, rows = read_patches(scene), load_indices(), []
    for green, red, nir, swir in patches:
        each = (own.get_NDWI(green, nir), own.get_MNDWI(green, swir),
                own.get_NDMI(nir, swir), own.get_NDVI(nir, red))  # fmt: skip
        rows.append([own.get_mean_index(one, SIDE, SIDE) for one in each])
    features = torch.tensor(rows)
    # indices are small beside the thousands of numbers of the convolutions
    network.sequences_part2[0].weight.data[:, -4:] *= 1000
    normal = normalize(patches)
    want = run_sharp(network, normal, features)
    with torch.inference_mode():
        without = network(normal, torch.zeros_like(features))
    assert (want - without).abs().max() > 0.05  # they matter
    card = save_scenes(
        network,
        tmp_path,
        architecture="deepsat.py:DeepSat",
        args={"num_filtered_features": 4},
        input={"normalization": {"type": "none"}},
    )
    check_scenes(scene, tmp_path, card, want)

"""Detectors in files that hold their network: checked, run, and the same in all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.cli import main
from geoscale.errors import CardError, WeightsError
from geoscale.models.check import check_model
from geoscale.models.decoders import decode_tensor
from geoscale.models.detector import load_detector
from geoscale.models.runtimes import ModelSettings
from tests.support.detectors import (
    bright_squares,
    save_program,
    seeded_dict,
    squares_card,
    squares_network,
    yolox_dict,
    yolox_network,
)

torch = pytest.importorskip("torch")

PLACES = [(12, 20), (30, 47), (47, 96), (60, 40), (96, 12), (96, 48), (110, 120)]


def write_scene(folder: Path) -> Path:
    import rasterio
    from affine import Affine

    image = bright_squares((128, 140), PLACES)
    path = folder / "scene.tif"
    with rasterio.open(
        path, "w", driver="GTiff", dtype="float32", count=1, height=128, width=140,
        crs="EPSG:32636", transform=Affine(0.5, 0, 5e5, 0, -0.5, 2e6),
    ) as file:  # fmt: skip
        file.write(image, 1)
    return path


def write_card(folder: Path, name: str, batch: int = 1, glance: float = 0.0) -> Path:
    save_program(folder / name, squares_network(glance), (batch, 1, 48, 48))
    card: dict[str, Any] = squares_card().to_dict()
    kind = "pt2" if name.endswith("pt2") else "torchscript"
    card["weights"] = {"href": name, "format": kind}
    card["input"] = {
        "bands": ["b1"],
        "units": "raw",
        "normalization": {"type": "mean-std", "mean": [0.0], "std": [1.0]},
        "patch": {"size": 48, "fixed": True},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(card))
    return path


def run(folder: Path, card: Path, name: str, **inference: Any) -> Path:
    job = {
        "imagery": {"files": str(folder / "scene.tif"), "bands": ["b1"]},
        "model": str(card),
        "inference": inference,
        "output": {"to": str(folder / name)},
    }
    path = folder / f"{name}.job.yaml"
    path.write_text(yaml.safe_dump(job))
    assert main(["run", str(path), "--trust-code"]) == 0
    return folder / name / "detections.parquet"


@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("one.pt2", 1),
        pytest.param("any.pt2", 0, marks=pytest.mark.slow),
        ("one.torchscript", 1),
    ],
)
def test_files_that_hold_their_network_find_every_object(
    tmp_path: Path, name: str, batch: int
) -> None:
    write_scene(tmp_path)
    card = write_card(tmp_path, name, batch)
    tables = [
        run(tmp_path, card, f"{block}", block=block, batch=size)
        for block, size in ((33, 1), (140, 4))
    ]
    assert tables[0].read_bytes() == tables[1].read_bytes()
    import geopandas

    found = geopandas.read_parquet(tables[0])
    middles = found.geometry.centroid
    rows = sorted(zip((2e6 - middles.y) * 2, (middles.x - 5e5) * 2, strict=True))
    np.testing.assert_allclose(rows, np.array(sorted(PLACES)) + 0.5, atol=1e-3)


def test_a_program_needs_trust(tmp_path: Path, capsys: Any) -> None:
    card = write_card(tmp_path, "one.pt2")
    assert main(["models", "check", str(card)]) == 2
    assert "is a program (pt2); allow it with `--trust-code`" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["one.pt2", "one.torchscript"])
def test_a_file_is_checked(tmp_path: Path, capsys: Any, name: str) -> None:
    card = write_card(tmp_path, name)
    assert main(["models", "check", str(card), "--trust-code"]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "the file holds its network" in said
    assert "1 x 1 x 48 x 48 gave 1 x 5 x 2304 float32: 0 detections in noise" in said
    assert "patches overlap by 26 px, for objects of up to 9 px" in said
    # the finder looks half a square around a place
    assert "what lies more than 8 px from a place does not change" in said
    found = check_model(gs.load_model(card), trust_code=True, measure=False)
    assert (found.context, found.found, found.halo) == ("", 0, None)
    assert found.mpx_s > 0


def test_a_detector_that_sees_the_whole_patch_is_told(tmp_path: Path) -> None:
    card = gs.load_model(write_card(tmp_path, "one.pt2", glance=0.01))
    said = check_model(card, trust_code=True).context
    assert "it looks further than 8 px around a place" in said


def test_objects_that_leave_nothing_of_a_patch_are_told(tmp_path: Path) -> None:
    path = write_card(tmp_path, "one.pt2")
    path.write_text(path.read_text().replace("object_px: 9", "object_px: 40"))
    said = check_model(gs.load_model(path), trust_code=True).context
    assert "need 56 px of overlap, which leaves nothing of a patch of 48 px" in said


def yolox_card(folder: Path, form: str = "yolox") -> ModelCard:
    """A YOLOX of two classes as an exported file."""
    save_program(folder / "net.pt2", yolox_network(2), (1, 3, 96, 96))
    card = yolox_dict(folder, score_threshold=0.2, max_object_px=16, form=form)
    card["weights"] = {"href": str(folder / "net.pt2")}
    card["output"]["classes"] = card["output"]["classes"][:2]
    card["input"]["patch"]["size"] = 96
    return ModelCard.from_dict(card)


def test_a_yolox_that_was_exported_gives_what_the_network_says(tmp_path: Path) -> None:
    card = yolox_card(tmp_path)
    found = check_model(card, trust_code=True)
    assert (found.output, found.dtype) == ((1, 144 + 36 + 9, 7), "float32")
    assert "what lies more than" in found.context
    detector = load_detector(
        card, ModelSettings(device="cpu", batch=4, trust_code=True)
    )
    assert detector.batch == 1  # as it was exported
    x = np.random.default_rng(0).uniform(0, 255, (1, 3, 96, 96)).astype(np.float32)
    with torch.inference_mode():
        raw = yolox_network(2)(torch.from_numpy(x)).numpy()
    (want,), (one,) = decode_tensor(raw, card, (96, 96)), detector.detect(x)
    assert 0 < len(want) < 189
    np.testing.assert_allclose(one.corners, want.corners, rtol=1e-4)
    np.testing.assert_array_equal(one.values, want.values)


def test_a_form_that_is_not_the_files_is_named(tmp_path: Path) -> None:
    with pytest.raises(CardError, match=r"gave shape \(189, 7\) for a patch; yolov8"):
        check_model(yolox_card(tmp_path, form="yolov8"), trust_code=True)


def test_a_detector_of_torchvision_is_checked(tmp_path: Path) -> None:
    plain = seeded_dict(tmp_path, "faster-rcnn", max_object_px=32)
    plain["input"]["patch"]["size"] = 128
    card = ModelCard.from_dict(plain)
    found = check_model(card)
    assert found.input == (1, 3, 128, 128)
    assert found.output == (found.found, 4)
    assert found.parameters > 28_000_000
    assert "how far it looks is not measured" in found.context
    (tmp_path / "faster-rcnn.safetensors").write_bytes(b"<!DOCTYPE html>")
    with pytest.raises(WeightsError, match="is HTML or XML"):
        check_model(card)


def test_keys_of_a_detector_that_are_missing_are_named(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    plain = seeded_dict(tmp_path, "faster-rcnn")
    state = load_file(plain["weights"]["href"])
    del state["rpn.head.cls_logits.bias"]
    save_file(state, plain["weights"]["href"])
    with pytest.raises(
        WeightsError, match=r"1 missing \(rpn\.head\.cls_logits\.bias\)"
    ):
        check_model(ModelCard.from_dict(plain))

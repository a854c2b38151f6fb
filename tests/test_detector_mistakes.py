"""What users get wrong with detectors, as whole jobs: refused, mended or told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.cli import main
from geoscale.errors import CardError, GeoscaleError, SourceError, WeightsError
from geoscale.evaluation.objects import evaluate_objects
from geoscale.report import write_report
from geoscale.results.objects import export_objects
from tests.support.detectors import bright_squares, seeded_dict, write_squares_job
from tests.support.stac_rules import check_item

torch = pytest.importorskip("torch")
gpd = pytest.importorskip("geopandas")

PLACES = [(30, 30), (60, 90)]


def change_card(folder: Path, **change: Any) -> None:
    """Change parts of the card beside a job, one level deep."""
    path = folder / "card.yaml"
    card = yaml.safe_load(path.read_text())
    for key, value in change.items():
        card[key] = card.get(key, {}) | value if isinstance(value, dict) else value
    path.write_text(yaml.safe_dump(card))


def run(job: Path) -> Any:
    return gs.run_job(job, trust_code=True)


def write_labels(path: Path, crs: str = "EPSG:32636", label: str = "square") -> Path:
    """The squares as polygons, in some CRS."""
    import shapely

    boxes = [
        shapely.box(5e5 + (x - 4) / 2, 2e6 - (y + 5) / 2, 5e5 + (x + 5) / 2,
                    2e6 - (y - 4) / 2)
        for y, x in PLACES
    ]  # fmt: skip
    table = gpd.GeoDataFrame({"class": [label] * 2}, geometry=boxes, crs="EPSG:32636")
    table.to_crs(crs).to_file(path)
    return path


@pytest.fixture(scope="module")
def empty(tmp_path_factory: Any) -> Path:
    """Output of a detector that found nothing."""
    folder = tmp_path_factory.mktemp("empty")
    assert run(write_squares_job(folder, bright_squares((100, 120), []))).complete
    return folder / "out"


@pytest.mark.parametrize("name", ["a.gpkg", "a.geojson", "a.fgb", "a.parquet"])
def test_a_detector_with_no_box_makes_files_without_rows(
    empty: Path, tmp_path: Path, name: str
) -> None:
    (path,) = export_objects(empty, tmp_path / name)
    read = gpd.read_parquet if name.endswith("parquet") else gpd.read_file
    assert len(read(path)) == 0


def test_a_detector_with_no_box_has_a_valid_item_a_page_and_no_precision(
    empty: Path, tmp_path: Path
) -> None:
    _, item = export_objects(empty, tmp_path / "folder")
    said = json.loads(item.read_text())
    check_item(said)
    assert said["properties"]["table:row_count"] == 0
    assert "No object reached" in write_report(empty, tmp_path / "p.html").read_text()
    found = evaluate_objects(
        empty, write_labels(tmp_path / "l.gpkg"), attribute="class"
    )
    assert [(one.name, one.mean) for one in found.classes] == [("square", 0.0)]


@pytest.fixture(scope="module")
def squares(tmp_path_factory: Any) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    assert run(write_squares_job(folder, bright_squares((100, 120), PLACES))).complete
    return folder / "out"


@pytest.mark.parametrize("crs", ["EPSG:32636", "EPSG:4326", "EPSG:3857"])
def test_labels_in_another_crs_are_brought_to_the_grid(
    squares: Path, tmp_path: Path, crs: str
) -> None:
    labels = write_labels(tmp_path / "l.gpkg", crs)
    found = evaluate_objects(squares, labels, attribute="class")
    assert found.classes[0].at(0.5) == 1.0


def test_labels_of_no_class_and_beside_the_imagery_are_named(
    squares: Path, tmp_path: Path
) -> None:
    other = write_labels(tmp_path / "o.gpkg", label="sqare")
    with pytest.raises(SourceError, match=r"label `sqare`, which is no class .*square"):
        evaluate_objects(squares, other, attribute="class")
    away = gpd.read_file(write_labels(tmp_path / "l.gpkg"))
    away.geometry = away.geometry.translate(5000, 0)
    away.to_file(tmp_path / "away.gpkg")
    with pytest.raises(SourceError, match="no object inside the imagery"):
        evaluate_objects(squares, tmp_path / "away.gpkg", attribute="class")


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"input": {"bands": ["b1", "b2"]}}, GeoscaleError, "b2"),
        (
            {"output": {"classes": [{"value": 1, "name": "a"},
                                    {"value": 2, "name": "b"}]}},
            CardError,
            r"yolov8 with 2 classes gives \(6, boxes\)",
        ),
        ({"license": "CC-BY-NC-4.0"}, CardError, "forbids commercial use"),
        ({"input": {"sensor": "sentinel-9"}}, CardError, "sensor `sentinel-9`"),
    ],
)  # fmt: skip
def test_cards_that_do_not_fit_are_refused_before_a_pixel_is_read(
    tmp_path: Path, change: dict[str, Any], error: type[Exception], says: str
) -> None:
    job = write_squares_job(tmp_path, bright_squares((100, 120), []))
    change_card(tmp_path, **change)
    with pytest.raises(error, match=says):
        run(job)
    assert not (tmp_path / "out" / "parts").exists()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("net.onnx", b"<!DOCTYPE html><html>Sign in</html>", "is HTML or XML"),
        (
            "net.onnx",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
            "Git-LFS pointer",
        ),
        ("net.torchscript", b"PK nothing", "is no torchscript file"),
        ("net.onnx", b"", "are empty"),
    ],
)
def test_files_that_are_no_weights_are_named(
    tmp_path: Path, name: str, content: bytes, says: str, capsys: Any
) -> None:
    job = write_squares_job(tmp_path, bright_squares((100, 120), []))
    (tmp_path / name).write_bytes(content)
    kind = name.rpartition(".")[2]
    change_card(tmp_path, weights={"href": name, "format": kind})
    assert main(["run", str(job), "--trust-code"]) != 0
    assert says in capsys.readouterr().err


def write_rcnn(folder: Path, state: Any) -> ModelCard:
    """Card of a Faster R-CNN with these weights as a torch checkpoint."""
    torch.save(state, folder / "w.ckpt")
    card = seeded_dict(folder, "faster-rcnn")
    card["weights"] = {"href": str(folder / "w.ckpt")}
    return ModelCard.from_dict(card)


@pytest.mark.slow
def test_checkpoints_of_trainers_are_mended_and_pickles_refused(
    tmp_path: Path, caplog: Any
) -> None:
    from safetensors.torch import load_file

    from geoscale.models.detector import load_detector
    from geoscale.models.runtimes import ModelSettings

    card = ModelCard.from_dict(seeded_dict(tmp_path, "faster-rcnn"))
    state = load_file(card.weights.href)
    lightning = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 1}
    settings = ModelSettings(device="cpu", patch=128, threads=1)
    with caplog.at_level("INFO"):
        found = load_detector(write_rcnn(tmp_path, lightning), settings)
    assert "prefix `model.` taken off" in caplog.text
    x = np.random.default_rng(0).normal(size=(1, 3, 128, 128)).astype(np.float32)
    (one,), (two,) = found.detect(x), load_detector(card, settings).detect(x)
    assert one.corners.tobytes() == two.corners.tobytes()
    with pytest.raises(WeightsError, match="needs code execution"):
        load_detector(write_rcnn(tmp_path, torch.nn.Conv2d(1, 1, 1)), settings)


def test_pixels_unlike_those_of_the_training_are_told(
    tmp_path: Path, caplog: Any
) -> None:
    image = bright_squares((100, 120), PLACES) * 10_000
    job = write_squares_job(tmp_path, image + 1, block=60)
    change_card(
        tmp_path,
        input={"normalization": {"type": "mean-std", "mean": [0.1], "std": [0.1]}},
    )
    assert run(job).complete
    assert "names the likely mistake" in caplog.text
    page = write_report(tmp_path / "out").read_text()
    assert "<dt>unlike training pixels</dt><dd>4 blocks</dd>" in page

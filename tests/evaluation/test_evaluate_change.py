"""Change maps held against labels: the right layers, and scikit-learn's figures."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from odc.geo.geobox import GeoBox
from PIL import Image
from sklearn import metrics

import geoscale as gs
from geoscale.errors import SourceError
from geoscale.types import Layer
from tests.evaluation.conftest import UTM, blobs, write_labels, write_output
from tests.results.test_polygons import CHANGE


def write_change(url, probability, grid, classes=(0, 1)):
    """A change map by its probability in steps; 255 is nodata."""
    changed = np.where(probability >= 127, 1, 0).astype(np.uint8)
    holes = probability == 255
    changed[holes] = 255
    # layers of classes that must not be taken, and come first
    kinds = (*CHANGE[2:], *CHANGE[:2])
    arrays = {"change": changed, "probability": probability}
    for name, value in zip(("from_class", "to_class"), classes, strict=True):
        arrays[name] = np.where(holes, 255, value).astype(np.uint8)
    stacked = {name: array[None] for name, array in arrays.items()}
    return write_output(url, stacked, grid, kinds=kinds), changed


def check(found, changed, probability, truth):
    both = (truth != 255) & (probability != 255)
    t, ours, steps = truth[both], changed[both], probability[both]
    assert found.layer == "change"
    assert [one.name for one in found.classes] == ["unchanged", "changed"]
    assert found.pixels == both.sum()
    assert np.array_equal(np.array(found.matrix).T, metrics.confusion_matrix(t, ours))
    one = found.score("changed")
    assert one.f1 == pytest.approx(metrics.f1_score(t, ours))
    assert one.iou == pytest.approx(metrics.jaccard_score(t, ours))
    assert one.auc == pytest.approx(metrics.roc_auc_score(t, steps), abs=1e-14)
    assert found.score("unchanged").auc is None
    assert found.kappa == pytest.approx(metrics.cohen_kappa_score(t, ours))


def test_change_and_probability_are_taken_by_themselves(tmp_path):
    rng = np.random.default_rng(0)
    truth = blobs((150, 210), 2, 3)
    noise = rng.integers(0, 160, truth.shape)
    probability = np.clip(noise + 90 * truth, 0, 254).astype(np.uint8)
    probability[rng.random(truth.shape) < 0.02] = 255
    truth[:20] = 255
    url, changed = write_change(tmp_path / "map.zarr", probability, UTM)
    path = write_labels(tmp_path / "labels.tif", truth, UTM, nodata=255)
    check(gs.evaluate(url, path), changed, probability, truth)


def test_a_probability_of_half_floats_is_taken_too(tmp_path):
    rng = np.random.default_rng(0)
    truth = blobs((150, 210), 2, 3)
    half = np.clip(rng.random(truth.shape) * 0.6 + 0.35 * truth, 0, 1).astype(
        np.float16
    )
    kinds = (CHANGE[0], Layer(name="probability", dtype="float16", fill_value=np.nan))
    arrays = {"change": (half > 0.5).astype(np.uint8)[None], "probability": half[None]}
    url = write_output(tmp_path / "map.zarr", arrays, UTM, kinds=kinds)
    path = write_labels(tmp_path / "labels.tif", truth, UTM)
    found = gs.evaluate(url, path).score("changed").auc
    assert found == pytest.approx(metrics.roc_auc_score(truth.ravel(), half.ravel()))


def test_taizhou_by_change_vectors(data_dir, tmp_path):
    """Real labels: z-scored bands, their distance as a probability."""
    dates, truth = [], np.full((400, 400), 255, np.uint8)
    for year in (2000, 2003):
        look = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE")  # its header
        with look, rasterio.open(data_dir / "taizhou" / f"{year}TM") as file:
            dates.append(file.read().astype(float))
            grid = GeoBox((400, 400), file.transform, str(file.crs))
    for value, name in enumerate(("unchanged", "change")):
        label = Image.open(data_dir / "taizhou" / f"{name}.bmp").convert("L")
        truth[np.asarray(label) > 0] = value
    scores = [
        (date - date.mean((1, 2), keepdims=True)) / date.std((1, 2), keepdims=True)
        for date in dates
    ]
    length = np.sqrt(((scores[1] - scores[0]) ** 2).sum(axis=0))
    probability = np.clip(np.rint(length / 8 * 254), 0, 254).astype(np.uint8)
    url, changed = write_change(tmp_path / "map.zarr", probability, grid)
    path = write_labels(tmp_path / "labels.tif", truth, grid, nodata=255)
    found = gs.evaluate(url, path)
    check(found, changed, probability, truth)
    assert found.pixels == 4_227 + 17_163
    assert found.score("changed").auc >= 0.990


@pytest.fixture
def plain(tmp_path):
    probability = blobs((150, 210), 2, 3) * np.uint8(200)
    return write_change(tmp_path / "map.zarr", probability, UTM)[0]


def test_labels_by_name_of_another_crs(plain, tmp_path):
    """Words of the legend, in degrees; the class map is not meant."""
    from tests.evaluation.conftest import write_shapes

    path = tmp_path / "labels.gpkg"
    write_shapes(path, UTM, names=("unchanged", "changed"))
    found = gs.evaluate(plain, path, attribute="kind")
    assert found.pixels > 100
    assert set(found.labels) == {"unchanged", "changed"}


def test_labels_that_a_change_map_does_not_know(plain, tmp_path):
    labels = np.full((150, 210), 7, np.uint8)
    path = write_labels(tmp_path / "labels.tif", labels, UTM)
    with pytest.raises(
        SourceError, match=r"7 \(31,500 px\); the map has 0 unchanged, 1"
    ):
        gs.evaluate(plain, path)


def test_labels_elsewhere(plain, tmp_path):
    grid = GeoBox((150, 210), UTM.affine, "EPSG:32651")
    path = write_labels(tmp_path / "labels.tif", blobs((150, 210), 2, 3), grid)
    with pytest.raises(SourceError, match="does not meet the map"):
        gs.evaluate(plain, path)

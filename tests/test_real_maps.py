"""Real weights on real imagery: the answer is the reference, whatever the cut."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import geoscale as gs
from geoscale.testing import measure_seams
from tests.support.cards import dynamic_world, simplecnn

BLOCKS = (96, 128, 192, 512)


def open_chip(data_dir, **options):
    """Sentinel-2 over Orihuela: DN x 10000, 13 bands; every pixel is valid."""
    return gs.open_stack(
        data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif",
        sensor="sentinel-2",
        scale=1e-4,
        source_nodata="none",
        **options,
    )


def water_iou(classes, label, water=1):
    known = label >= 0
    a, b = (classes == water) & known, (label == water) & known
    return (a & b).sum() / (a | b).sum()


@pytest.fixture(scope="module")
def label(data_dir):
    import rasterio

    path = data_dir / "sen1floods11" / "Spain_7370579_LabelHand.tif"
    with rasterio.open(path) as file:
        return file.read(1)


def make_map(data_dir, tmp_path, card, block, client=None, **options):
    plan = gs.plan(open_chip(data_dir), card, block_px=block, **options)
    report = gs.run(plan, tmp_path / "map.zarr", client=client, trust_code=True)
    assert report.complete
    assert report.exit_code == 0
    return gs.open_output(str(tmp_path / "map.zarr"))


@pytest.mark.parametrize("block", BLOCKS)
def test_simplecnn_is_the_reference_in_every_pixel(data_dir, tmp_path, block, label):
    want = np.load(data_dir / "worldfloods_simplecnn" / "spain_reference.npz")["cls"]
    found = make_map(data_dir, tmp_path, simplecnn(data_dir), block)
    classes = found.classes.values[0]
    assert (classes == want).sum() == 512 * 512
    assert water_iou(classes, label) == pytest.approx(0.5875, abs=5e-5)


@pytest.mark.parametrize("block", BLOCKS)
def test_dynamic_world_is_tensorflows_answer(data_dir, tmp_path, block, label):
    want = np.load(data_dir / "dynamicworld" / "spain_reference.npz")["cls"]
    found = make_map(data_dir, tmp_path, dynamic_world(data_dir), block)
    classes = found.classes.values[0]
    assert (classes == want).mean() >= 0.9999
    assert water_iou(classes == 0, label, 1) == pytest.approx(0.6390, abs=5e-5)


@pytest.fixture(scope="module", params=[1, 2])
def client(request):
    with gs.connect(request.param) as client:
        yield client


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_dask_gives_the_same_maps(data_dir, tmp_path, block, client):
    want = np.load(data_dir / "worldfloods_simplecnn" / "spain_reference.npz")["cls"]
    found = make_map(data_dir, tmp_path, simplecnn(data_dir), block, client)
    assert (found.classes.values[0] == want).sum() == 512 * 512


@pytest.mark.slow
@pytest.mark.parametrize("block", BLOCKS)
def test_dask_gives_tensorflows_answer(data_dir, tmp_path, block, client):
    want = np.load(data_dir / "dynamicworld" / "spain_reference.npz")["cls"]
    found = make_map(data_dir, tmp_path, dynamic_world(data_dir), block, client)
    assert (found.classes.values[0] == want).mean() >= 0.9999


def ukis_scene(data_dir):
    """Sentinel-2 TOA reflectance; the file has no place on Earth, so one is given."""
    from odc.geo.xr import xr_coords

    from geoscale.testing import toy_geobox

    found = np.load(data_dir / "ukis_csmask" / "sentinel2.npz")
    image = next(found[k] for k in found.files if found[k].shape[-1] == 6)
    label = next(found[k] for k in found.files if found[k].shape[-1] != 6)
    bands = ["blue", "green", "red", "nir", "swir16", "swir22"]
    coords = xr_coords(toy_geobox(image.shape[:2]))
    array = xr.DataArray(
        np.moveaxis(image, -1, 0).astype(np.float32),
        dims=("band", "y", "x"),
        coords={"band": bands, **coords},
        attrs={"scale": 1.0},
    )
    return array, np.squeeze(label)


def kappa(a, b):
    n = int(max(a.max(), b.max())) + 1
    table = np.bincount(a.ravel() * n + b.ravel(), minlength=n * n).reshape(n, n)
    share = table / table.sum()
    chance = (share.sum(0) * share.sum(1)).sum()
    return (np.trace(share) - chance) / (1 - chance)


def test_ukis_has_no_seams_and_keeps_its_accuracy(data_dir, tmp_path):
    pytest.importorskip("ukis_csmask")
    array, label = ukis_scene(data_dir)
    plan = gs.plan(array, "ukis-csmask-6b-l1c", block_px=256)
    assert (plan.lattice.merge, plan.inference.stride) == ("blend", 233)
    report = gs.run(plan, tmp_path / "map.zarr")
    assert report.complete
    classes = gs.open_output(str(tmp_path / "map.zarr")).classes.values[0]
    truth = np.array([2, 0, 0, 0, 1], np.uint8)[label.astype(int)]
    score = kappa(truth, classes)
    lattice = plan.lattice
    ratios = []
    for axis, along in enumerate((lattice.y, lattice.x)):
        starts = [along.start(k) for k in range(along.count)]
        borders = {*starts, *(s + along.patch for s in starts)}
        ratios.append(measure_seams(classes, sorted(borders), axis))
    print(f"kappa {score:.4f}, seams {ratios}")
    assert score >= 0.810
    assert max(r.ratio for r in ratios) <= 1.5

"""Verbs on what was made: status, verify, repair, export, shards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import geoscale as gs
from geoscale.errors import JobError, OutputError
from geoscale.testing import FakeSource
from tests.support.toy import stored_bytes


def plan_of(folder, side=600, **options):
    """A real job: a file on disk, so that every process can read it."""
    import rasterio
    from rasterio.transform import from_origin

    path = folder / "scene.tif"
    if not path.exists():
        rng = np.random.default_rng(3)
        data = rng.integers(100, 4000, (4, side, side)).astype("uint16")
        data[:, :40, :60] = 0
        with rasterio.open(
            path,
            "w",
            driver="GTiff",
            height=side,
            width=side,
            count=4,
            dtype="uint16",
            crs="EPSG:32633",
            transform=from_origin(500_000, 4_600_000, 10, 10),
            nodata=0,
            tiled=True,
            blockxsize=128,
            blockysize=128,
        ) as file:
            file.write(data)
            file.descriptions = ("blue", "green", "red", "nir")
    stack = gs.open_stack(path, scale=1e-4)
    return gs.plan(stack, "s2-landcover-unet", block_px=200, patch_px=128, **options)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("made")
    plan = plan_of(folder)
    report = gs.run(plan, folder / "out.zarr")
    assert report.complete
    return folder, plan, stored_bytes(str(folder / "out.zarr"))


def copy_of(made, tmp_path):
    import shutil

    shutil.copytree(made[0] / "out.zarr", tmp_path / "out.zarr")
    return tmp_path / "out.zarr"


def test_status_tells_all_from_the_output_alone(made):
    found = gs.status(made[0] / "out.zarr")
    assert (found["blocks"], found["done"], found["left"]) == (9, 9, 0)
    assert found["complete"] is True
    assert found["plan_hash"] == made[1].hash


def test_status_of_something_else_says_so(tmp_path):
    with pytest.raises(OutputError, match="is no output of geoscale"):
        gs.status(tmp_path)


@pytest.mark.parametrize(
    "pattern", ["classes/c/**/*", "confidence/c/**/*", "overviews/2/classes/c/**/*"]
)
def test_repair_mends_one_flipped_bit(made, tmp_path, pattern):
    out = copy_of(made, tmp_path)
    victim = sorted(p for p in out.glob(pattern) if p.is_file())[-1]
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 4
    victim.write_bytes(data)
    found = gs.verify(out)
    assert [d.key for d in found.damaged] == [str(victim.relative_to(out))]
    report = gs.repair(out)
    assert report.complete
    assert report.computed == len(found.blocks()) <= 1
    assert gs.verify(out).is_sound
    assert stored_bytes(str(out)) == made[2]


def test_repair_mends_coordinates(made, tmp_path):
    out = copy_of(made, tmp_path)
    (out / "x" / "zarr.json").write_text("{}")
    assert not gs.verify(out).is_sound
    assert gs.repair(out).computed == 0
    assert gs.verify(out).is_sound
    assert stored_bytes(str(out)) == made[2]


def test_repair_makes_a_deleted_shard_again(made, tmp_path):
    out = copy_of(made, tmp_path)
    (out / "classes" / "c" / "0" / "1" / "2").unlink()
    assert gs.verify(out).damaged[0].reason == "missing"
    assert gs.repair(out).computed == 1
    assert stored_bytes(str(out)) == made[2]


def test_what_killed_writers_left_is_swept(made, tmp_path):
    out = tmp_path / "out.zarr"
    plan = plan_of(made[0])
    orphan = out / "classes" / "c" / "0" / "0" / "7"
    gs.run(plan, out, shard=(0, 2))
    orphan.parent.mkdir(parents=True, exist_ok=True)
    orphan.write_bytes(b"left behind")
    assert gs.run(plan, out).complete
    assert not orphan.exists()


def test_shards_without_dask_equal_one_run(made, tmp_path):
    out = tmp_path / "out.zarr"
    plan = plan_of(made[0])
    reports = [gs.run(plan, out, shard=(i, 3)) for i in range(3)]
    assert [r.computed for r in reports] == [3, 3, 3]
    assert [r.complete for r in reports] == [False, False, True]
    assert [r.exit_code for r in reports] == [3, 3, 0]
    assert stored_bytes(str(out)) == made[2]
    with pytest.raises(JobError, match="shard 3/3 does not exist; choose 0 to 2"):
        gs.run(plan, out, shard=(3, 3))


def test_a_changed_option_is_refused_and_named(made, tmp_path):
    out = copy_of(made, tmp_path)
    with pytest.raises(OutputError, match=r"inference\.patch: 128 there, 256 here"):
        gs.run(
            gs.plan(
                gs.open_stack(made[0] / "scene.tif", scale=1e-4),
                "s2-landcover-unet",
                block_px=200,
                patch_px=256,
            ),
            out,
        )


def test_export_writes_cogs_with_colours_and_stac(made, tmp_path):
    import pystac
    import rasterio

    *cogs, catalogue = gs.export(made[0] / "out.zarr", tmp_path / "maps")
    with rasterio.open(cogs[0]) as file:
        assert file.nodata == 255
        assert file.colormap(1)[0] == (0x41, 0x9B, 0xDF, 255)
        stored = gs.open_output(str(made[0] / "out.zarr"))
        np.testing.assert_array_equal(file.read(1), stored.classes.values[0])
    items = list(pystac.Catalog.from_file(str(catalogue)).get_items(recursive=True))
    assert items[0].properties["geoscale:plan_hash"] == made[1].hash
    assert items[0].properties["geoscale:model_sha256"] == made[1].weights_sha256


def test_an_unfinished_output_is_not_exported(made, tmp_path):
    gs.run(plan_of(made[0]), tmp_path / "out.zarr", shard=(0, 2))
    with pytest.raises(OutputError, match=r"not complete \(4 blocks left\)"):
        gs.export(tmp_path / "out.zarr", tmp_path / "maps")


def test_all_nodata_completes_and_is_all_nodata(tmp_path):
    source = FakeSource(
        np.zeros((1, 4, 150, 150), np.float32), np.zeros((1, 150, 150), bool)
    )
    report = gs.run(gs.plan(source, "s2-landcover-unet"), tmp_path / "out.zarr")
    assert report.complete
    found = gs.open_output(str(tmp_path / "out.zarr"))
    assert (found.classes.values == 255).all()
    assert not list(Path(tmp_path / "out.zarr").glob("classes/c/**/0"))


def test_a_model_file_that_changed_since_the_plan_is_refused(tmp_path):
    import shutil

    from tests.support.cards import SUPPORT

    shutil.copy(SUPPORT / "simplecnn.py", tmp_path / "net.py")
    card = {
        "name": "mine",
        "architecture": f"{tmp_path / 'net.py'}:SimpleCNN",
        "architecture_args": {"in_channels": 4, "classes": 3},
        "weights": {"href": str(save_weights(tmp_path))},
        "input": {"bands": ["b0", "b1", "b2", "b3"], "units": "raw"},
        "output": {"classes": [{"value": i, "name": f"c{i}"} for i in range(3)]},
    }
    source = FakeSource(np.ones((1, 4, 64, 64), np.float32), np.ones((1, 64, 64), bool))
    plan = gs.plan(source, card)
    assert gs.run(plan, tmp_path / "a.zarr", trust_code=True).complete
    with (tmp_path / "net.py").open("a") as file:
        file.write("\n# changed\n")
    with pytest.raises(OutputError, match="Python file of `mine` has changed"):
        gs.run(plan, tmp_path / "b.zarr", trust_code=True)


def save_weights(folder):
    from safetensors.torch import save_file

    from tests.support.simplecnn import SimpleCNN

    save_file(SimpleCNN(4, 3).state_dict(), folder / "net.safetensors")
    return folder / "net.safetensors"

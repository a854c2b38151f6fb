"""From a job file to cells, GeoTIFFs and a page, as a user makes them."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from geoscale.cli import main
from geoscale.models.mlm import read_item, write_item
from geoscale.sinks.layout import open_output
from tests.support.coarse import classes, make_card
from tests.support.toy import SHAPE, toy_files

torch = pytest.importorskip("torch")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("cells")
    (made / "scenes").mkdir()
    toy_files(made / "scenes", side=128)
    return made


def run(folder, name, card, **job):
    data = card.model_dump(mode="json", exclude_defaults=True, exclude={"base"})
    data["input"] |= {"bands": ["B1", "B2"], "multiply": 2e-5}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(data))
    output = {"to": f"{name}.zarr", **job.pop("output", {})}
    asked = {
        "imagery": {"files": "scenes/*.tif"},
        "model": f"{name}.yaml",
        "output": output,
        "inference": {"block": 96},
        **job,
    }
    path = folder / f"{name}.job.yaml"
    path.write_text(yaml.safe_dump(asked))
    assert main(["run", str(path), "--trust-code"]) == 0
    return folder / f"{name}.zarr"


@pytest.fixture(scope="module")
def labelled(folder):
    said = {"classes": classes(), "multilabel": True, "thresholds": [0.5, 0.4, 0.5]}
    card = make_card(folder, "Scene", "classification", said, size=32)
    return run(folder, "labelled", card, task="classification"), card


def test_cells_have_classes_labels_and_scores(folder, labelled, capsys):
    gpd = pytest.importorskip("geopandas")
    out, _ = labelled
    cells = folder / "cells.parquet"
    assert main(["export", str(out), "--to", str(cells)]) == 0
    assert str(cells) in capsys.readouterr().out
    table, data = gpd.read_parquet(cells), open_output(str(out))
    valid = data["classes"].values[0] != 255
    assert len(table) == valid.sum()
    assert 0 < len(table) < valid.size
    stored = data["scores"].values[0][:, table.row, table.column]
    for k, name in enumerate(("water", "forest", "town")):
        np.testing.assert_allclose(table[f"score_{name}"], stored[k], atol=1e-6)
        has = [name in one for one in table.labels]
        want = data["labels"].values[0][k, table.row, table.column] == 1
        np.testing.assert_array_equal(has, want)
    first = table.geometry.iloc[0].bounds
    assert first[2] - first[0] == 320  # 32 px of 10 m
    middle = table.geometry.centroid
    np.testing.assert_array_equal(middle.x, data.x.values[table.column])
    np.testing.assert_array_equal(middle.y, data.y.values[table.row])


def test_a_table_made_in_small_parts_is_the_same(folder, labelled, monkeypatch):
    import pyarrow.parquet as pq

    from geoscale.results import cells, files

    whole = cells.write_cells(labelled[0], folder / "whole.parquet")
    monkeypatch.setattr(cells, "MOST_PX", 2)
    monkeypatch.setattr(files, "GROUP_BYTES", 1)
    parts = cells.write_cells(labelled[0], folder / "parts.parquet")
    assert pq.ParquetFile(parts).num_row_groups > 5
    keys = [("row", "ascending"), ("column", "ascending")]
    one, two = (pq.read_table(path).sort_by(keys) for path in (whole, parts))
    assert one.equals(two)


def test_cells_of_pixels_are_refused(folder, capsys):
    bands = [{"name": "height", "units": "m"}]
    card = make_card(folder, "Numbers", "regression", {"bands": bands}, size=32, halo=1)
    out = run(folder, "numbers", card)
    assert main(["export", str(out), "--to", str(folder / "no.parquet")]) == 2
    assert "holds a value for every pixel" in capsys.readouterr().err
    assert main(["export", str(out), "--to", str(folder / "cogs")]) == 0
    rasterio = pytest.importorskip("rasterio")
    with rasterio.open(next((folder / "cogs").glob("*_height.tif"))) as file:
        read = file.read(1)
        assert np.isnan(file.nodata)
    np.testing.assert_array_equal(read, open_output(str(out))["height"].values[0])
    assert main(["view", str(out)]) == 0
    page = (folder / "numbers.html").read_text()
    assert "The map shows height [m]" in page


def test_vectors_of_eight_bits_come_back_in_the_table(folder):
    import pyarrow.parquet as pq

    said = {"features": 8, "reduction": 4, "activation": "none"}
    card = make_card(folder, "Backbone", "backbone", said, size=32, multiple_of=4)
    found = {}
    for dtype in ("float32", "int8"):
        out = run(
            folder, f"e{dtype}", card, task="embedding", output={"dtype": dtype},
            embedding={"components": 2},
        )  # fmt: skip
        to = folder / f"e{dtype}.parquet"
        assert main(["export", str(out), "--to", str(to)]) == 0
        vectors = pq.read_table(to)["embedding"].to_pylist()
        found[dtype] = np.asarray(vectors, np.float32)
    assert main(["view", str(out)]) == 0
    assert len(found["int8"]) == len(found["float32"])
    span = np.ptp(found["float32"], axis=0)
    far = np.abs(found["int8"] - found["float32"]).max(axis=0)
    assert (far <= span * 1.2 / 254).all()
    assert (far > 0).any()


def test_the_search_of_the_docs_finds_neighbours(folder, monkeypatch):
    pytest.importorskip("sklearn")
    said = {"features": 8, "reduction": 4, "activation": "none"}
    card = make_card(folder, "Backbone", "backbone", said, size=32, multiple_of=4)
    out = run(folder, "embeddings", card, task="embedding", embedding={"per": "patch"})
    to = folder / "embeddings.parquet"
    assert main(["export", str(out), "--to", str(to)]) == 0
    page = Path(__file__).resolve().parents[1] / "docs" / "tasks.md"
    code = re.findall(r"```python\n(.*?)```", page.read_text(), re.S)[0]
    monkeypatch.chdir(folder)
    names: dict = {}
    exec(compile(code, "tasks.md", "exec"), names)
    assert names["which"][0][0] == 0
    assert len(names["alike"]) == 6
    assert (np.diff(names["far"][0]) >= 0).all()


def test_pages_of_scenes_show_the_imagery_beside_large_cells(folder, labelled):
    assert main(["view", str(labelled[0])]) == 0
    assert "classification by toy-scene" in (folder / "labelled.html").read_text()


def test_another_job_in_the_same_folder_is_not_the_same(folder, labelled, capsys):
    """What embeddings are made of is part of a plan's name, and of a job's."""
    said = {"features": 8, "reduction": 4, "activation": "none"}
    card = make_card(folder, "Backbone", "backbone", said, size=32, multiple_of=4)
    run(folder, "twice", card, task="embedding", embedding={"components": 2})
    job = yaml.safe_load((folder / "twice.job.yaml").read_text())
    assert main(["run", str(folder / "twice.job.yaml"), "--trust-code"]) == 0
    job["embedding"]["components"] = 3
    (folder / "twice.job.yaml").write_text(yaml.safe_dump(job))
    assert main(["run", str(folder / "twice.job.yaml"), "--trust-code"]) != 0
    assert "embedding" in capsys.readouterr().err


def test_cards_of_scenes_and_numbers_are_items_too(folder, labelled):
    pytest.importorskip("pystac.extensions.mlm")
    card = labelled[1]
    item = write_item(card)
    output = item["properties"]["mlm:output"][0]
    assert item["properties"]["mlm:tasks"] == ["scene-classification"]
    assert output["result"]["shape"] == [-1, 3]
    assert read_item(item, "item").hash() == card.hash()
    bands = [{"name": "height", "units": "m"}]
    numbers = make_card(folder, "Numbers", "regression", {"bands": bands}, size=32)
    item = write_item(numbers)
    assert item["properties"]["mlm:tasks"] == ["regression"]
    assert read_item(item, "item").hash() == numbers.hash()
    del item["properties"]["geoscale:card"]
    assert SHAPE


@pytest.mark.slow
@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_a_resnets_embeddings_do_not_hang_on_the_cut(data_dir, tmp_path, merge):
    """One pass over all of the image, small blocks, and two processes: the same."""
    import geoscale as gs
    from geoscale.clusters import connect
    from geoscale.models.catalog import find_card
    from geoscale.models.seeding import seed_weights

    name = "torchgeo:ResNet50_Weights.SENTINEL2_ALL_MOCO"
    card = seed_weights(find_card(name), tmp_path / "r50.pth")
    chip = data_dir / "sen1floods11" / "Spain_7370579_S2Hand.tif"

    def embed(to, block, client=None):
        stack = gs.open_stack(
            chip, sensor="sentinel-2", scale=1e-4, source_nodata="none"
        )
        plan = gs.plan(
            stack, card, task="embedding", merge=merge, stride_px=96, block_px=block,
            output={"dtype": "float32"},
        )  # fmt: skip
        assert gs.run(plan, tmp_path / to, client=client).complete
        return open_output(str(tmp_path / to))["embedding"].values[0]

    whole = embed("whole.zarr", 576)
    assert whole.std(axis=(1, 2)).mean() > 0.01
    np.testing.assert_array_equal(embed("cut.zarr", 192), whole)
    with connect(2) as client:
        two = embed("two.zarr", 192, client)
        np.testing.assert_array_equal(embed("one.zarr", 576, client), two)
    # a process that shares the cores has fewer threads, and torch's sums another order
    np.testing.assert_allclose(two, whole, rtol=0, atol=1e-4)
    # steps between neighbouring cells are no larger where patches meet
    steps = np.sqrt(((whole[:, 1:] - whole[:, :-1]) ** 2).sum(0)).mean(1)
    borders = [i - 1 for i in range(2, 15) if i % 3 == 0]
    others = [i - 1 for i in range(2, 15) if i % 3]
    assert steps[borders].mean() < 1.15 * steps[others].mean()

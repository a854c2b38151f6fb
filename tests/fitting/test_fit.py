"""From labels to a head to a map, and what is refused on the way."""

import json

import geopandas as gpd
import numpy as np
import pytest
import shapely
import xarray as xr

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.errors import CardError, JobError, SourceError
from geoscale.testing import toy_geobox

pytest.importorskip("sklearn")
pytest.importorskip("spyndex")

SIZE = 64


def make_stack(size=SIZE, seed=0, dates=1, hole=None):
    """Stripes of two kinds of land whose bands differ, with noise."""
    from odc.geo.xr import xr_coords

    rng = np.random.default_rng(seed)
    kind = (np.arange(size) // 8 % 2)[None, :].repeat(size, 0)
    red = np.where(kind == 1, 0.1, 0.3)
    nir = np.where(kind == 1, 0.5, 0.35)
    data = np.stack([red, nir])[None].repeat(dates, 0)
    data = data + rng.normal(0, 0.04, data.shape)
    if hole is not None:
        data[..., hole, :] = np.nan
    coords = {"band": ["red", "nir"], **xr_coords(toy_geobox((size, size)))}
    if dates > 1:
        coords["time"] = np.array(["2024-01-01", "2024-06-01"], "datetime64[ns]")[
            :dates
        ]
        dims = ("time", "band", "y", "x")
    else:
        data, dims = data[0], ("band", "y", "x")
    return xr.DataArray(
        data.astype(np.float32), dims=dims, coords=coords, attrs={"scale": 1.0}
    ), kind


def write_labels(path, rows, crs=None, column="kind"):
    """(y, x, label) of pixels as points."""
    box = toy_geobox((SIZE, SIZE))
    places = [shapely.Point(*(box.affine * (x + 0.5, y + 0.5))) for y, x, _ in rows]
    table = gpd.GeoDataFrame(
        {column: [r[2] for r in rows]}, geometry=places, crs=str(box.crs)
    )
    if crs is not None:
        table = table.to_crs(crs)
    table.to_file(path)
    return path


@pytest.fixture
def rows():
    _, kind = make_stack()
    rng = np.random.default_rng(1)
    picked = rng.permutation(SIZE * SIZE)[:120]
    names = ("soil", "wood")
    return [(p // SIZE, p % SIZE, names[kind[p // SIZE, p % SIZE]]) for p in picked]


def fit(tmp_path, labels, model="features:bands", stack=None, **options):
    stack = make_stack()[0] if stack is None else stack
    options = {"folds": 3, "block_m": 160, **options}
    return gs.fit(labels, stack, model, tmp_path / "head", **options)


@pytest.mark.parametrize("head", ["logistic", "ridge", "forest"])
@pytest.mark.parametrize("model", ["features:bands", "features:indices"])
def test_labels_become_a_map(tmp_path, rows, head, model):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    found = fit(tmp_path, labels, model, head=head)
    assert found.report["features"]["chosen"]["pooled"]["accuracy"] > 0.9
    stack, kind = make_stack(seed=5)
    maps = []
    for block in (32, 64):
        plan = gs.plan(
            stack,
            found.card,
            block_px=block,
            patch_px=32,
            output={"layers": ["classes", "confidence"]},
        )
        to = tmp_path / f"{block}.zarr"
        assert gs.run(plan, to).complete
        maps.append(gs.open_output(str(to)).load())
    assert (maps[0].classes.values[0] == kind).mean() > 0.9
    assert maps[0].identical(maps[1]) or (
        (maps[0].classes.values == maps[1].classes.values).all()
        and (maps[0].confidence.values == maps[1].confidence.values).all()
    )
    names = [c.name for c in gs.load_model(found.card).output.classes]
    assert names == ["soil", "wood"]


def test_polygons_label_their_pixels_and_are_never_split(tmp_path):
    from geoscale.fitting.folds import deal_blocks

    stack, _ = make_stack()
    box = toy_geobox((SIZE, SIZE))
    shapes, names = [], []
    for y in range(0, SIZE, 16):
        for x in range(0, SIZE, 8):
            corners = [box.affine * p for p in ((x + 1, y), (x + 7, y + 12))]
            shapes.append(shapely.box(*corners[0], *corners[1]))
            names.append(str(x // 8 % 2))
    path = tmp_path / "p.gpkg"
    gpd.GeoDataFrame({"k": names}, geometry=shapes, crs=str(box.crs)).to_file(path)
    found = fit(tmp_path, path, stack=stack, block_m=100, per_class=5000)
    assert found.report["pixels"] == 32 * 6 * 12
    middles = np.array([[5.0, 5.0], [95.0, 5.0], [105.0, 5.0], [250.0, 5.0]])
    of = np.array([0, 0, 1, 2, 2, 3])
    fold, blocks = deal_blocks(
        middles,
        np.array([0, 0, 1, 0, 1, 1]),
        of,
        block_m=100,
        folds=2,
        names=("a", "b"),
    )
    assert blocks == 3
    assert len(set(fold[[0, 1, 2]])) == 1, "one block, one fold"
    assert fold[3] == fold[4]


def test_the_draw_knows_no_windows_and_follows_the_seed(tmp_path, rows, monkeypatch):
    from geoscale.fitting import samples

    labels = write_labels(tmp_path / "l.gpkg", rows)
    first = fit(tmp_path, labels, per_class=20).report
    monkeypatch.setattr(samples, "WINDOW_PX", 7)
    assert fit(tmp_path, labels, per_class=20).report == first
    assert first["counts"] == [20, 20]
    assert (
        fit(tmp_path, labels, per_class=20, seed=1).report["features"]
        != first["features"]
    )


def test_dates_side_by_side_are_features(tmp_path, rows):
    stack, kind = make_stack(dates=2)
    labels = write_labels(tmp_path / "l.gpkg", rows)
    with pytest.raises(
        JobError, match=r"2 time steps .*say which one.*or take dates all"
    ):
        fit(tmp_path, labels, stack=stack)
    found = fit(tmp_path, labels, stack=stack, dates="all")
    assert found.report["features"]["chosen"]["count"] == 4
    assert found.report["features"]["indices"]["count"] % 2 == 0
    plan = gs.plan(stack, found.card, block_px=64)
    gs.run(plan, tmp_path / "m.zarr")
    made = gs.open_output(str(tmp_path / "m.zarr")).classes.values
    assert made.shape[0] == 1
    assert (made[0] == kind).mean() > 0.9


def seeded_net(tmp_path, size=64):
    import torch
    from safetensors.torch import save_file

    code = (
        "from torch import nn\n"
        "class Net(nn.Sequential):\n"
        "    def __init__(self):\n"
        "        super().__init__(nn.Conv2d(2, 6, 4, 4), nn.ReLU())\n"
    )
    (tmp_path / "net.py").write_text(code)
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 6, 4, 4), torch.nn.ReLU())
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    return ModelCard.from_dict(
        {
            "name": "net",
            "task": "backbone",
            "architecture": f"{tmp_path / 'net.py'}:Net",
            "weights": {"href": str(tmp_path / "net.safetensors")},
            "input": {
                "bands": ["red", "nir"],
                "normalization": {
                    "type": "mean-std",
                    "mean": [0.2, 0.4],
                    "std": [0.1, 0.1],
                },
                "patch": {"size": 32, "multiple_of": 4, "alignment": 4},
            },
            "output": {"activation": "none", "features": 6, "reduction": 4},
            "license": "MIT",
        }
    )


def test_a_backbone_of_ones_own_carries_its_code_along(tmp_path, rows):
    card = seeded_net(tmp_path)
    labels = write_labels(tmp_path / "l.gpkg", rows)
    with pytest.raises(CardError, match="trust"):
        fit(tmp_path, labels, card)
    found = fit(tmp_path, labels, card, trust_code=True)
    assert set(found.report["features"]) == {"chosen", "bands", "indices"}
    assert found.report["features"]["chosen"]["count"] == 6
    made = gs.load_model(found.card)
    assert made.architecture == "net.py:Net"
    assert made.license == "MIT"
    assert (tmp_path / "head" / "net.py").is_file()
    # what the map sees is what the head was fitted to
    for name in ("net.py", "net.safetensors"):
        (tmp_path / name).unlink()
    stack, kind = make_stack()
    plan = gs.plan(stack, found.card, block_px=64)
    with pytest.raises(CardError, match="trust"):
        gs.run(plan, tmp_path / "m.zarr")
    gs.run(plan, tmp_path / "m.zarr", trust_code=True)
    got = gs.open_output(str(tmp_path / "m.zarr")).classes.values[0]
    assert (got == kind).mean() > 0.6


def test_what_the_report_says_is_what_the_figures_say(tmp_path, rows):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    rng = np.random.default_rng(0)
    found = fit(tmp_path, labels, seeded_net(tmp_path), trust_code=True)
    f1 = {k: v["pooled"]["f1_macro"] for k, v in found.report["features"].items()}
    assert f1["chosen"] < f1["bands"] - 0.01, (
        "of 4 x 4 pixels: stripes of 8 are blurred"
    )
    text = (tmp_path / "head" / "report.md").read_text()
    assert "do NOT beat" in text
    assert "do NOT beat" in str(found)
    assert "do NOT beat" in (tmp_path / "head" / "report.html").read_text()
    assert "do NOT beat" in gs.load_model(found.card).notes
    assert json.loads((tmp_path / "head" / "report.json").read_text()) == found.report
    shuffled = [(y, x, rng.choice(["soil", "wood"])) for y, x, _ in rows]
    chance = fit(tmp_path, write_labels(tmp_path / "r.gpkg", shuffled)).report
    assert abs(chance["features"]["chosen"]["pooled"]["kappa"]) < 0.35


def test_labels_in_another_crs_are_projected_and_it_is_said(tmp_path, rows):
    here = fit(tmp_path, write_labels(tmp_path / "a.gpkg", rows)).report
    other = fit(tmp_path, write_labels(tmp_path / "b.gpkg", rows, "EPSG:3035")).report
    assert other["features"] == here["features"]
    assert not here["notes"]
    assert other["notes"] == ["Labels (EPSG:3035) were projected to the imagery's CRS."]


def test_labels_without_imagery_are_counted(tmp_path, rows):
    stack, _ = make_stack(hole=slice(0, 16))
    labels = write_labels(tmp_path / "l.gpkg", rows)
    found = fit(tmp_path, labels, stack=stack, block_m=100)
    lost = sum(1 for y, _, _ in rows if y < 16)
    assert found.report["invalid_pixels"] == lost > 0
    assert f"{lost} labelled pixels lie where the imagery has no valid value" in str(
        found
    )
    nothing, _ = make_stack(hole=slice(0, SIZE))
    with pytest.raises(SourceError, match="none of the 120 labelled pixels is valid"):
        fit(tmp_path, labels, stack=nothing)


def test_labels_elsewhere_are_refused(tmp_path, rows):
    away = [(y + 5000, x, k) for y, x, k in rows]
    labels = write_labels(tmp_path / "l.gpkg", away)
    with pytest.raises(
        SourceError,
        match=r"does not meet the imagery: its labels .* E, .* check its CRS",
    ):
        fit(tmp_path, labels)


def test_one_class_is_no_map(tmp_path, rows):
    labels = write_labels(tmp_path / "l.gpkg", [(y, x, "wood") for y, x, _ in rows])
    with pytest.raises(
        JobError, match="all labels in the imagery are `wood`; a map needs two"
    ):
        fit(tmp_path, labels)


def test_too_few_labels_for_the_folds(tmp_path, rows):
    few = [*rows, (3, 3, "road"), (3, 4, "road")]
    labels = write_labels(tmp_path / "l.gpkg", few)
    with pytest.raises(
        JobError,
        match=r"`road` has 2 labelled pixels, in 1 blocks of 160 m: too few for 3",
    ):
        fit(tmp_path, labels)
    found = fit(tmp_path, labels, ignore=["road"])
    assert found.report["classes"] == ["soil", "wood"]
    with pytest.raises(JobError, match=r"ignore `raod`: no label is called so.*road"):
        fit(tmp_path, labels, ignore=["raod"])


def test_a_column_that_is_not_there(tmp_path, rows):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    with pytest.raises(SourceError, match="has the columns kind, none is `kin`"):
        fit(tmp_path, labels, attribute="kin")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"folds": 1}, "folds must be 2 or more"),
        (
            {"head": "svm"},
            "head `svm` is not known; choose logistic, ridge, forest or conv",
        ),
        ({"block_m": 0}, "block_m 0: must be above 0"),
        ({"time": 3}, "time 3: the stack has 1 time steps"),
    ],
)
def test_options_that_make_no_sense(tmp_path, rows, options, words):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    with pytest.raises(JobError, match=words):
        fit(tmp_path, labels, **options)


def write_tif(path, stack):
    import rasterio

    box = toy_geobox((SIZE, SIZE))
    with rasterio.open(
        path, "w", driver="GTiff", width=SIZE, height=SIZE, count=2, dtype="float32",
        crs=str(box.crs), transform=box.affine,
    ) as file:  # fmt: skip
        file.write(stack.values)
        file.descriptions = ("red", "nir")
    return path


def test_the_command_the_job_and_python_agree(tmp_path, rows, capsys):
    from geoscale.cli import main

    labels = write_labels(tmp_path / "labels.gpkg", rows)
    image = write_tif(tmp_path / "image.tif", make_stack()[0])
    more = ["--folds", "3", "--block-m", "160", "--scale", "1", "--json"]
    code = main(
        ["fit", str(labels), "-i", str(image), "-o", str(tmp_path / "a"), *more]
    )
    out = capsys.readouterr()
    assert code == 0, out.err
    told = json.loads(out.out)
    text = (
        "labels: labels.gpkg\nimagery: {files: image.tif, scale: 1.0}\n"
        "model: features:bands\nfolds: 3\nblock_m: 160\nto: b\n"
    )
    (tmp_path / "fit.yaml").write_text(text)
    assert main(["fit", str(tmp_path / "fit.yaml")]) == 0
    assert "`bands` are" in capsys.readouterr().out
    held = json.loads((tmp_path / "b" / "report.json").read_text())
    assert held["features"] == told["features"]
    first, second = (tmp_path / n / "head.safetensors" for n in "ab")
    assert first.read_bytes() == second.read_bytes()
    (tmp_path / "fit.yaml").write_text(text.replace("folds", "fold"))
    assert main(["fit", str(tmp_path / "fit.yaml")]) == 2
    assert "folds" in capsys.readouterr().err
    assert main(["fit", str(labels), "-i", str(image)]) == 2
    assert "--to" in capsys.readouterr().err


def test_networks_that_no_head_fits_behind_are_refused(tmp_path, rows):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    card = seeded_net(tmp_path)
    program = card.model_copy(update={"architecture": None})
    with pytest.raises(
        JobError, match=r"is a program .*which no head can be put behind"
    ):
        fit(tmp_path, labels, program)
    scenes = card.model_copy(update={"task": "classification"})
    with pytest.raises(JobError, match="is for classification, or has a head already"):
        fit(tmp_path, labels, scenes)
    found = fit(tmp_path, labels)
    with pytest.raises(JobError, match="has a head already"):
        fit(tmp_path, labels, found.card)


@pytest.mark.slow
def test_a_cluster_fits_the_same_head(tmp_path, rows):
    labels = write_labels(tmp_path / "l.gpkg", rows)
    card = seeded_net(tmp_path)
    here = fit(tmp_path, labels, card, trust_code=True)
    first = (here.folder / "head.safetensors").read_bytes()
    with gs.connect(2) as client:
        there = fit(tmp_path, labels, card, trust_code=True, client=client)
        bare = fit(tmp_path, labels, client=client)
        assert bare.report["pixels"] == 120
    assert there.report == here.report
    assert bare.report != here.report
    fit(tmp_path, labels, card, trust_code=True)
    assert (here.folder / "head.safetensors").read_bytes() == first
    with gs.connect(2) as client:
        more = {"head": "conv", "calibrate": "sigmoid", "trust_code": True}
        one = fit(tmp_path, labels, card, client=client, **more)
        held = (one.folder / "head.safetensors").read_bytes()
    fit(tmp_path, labels, card, **more)
    assert (one.folder / "head.safetensors").read_bytes() == held


@pytest.mark.parametrize("block", [32, 64])
def test_features_are_what_one_pass_over_the_image_gives(tmp_path, rows, block):
    import torch
    from safetensors.torch import save_file

    from geoscale.assemble import hash_card_code
    from geoscale.fitting.inputs import with_classes
    from geoscale.fitting.samples import Look, draw_places, take_samples
    from geoscale.heads import Head
    from geoscale.models.weights import resolve_weights
    from geoscale.options import Inference
    from geoscale.planner import make_plan
    from geoscale.sources.shapes import load_shapes
    from geoscale.stacks import as_source

    (tmp_path / "net.py").write_text(
        "from torch import nn\n"
        "def Net():\n    return nn.Sequential(nn.Conv2d(2, 5, 3, padding=1))\n"
    )
    net = torch.nn.Sequential(torch.nn.Conv2d(2, 5, 3, padding=1))
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    card = ModelCard.from_dict(
        {
            "name": "net",
            "task": "backbone",
            "architecture": f"{tmp_path / 'net.py'}:Net",
            "weights": {"href": str(tmp_path / "net.safetensors")},
            "input": {"bands": ["red", "nir"], "patch": {"size": 32, "halo": 1}},
            "output": {"activation": "none", "features": 5, "reduction": 1},
        }
    )
    stack, _ = make_stack()
    source = as_source(stack, card)
    labels = write_labels(tmp_path / "l.gpkg", rows)
    found = load_shapes(str(labels), source.geobox)
    plan = make_plan(
        source,
        with_classes(card, ("a", "b"), Head(kind="linear", inputs=5), False),
        weights_sha256=resolve_weights(card)[1],
        code_sha256=hash_card_code(card),
        inference=Inference(block=block),
    )
    look = Look(plan=plan, card=card, with_bands=False, device="cpu", trust_code=True)
    places = draw_places(found, (SIZE, SIZE), per_class=1000, seed=0)
    made = take_samples(look, source, places, time=0, per_class=1000)
    with torch.inference_mode():
        whole = net(torch.from_numpy(stack.values)[None])[0].numpy()
    y, x = made.places.y, made.places.x
    assert len(y) == len(rows)
    np.testing.assert_allclose(made.features, whole[:, y, x].T, atol=1e-5)
    np.testing.assert_array_equal(made.bands, stack.values[:, y, x].T)

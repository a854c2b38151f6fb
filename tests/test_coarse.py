"""Results for squares of pixels: cells do not hang on blocks, and none is dropped."""

from __future__ import annotations

import numpy as np
import pytest

import geoscale
from geoscale.coarse import judge_cells
from geoscale.errors import CardError, JobError, PlanError
from geoscale.sinks.layout import open_output
from tests.support.coarse import SHAPE, build, classes, imagery, make_card

torch = pytest.importorskip("torch")


def run(source, card, to, **options):
    plan = geoscale.plan(source, card, trust_code=True, **options)
    report = geoscale.run(plan, to, trust_code=True)
    assert report.complete
    return plan, open_output(str(to))


def strided(folder, **output):
    said = {"classes": classes(), "reduction": 4, **output}
    return make_card(
        folder, "Strided", "segmentation", said, size=16, multiple_of=4, halo=4
    )


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_blocks_do_not_change_cells(tmp_path, merge):
    card, found = strided(tmp_path), []
    for block in (32, 56, 128):
        plan, data = run(
            imagery(), card, tmp_path / f"{merge}{block}.zarr", block_px=block,
            stride_px=8, merge=merge, output={"layers": ["classes", "scores"]},
        )  # fmt: skip
        assert data["classes"].shape == (1, 30, 24)
        found.append((data["classes"].values, data["scores"].values))
    assert plan.cell == 4
    for classes_, scores in found[1:]:
        np.testing.assert_array_equal(classes_, found[0][0])
        np.testing.assert_array_equal(scores, found[0][1])


def test_cells_are_those_of_the_whole_image(tmp_path):
    """Where a cell and its ring lie inside, the cut is not to be seen at all."""
    card, source = strided(tmp_path), imagery(holes=0)
    _, data = run(
        source, card, tmp_path / "out.zarr", block_px=16, stride_px=8,
        output={"layers": ["scores"], "scores_dtype": "float16"},
    )  # fmt: skip
    x = np.where(source.valid[0], source.data[0], 0)
    with torch.inference_mode():
        whole = build(card)(torch.from_numpy(x[None, :, :116, :92])).softmax(1)[0]
    np.testing.assert_allclose(
        data["scores"].values[0, :, 5:28, 8:22], whole[:, 5:28, 8:22], atol=1e-3
    )


def test_the_grid_of_cells_lies_on_that_of_the_pixels(tmp_path):
    source = imagery()
    plan, data = run(source, strided(tmp_path), tmp_path / "out.zarr")
    fine, coarse = source.geobox, plan.stored_geobox
    assert coarse.affine.a == 4 * fine.affine.a
    assert (coarse.affine.c, coarse.affine.f) == (fine.affine.c, fine.affine.f)
    # 118 x 93 px: the last cells hang over by two and three px
    assert data["classes"].shape[1:] == (30, 24)
    assert data.x.values[0] == fine.affine.c + 20


def test_a_cell_needs_half_of_its_pixels():
    keep = np.zeros((4, 6), bool)
    keep[0, :2] = keep[1, 0] = True  # three of four
    keep[0, 2] = True  # one of four
    keep[2:, 2] = True  # two of four
    keep[0, 4] = keep[3, 5] = True
    assert judge_cells(keep, 2).tolist() == [[True, False, False], [False, True, False]]
    # of a cell that hangs over, the pixels inside the stack decide
    assert judge_cells(np.array([[False] * 4 + [True]]), 4).tolist() == [[False, True]]
    with_one = np.array([[False] * 4 + [True, False, False]])
    assert judge_cells(with_one, 4).tolist() == [[False, False]]


def test_invalid_cells_are_nodata_whatever_the_cut(tmp_path):
    source = imagery()
    want = judge_cells(source.valid[0], 4)
    for block in (12, 64):
        _, data = run(
            source, strided(tmp_path), tmp_path / f"{block}.zarr", block_px=block
        )
        np.testing.assert_array_equal(data["classes"].values[0] != 255, want)
    assert 0 < want.sum() < want.size


def test_turned_patches_give_cells_that_are_turned_back(tmp_path):
    source, found = imagery(), []
    for block in (32, 128):
        _, data = run(
            source, strided(tmp_path), tmp_path / f"{block}.zarr", block_px=block,
            tta="all", output={"layers": ["scores"], "scores_dtype": "float16"},
        )  # fmt: skip
        found.append(data["scores"].values[0])
    np.testing.assert_array_equal(*found)
    x = np.where(source.valid[0], source.data[0], 0)[None, :, :64, :64]
    net, turned = build(strided(tmp_path)), []
    with torch.inference_mode():
        for flip in (False, True):
            for quarters in range(4):
                y = torch.rot90(torch.from_numpy(x), quarters, (2, 3))
                y = net(y.flip(3) if flip else y).softmax(1)
                y = y.flip(3) if flip else y
                turned.append(torch.rot90(y, -quarters, (2, 3)))
    want = torch.stack(turned).mean(0)[0].numpy()
    inside = np.isfinite(found[0][0])[2:14, 2:14]
    far = np.abs(found[0][:, 2:14, 2:14] - want[:, 2:14, 2:14])[:, inside]
    assert inside.any()
    assert far.max() < 2e-3


def scene_card(folder, **output):
    said = {"classes": classes(), **output}
    return make_card(folder, "Scene", "classification", said, size=16)


def test_a_scene_classifier_gives_one_class_a_patch(tmp_path):
    source, card = imagery(holes=0), scene_card(tmp_path)
    plan, data = run(source, card, tmp_path / "a.zarr", block_px=32)
    assert (plan.goal, plan.cell, plan.inference.stride) == ("classification", 16, 16)
    assert data["classes"].shape == (1, 8, 6)
    x = np.where(source.valid[0], source.data[0], 0)
    # patches stay on their places: past the edge the image is mirrored
    x = np.pad(x, ((0, 0), (0, 10), (0, 3)), mode="reflect")
    tiles = x.reshape(2, 8, 16, 6, 16).transpose(1, 3, 0, 2, 4).reshape(-1, 2, 16, 16)
    with torch.inference_mode():
        scores = build(card)(torch.from_numpy(np.ascontiguousarray(tiles))).softmax(1)
    best = scores.argmax(1).numpy().reshape(8, 6)
    valid = data["classes"].values[0] != 255
    np.testing.assert_array_equal(data["classes"].values[0][valid], best[valid])
    _, again = run(source, card, tmp_path / "b.zarr", block_px=96)
    np.testing.assert_array_equal(again["scores"].values, data["scores"].values)


@pytest.mark.parametrize("how", ["scene", "pooled"])
def test_a_stack_smaller_than_a_patch_is_one_whole_cell(tmp_path, how):
    """A smaller patch would make a cell of another size."""
    source, options = imagery((11, 23), holes=0), {}
    source.valid[:] = True
    card = scene_card(tmp_path)
    if how == "pooled":
        card = backbone(tmp_path)
        options = {"task": "embedding", "embedding": {"per": "patch"}}
    plan, data = run(source, card, tmp_path / "out.zarr", **options)
    layer = data["embedding" if options else "classes"].values
    assert layer.shape[-2:] == (1, 2)
    assert plan.lattice.patch_shape == (16, 16)
    # 7 of 16 columns of the last cell lie inside: they are all of it that counts
    assert (np.isfinite(layer) & (layer != 255)).all()


def test_cells_outside_the_area_are_nodata(tmp_path):
    from pyproj import Transformer

    source = imagery(holes=0)
    source.valid[:] = True
    box = source.geobox.boundingbox
    to_degrees = Transformer.from_crs("EPSG:32633", "EPSG:4326", always_xy=True)
    # 42 columns of pixels: ten cells and a half
    x1 = box.left + 421
    corners = [(box.left - 5, box.bottom - 5), (x1, box.bottom - 5)]
    corners += [(x1, box.top + 5), (box.left - 5, box.top + 5)]
    ring = [list(to_degrees.transform(x, y)) for x, y in (*corners, corners[0])]
    area = {"type": "Polygon", "coordinates": [ring]}
    for block in (16, 128):
        _, data = run(
            source, strided(tmp_path), tmp_path / f"{block}.zarr", aoi=area,
            block_px=block,
        )  # fmt: skip
        valid = data["classes"].values[0] != 255
        assert valid[:, :11].all()
        assert not valid[:, 11:].any()


def test_cells_are_had_lazily_too(tmp_path):
    source, card = imagery(), numbers_card(tmp_path, reduction=None)
    _, data = run(source, card, tmp_path / "out.zarr", block_px=48)
    lazy = geoscale.predict(source, card, layer="cover", trust_code=True, block_px=48)
    np.testing.assert_array_equal(lazy.values, data["cover"].values)
    bone = backbone(tmp_path)
    _, data = run(source, bone, tmp_path / "e.zarr", task="embedding", block_px=48)
    lazy = geoscale.predict(
        source, bone, layer="embedding", trust_code=True, block_px=48
    )
    assert lazy.dims == ("time", "class", "y", "x")
    np.testing.assert_array_equal(lazy.values, data["embedding"].values)


def test_several_labels_at_once_have_thresholds_each(tmp_path):
    card = scene_card(tmp_path, multilabel=True, thresholds=[0.9, 0.3, 0.5])
    assert card.output.activation == "sigmoid"
    _, data = run(
        imagery(), card, tmp_path / "out.zarr", output={"scores_dtype": "float16"}
    )
    labels, scores = data["labels"].values[0], data["scores"].values[0]
    valid = data["classes"].values[0] != 255
    assert valid.any()
    assert (labels[:, ~valid] == 255).all()
    want = scores.astype(np.float32) >= np.float32([0.9, 0.3, 0.5])[:, None, None]
    np.testing.assert_array_equal(labels[:, valid], want[:, valid])
    assert len(np.unique(labels)) == 3


def numbers_card(folder, **output):
    bands = [
        {"name": "height", "units": "m", "multiply": 10.0, "add": 2.0},
        {"name": "cover", "units": "1"},
    ]
    said = {"bands": bands, **output}
    return make_card(folder, "Numbers", "regression", said, size=16, halo=1)


@pytest.mark.parametrize("merge", ["crop", "blend"])
def test_a_regression_is_in_its_units(tmp_path, merge):
    source, card = imagery(), numbers_card(tmp_path)
    found = []
    for block in (24, 128):
        _, data = run(
            source, card, tmp_path / f"{merge}{block}.zarr", block_px=block,
            stride_px=8, merge=merge,
        )  # fmt: skip
        found.append(data)
    assert data["height"].attrs["units"] == "m"
    assert data["height"].dtype == np.float32
    for name in ("height", "cover"):
        np.testing.assert_array_equal(found[0][name].values, found[1][name].values)
    x = np.where(source.valid[0], source.data[0], 0)
    with torch.inference_mode():
        whole = build(card)(torch.from_numpy(x[None]))[0].numpy()
    height = data["height"].values[0]
    np.testing.assert_array_equal(np.isfinite(height), source.valid[0])
    if merge == "crop":
        inside = source.valid[0]
        np.testing.assert_allclose(
            height[inside], whole[0][inside] * 10 + 2, rtol=1e-5, atol=1e-5
        )


def backbone(folder):
    said = {"features": 8, "reduction": 4, "activation": "none"}
    return make_card(folder, "Backbone", "backbone", said, size=16, multiple_of=4)


@pytest.mark.parametrize(
    ("how", "dtype"),
    [
        ({}, "float16"),
        ({"components": 3}, "float32"),
        ({"components": 3}, "int8"),
        ({"per": "patch"}, "int8"),
    ],
)
def test_blocks_do_not_change_embeddings(tmp_path, how, dtype):
    found = []
    for block in (32, 128):
        plan, data = run(
            imagery(), backbone(tmp_path), tmp_path / f"{block}.zarr",
            task="embedding", embedding=how, block_px=block, output={"dtype": dtype},
            stride_px=None if how.get("per") else 8,
        )  # fmt: skip
        found.append(data["embedding"].values)
    np.testing.assert_array_equal(*found)
    assert found[0].shape[1] == how.get("components", 8)
    assert plan.stored_geobox.shape == ((8, 6) if how.get("per") else (30, 24))


def test_a_vector_of_a_patch_is_the_mean_of_its_places(tmp_path):
    source, card = imagery((32, 48), holes=0), backbone(tmp_path)
    source.valid[:] = True
    _, data = run(
        source, card, tmp_path / "out.zarr", task="embedding",
        embedding={"per": "patch"}, output={"dtype": "float32"},
    )  # fmt: skip
    tiles = source.data[0].reshape(2, 2, 16, 3, 16).transpose(1, 3, 0, 2, 4)
    with torch.inference_mode():
        x = torch.from_numpy(np.ascontiguousarray(tiles).reshape(6, 2, 16, 16))
        want = build(card)(x).mean((2, 3)).numpy().reshape(2, 3, 8)
    found = data["embedding"].values[0].transpose(1, 2, 0)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)


def test_components_of_a_place_hang_on_that_place_alone():
    """A matrix product would add up in another order for another number of places."""
    from geoscale.tasks.embedding import reduce_features

    rng = np.random.default_rng(0)
    features = rng.normal(size=(512, 7, 9)).astype(np.float32)
    numbers = {"mean": rng.normal(size=512), "components": rng.normal(size=(5, 512))}
    whole = reduce_features(features, numbers)
    parts = [reduce_features(features[:, :, [k]], numbers) for k in range(9)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=2), whole)
    mean, axes = (np.asarray(numbers[k], np.float32) for k in ("mean", "components"))
    want = np.tensordot(axes, features - mean[:, None, None], 1)
    np.testing.assert_allclose(whole, want, rtol=1e-3, atol=1e-3)


def test_cells_are_made_on_the_host(tmp_path):
    """The path that keeps a block on a device knows pixels only."""
    from geoscale.assemble import make_kernel
    from geoscale.engine.on_device import offers_canvas

    for card, may in ((strided(tmp_path), False), (pixels_card(tmp_path), True)):
        plan = geoscale.plan(imagery(), card)
        kernel = make_kernel(plan, source=plan.live, trust_code=True)
        before, kernel.predictor.offers_canvas = kernel.predictor.offers_canvas, True
        try:
            assert offers_canvas(kernel) is may
        finally:
            kernel.predictor.offers_canvas = before


def pixels_card(folder):
    said = {"classes": classes(2)}
    return make_card(folder, "Numbers", "segmentation", said, size=16, halo=1)


def test_components_say_most_of_the_features(tmp_path):
    from geoscale.embeddings import find_numbers

    rng = np.random.default_rng(1)
    hidden = rng.normal(size=(500, 2)) * [5, 1]
    vectors = (hidden @ rng.normal(size=(2, 6)) + 3).astype(np.float32)
    numbers, told = find_numbers(vectors, 2, steps=True)
    assert sum(told["explained"]) == pytest.approx(1, abs=1e-4)
    want = np.linalg.svd(vectors - vectors.mean(0), full_matrices=False)[2][:2]
    np.testing.assert_allclose(
        np.abs(np.asarray(numbers["components"]) @ want.T), np.eye(2), atol=1e-4
    )
    with pytest.raises(PlanError, match=r"3 valid cells.*too few for 5 components"):
        find_numbers(vectors[:3], 5, steps=False)


def test_what_does_not_go_together_is_refused(tmp_path):
    source = imagery()
    bone, scene = backbone(tmp_path), scene_card(tmp_path)
    numbers = numbers_card(tmp_path)
    plan = geoscale.plan
    for task in (None, "segmentation"):
        with pytest.raises(CardError, match="use task embedding or fit a head"):
            plan(source, bone, task=task)
    with pytest.raises(CardError, match=r"task regression needs.*task: embedding"):
        plan(source, bone, task="regression")
    with pytest.raises(CardError, match=r"needs a card of `task: backbone`"):
        plan(source, numbers, task="embedding")
    with pytest.raises(CardError, match=r"say `task: classification`"):
        plan(source, scene, task="segmentation")
    with pytest.raises(JobError, match=r"`embedding` says how.*task is regression"):
        plan(source, numbers, embedding={"components": 2})
    with pytest.raises(PlanError, match=r"one result for each patch of 16 px"):
        plan(source, scene, stride_px=8)
    with pytest.raises(PlanError, match=r"block of 40 px is no multiple.*choose 48"):
        plan(source, scene, block_px=40)
    with pytest.raises(JobError, match=r"int8` is for embeddings"):
        plan(source, numbers, output={"dtype": "int8"})
    with pytest.raises(JobError, match=r"components 9 is more than the 8 features"):
        plan(source, bone, task="embedding", embedding={"components": 9})
    with pytest.raises(JobError, match=r"stored as one layer, `embedding`"):
        plan(source, bone, task="embedding", output={"layers": ["classes"]})
    with pytest.raises(JobError, match=r"output `hight` is not known.*height"):
        plan(source, numbers, output={"layers": ["hight"]})
    for card, task in ((bone, "embedding"), (numbers, None), (scene, None)):
        with pytest.raises(PlanError, match=r"compare the classes of pixels"):
            plan(source, card, task=task, runtime="auto")
    with pytest.raises(JobError, match=r"output.dtype is for regressions"):
        plan(source, scene, output={"dtype": "float32"})


@pytest.mark.parametrize(
    ("task", "output", "said"),
    [
        ("regression", {"classes": classes()}, "`output.bands` is for cards"),
        ("segmentation", {"bands": [{"name": "a"}]}, "`output.bands` is for cards"),
        ("regression", {"bands": [{"name": "a"}] * 2}, "different names"),
        (
            "regression",
            {"bands": [{"name": "a"}], "activation": "softmax"},
            "softmax makes shares",
        ),
        (
            "classification",
            {"classes": classes(), "thresholds": [0.5]},
            "`thresholds` has 1 values for 3",
        ),
        (
            "classification",
            {"classes": classes(), "multilabel": True, "activation": "softmax"},
            "lets one class win",
        ),
        (
            "segmentation",
            {"classes": classes(), "multilabel": True},
            "for cards of task classification",
        ),
    ],
)
def test_cards_that_contradict_themselves(task, output, said):
    from geoscale.card import ModelCard

    data = {"name": "a", "weights": {"href": "a.onnx"}, "input": {"bands": ["b0"]}}
    with pytest.raises(CardError, match=said):
        ModelCard.from_dict({**data, "task": task, "output": output})


def test_a_wrong_reduction_is_named(tmp_path):
    card = strided(tmp_path, reduction=2)
    plan = geoscale.plan(imagery(), card)
    with pytest.raises(CardError, match=r"expected \(1, 3, 8, 8\).*output.reduction"):
        geoscale.run(plan, tmp_path / "out.zarr", trust_code=True)
    assert imagery().data.shape[2:] == SHAPE

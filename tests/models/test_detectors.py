"""What detectors give, decoded; torchvision's, built with any backbone and bands."""

from __future__ import annotations

import numpy as np
import pytest

from geoscale.card import ModelCard
from geoscale.errors import BlockError, CardError, PlanError
from geoscale.models.decoders import decode_dict, decode_tensor
from geoscale.models.detector import load_detector
from geoscale.models.held_detector import HeldDetector
from geoscale.models.parts import Parts
from geoscale.models.runtimes import ModelSettings, load_predictor
from tests.support.detectors import (
    bright_squares,
    find_squares,
    seeded_dict,
    squares_card,
    squares_detector,
    yolox_dict,
)


def card_of(form, classes=2, **more):
    spec = {"form": form, "max_object_px": 8, "score_threshold": 0.5} | more
    plain = squares_card().to_dict()
    plain["output"]["detection"] = spec
    plain["output"]["classes"] = [
        {"value": 10 + i, "name": f"c{i}"} for i in range(classes)
    ]
    return ModelCard.from_dict(plain)


def test_yolox_boxes_are_offsets_in_cells_of_three_grids():
    raw = np.zeros((1, 64 + 16 + 4, 7), np.float32)
    # second row, third column of the grid of 8 px; last cell of that of 32 px
    raw[0, 8 + 2] = [0.5, 0.25, np.log(2), np.log(3), 0.9, 0.1, 1.0]
    raw[0, -1] = [0, 0, 0, 0, 0.8, 0.9, 0.2]
    (found,) = decode_tensor(raw, card_of("yolox"), (64, 64))
    assert found.values.tolist() == [11, 10]
    np.testing.assert_allclose(found.scores, [0.9, 0.72], rtol=1e-6)
    # middle (2.5, 1.25) x 8, size (2, 3) x 8
    np.testing.assert_allclose(found.corners[0, 0], [12, -2], atol=1e-5)
    np.testing.assert_allclose(found.corners[0, 2], [28, 22], atol=1e-5)
    np.testing.assert_allclose(found.corners[1, 0], [16, 16], atol=1e-5)


@pytest.mark.parametrize("form", ["yolov5", "yolov8", "yolov8-obb"])
def test_boxes_of_other_families(form):
    box, scores = [10.0, 20.0, 8.0, 4.0], [0.2, 0.75]
    row = {"yolov5": [*box, 0.8, *scores], "yolov8": [*box, *scores],
           "yolov8-obb": [*box, *scores, np.pi / 2]}[form]  # fmt: skip
    raw = np.zeros((2, 3, len(row)), np.float32)
    raw[1, 2] = row
    raw = raw if form == "yolov5" else raw.transpose(0, 2, 1)
    none, found = decode_tensor(raw, card_of(form), (64, 64))
    assert len(none) == 0
    assert found.values.tolist() == [11]
    assert found.scores[0] == pytest.approx(0.6 if form == "yolov5" else 0.75)
    size = np.ptp(found.corners[0], axis=0)
    want = [4, 8] if form == "yolov8-obb" else [8, 4]
    np.testing.assert_allclose(size, want, atol=1e-5)
    np.testing.assert_allclose(found.corners[0].mean(0), [10, 20], atol=1e-5)


def test_the_best_are_kept_where_there_are_too_many():
    raw = np.zeros((1, 6, 50), np.float32)
    raw[0, 4] = np.linspace(0.5, 1, 50)
    (found,) = decode_tensor(raw, card_of("yolov8", max_per_patch=5), (64, 64))
    np.testing.assert_allclose(found.scores, raw[0, 4, -5:][::-1])


def test_a_wrong_shape_names_what_the_form_gives():
    with pytest.raises(CardError, match=r"yolox with 2 classes gives \(84, 7\)"):
        decode_tensor(np.zeros((1, 84, 8)), card_of("yolox"), (64, 64))
    with pytest.raises(CardError, match=r"gave shape \(84, 8\)"):
        decode_tensor(np.zeros((84, 8)), card_of("yolov8"), (64, 64))


def test_a_dict_without_masks_or_with_an_unknown_label_is_refused():
    out = {
        "boxes": np.array([[1, 2, 5, 6.0]]),
        "labels": np.array([3]),
        "scores": np.array([0.9]),
    }
    with pytest.raises(CardError, match="label 3, which is the value of no class"):
        decode_dict(out, card_of("torchvision"))
    with pytest.raises(CardError, match="not masks"):
        decode_dict(out, card_of("torchvision", mask_threshold=0.5))


def test_masks_are_cut_around_their_boxes():
    mask = np.zeros((1, 1, 20, 20), np.float32)
    mask[0, 0, 4:9, 5:8] = 0.7
    out = {
        "boxes": np.array([[5, 4, 8, 9.0]]),
        "labels": np.array([10]),
        "scores": np.array([0.9]),
        "masks": mask,
    }
    found = decode_dict(out, card_of("torchvision", mask_threshold=0.5))
    (one,) = found.masks
    assert one.window.as_tuple() == (3, 4, 10, 9)
    assert one.pixels.sum() == 15


@pytest.mark.parametrize(
    "kind",
    [
        "faster-rcnn",
        *(pytest.param(k, marks=pytest.mark.slow)
          for k in ("mask-rcnn", "retinanet", "fcos")),
    ],
)  # fmt: skip
def test_torchvisions_detectors_find_the_same_alone_and_in_any_batch(kind, tmp_path):
    masks = {"mask_threshold": 0.5} if kind == "mask-rcnn" else {}
    card = seeded_dict(tmp_path, kind, score_threshold=0.0, **masks)
    card = ModelCard.from_dict(card)
    patches = np.random.default_rng(0).normal(size=(3, 3, 128, 128)).astype("f4")
    more = {"device": "cpu", "patch": 128}
    one, two = (load_detector(card, ModelSettings(threads=n, **more)) for n in (1, 2))
    assert (one.batch, two.batch) == (1, 2)
    alone = [found for patch in patches for found in one.detect(patch[None])]
    together = two.detect(patches)
    assert sum(map(len, alone)) > 3
    for a, b in zip(alone, together, strict=True):
        assert a.corners.tobytes() == b.corners.tobytes()
        assert a.scores.tobytes() == b.scores.tobytes()
        assert a.values.tobytes() == b.values.tobytes()


def test_an_unknown_backbone_is_named():
    from geoscale.models.detectors import detector

    with pytest.raises(CardError, match="backbone vgg16"):
        detector(kind="fcos", classes=2, backbone="vgg16")
    with pytest.raises(CardError, match="anchors has 2 sides"):
        detector(kind="fcos", classes=2, backbone="resnet18", anchors=(8, 16))


def test_a_detector_has_its_own_runtime_and_is_no_map(data_dir):
    pytest.importorskip("onnxruntime")
    card = ModelCard.from_dict(yolox_dict(data_dir))
    with pytest.raises(PlanError, match="by runtime onnx"):
        load_detector(card, ModelSettings(runtime="openvino"))
    with pytest.raises(CardError, match="is a detector, which gives objects"):
        load_predictor(card, ModelSettings())


def test_a_card_with_too_few_classes_fails_before_any_pixel(data_dir):
    pytest.importorskip("onnxruntime")
    plain = yolox_dict(data_dir)
    plain["output"]["classes"] = plain["output"]["classes"][:5]
    with pytest.raises(CardError, match="yolox with 5 classes"):
        load_detector(ModelCard.from_dict(plain), ModelSettings())


def needs_memory(most, seen):
    """A finder that runs out of memory with more patches than that."""

    def forward(patches):
        seen.append(len(patches))
        if len(patches) > most:
            raise MemoryError
        return find_squares(patches)

    return forward


def test_a_detector_runs_fewer_patches_once_memory_ran_out():
    card, seen = squares_card(), []
    rng = np.random.default_rng(1)
    images = [bright_squares((48, 48), [rng.integers(6, 42, 2)]) for _ in range(11)]
    patches = np.stack(images)[:, None]
    held = HeldDetector(
        needs_memory(3, seen), card, parts=Parts(11, "here"), model_id="0", told={}
    )
    want = squares_detector(card, batch=11).detect(patches)
    found = held.detect(patches)
    assert seen == [11, 6, 3, 3, 3, 3]
    assert held.describe()["part"] == held.part == 3
    assert len(found) == len(want) == 11
    for one, other in zip(found, want, strict=True):
        np.testing.assert_array_equal(one.corners, other.corners)


@pytest.mark.parametrize("least", [1, 4])
def test_where_not_even_the_fewest_patches_fit_it_is_said(least):
    held = HeldDetector(
        needs_memory(0, []), squares_card(), parts=Parts(4, "here", least=least),
        model_id="0", told={},
    )  # fmt: skip
    with pytest.raises(BlockError, match="does not fit into the memory of here"):
        held.detect(np.zeros((4, 1, 48, 48), np.float32))

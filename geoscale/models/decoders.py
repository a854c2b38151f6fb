"""What detectors give, as boxes: one decoder for each family of networks.

Only the layout of tensors is known here; the code of these networks is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import CardError
from geoscale.objects import Found, Mask, corners_of, turned_corners
from geoscale.types import Array, Float
from geoscale.windows import Window

STRIDES = (8, 16, 32)
"""Input pixels for one cell of the three grids of YOLOX."""


def decode_tensor(raw: Array, card: ModelCard, patch: tuple[int, int]) -> list[Found]:
    """Decode the tensor of a batch.

    Parameters
    ----------
    raw : ndarray, (n, ...)
        As the network gives it.
    card : ModelCard
        Says the form, the classes, and the least score.
    patch : tuple of int, (y, x)
        Size of the patches, in px.

    Returns
    -------
    list of Found
        For each patch what reaches the least score, best first; boxes may reach past
        the patch, and overlap.

    Raises
    ------
    CardError
        If the tensor's shape is not that of the form.

    References
    ----------
    .. [1] Ge et al. 2021, "YOLOX: Exceeding YOLO Series in 2021", arXiv:2107.08430, and
       its ``demo_postprocess`` (Apache-2.0) for grids and strides.
    .. [2] The shapes of YOLOv5, YOLOv8 and YOLOv8-OBB exports, as their documentation
       states them.
    """
    spec = card.output.detection
    assert spec is not None
    decode = _DECODERS[spec.form]
    wide = np.asarray(raw, np.float32)
    if wide.ndim != 3:
        raise CardError(
            f"`{card.name}` gave shape {wide.shape}; {spec.form} gives (n, boxes, "
            "values): mend `output.detection.form` of the card"
        )
    return [decode(one, card, patch) for one in wide]


def decode_dict(out: Mapping[str, Any], card: ModelCard) -> Found:
    """Read what a detector of torchvision gives for one image.

    Parameters
    ----------
    out : mapping
        ``boxes`` (n, 4), ``labels`` (n,), ``scores`` (n,), perhaps ``masks``
        (n, 1, y, x): arrays.
    card : ModelCard
        Its classes' values are the labels.

    Returns
    -------
    Found
        What reaches the least score, best first.

    Raises
    ------
    CardError
        If something is missing, or a label is no class of the card.
    """
    spec = card.output.detection
    assert spec is not None
    needs = {"boxes", "labels", "scores"}
    if spec.mask_threshold is not None:
        needs.add("masks")
    if needs - set(out):
        raise CardError(
            f"`{card.name}` gave {', '.join(sorted(out)) or 'nothing'}, not "
            f"{', '.join(sorted(needs - set(out)))}; mend `output.detection` of its "
            "card"
        )
    scores: Float = np.asarray(out["scores"], np.float32)
    labels = np.asarray(out["labels"], np.int64)
    kept = np.flatnonzero(scores >= np.float32(spec.score_threshold))
    kept = kept[np.argsort(-scores[kept], kind="stable")][: spec.max_per_patch]
    unknown = set(labels[kept].tolist()) - {c.value for c in card.output.classes}
    if unknown:
        raise CardError(
            f"`{card.name}` gave label {min(unknown)}, which is the value of no class "
            "of its card; mend `output.classes`"
        )
    boxes = np.asarray(out["boxes"], np.float64)[kept]
    masks = None
    if spec.mask_threshold is not None:
        masks = tuple(
            _cut_mask(out["masks"][i, 0], box, spec.mask_threshold)
            for i, box in zip(kept.tolist(), boxes, strict=True)
        )
    return Found(
        corners=corners_of(boxes),
        scores=scores[kept],
        values=labels[kept].astype(np.int16),
        masks=masks,
    )


def _cut_mask(mask: Float, box: Any, threshold: float) -> Mask:
    """Pixels of one object around its box."""
    x0, y0 = np.floor(box[:2]).astype(int).tolist()
    x1, y1 = np.ceil(box[2:]).astype(int).tolist()
    window = Window(y0 - 1, x0 - 1, y1 + 1, x1 + 1).clip(mask.shape)
    part = mask[window.within(Window(0, 0, *mask.shape))]
    return Mask(window, part > threshold)


def _decode_yolox(raw: Float, card: ModelCard, patch: tuple[int, int]) -> Found:
    """Cells of three grids, (cell, 5 + class): offset, log size, objectness, scores."""
    cells, steps = _grids(patch)
    _check(raw, card, (len(cells), 5 + len(card.output.classes)))
    scores = raw[:, 5:] * raw[:, 4:5]
    # sizes of boxes that nobody wants may overflow
    with np.errstate(over="ignore"):
        middle, size = (raw[:, :2] + cells) * steps, np.exp(raw[:, 2:4]) * steps
    return _keep(np.concatenate([middle, size], 1), scores, card)


def _decode_yolov5(raw: Float, card: ModelCard, patch: tuple[int, int]) -> Found:
    """Middle, size in px, objectness, scores: (box, 5 + class)."""
    _check(raw, card, (None, 5 + len(card.output.classes)))
    return _keep(raw[:, :4], raw[:, 5:] * raw[:, 4:5], card)


def _decode_yolov8(raw: Float, card: ModelCard, patch: tuple[int, int]) -> Found:
    """Middle, size in px, scores: (4 + class, box)."""
    _check(raw, card, (4 + len(card.output.classes), None))
    return _keep(raw[:4].T, raw[4:].T, card)


def _decode_obb(raw: Float, card: ModelCard, patch: tuple[int, int]) -> Found:
    """Middle, size in px, scores, angle in radians: (4 + class + 1, box)."""
    _check(raw, card, (5 + len(card.output.classes), None))
    boxes = np.concatenate([raw[:4], raw[-1:]])
    return _keep(boxes.T, raw[4:-1].T, card)


_DECODERS: dict[str, Callable[[Float, ModelCard, tuple[int, int]], Found]] = {
    "yolox": _decode_yolox,
    "yolov5": _decode_yolov5,
    "yolov8": _decode_yolov8,
    "yolov8-obb": _decode_obb,
}


def _grids(patch: tuple[int, int]) -> tuple[Float, Float]:
    """Column and row of every cell, (cell, 2), and its size in px, (cell, 1)."""
    cells, steps = [], []
    for step in STRIDES:
        rows, columns = (size // step for size in patch)
        x, y = np.meshgrid(np.arange(columns), np.arange(rows))
        cells.append(np.stack([x.ravel(), y.ravel()], 1))
        steps.append(np.full((rows * columns, 1), step))
    return (
        np.concatenate(cells).astype(np.float32),
        np.concatenate(steps).astype(np.float32),
    )


def _check(raw: Float, card: ModelCard, wanted: tuple[int | None, int | None]) -> None:
    fits = all(w in (None, n) for n, w in zip(raw.shape, wanted, strict=True))
    if not fits:
        spec = card.output.detection
        assert spec is not None
        shape = ", ".join("boxes" if w is None else str(w) for w in wanted)
        raise CardError(
            f"`{card.name}` gave shape {raw.shape} for a patch; {spec.form} with "
            f"{len(card.output.classes)} classes gives ({shape}): mend "
            "`output.classes` or `output.detection.form` of the card"
        )


def _keep(boxes: Float, scores: Float, card: ModelCard) -> Found:
    """Take the best class of each box, and the boxes that reach the least score."""
    spec = card.output.detection
    assert spec is not None
    best = scores.argmax(1)
    top = scores[np.arange(len(scores)), best]
    kept = np.flatnonzero(top >= np.float32(spec.score_threshold))
    # of equal scores the first one counts
    kept = kept[np.argsort(-top[kept], kind="stable")][: spec.max_per_patch]
    chosen = boxes[kept].astype(np.float64)
    if boxes.shape[1] == 5:
        corners = turned_corners(chosen)
    else:
        half = chosen[:, 2:] / 2
        corners = corners_of(
            np.concatenate([chosen[:, :2] - half, chosen[:, :2] + half], 1)
        )
    values = np.array([c.value for c in card.output.classes], np.int16)
    return Found(corners=corners, scores=top[kept], values=values[best[kept]])

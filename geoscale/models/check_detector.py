"""Check a detector: one patch, and how far around an object it looks."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from geoscale.card import ModelCard
from geoscale.detecting import Detection
from geoscale.models.decoders import decode_tensor
from geoscale.models.detector import load_detector
from geoscale.models.held_detector import HeldDetector
from geoscale.models.runtimes import ModelSettings
from geoscale.types import Array, Float, Floats

_STEP = 8
"""Rings are tried on multiples of this, in px: cells of the finest grid."""
_EQUAL = 1e-5
"""Difference that counts as equal, in spreads of each column: convolutions share sums
between neighbours."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """A detector that ran."""

    detector: HeldDetector
    """It."""
    output: tuple[int, ...]
    """Shape of its tensor; of one that gives a dict, that of its boxes."""
    dtype: str
    """Of it."""
    found: int
    """Detections in noise that reach the card's least score."""


def try_detector(card: ModelCard, image: Float, *, trust_code: bool) -> Tried:
    """Load a detector and run one patch.

    Parameters
    ----------
    card : ModelCard
        Of task detection.
    image : ndarray of float32, (channel, y, x)
        A patch.
    trust_code : bool
        Allow code that the card or the file brings along.

    Returns
    -------
    Tried
        What came.

    Raises
    ------
    CardError
        If the card does not fit the network.
    WeightsError
        If the weights are unsafe, or their keys do not fit.
    """
    settings = ModelSettings(device="cpu", batch=1, trust_code=trust_code)
    detector = load_detector(card, settings)
    batch = _fill(detector, image)
    raw = detector.run(batch)
    sample: Array = raw[0]["boxes"] if isinstance(raw, list) else raw
    return Tried(
        detector=detector,
        output=tuple(sample.shape),
        dtype=str(sample.dtype),
        found=len(detector.detect(batch)[0]),
    )


def measure_reach(card: ModelCard, tried: Tried, image: Float) -> str:
    """Find the ring at which what lies beyond it changes nothing inside.

    Parameters
    ----------
    card : ModelCard
        The model.
    tried : Tried
        From `try_detector`.
    image : ndarray of float32, (channel, y, x)
        A patch.

    Returns
    -------
    str
        What there is to say.

    Notes
    -----
    The patch is run again with other pixels beyond a ring, and what the network says of
    places within a square of 16 px in its middle is compared. Both have one shape, so
    that networks which take one size only are measured as well.
    """
    spec = card.output.detection
    assert spec is not None
    side = min(image.shape[-2:])
    if side <= 2 * spec.margin:
        return (
            f"objects of up to {spec.max_object_px} px need {2 * spec.margin} px of "
            f"overlap, which leaves nothing of a patch of {side} px: use larger "
            "patches, or a smaller `max_object_px`"
        )
    told = _tell_overlap(spec)
    if spec.form == "torchvision":
        return (
            f"{told}; how far it looks is not measured: it proposes boxes by comparing "
            "those of the whole patch"
        )
    rings = range(_STEP, side // 2 - _STEP, _STEP)
    reach = _find_ring(card, tried, image, rings)
    if reach is None:
        return (
            f"{told}; it looks further than {rings[-1]} px around a place, so that "
            "scores may differ a little from patch to patch"
        )
    more = "" if reach <= spec.margin else ": patches have less, scores may differ"
    return (
        f"{told}; what lies more than {reach} px from a place does not change what is "
        f"found there{more}"
    )


def _tell_overlap(spec: Detection) -> str:
    return (
        f"patches overlap by {2 * spec.margin} px, for objects of up to "
        f"{spec.max_object_px} px"
    )


def _find_ring(card: ModelCard, tried: Tried, image: Float, rings: range) -> int | None:
    """Find the smallest ring beyond which nothing changes the middle."""

    def run(x: Float) -> Floats:
        filled = _fill(tried.detector, x)
        return np.asarray(tried.detector.run(filled)[:1], np.float64)

    shape, axis = image.shape[-2:], _axis(card)
    middle = [n // 2 for n in shape]
    one = run(image)
    near = (np.abs(_middles(card, one, shape) - middle[::-1]) <= _STEP).all(1)
    allowed = _EQUAL * np.maximum(one.std(axis=axis, keepdims=True), 1e-12)

    def is_enough(ring: int) -> bool:
        """Whether other pixels beyond the ring change nothing in the middle."""
        other = np.random.default_rng(1).permuted(image, axis=-1)
        keep = tuple(slice(m - _STEP - ring, m + _STEP + ring) for m in middle)
        other[(slice(None), *keep)] = image[(slice(None), *keep)]
        changed = (np.abs(one - run(other)) > allowed).any(axis=3 - axis)[0]
        return not changed[near].any()

    if not near.any() or not rings or not is_enough(rings[-1]):
        return None
    # a wider ring never does worse
    return rings[bisect_left(rings, True, key=is_enough)]


def _axis(card: ModelCard) -> int:
    """Axis of the places of a tensor; the other one has what is said of each."""
    spec = card.output.detection
    assert spec is not None
    return 1 if spec.form in ("yolox", "yolov5") else 2


def _middles(card: ModelCard, raw: Array, shape: tuple[int, int]) -> Floats:
    """Middle of the box of every place, (n, 2), x and y in px."""
    spec = card.output.detection
    assert spec is not None
    # of equal scores all are kept, in their order
    flat, axis = np.array(raw, np.float32), _axis(card)
    count = flat.shape[axis]
    rows = flat[0] if axis == 1 else flat[0].T
    rows[:, 2:4], rows[:, 4:] = 0, 1
    if spec.form == "yolox":
        rows[:, :2] = 0.5  # offsets: the middle of the cell itself
    spec = spec.model_copy(update={"score_threshold": 0.0, "max_per_patch": count})
    output = card.output.model_copy(update={"detection": spec})
    found = decode_tensor(flat, card.model_copy(update={"output": output}), shape)[0]
    middles: Floats = found.corners.mean(axis=1)
    return middles


def _fill(detector: HeldDetector, image: Float) -> Float:
    """Make a batch of one patch, as large as the detector takes."""
    return np.repeat(image[None], detector.batch, axis=0)

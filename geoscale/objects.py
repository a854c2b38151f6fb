"""Objects that a detector finds: what its card says of them, and how they are passed.

One detection is four corners in pixels, a score and a class, be it upright or turned,
of whatever network. Masks come beside.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from geoscale.types import Array, Bool, Float, Floats, Ints, Json
from geoscale.windows import Window

Form = Literal["torchvision", "yolox", "yolov5", "yolov8", "yolov8-obb"]
LAYER = "detections"
"""Name under which plans list what is stored."""


class Suppression(BaseModel):
    """How several detections of one object become one."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Literal["nms", "soft-nms", "wbf", "none"] = "nms"
    """``nms``: the best score wins; ``soft-nms``: others lose score by their overlap;
    ``wbf``: boxes are averaged, weighted by score; ``none``: all are kept."""
    iou: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Intersection over union beyond which two are one object."""
    by_class: bool = True
    """Whether only detections of one class are compared."""


class Detection(BaseModel):
    """What a detector gives, and what becomes of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    form: Form
    """``torchvision``: a dict of boxes, labels, scores and perhaps masks for each
    image; the others: a tensor, as exports of these families give it."""
    max_object_px: Annotated[int, Field(ge=1, le=8192)]
    """Longest side of the largest object that is to be found whole, in px: patches
    overlap by as much."""
    score_threshold: Annotated[float, Field(ge=0, lt=1)] = 0.3
    """Least score of what is kept."""
    max_per_patch: Annotated[int, Field(ge=1, le=100_000)] = 1000
    """Most detections of one patch; those with the best scores are kept."""
    mask_threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    """If given, the network's masks become outlines: pixels above this are inside."""
    suppression: Suppression = Suppression()
    """How several detections of one object become one."""

    @property
    def slack(self) -> int:
        """How far beside its own pixels a patch's detections count, in px.

        Two patches see the middle of one object a little apart. Without slack each may
        say that it is the other's.
        """
        return max(4, self.max_object_px // 16)

    @property
    def margin(self) -> int:
        """Context around a patch's own pixels, in px.

        Every object that counts is whole, and what is cut off at the edge of the patch
        does not count: the middle of what is seen of it lies twice the slack outside.
        """
        return -(-self.max_object_px // 2) + 2 * self.slack

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        if data.get("mask_threshold") is None:
            data.pop("mask_threshold", None)
        return data

    @model_validator(mode="after")
    def _check(self) -> Detection:
        if self.mask_threshold is not None and self.form != "torchvision":
            raise ValueError(
                f"mask_threshold is for `form: torchvision`; {self.form} has no masks"
            )
        if self.mask_threshold is not None and self.suppression.method == "wbf":
            raise ValueError(
                "suppression.method wbf averages boxes, there is no mean of masks; "
                "choose nms, or leave `mask_threshold` out"
            )
        if self.form == "yolov8-obb" and self.suppression.method == "wbf":
            raise ValueError(
                "suppression.method wbf averages upright boxes; choose nms for "
                "oriented ones"
            )
        return self


def check_task(task: str, features: int | None, spec: Detection | None) -> None:
    """Refuse a card whose task does not fit what its network gives.

    Parameters
    ----------
    task : str
        Of the card.
    features : int or None
        Numbers that a backbone gives for each place.
    spec : Detection or None
        What a detector gives.

    Raises
    ------
    ValueError
        Naming the key that is missing, or too much.
    """
    if (task == "backbone") != (features is not None):
        raise ValueError(
            "`output.features` is for cards of `task: backbone`, which need it; "
            f"this one has task {task} and features {features}"
        )
    if (task == "detection") != (spec is not None):
        raise ValueError(
            "`output.detection` is for cards of `task: detection`, which need it: "
            "say its `form` and `max_object_px`"
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """Pixels of one object."""

    window: Window
    """Where they lie."""
    pixels: Bool
    """(y, x), True inside."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """Detections of one patch, in its own pixels, those of best score first."""

    corners: Floats
    """(n, 4, 2), x and y of the corners, clockwise on the screen, in px."""
    scores: Float
    """(n,), in [0, 1]."""
    values: NDArray[np.int16]
    """(n,), values of their classes."""
    masks: tuple[Mask, ...] | None = None
    """By detection, where the card asks for outlines."""

    def __len__(self) -> int:
        return len(self.scores)

    def pick(self, which: Bool | Ints) -> Found:
        """Take some of them, by a mask or by numbers."""
        masks = None
        if self.masks is not None:
            numbers = np.arange(len(self))[which]
            masks = tuple(self.masks[i] for i in numbers.tolist())
        return Found(
            corners=self.corners[which],
            scores=self.scores[which],
            values=self.values[which],
            masks=masks,
        )


@runtime_checkable
class Detector(Protocol):
    """A model held by this process that finds objects in patches.

    What is found in a patch depends on that patch alone, not on those beside it.
    """

    @property
    def batch(self) -> int:
        """Patches per call; the engine fills the last call up to this number."""
        ...

    @property
    def model_id(self) -> str:
        """Hash of the loaded weights."""
        ...

    def detect(self, patches: Float) -> Sequence[Found]:
        """Run a batch: float32 (n, channel, y, x) → what is in each."""
        ...

    def describe(self) -> Json:
        """Tell what may change the last bits of a result, for provenance."""
        ...


def corners_of(boxes: Array) -> Floats:
    """Give the corners of upright boxes.

    Parameters
    ----------
    boxes : ndarray, (n, 4)
        Least x and y, greatest x and y, in px.

    Returns
    -------
    ndarray of float64, (n, 4, 2)
        x and y, clockwise on the screen from the upper left.
    """
    wide = np.asarray(boxes, np.float64)
    found: Floats = wide[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
    return found


def turned_corners(boxes: Array) -> Floats:
    """Give the corners of oriented boxes.

    Parameters
    ----------
    boxes : ndarray, (n, 5)
        Middle x and y, width, height in px, and angle in radians: from the x axis
        clockwise on the screen to the side that is called width.

    Returns
    -------
    ndarray of float64, (n, 4, 2)
        x and y, clockwise on the screen.
    """
    x, y, width, height, angle = np.asarray(boxes, np.float64).T
    cos, sin = np.cos(angle), np.sin(angle)
    along = np.stack([cos * width, sin * width], -1) / 2
    across = np.stack([-sin * height, cos * height], -1) / 2
    middle = np.stack([x, y], -1)
    sides = [-along - across, along - across, along + across, across - along]
    found: Floats = np.stack([middle + side for side in sides], 1)
    return found


def is_upright(corners: Floats) -> Bool:
    """Tell which boxes have sides along the axes, (n,)."""
    first, second, third, fourth = (corners[:, i] for i in range(4))
    level = (first[:, 1] == second[:, 1]) & (third[:, 1] == fourth[:, 1])
    plumb = (second[:, 0] == third[:, 0]) & (fourth[:, 0] == first[:, 0])
    found: Bool = level & plumb
    return found

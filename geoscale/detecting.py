"""What a card says of a detector: its output, and which findings are one object."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

Form = Literal["torchvision", "yolox", "yolov5", "yolov8", "yolov8-obb"]


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

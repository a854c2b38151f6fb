"""torchvision's detectors with any backbone, band count and patch, for cards to name.

They are made without resizing and without normalisation of their own: a patch goes in
as the card prepared it, and boxes come back in its pixels.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn
from torchvision.models import detection, resnet
from torchvision.models.detection.backbone_utils import (
    BackboneWithFPN,
    resnet_fpn_backbone,
)
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from geoscale.errors import CardError

Kind = Literal["faster-rcnn", "mask-rcnn", "retinanet", "fcos"]
_CLASSES = {
    "faster-rcnn": detection.FasterRCNN,
    "mask-rcnn": detection.MaskRCNN,
    "retinanet": detection.RetinaNet,
    "fcos": detection.FCOS,
}


class _AsItIs(GeneralizedRCNNTransform):  # type: ignore[misc]  # (untyped)
    """Puts images into a batch as they are."""

    def __init__(self) -> None:
        super().__init__(1, 1, [0.0], [1.0])

    def normalize(self, image: Tensor) -> Tensor:
        return image

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        return image, target


def detector(
    *,
    kind: Kind,
    classes: int,
    bands: int = 3,
    backbone: str = "resnet50",
    anchors: tuple[int, ...] | None = None,
    **options: Any,
) -> nn.Module:
    """Make a detector of torchvision.

    Parameters
    ----------
    kind : {"faster-rcnn", "mask-rcnn", "retinanet", "fcos"}
        Which.
    classes : int
        Labels it tells apart, with the background, label 0, of the first two.
    bands : int
        Channels of its input.
    backbone : str
        A ResNet of torchvision, such as ``resnet18``; with a feature pyramid.
    anchors : tuple of int, optional
        Sides of anchors on the five levels of the pyramid, in px; default:
        torchvision's, 32 to 512.
    **options
        Of torchvision's class, such as ``box_score_thresh``, ``box_nms_thresh``.

    Returns
    -------
    torch.nn.Module
        With random weights. In evaluation it takes a list of (channel, y, x) and gives
        a dict of ``boxes``, ``labels``, ``scores`` (and ``masks``) for each.

    Raises
    ------
    CardError
        If a kind or backbone is not known.

    Examples
    --------
    >>> net = detector(kind="faster-rcnn", classes=2, bands=4, backbone="resnet18")
    >>> net.backbone.body.conv1.in_channels
    4
    """
    if kind not in _CLASSES or backbone not in resnet.__all__:
        raise CardError(
            f"no detector {kind} with backbone {backbone} can be built; kinds are "
            f"{', '.join(_CLASSES)}, backbones torchvision's ResNets"
        )
    if anchors is not None:
        options |= _anchors(kind, tuple(anchors))
    net: Any = _CLASSES[kind](_pyramid(kind, backbone), num_classes=classes, **options)
    _take_bands(net.backbone.body, bands)
    net.transform = _AsItIs()
    made: nn.Module = net
    return made


def _pyramid(kind: Kind, backbone: str) -> BackboneWithFPN:
    """Make a ResNet with a feature pyramid of five levels."""
    more: dict[str, Any] = {}
    if kind in ("retinanet", "fcos"):
        from torchvision.ops.feature_pyramid_network import LastLevelP6P7

        more = {"returned_layers": [2, 3, 4], "extra_blocks": LastLevelP6P7(256, 256)}
    return resnet_fpn_backbone(
        backbone_name=backbone, weights=None, trainable_layers=5, **more
    )


def _anchors(kind: Kind, sides: tuple[int, ...]) -> dict[str, Any]:
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    if len(sides) != 5:
        raise CardError(
            f"architecture_args: anchors has {len(sides)} sides; give one for each of "
            "the five levels of the pyramid"
        )
    if kind == "fcos":
        made = AnchorGenerator(tuple((s,) for s in sides), ((1.0,),) * 5)
        return {"anchor_generator": made}
    if kind == "retinanet":
        thirds = tuple((s, int(s * 2 ** (1 / 3)), int(s * 2 ** (2 / 3))) for s in sides)
        made = AnchorGenerator(thirds, ((0.5, 1.0, 2.0),) * 5)
        return {"anchor_generator": made}
    made = AnchorGenerator(tuple((s,) for s in sides), ((0.5, 1.0, 2.0),) * 5)
    return {"rpn_anchor_generator": made}


def _take_bands(body: Any, bands: int) -> None:
    """Give the first convolution as many channels as the input has bands."""
    old = body.conv1
    if bands != old.in_channels:
        body.conv1 = nn.Conv2d(
            bands,
            old.out_channels,
            kernel_size=old.kernel_size,
            stride=old.stride,
            padding=old.padding,
            bias=False,
        )

"""Blocks that live on a device, where the predictor offers it.

The host reads and writes; everything between happens where the network is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from geoscale.blend import make_weights
from geoscale.passes import BlockTask, PassTask
from geoscale.types import Array, Bool, Canvas, CanvasPredictor, CanvasSpec, Pixels

if TYPE_CHECKING:
    from geoscale.engine.block import Kernel


def offers_canvas(kernel: Kernel) -> bool:
    """Tell whether blocks of this kernel are to be kept on the device.

    Parameters
    ----------
    kernel : Kernel
        Its predictor must offer it, and its task must be one that a device can do.

    Returns
    -------
    bool
        Whether to try.
    """
    predictor = kernel.predictor
    if isinstance(kernel.task, PassTask) or kernel.plan.cell > 1:
        return False
    return (
        isinstance(predictor, CanvasPredictor)
        and predictor.offers_canvas
        and kernel.task.on_device is not None
    )


def open_canvas(kernel: Kernel, task: BlockTask, pixels: Pixels) -> Canvas | None:
    """Begin to send a block up; None where the device's memory does not do.

    Parameters
    ----------
    kernel : Kernel
        Whose predictor offers it.
    task : BlockTask
        Which block.
    pixels : Pixels
        Of the task's read window.

    Returns
    -------
    Canvas or None
        The block.
    """
    assert isinstance(kernel.predictor, CanvasPredictor)
    assert not isinstance(kernel.task, PassTask)
    layers = kernel.task.on_device
    assert layers is not None
    plan, recipe = kernel.plan, kernel.prepare.on_device
    data: Array = pixels.data
    valid: Bool = pixels.valid
    if recipe is None:
        # the model's own function is Python and works on arrays of the host
        channels, usable = kernel.prepare.prepare(pixels.data, pixels.valid)
        data, valid = channels[None], usable[None]
    weights = None
    if plan.lattice.merge == "blend":
        weights = make_weights(plan.lattice.patch_shape, plan.inference.taper)
    spec = CanvasSpec(
        held=task.read,
        core=task.core,
        shape=plan.shape,
        patch=plan.lattice.patch_shape,
        weights=weights,
        pixels=recipe,
        layers=layers,
    )
    return kernel.predictor.open_canvas(spec, data, valid)

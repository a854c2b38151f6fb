"""What lies around labelled pixels: one pixel, or a small square."""

from __future__ import annotations

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import MemoryPlanError
from geoscale.types import Array, Float, Ints

COPIES = 4
"""Of labelled pixels in memory at once: as read, joined, of a fold, computed with."""
SHARE = 0.8
"""Of the memory of this process that they may take."""


def check_room(card: ModelCard, pixels: int, reach: int, allowed_bytes: int) -> None:
    """Refuse more labelled pixels than memory holds, before imagery is read.

    Parameters
    ----------
    card : ModelCard
        Of the network before the head.
    pixels : int
        Labelled pixels that were drawn.
    reach : int
        Pixels around each that are held too, on each side.
    allowed_bytes : int
        Memory of this process.

    Raises
    ------
    MemoryPlanError
        If they do not fit.
    """
    channels = card.input.channels
    formulas = len(card.architecture_args.get("formulas", ()))
    width = max(card.output.width, formulas, channels) + channels
    needed = pixels * width * (2 * reach + 1) ** 2 * 4 * COPIES
    if needed > SHARE * allowed_bytes:
        fewer = max(1, int(pixels * SHARE * allowed_bytes / needed))
        raise MemoryPlanError(
            f"{pixels:,} labelled pixels of {width:,} features"
            f"{f' and what lies {reach} px around them' if reach else ''} take "
            f"{needed / 1e9:.1f} GB of {allowed_bytes / 1e9:.1f} GB that this process "
            f"may use; take about {fewer:,} in all (per_class)"
        )


def cut_chips(planes: Array, y: Ints, x: Ints, reach: int) -> Float:
    """Cut the values around some pixels out of an image.

    Parameters
    ----------
    planes : ndarray, (feature, y, x)
        The image.
    y, x : ndarray of int, (pixel,)
        Row and column of each pixel.
    reach : int
        Pixels around it, on each side.

    Returns
    -------
    ndarray of float32, (pixel, feature) or (pixel, feature, y, x)
        The latter where `reach` is above 0; NaN past the edge of the image.

    Examples
    --------
    >>> import numpy as np
    >>> image = np.arange(4.0).reshape(1, 2, 2)
    >>> cut_chips(image, np.array([1]), np.array([1]), 0)
    array([[3.]], dtype=float32)
    >>> cut_chips(image, np.array([1]), np.array([1]), 1)[0, 0]
    array([[ 0.,  1., nan],
           [ 2.,  3., nan],
           [nan, nan, nan]], dtype=float32)
    """
    if not reach:
        made: Float = planes[:, y, x].T.astype(np.float32)
        return made
    span = np.arange(-reach, reach + 1)
    ys, xs = y[:, None] + span, x[:, None] + span
    inside = ((ys >= 0) & (ys < planes.shape[1]))[:, :, None] & (
        (xs >= 0) & (xs < planes.shape[2]))[:, None, :]  # fmt: skip
    rows = np.clip(ys, 0, planes.shape[1] - 1)[:, :, None]
    columns = np.clip(xs, 0, planes.shape[2] - 1)[:, None, :]
    chips: Float = planes[:, rows, columns].transpose(1, 0, 2, 3).astype(np.float32)
    np.copyto(chips, np.nan, where=~inside[:, None])
    return chips


def middle(values: Float) -> Float:
    """Give the pixel in the middle of chips, (pixel, feature); pixels stay as they are.

    Parameters
    ----------
    values : ndarray of float32, (pixel, feature) or (pixel, feature, y, x)
        From `cut_chips`.

    Returns
    -------
    ndarray of float32, (pixel, feature)
        A view.
    """
    if values.ndim == 2:
        return values
    half = values.shape[-1] // 2
    return values[:, :, half, half]

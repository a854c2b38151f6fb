"""What lies around labelled pixels: one pixel, or a small square."""

from __future__ import annotations

import numpy as np

from geoscale.types import Array, Float, Ints


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

"""Measure what a network needs around a patch, instead of believing a card."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from geoscale.types import Float

Run = Callable[[Float], Float]


def measure_halo(
    run: Run,
    image: Float,
    *,
    alignment: int = 1,
    limit: int = 64,
    tolerance: float = 1e-5,
) -> int | None:
    """Find the smallest ring at which a tile equals the whole image.

    Parameters
    ----------
    run : callable
        (1, channel, y, x) float32 → (1, class, y, x), as `Predictor.predict`.
    image : ndarray of float32, (channel, y, x)
        Real imagery, normalised; larger than twice `limit`, plus a tile.
    alignment : int
        Tiles start on multiples of this, in px; only its multiples are tried.
    limit : int
        Largest ring to try, in px.
    tolerance : float
        Largest difference that counts as equal.

    Returns
    -------
    int or None
        Pixels per side; None if even `limit` does not do (a network that looks at
        the whole patch has no halo).

    Raises
    ------
    ValueError
        If the image is too small to try `limit`.

    Examples
    --------
    >>> import numpy as np
    >>> def blur(x):  # each pixel sees two to its left and right
    ...     wide = np.pad(x, ((0, 0), (0, 0), (0, 0), (2, 2)))
    ...     return sum(wide[..., i : i + x.shape[-1]] for i in range(5))
    >>> noise = np.random.default_rng(0).normal(size=(1, 64, 64)).astype("float32")
    >>> measure_halo(blur, noise, limit=8)
    2
    """
    height, width = image.shape[-2:]
    # no tile may reach the image's own border: both would be padded alike there
    first = (limit // alignment + 1) * alignment
    stop = (min(height, width) - limit - 1) // alignment * alignment
    if stop - first < max(alignment, 8):
        raise ValueError(
            f"an image of {height} x {width} px is too small to try a halo of "
            f"{limit} px; give at least {2 * limit + 4 * alignment + 8} px"
        )
    whole = run(image[None])[0, :, first:stop, first:stop]
    size = stop - first

    def is_enough(halo: int) -> bool:
        """Whether a tile with this ring equals the whole image."""
        low, high = first - halo, stop + halo
        tile = np.ascontiguousarray(image[None, :, low:high, low:high])
        inner = run(tile)[0, :, halo : halo + size, halo : halo + size]
        return float(np.abs(inner - whole).max()) <= tolerance

    # a wider ring never does worse: halve the steps that are left
    steps = limit // alignment
    if not is_enough(steps * alignment):
        return None
    low, high = 0, steps
    while low < high:
        middle = (low + high) // 2
        low, high = (
            (low, middle) if is_enough(middle * alignment) else (middle + 1, high)
        )
    return high * alignment


def measure_alignment(
    run: Run, image: Float, *, halo: int, limit: int = 8, tolerance: float = 1e-5
) -> int | None:
    """Find the step on whose multiples tiles must start.

    Parameters
    ----------
    run : callable
        As in `measure_halo`.
    image : ndarray of float32, (channel, y, x)
        Real imagery, normalised; larger than ``2 * halo`` plus a tile.
    halo : int
        Ring that is enough at aligned starts, in px.
    limit : int
        Largest step to try, in px; powers of two are tried.
    tolerance : float
        Largest difference that counts as equal.

    Returns
    -------
    int or None
        Pixels; None if none up to `limit` does.

    Raises
    ------
    ValueError
        If the image is too small.
    """
    size = min(image.shape[-2:]) // (2 * limit) * (2 * limit)
    keep = size - 2 * (halo + limit)
    if keep < limit:
        raise ValueError(
            f"an image of {image.shape[-2:]} px is too small for a halo of {halo} px; "
            f"give at least {2 * halo + 5 * limit} px"
        )
    # every tile has the same even size, so that only its start differs
    whole = run(image[None])[0]
    step = 1
    while step <= limit:
        inside = size - 2 * limit - 2 * halo
        tile = image[None, :, step : step + inside + 2 * halo]
        tile = np.ascontiguousarray(tile[..., step : step + inside + 2 * halo])
        inner = run(tile)[0, :, halo : halo + inside, halo : halo + inside]
        begin = step + halo
        want = whole[:, begin : begin + inside, begin : begin + inside]
        if float(np.abs(inner - want).max()) <= tolerance:
            return step
        step *= 2
    return None


def find_context(
    run: Run,
    image: Float,
    *,
    step: int = 1,
    limit: int = 64,
    relative: float = 2e-5,
) -> tuple[int | None, int | None]:
    """Find halo and alignment of a network that nothing is known of.

    Parameters
    ----------
    run : callable
        As in `measure_halo`; best without softmax, which hides small differences.
    image : ndarray of float32, (channel, y, x)
        As the network takes it.
    step : int
        Sizes must be multiples of this, in px.
    limit : int
        Largest ring to try, in px.
    relative : float
        Difference that counts as equal, in spreads of the output. float32 needs
        room for its rounding, and so misses what the outermost ring adds; a network
        in float64 does not.

    Returns
    -------
    halo, alignment : int or None
        In px; None if no ring up to `limit` does.

    Notes
    -----
    Rings are tried from starts on multiples of 1, 2, 4 … px, since a strided layer
    has a phase: a start beside it differs, whatever the ring.
    """
    spread = float(np.std(run(image[None])))
    tolerance = max(relative * spread, 1e-12)
    phases = max(8, step)
    alignment = step
    while alignment <= phases:
        halo = measure_halo(
            run, image, alignment=alignment, limit=limit, tolerance=tolerance
        )
        if halo is not None:
            found = measure_alignment(
                run, image, halo=halo, limit=phases, tolerance=tolerance
            )
            if found is not None and found <= alignment:
                return halo, found
        alignment *= 2
    return None, None

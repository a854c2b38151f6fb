"""Pictures of layers that hold no classes: numbers by a ramp, vectors as colours."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from geoscale.report.levels import Level
from geoscale.report.picture import PICTURE_PX, Bytes
from geoscale.tasks.embedding import EMBEDDING
from geoscale.tasks.forecast import FORECAST
from geoscale.template import is_categorical
from geoscale.types import Array, Bool, Layer

# Eight even steps of viridis: Smith & van der Walt 2015,
# https://bids.github.io/colormap/
RAMP = "440154 46327E 365C8D 277F8E 1FA187 4AC16D A0DA39 FDE725"


def paint_numbers(level: Level, time: int) -> tuple[Bytes, str] | None:
    """Paint the first layer of numbers, or the first three of embeddings.

    Parameters
    ----------
    level : Level
        The output, at the resolution of the picture.
    time : int
        Number of the time step.

    Returns
    -------
    tuple of ndarray of uint8, (y, x, 4), and str, or None
        The picture and what it shows; None where there is no such layer.
    """
    layers = [one for one in level.template.layers if not is_categorical(one)]
    named = {one.name: one for one in layers}
    if EMBEDDING in named:
        return _paint_vectors(level, named[EMBEDDING], time, (0, 1, 2))
    if FORECAST in named:
        layer = named[FORECAST]
        attrs = dict(layer.attrs)
        bands = list(attrs["axis_names"])
        chosen = attrs.get("rgb", range(len(bands))[:3])
        painted, _ = _paint_vectors(level, layer, time, chosen)
        said = ", ".join(bands[number] for number in chosen)
        return painted, f"forecast of {level.template.times[time][:10]}: {said}"
    plain = [one for one in layers if not one.classes]
    return _paint_ramp(level, plain[0], time) if plain else None


def enlarge(painted: Bytes, times: int) -> Bytes:
    """Make each pixel a square of so many."""
    return painted.repeat(times, axis=0).repeat(times, axis=1)


def _paint_ramp(level: Level, layer: Layer, time: int) -> tuple[Bytes, str]:
    data = level.sample(layer.name, time, PICTURE_PX).astype(np.float32)
    valid = np.isfinite(data)
    low, high = _range(data[valid])
    unit = np.clip((np.nan_to_num(data) - low) / max(high - low, 1e-12), 0, 1)
    stops = np.array([list(bytes.fromhex(c)) for c in RAMP.split()], float)
    places = np.linspace(0, 1, len(stops))
    colors = [np.interp(unit, places, stops[:, k]) for k in range(3)]
    units = dict(layer.attrs).get("units", "1")
    said = layer.name if units == "1" else f"{layer.name} [{units}]"
    return _join(colors, valid), f"{said}: {low:.3g} (violet) to {high:.3g} (yellow)"


def _paint_vectors(
    level: Level, layer: Layer, time: int, chosen: Sequence[int]
) -> tuple[Bytes, str]:
    numbers = [n for n in chosen if n < layer.classes]
    step, count = level.step(PICTURE_PX), len(numbers)
    values = level.data[layer.name][time, numbers, ::step, ::step].values
    fill = layer.fill_value
    valid = (np.isfinite(values) & (values != fill)).all(axis=0)
    colors = []
    for plane in [*values, *[values[-1]] * (3 - count)]:
        low, high = _range(plane[valid].astype(np.float32))
        known = np.where(valid, plane, low).astype(np.float32)
        colors.append(255 * np.clip((known - low) / max(high - low, 1e-12), 0, 1))
    names = "first three" if count == 3 else "first"
    return _join(colors, valid), f"{names} of {layer.classes} numbers of each place"


def _range(values: Array) -> tuple[float, float]:
    if not values.size:
        return 0.0, 1.0
    low, high = np.percentile(values, (1, 99))
    return float(low), float(high)


def _join(colors: list[Array], valid: Bool) -> Bytes:
    planes = [*(np.rint(c).astype(np.uint8) for c in colors), valid * np.uint8(255)]
    made: Bytes = np.stack(planes, axis=-1).astype(np.uint8)
    return made

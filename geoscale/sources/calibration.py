"""Stored numbers to physical units: one factor and offset per item and band.

Sentinel-2 is why this is a file of its own: whether -0.1 still has to be added
depends on the provider and on the processing baseline, and either mistake is
silent. What is not known is refused, never guessed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from geoscale.errors import SourceError
from geoscale.sources.items import Asset, Item
from geoscale.types import Array

Units = Literal["raw", "reflectance"]
Gain = tuple[float, float]

_CLASSES = re.compile(r"^(scl|qa|fmask|udm|mask|label|class|lulc|pixel_qa)", re.I)
_STRIP_VALUES = 2**16
S2_SCALE = 1e-4
S2_OFFSET = -0.1
"""Added to reflectance from baseline 04.00 on (25 January 2022)."""

SAY_SCALE = (
    "set imagery.scale (and imagery.offset): 0.0001 for what Sentinel-2 and HLS store, "
    "or 1 if the values are reflectance already"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """What the caller wants out, and what the caller knows."""

    units: Units = "raw"
    """``raw``: as stored; ``reflectance``: stored * scale + offset."""
    multiply: float = 1.0
    """Applied after scale and offset, so that reflectance may be x10000."""
    scale: float | None = None
    """Overrides the metadata."""
    offset: float | None = None
    """Overrides the metadata."""
    harmonize: str | None = None
    """``s2-boa``: derive Sentinel-2's offset from the baseline."""
    plain: tuple[str, ...] = ()
    """Bands that hold classes, whatever they are called."""

    def is_plain(self, band: str) -> bool:
        """Whether a band holds classes or flags, not measurements."""
        return band in self.plain or holds_classes(band)


def holds_classes(band: str) -> bool:
    """Whether a band, by its name, holds classes or flags, not measurements.

    Examples
    --------
    >>> holds_classes("scl"), holds_classes("red")
    (True, False)
    """
    return bool(_CLASSES.match(band))


def find_gains(
    items: Sequence[Item],
    layout: Sequence[Sequence[Asset]],
    bands: Sequence[str],
    calibration: Calibration,
    counts: Sequence[int] | None = None,
) -> list[list[Gain]]:
    """Find factor and offset of every item and band.

    Parameters
    ----------
    items : sequence of Item
        The items.
    layout : sequence of sequence of Asset
        Asset of each item and band.
    bands : sequence of str
        Names of the bands, for messages.
    calibration : Calibration
        What is wanted.
    counts : sequence of int, optional
        How many items each one stands for; default one.

    Returns
    -------
    list of list of tuple
        (factor, offset) as float64: result = stored * factor + offset;
        (1, 0) for bands of classes.

    Raises
    ------
    SourceError
        If a scale or offset is needed and not known.
    """
    many = [1] * len(items) if counts is None else counts
    if calibration.units == "raw" and calibration.harmonize is None:
        _refuse_mixed(items, layout, calibration, many)
        gain = in_units(1.0, 0.0, calibration)
        same = [(1.0, 0.0) if calibration.is_plain(b) else gain for b in bands]
        return [list(same) for _ in layout]
    missing: Counter[str] = Counter()
    gains = []
    for item, row, number in zip(items, layout, many, strict=True):
        found = []
        for band, asset in zip(bands, row, strict=True):
            if calibration.is_plain(band):
                found.append((1.0, 0.0))
                continue
            scale, offset = scale_and_offset(item, asset, calibration)
            if scale is None and calibration.units == "reflectance":
                missing[band] += number
            found.append(in_units(scale or 1.0, offset, calibration))
        gains.append(found)
    if missing:
        named = ", ".join(f"`{band}` ({n} items)" for band, n in missing.items())
        raise SourceError(f"no scale is known for {named}; {SAY_SCALE}")
    return gains


def scale_and_offset(
    item: Item, asset: Asset, calibration: Calibration
) -> tuple[float | None, float]:
    """Give the scale and offset that turn stored values into reflectance.

    Parameters
    ----------
    item : Item
        The item.
    asset : Asset
        One of its assets.
    calibration : Calibration
        What the caller knows.

    Returns
    -------
    tuple
        Scale, None if unknown, and the offset that is still to be added.

    Raises
    ------
    SourceError
        If the offset of a Sentinel-2 item cannot be known.
    """
    scale = asset.scale if calibration.scale is None else calibration.scale
    if calibration.offset is not None:
        return scale, calibration.offset
    if item.offset_applied is True:
        return scale, 0.0  # listed, and already in the pixels
    if asset.offset is not None:
        return scale, asset.offset
    if not _is_s2_reflectance(item, asset):
        return scale, 0.0
    if calibration.harmonize == "s2-boa":
        if item.baseline is None:
            raise SourceError(
                f"item {item.id} states no processing baseline, so its offset is not "
                "known; set imagery.offset, or drop the item"
            )
        return scale or S2_SCALE, S2_OFFSET if item.baseline >= "04.00" else 0.0
    if calibration.units == "reflectance" and (item.baseline or "") >= "04.00":
        raise SourceError(
            f"item {item.id} has baseline {item.baseline} and does not say whether the "
            f'offset {S2_OFFSET:g} is applied; set imagery.harmonize="s2-boa" if it is '
            "not, or imagery.offset: 0 if it is"
        )
    return scale, 0.0


def in_units(scale: float, offset: float, calibration: Calibration) -> Gain:
    """Combine scale, offset and what is wanted into (factor, offset)."""
    if calibration.units == "raw":
        # harmonised digital numbers: only the offset is put in
        return calibration.multiply, offset / scale * calibration.multiply
    return scale * calibration.multiply, offset * calibration.multiply


def apply_gain(values: Array, gain: Gain) -> Array:
    """Give values * factor + offset as float32; unchanged if that is nothing."""
    if gain == (1.0, 0.0):
        return values
    scaled: Array = np.empty(values.shape, np.float32)
    put_scaled(values, gain, scaled)
    return scaled


def put_scaled(values: Array, gain: Gain, into: Array) -> None:
    """Put values * factor + offset, computed in float32, where they belong.

    Parameters
    ----------
    values : ndarray, (y, x)
        As they are stored.
    gain : tuple of float
        Factor and offset; with (1, 0) values pass as they are, whatever the dtype.
    into : ndarray, (y, x)
        float32 where the gain does anything.
    """
    if gain == (1.0, 0.0):
        into[...] = values
        return
    factor, offset = (np.float32(number) for number in gain)
    # a strip is still in the core's cache when the offset is added
    rows = max(1, _STRIP_VALUES // max(1, values.shape[-1]))
    for start in range(0, values.shape[0], rows):
        part = into[start : start + rows]
        # rounded to float32 first, whatever is stored: pixels are float32 from here
        np.multiply(
            values[start : start + rows], factor, out=part,
            dtype=np.float32, casting="unsafe",
        )  # fmt: skip
        part += offset


def _is_s2_reflectance(item: Item, asset: Asset) -> bool:
    return item.sensor == "sentinel-2" and asset.common_name is not None


def _refuse_mixed(
    items: Sequence[Item],
    layout: Sequence[Sequence[Asset]],
    calibration: Calibration,
    counts: Sequence[int],
) -> None:
    """Refuse to mix scenes before and after the change of January 2022."""
    if calibration.offset is not None:
        return
    kinds: Counter[bool] = Counter()
    for item, row, number in zip(items, layout, counts, strict=True):
        if item.baseline is None or not any(_is_s2_reflectance(item, a) for a in row):
            continue
        applied = item.offset_applied is True
        kinds[item.baseline >= "04.00" and not applied] += number
    if len(kinds) > 1:
        raise SourceError(
            f"{kinds[True]} items have baseline >= 04.00 with the offset not applied, "
            f"{kinds[False]} have none to apply; their numbers are 1000 apart: set "
            'imagery.harmonize="s2-boa", or filter by baseline'
        )

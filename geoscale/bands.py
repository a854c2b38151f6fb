"""Band names: one table of sensors, one way to match what a model asks for.

A band may be asked for by its STAC common name (``red``), its sensor name
(``B04``, ``B4``) or the very key an item uses. Common names are those of the
STAC eo extension v2, https://github.com/stac-extensions/eo.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from geoscale.errors import CardError
from geoscale.words import shorten, suggest

BAND_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_-]{0,31}$")
"""What a file or array may call a band; other descriptions are sentences."""

SENSORS: dict[str, dict[str, str]] = {
    "sentinel-2": {
        "B1": "coastal",
        "B2": "blue",
        "B3": "green",
        "B4": "red",
        "B5": "rededge071",
        "B6": "rededge075",
        "B7": "rededge078",
        "B8": "nir",
        "B8A": "nir08",
        "B9": "nir09",
        "B10": "cirrus",
        "B11": "swir16",
        "B12": "swir22",
    },
    "landsat-8": {
        "B1": "coastal",
        "B2": "blue",
        "B3": "green",
        "B4": "red",
        "B5": "nir08",
        "B6": "swir16",
        "B7": "swir22",
        "B8": "pan",
        "B9": "cirrus",
        "B10": "lwir11",
        "B11": "lwir12",
    },
    "landsat-tm": {
        "B1": "blue",
        "B2": "green",
        "B3": "red",
        "B4": "nir08",
        "B5": "swir16",
        "B6": "lwir",
        "B7": "swir22",
        "B8": "pan",
    },
    "sentinel-1": {"VV": "vv", "VH": "vh", "HH": "hh", "HV": "hv"},
}
"""Sensor → sensor band → common name."""

SYNONYMS: dict[str, str] = {
    "rededge1": "rededge071",
    "rededge2": "rededge075",
    "rededge3": "rededge078",
    "red_edge_1": "rededge071",
    "red_edge_2": "rededge075",
    "red_edge_3": "rededge078",
    "nir_1": "nir",
    "nir_2": "nir08",
    "nir_08": "nir08",
    "nir_09": "nir09",
    "narrow_nir": "nir08",
    "swir_1": "swir16",
    "swir_2": "swir22",
    "swir1": "swir16",
    "swir2": "swir22",
    "swir_16": "swir16",
    "swir_22": "swir22",
    "coastal_aerosol": "coastal",
    "ultra_blue": "coastal",
}
"""Names that providers use for a common name."""

COMMON: frozenset[str] = frozenset(
    name for table in SENSORS.values() for name in table.values()
)

_FAMILIES = (
    ("sentinel-2", re.compile(r"sentinel-?2|\bs2[abc]?\b|\bmsi\b", re.I)),
    ("sentinel-1", re.compile(r"sentinel-?1|\bs1[abc]?\b", re.I)),
    ("landsat-8", re.compile(r"landsat-?_?[89]|\blc0?[89]|\boli\b", re.I)),
    ("landsat-tm", re.compile(r"landsat-?_?[457]|\bl[te]0?[457]|\be?tm\+?\b", re.I)),
)


@dataclass(frozen=True, slots=True)
class Band:
    """One spectral channel of imagery."""

    name: str
    """Key by which the source knows it."""
    common_name: str | None = None
    """STAC common name, if known."""
    sensor_name: str | None = None
    """Name the sensor's makers gave it, ``B04``."""


def guess_sensor(*hints: str | None) -> str | None:
    """Name the sensor that some metadata speak of, or None.

    Parameters
    ----------
    *hints : str or None
        Platform, constellation, instrument, collection, item id.

    Returns
    -------
    str or None
        A key of `SENSORS`; the first hint that decides wins.

    Examples
    --------
    >>> guess_sensor("sentinel-2a"), guess_sensor(None, "LC08_L2SP_1")
    ('sentinel-2', 'landsat-8')
    """
    for hint in hints:
        for name, pattern in _FAMILIES:
            if hint and pattern.search(hint.replace("_", " ")):
                return name
    return None


def check_sensor(name: str) -> str:
    """Refuse a sensor whose bands nobody has listed.

    Parameters
    ----------
    name : str
        As a card says it.

    Returns
    -------
    str
        The same.

    Raises
    ------
    ValueError
        If it is no key of `SENSORS`.
    """
    if name not in SENSORS:
        raise ValueError(
            f"sensor `{name}` is not known{suggest(name, SENSORS)}; known are "
            f"{', '.join(SENSORS)}: leave it out, and call the bands by their common "
            "names (red, nir)"
        )
    return name


def normalise_sensor_name(name: str) -> str:
    """Drop leading zeros and case of a sensor band: ``b08a`` → ``B8A``."""
    match = re.fullmatch(r"[bB](?:and)?_?0*(\d+)([aA]?)", name.strip())
    if match is None:
        return name.strip().upper()
    return f"B{int(match[1])}{match[2].upper()}"


def common_name(name: str, sensor: str | None = None) -> str | None:
    """Give the STAC common name of a band, or None where it is not known.

    Parameters
    ----------
    name : str
        Common name, provider's synonym or sensor band.
    sensor : str, optional
        Key of `SENSORS`; without it a sensor band (``B5``) says nothing.

    Returns
    -------
    str or None
        Common name.

    Examples
    --------
    >>> common_name("B08", "sentinel-2"), common_name("rededge1")
    ('nir', 'rededge071')
    """
    lowered = name.strip().lower()
    lowered = SYNONYMS.get(lowered.replace("-", "_"), lowered)
    if lowered in COMMON:
        return lowered
    if sensor is not None:
        return SENSORS[sensor].get(normalise_sensor_name(name))
    return None


def match_bands(
    wanted: Sequence[str], offered: Sequence[Band], *, sensor: str | None = None
) -> list[int]:
    """Find each wanted band among those offered.

    Tried in turn: the same key; the same sensor band; the same common name;
    last ``nir`` for ``nir08`` and back where only one of the two is offered
    (Landsat has a single near-infrared band, Sentinel-2 has both).

    Parameters
    ----------
    wanted : sequence of str
        Names as a model card or a user writes them.
    offered : sequence of Band
        Bands of the imagery.
    sensor : str, optional
        Sensor whose band names `wanted` uses.

    Returns
    -------
    list of int
        Positions in `offered`.

    Raises
    ------
    CardError
        If a band is not there; the message lists what is, and the nearest.

    Examples
    --------
    >>> s2 = [Band("B04", "red", "B04"), Band("B08", "nir", "B08")]
    >>> match_bands(["nir", "B4"], s2)
    [1, 0]
    """
    return [_match_one(name, offered, sensor) for name in wanted]


def _match_one(name: str, offered: Sequence[Band], sensor: str | None) -> int:
    keys = [band.name for band in offered]
    if name in keys:
        return keys.index(name)
    plain = normalise_sensor_name(name)
    for i, band in enumerate(offered):
        if plain in (
            normalise_sensor_name(band.name),
            normalise_sensor_name(band.sensor_name or band.name),
        ):
            return i
    commons = [band.common_name for band in offered]
    common = common_name(name, sensor)
    if common in commons and common is not None:
        return commons.index(common)
    pair = {"nir": "nir08", "nir08": "nir"}.get(common or "")
    if pair is not None and pair in commons and common not in commons:
        return commons.index(pair)
    near = difflib.get_close_matches(
        name, [*keys, *(c for c in commons if c)], n=1, cutoff=0.5
    )
    hint = f"; nearest is `{near[0]}`" if near else ""
    listed = ", ".join(
        b.name + (f" ({b.common_name})" if b.common_name not in (None, b.name) else "")
        for b in offered
    )
    shown, listed = shorten(name), shorten(listed, 400)
    msg = f"band `{shown}` is not in the imagery; it has {listed or 'none'}{hint}"
    raise CardError(msg)

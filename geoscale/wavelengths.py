"""Wavelengths of sensors' bands, for networks that are told what they look at.

Sentinel-2A: https://sentiwiki.copernicus.eu/web/s2-mission; Landsat:
https://www.usgs.gov/faqs/what-are-band-designations-landsat-satellites.
"""

from __future__ import annotations

from collections.abc import Sequence

from geoscale.bands import SENSORS, common_name, normalise_sensor_name
from geoscale.errors import CardError

WAVELENGTHS: dict[str, dict[str, tuple[float, float]]] = {
    "sentinel-2": {
        "B1": (443, 21), "B2": (492, 66), "B3": (560, 36), "B4": (665, 31),
        "B5": (704, 15), "B6": (741, 15), "B7": (783, 20), "B8": (833, 106),
        "B8A": (865, 21), "B9": (945, 20), "B10": (1374, 31), "B11": (1614, 91),
        "B12": (2202, 175),
    },
    "landsat-8": {
        "B1": (443, 16), "B2": (482, 60), "B3": (561, 57), "B4": (655, 38),
        "B5": (865, 28), "B6": (1609, 85), "B7": (2201, 187), "B8": (590, 172),
        "B9": (1373, 20), "B10": (10895, 590), "B11": (12005, 1010),
    },
    "landsat-tm": {
        "B1": (485, 70), "B2": (560, 80), "B3": (660, 60), "B4": (830, 140),
        "B5": (1650, 200), "B6": (11450, 2100), "B7": (2215, 270), "B8": (710, 380),
    },
}  # fmt: skip
"""Sensor → band → middle and width, in nm."""


def find_wavelengths(
    bands: Sequence[str], sensor: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the wavelengths of bands.

    Parameters
    ----------
    bands : sequence of str
        Sensor or common names.
    sensor : str or None
        Key of `geoscale.bands.SENSORS`.

    Returns
    -------
    middle, width : tuple of float
        In nm, one for each band.

    Raises
    ------
    CardError
        If the sensor or one of the bands has none that is known.

    Examples
    --------
    >>> find_wavelengths(["red", "B8"], "sentinel-2")[0]
    (665.0, 833.0)
    """
    table = WAVELENGTHS.get(sensor or "")
    if table is None:
        raise CardError(
            f"wavelengths of sensor {sensor} are not known; known are those of "
            f"{', '.join(WAVELENGTHS)}: name one, or give `wavelengths` in "
            "`architecture_args` of a card"
        )
    assert sensor is not None
    by_common = {common: band for band, common in SENSORS[sensor].items()}
    found = []
    for name in bands:
        band = normalise_sensor_name(name)
        if band not in table:
            band = by_common.get(common_name(name, sensor) or "", "")
        if band not in table:
            raise CardError(
                f"band `{name}` of {sensor} has no wavelength that is known; known are "
                f"{', '.join(table)}"
            )
        found.append(table[band])
    middle, width = zip(*found, strict=True)
    return tuple(float(v) for v in middle), tuple(float(v) for v in width)

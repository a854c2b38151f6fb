"""UTM zones: which place belongs to which, to the pixel.

Every place between 80° S and 84° N belongs to one zone. Zones are strips of six
degrees, half-open (a place on the border belongs to the east), and cut at the equator,
which belongs to the north. The wider zones of Norway and Svalbard (32V, 31X to 37X) are
not followed.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import SourceError
from geoscale.sources.antimeridian import keep_polygons, repeat
from geoscale.types import Bool
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

SOUTHMOST, NORTHMOST = -80.0, 84.0
"""Latitudes between which UTM is used, in degrees."""
REACH_DEG = 1e-5
"""How far polygons of a zone go beyond its strip, about a metre: the strip's edge is
decided pixel by pixel, and a polygon of straight lines leaves it by centimetres."""
_FALSE_NORTHING = 10_000_000.0
_M_PER_DEGREE = 111_132.0
_NAME = re.compile(r"utm-(\d\d)([ns])")


@dataclass(frozen=True, slots=True, order=True)
class Zone:
    """One zone of one half of the globe.

    Examples
    --------
    >>> Zone(36, True).name, Zone(1, False).crs
    ('utm-36n', 'EPSG:32701')
    """

    number: int
    """1 to 60, eastward from the antimeridian."""
    is_north: bool
    """Whether north of the equator."""

    @classmethod
    def of(cls, lon: float, lat: float) -> Zone:
        """Give the zone of a place, in degrees.

        Examples
        --------
        >>> Zone.of(12.0, 50.0).name, Zone.of(11.999, -1e-9).name
        ('utm-33n', 'utm-32s')
        >>> Zone.of(180.0, 0.0).name, Zone.of(-180.0, 0.0).name
        ('utm-01n', 'utm-01n')
        """
        return cls(int((lon + 180) % 360 // 6) + 1, lat >= 0)

    @classmethod
    def parse(cls, name: str) -> Zone | None:
        """Read a name such as ``utm-36n``; None where it is none."""
        match = _NAME.fullmatch(name)
        if match is None or not 1 <= int(match[1]) <= 60:
            return None
        return cls(int(match[1]), match[2] == "n")

    @property
    def name(self) -> str:
        """Name of its group in an output."""
        return f"utm-{self.number:02d}{'n' if self.is_north else 's'}"

    @property
    def crs(self) -> str:
        """EPSG code, WGS 84."""
        return f"EPSG:{'326' if self.is_north else '327'}{self.number:02d}"

    @property
    def west(self) -> float:
        """Longitude of its western border, in degrees; it belongs to the zone."""
        return -180.0 + 6 * (self.number - 1)

    @property
    def east(self) -> float:
        """Longitude of its eastern border, in degrees; it belongs to the next zone."""
        return self.west + 6

    def strip(self, reach: float = 0.0) -> Any:
        """Give its part of the globe as a box in degrees, grown by some degrees."""
        import shapely

        south, north = (0.0, NORTHMOST) if self.is_north else (SOUTHMOST, 0.0)
        return shapely.box(
            self.west - reach, south - reach, self.east + reach, north + reach
        )

    def mask(self, geobox: GeoBox, window: Window) -> Bool:
        """Tell which pixels of a window have their centre in this zone.

        Parameters
        ----------
        geobox : GeoBox
            North-up grid in the zone's CRS.
        window : Window
            Part of it.

        Returns
        -------
        ndarray of bool
            (y, x).
        """
        a, _, c, _, e, f = tuple(geobox.affine)[:6]
        y = f + e * (np.arange(window.y0, window.y1) + 0.5)
        x = c + a * (np.arange(window.x0, window.x1) + 0.5)
        west, east = (self._eastings(lon, y)[:, None] for lon in (self.west, self.east))
        half = (y >= 0) if self.is_north else (y < _FALSE_NORTHING)
        inside: Bool = (west <= x) & (x < east) & half[:, None]
        return inside

    def _eastings(self, lon: float, y: NDArray[np.float64]) -> NDArray[np.float64]:
        """Where a meridian crosses some northings: to a nanometre, in a few steps."""
        project = _project_to(self.crs)
        lons = np.full(len(y), lon)
        lat = (y - (0.0 if self.is_north else _FALSE_NORTHING)) / _M_PER_DEGREE
        for _ in range(8):
            x, found = project(lons, lat)
            # each step leaves a hundredth of the error: a degree is 111 km nearly
            lat = np.clip(lat + (y - found) / _M_PER_DEGREE, -90, 90)
        return np.asarray(x)


def iter_zones() -> Iterator[Zone]:
    """Yield all 120 zones, from west to east, north first."""
    for number in range(1, 61):
        yield Zone(number, True)
        yield Zone(number, False)


def split_area(area: Any, what: str) -> dict[Zone, Any]:
    """Cut an area at the borders of zones.

    Parameters
    ----------
    area : shapely geometry
        In degrees, -180 to 180.
    what : str
        What it is, for messages.

    Returns
    -------
    dict
        Zone → its part, in degrees, `REACH_DEG` beyond the borders that cut it;
        longitudes go beyond 180 at the antimeridian.

    Raises
    ------
    SourceError
        If it goes beyond the latitudes of UTM.
    """
    west, south, east, north = area.bounds
    if south < SOUTHMOST or north > NORTHMOST:
        raise SourceError(
            f"{what} reaches from {south:g} to {north:g} degrees of latitude, UTM only "
            f"from {SOUTHMOST:g} to {NORTHMOST:g}; end it there and map the rest in a "
            "polar CRS: EPSG:3413 or EPSG:3995 in the north, EPSG:3031 in the south"
        )
    found = {}
    for zone in iter_zones():
        half = north > 0 if zone.is_north else south < 0
        if not half or zone.east <= west or zone.west >= east:
            continue
        if area.intersection(zone.strip()).area > 0:
            # the outer border of these is the antimeridian, where the area is cut
            whole = repeat(area) if zone.number in (1, 60) else area
            found[zone] = keep_polygons(whole.intersection(zone.strip(REACH_DEG)))
    return found


def cut_sides(part: Any, zone: Zone) -> tuple[bool, bool, bool]:
    """Tell at which borders of a zone an area goes on.

    Parameters
    ----------
    part : shapely geometry
        From `split_area`.
    zone : Zone
        The zone.

    Returns
    -------
    tuple of bool
        In the west, in the east, at the equator.
    """
    west, south, east, north = part.bounds
    beyond = REACH_DEG / 2
    equator = south < -beyond if zone.is_north else north > beyond
    return west < zone.west - beyond, east > zone.east + beyond, equator


@functools.lru_cache(maxsize=128)
def _project_to(crs: str) -> Any:
    from pyproj import Transformer

    return Transformer.from_crs("EPSG:4326", crs, always_xy=True).transform

"""What is read: bands of one file, a grid to read them onto, arrays to fill."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from geoscale.errors import StackError
from geoscale.sources.calibration import Calibration, Gain
from geoscale.sources.fields import normalise_crs
from geoscale.sources.hrefs import Access
from geoscale.sources.items import Asset
from geoscale.sources.missing import MOST_MISSING, OnMissing
from geoscale.sources.steps import GroupBy
from geoscale.types import Array

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

RESAMPLINGS = (
    "nearest", "bilinear", "cubic", "cubic_spline", "lanczos", "average", "mode",
    "max", "min", "med", "q1", "q3", "rms", "sum",
)  # fmt: skip
"""Names that `resampling` may have."""


@dataclass(frozen=True, slots=True)
class Target:
    """The grid that is read onto."""

    crs: str
    """``EPSG:n`` or WKT."""
    transform: tuple[float, float, float, float, float, float]
    """Pixel to CRS: a, b, c, d, e, f."""
    shape: tuple[int, int]
    """Rows and columns."""

    @classmethod
    def from_geobox(cls, geobox: GeoBox) -> Target:
        """Take the plain numbers of a geobox.

        Raises
        ------
        StackError
            If it has no CRS.
        """
        if geobox.crs is None:
            raise StackError("the grid has no CRS; set grid.crs")
        code = normalise_crs(str(geobox.crs)) or str(geobox.crs)
        a, b, c, d, e, f = (float(v) for v in tuple(geobox.affine)[:6])
        return cls(
            code, (a, b, c, d, e, f), (int(geobox.shape[0]), int(geobox.shape[1]))
        )

    def to_geobox(self) -> GeoBox:
        """Give the geobox."""
        from affine import Affine
        from odc.geo.geobox import GeoBox

        return GeoBox(self.shape, Affine(*self.transform), self.crs)


@dataclass(frozen=True, slots=True)
class Request:
    """Some bands of one file, on one grid."""

    assets: tuple[Asset, ...]
    """Bands of the same href, in the order wanted."""
    target: Target
    """Grid to read onto."""
    resampling: str
    """Name of the method where the file is on another grid."""
    nodata: float | None = None
    """Overrides what the file and the metadata say; NaN means none."""
    trust_file: bool = False
    """Whether a file that contradicts its metadata is believed."""


@dataclass(frozen=True, slots=True)
class Into:
    """Where the pixels of a request go."""

    arrays: Sequence[Array]
    """One (y, x) for each band, of the window's shape; may hold anything before."""
    gains: Sequence[Gain]
    """Factor and offset of each band."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a raster source reads; part of its spec."""

    groupby: GroupBy = "solar_day"
    """What makes one time step."""
    resampling: str | Mapping[str, str] | None = None
    """Method, or band → method; default nearest for classes, else bilinear."""
    source_nodata: float | None = None
    """Overrides nodata of files and metadata; NaN: there is none."""
    trust_file: bool = False
    """Whether a file that contradicts its item is believed."""
    dtype: str | None = None
    """Stored dtype, where the metadata do not say."""
    calibration: Calibration = field(default_factory=Calibration)
    """Units of the result."""
    access: Access = field(default_factory=Access)
    """How files may be reached."""
    on_missing: OnMissing = "error"
    """Whether an asset that is not there fails its blocks."""
    max_missing: int = MOST_MISSING
    """Assets that may be missing before the run stops, where they may be at all."""

"""What a job may say about its imagery and its grid."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from typing import Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
    field_validator,
    model_validator,
)

from geoscale.errors import JobError
from geoscale.findings import MOST_FINDINGS
from geoscale.sources.calibration import Calibration
from geoscale.sources.clear import Mask
from geoscale.sources.hrefs import Access
from geoscale.sources.missing import MOST_MISSING, OnMissing
from geoscale.sources.reducing import LayerName
from geoscale.sources.signing import find_signer
from geoscale.sources.steps import GroupBy, Method
from geoscale.sources.targets import Reading
from geoscale.words import nearest_key, shorten

_ORIGINS = ("items", "api", "zarr", "files", "array")
Box = tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
M = TypeVar("M", bound=BaseModel)
UTM = "utm"
"""As a grid's CRS: one grid for each UTM zone."""


class Imagery(BaseModel):
    """Where imagery comes from and how it is read; exactly one origin."""

    model_config = ConfigDict(extra="forbid", arbitrary_types_allowed=True)

    items: Any = None
    """Path or URL of STAC JSON or stac-geoparquet, or items in memory."""
    api: str | None = None
    """URL of a STAC API; with `collections`, `datetime`, `bbox`, `query`."""
    zarr: str | None = None
    """Path or URL of a Zarr store."""
    files: str | list[str] | dict[str, str] | None = None
    """Raster files: path, glob, list of them, or band → path."""
    array: Any = None
    """An xarray DataArray or Dataset in memory."""

    collections: list[str] = Field(default_factory=list)
    """Collections to search."""
    datetime: str | None = None
    """Period to search, ``2024-05-01/2024-05-31``."""
    bbox: Box | None = None
    """West, south, east, north to search, in degrees; default the grid's."""
    intersects: dict[str, Any] | None = None
    """GeoJSON geometry to search, in degrees."""
    query: dict[str, Any] | None = None
    """Further conditions of a search, as the STAC query extension has them."""
    max_items: int | None = Field(default=None, gt=0)
    """Most items that a search may give."""

    bands: list[str] | None = None
    """Bands to read; default what the model asks for, else all."""
    periods: dict[str, str] | list[str] | Literal["each scene"] | None = None
    """Dates that become one image each: name → ``2024-06/2024-08``, or such periods."""
    composite: Method | None = None
    """How the dates of a period become one image; default median."""
    near: str | dict[str, str] | None = None
    """Date for ``nearest`` and ``best``, or period → date; default: the middle."""
    layers: list[LayerName] | None = None
    """What the output tells of the dates of each pixel: ``observations``,
    ``observed``."""
    mask: Mask | None = None
    """Pixels that a composite leaves out."""
    sensor: str | None = None
    """Sensor of imagery that does not say, ``sentinel-2``."""
    groupby: GroupBy = "solar_day"
    """What makes one time step."""
    resampling: str | dict[str, str] | None = None
    """Method, or band → method; default nearest for classes, else bilinear."""
    scale: FiniteFloat | None = Field(default=None, gt=0)
    """Reflectance = stored * scale + offset; overrides the metadata."""
    offset: FiniteFloat | None = None
    """See `scale`."""
    source_nodata: float | Literal["none"] | None = None
    """Overrides nodata of files and metadata; ``none``: there is none."""
    dtype: str | None = None
    """Stored dtype, where the metadata do not say."""
    harmonize: Literal["s2-boa"] | None = None
    """Derive Sentinel-2's offset from the processing baseline."""
    signer: str | None = None
    """What signs hrefs at reading: ``planetary-computer`` or ``module:function``."""
    trust: Literal["both", "file"] = "both"
    """``file``: where file and item differ, believe the file."""
    on_missing: OnMissing = "error"
    """``nodata``: an asset that is not there leaves a hole, which is listed."""
    max_missing: int = Field(default=MOST_MISSING, ge=0)
    """Assets that may be missing before the run stops."""
    allow_private: bool = False
    """Whether hosts in private networks may be asked."""
    crs: str | None = None
    """CRS of a Zarr store or array that does not say."""
    band_names: list[str] | None = None
    """Names of the bands of files or of a Zarr store, in their order."""
    times: list[str] | None = None
    """Dates of the files, in the order of their names."""
    variable: str | list[str] | None = None
    """Variable of a Zarr store, or one for each band."""

    @field_validator("times", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        # YAML makes dates of what is not quoted
        if not isinstance(value, list | tuple):
            return value
        return [v.isoformat() if isinstance(v, date) else v for v in value]

    @model_validator(mode="after")
    def _has_one_origin(self) -> Imagery:
        given = [name for name in _ORIGINS if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"imagery needs exactly one of {', '.join(_ORIGINS)}; "
                f"got {', '.join(given) or 'none'}"
            )
        return self

    @property
    def is_composite(self) -> bool:
        """Whether several dates become one image."""
        said = (self.periods, self.composite, self.mask, self.near, self.layers)
        return any(v is not None for v in said)

    def access(self) -> Access:
        """How files may be reached."""
        if self.signer is not None:
            find_signer(self.signer)  # refused before a pixel is read
        return Access(
            allow_private=self.allow_private,
            local=self.api is None,
            signer=self.signer,
        )

    def reading(self) -> Reading:
        """How a raster source reads."""
        nodata = self.source_nodata
        return Reading(
            groupby=self.groupby,
            resampling=self.resampling,
            source_nodata=float("nan") if nodata == "none" else nodata,
            trust_file=self.trust == "file",
            dtype=self.dtype,
            calibration=Calibration(
                scale=self.scale,
                offset=self.offset,
                harmonize=self.harmonize,
                plain=()
                if self.mask is None or not self.mask.asset
                else (self.mask.asset,),
            ),
            access=self.access(),
            on_missing=self.on_missing,
            max_missing=self.max_missing,
        )


class Grid(BaseModel):
    """The output grid: CRS, resolution and extent."""

    model_config = ConfigDict(extra="forbid")

    crs: str = "native"
    """``EPSG:…``; ``utm``: one grid for each zone; ``native``: what all items share."""
    resolution: FiniteFloat | None = Field(default=None, gt=0)
    """Pixel size in units of the CRS; default the finest band's."""
    bounds: Box | None = None
    """Left, bottom, right, top in the grid's CRS."""
    bbox: Box | None = None
    """West, south, east, north in degrees; west > east across the antimeridian."""
    aoi: str | dict[str, Any] | None = None
    """GeoJSON or GeoPackage file, or a GeoJSON object; degrees."""
    aoi_crs: str | None = None
    """CRS of `aoi`, where it is not in degrees."""
    fix_geometry: bool = False
    """Whether to repair an invalid `aoi`."""

    @model_validator(mode="after")
    def _has_one_extent(self) -> Grid:
        given = [n for n in ("bounds", "bbox", "aoi") if getattr(self, n) is not None]
        if len(given) > 1:
            raise ValueError(f"grid takes one of bounds, bbox, aoi; got {given}")
        return self


def parse_imagery(value: Imagery | Mapping[str, Any]) -> Imagery:
    """Check settings of imagery.

    Raises
    ------
    JobError
        If a key is unknown or a value wrong; names the key and the nearest.
    """
    return value if isinstance(value, Imagery) else _parse(Imagery, value, "imagery")


def parse_grid(value: Grid | Mapping[str, Any] | None) -> Grid:
    """Check settings of a grid; None gives the defaults.

    Raises
    ------
    JobError
        If a key is unknown or a value wrong; names the key and the nearest.
    """
    return value if isinstance(value, Grid) else _parse(Grid, value or {}, "grid")


def _parse(model: type[M], value: Mapping[str, Any], name: str) -> M:
    try:
        return model.model_validate(dict(value))
    except ValidationError as err:
        lines = []
        for one in err.errors()[:MOST_FINDINGS]:
            where = shorten(".".join([name, *map(str, one["loc"])]))
            hint = (
                nearest_key(one["loc"], model)
                if one["type"] == "extra_forbidden"
                else ""
            )
            lines.append(f"{where}: {one['msg']}{hint}")
        raise JobError("; ".join(lines)) from None

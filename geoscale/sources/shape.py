"""The shape of foreign metadata: kinds of the fields that are read, checked at once.

What a STAC item may say is any JSON. `items` and `fields` read a few fields of it and
may rely on their kinds once these checks have passed; other fields may be anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    ValidationError,
)

from geoscale.card import explain_validation
from geoscale.errors import SourceError

LONGEST_ID = 512
"""Characters of an item's id."""


def _nonzero(value: float) -> float:
    if value == 0:
        raise ValueError("a scale of 0 would make all pixels alike")
    return value


Text = Annotated[str, Field(max_length=LONGEST_ID)]
Place = Annotated[list[FiniteFloat], Field(min_length=2)]
Scale = Annotated[FiniteFloat, AfterValidator(_nonzero)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Polygon(_Part):
    coordinates: list[list[Place]]


class _Band(_Part):
    name: Text | int | None = None
    common_name: Text | None = None
    common: Text | None = Field(None, alias="eo:common_name")
    scale: Scale | None = None
    offset: FiniteFloat | None = None
    raster_scale: Scale | None = Field(None, alias="raster:scale")
    raster_offset: FiniteFloat | None = Field(None, alias="raster:offset")


class _Projected(_Part):
    """Fields that items and assets share."""

    code: Text | None = Field(None, alias="proj:code")
    epsg: int | None = Field(None, alias="proj:epsg", gt=0, lt=2**31)
    wkt2: str | None = Field(None, alias="proj:wkt2")
    projjson: dict[str, Any] | None = Field(None, alias="proj:projjson")


class _Properties(_Projected):
    platform: Text | None = None
    constellation: Text | None = None
    offset_applied: bool | None = Field(None, alias="earthsearch:boa_offset_applied")
    bands: list[Any] | None = Field(None, alias="eo:bands")


class _Item(_Part):
    id: Text | int
    collection: Text | None = None
    properties: _Properties | None = None
    geometry: dict[str, Any] | None = None
    bbox: list[FiniteFloat] | None = None


class _Asset(_Projected):
    href: str
    roles: list[str] | None = None
    gsd: FiniteFloat | None = None
    bands: list[_Band | int] | None = None
    eo_bands: list[_Band | int] | None = Field(None, alias="eo:bands")
    raster_bands: list[_Band] | None = Field(None, alias="raster:bands")
    raster_scale: Scale | None = Field(None, alias="raster:scale")
    raster_offset: FiniteFloat | None = Field(None, alias="raster:offset")
    common: Text | None = Field(None, alias="eo:common_name")


def check_item(raw: Mapping[str, Any], where: str) -> None:
    """Check the fields of an item that are read, its assets aside.

    Parameters
    ----------
    raw : mapping
        The item as parsed JSON.
    where : str
        Begins the message.

    Raises
    ------
    SourceError
        If a field is of another kind, or a place is not finite.
    """
    _check(_Item, raw, where)
    geometry = raw.get("geometry") or {}
    if geometry.get("type") == "Polygon":
        _check(_Polygon, geometry, f"{where}, geometry")


def check_asset(asset: Mapping[str, Any], where: str) -> None:
    """Check the fields of a raster asset that are read.

    Parameters
    ----------
    asset : mapping
        The asset as parsed JSON.
    where : str
        Begins the message.

    Raises
    ------
    SourceError
        If a field is of another kind, or a number is not finite.
    """
    _check(_Asset, asset, where)


def _check(model: type[BaseModel], value: Mapping[str, Any], where: str) -> None:
    try:
        model.model_validate(dict(value))
    except ValidationError as err:
        raise SourceError(
            f"{where}: {explain_validation(err, model)}; correct or drop the item"
        ) from None

"""The output before any pixel: grid, times, layers, blocks and what they mean.

A template says everything that `create` writes and nothing that a worker
writes; two templates of equal `layout` describe the same stored bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.card import OutputClass
from geoscale.card_output import class_colors
from geoscale.errors import JobError
from geoscale.stamps import encode_times, parse_times
from geoscale.types import Json, Layer
from geoscale.words import redact

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

COORDS = ("time", "y", "x", "spatial_ref")
"""Names of the coordinate arrays; no layer may bear one."""

_NAME = re.compile(r"^[A-Za-z][A-Za-z0-9_]*$")
_UUIDS = {
    "multiscales": "d35379db-88df-4056-af3a-620245f8e347",
    "proj": "f17cb550-5864-4468-aeb7-f3180cfb622f",
    "spatial": "689b58e2-cf7b-45e0-9fff-9cfc0883d6b4",
}


@dataclass(frozen=True, kw_only=True)
class OutputTemplate:
    """Everything known about an output before it is computed.

    Raises `JobError` if the grid is rotated, a name or fill value cannot serve,
    times do not ascend, or blocks are no whole number of chunks.
    """

    geobox: GeoBox
    """CRS, affine and shape; rows and columns run along the axes."""
    times: tuple[str, ...]
    """ISO 8601 labels, ascending, UTC, no zone suffix."""
    layers: tuple[Layer, ...]
    """What is stored for every pixel."""
    block_px: int
    """Height and width of a shard, the unit of a write, in px."""
    chunk_px: int
    """Height and width of a chunk, the unit of a read, in px."""
    classes: tuple[OutputClass, ...] = ()
    """Classes of the map, in channel order."""
    compared: tuple[Json, ...] = ()
    """Of a change map, by time step: ``from`` and ``to``, the labels of both dates,
    and ``from_period`` and ``to_period``, where these have names."""
    forecast_from: str | None = None
    """Of a forecast, label of the last date that was seen: all time steps lie ahead of
    it, and are written together."""
    attrs: Mapping[str, Any] | tuple[tuple[str, Any], ...] = ()
    """Further attributes of the root group, JSON-able; not part of `layout`."""

    def __post_init__(self) -> None:
        plain = json.loads(json.dumps(dict(self.attrs), sort_keys=True))
        object.__setattr__(self, "attrs", tuple(plain.items()))
        _check_grid(self)
        for layer in self.layers:
            _check_layer(layer, self)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width, in px."""
        rows, columns = self.geobox.shape
        return int(rows), int(columns)

    @property
    def together(self) -> int:
        """Time steps that a block writes at once."""
        return len(self.times) if self.forecast_from else 1

    @property
    def transform(self) -> tuple[float, ...]:
        """Affine ``(a, b, c, d, e, f)``: pixel corner (column, row) → (x, y)."""
        return tuple(float(v) for v in tuple(self.geobox.transform)[:6])

    @property
    def class_colors(self) -> tuple[str, ...]:
        """RRGGBB of every class, from the card or from `PALETTE`."""
        return class_colors(self.classes)

    def layer(self, name: str) -> Layer:
        """Layer of this name.

        Raises
        ------
        JobError
            If there is none.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(f"`{layer.name}`" for layer in self.layers)
        raise JobError(f"output has no layer `{name}`; it has {known}")

    def of(self, layer: Layer) -> OutputTemplate:
        """Template with the classes of one layer, which may have its own.

        Parameters
        ----------
        layer : Layer
            One of this template.

        Returns
        -------
        OutputTemplate
            With the classes that the layer's own flags name, else this one.
        """
        attrs = dict(layer.attrs)
        values = [int(v) for v in attrs.get("flag_values", ())]
        if not values or values == [c.value for c in self.classes]:
            return self
        words = str(attrs.get("flag_meanings", "")).split()
        colors = str(attrs.get("flag_colors", "")).replace("#", "").split()
        found = []
        for i, value in enumerate(values):
            name = words[i] if i < len(words) else str(value)
            color = colors[i] if i < len(colors) else None
            found.append(OutputClass(value=value, name=name, color=color))
        return replace(self, classes=tuple(found))

    def array_shape(self, layer: Layer) -> tuple[int, ...]:
        """Shape of a layer's array: (time, y, x) or (time, class, y, x)."""
        return (len(self.times), *layer.block_shape(self.shape))

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        return {**self.layout(), "attrs": dict(self.attrs)}

    def layout(self) -> Json:
        """Plain form of all that decides what is stored; no `attrs`."""
        return {
            "crs": _name_crs(self.geobox.crs),
            "transform": list(self.transform),
            "shape": list(self.shape),
            "times": list(self.times),
            "layers": [_layer_dict(layer) for layer in self.layers],
            "block_px": self.block_px,
            "chunk_px": self.chunk_px,
            "classes": [c.model_dump(exclude_none=True) for c in self.classes],
            # only where there is something: other outputs stay what they are
            **({"compared": list(self.compared)} if self.compared else {}),
            **({"forecast_from": self.forecast_from} if self.forecast_from else {}),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> OutputTemplate:
        """Rebuild a template from its plain form.

        Raises
        ------
        JobError
            If a field is missing or does not serve.
        """
        from affine import Affine
        from odc.geo.geobox import GeoBox

        try:
            shape = (int(data["shape"][0]), int(data["shape"][1]))
            return cls(
                geobox=GeoBox(shape, Affine(*data["transform"]), data["crs"]),
                times=tuple(data["times"]),
                layers=tuple(_layer_from(item) for item in data["layers"]),
                block_px=int(data["block_px"]),
                chunk_px=int(data["chunk_px"]),
                classes=tuple(OutputClass(**item) for item in data["classes"]),
                compared=tuple(data.get("compared", ())),
                forecast_from=data.get("forecast_from"),
                attrs=data.get("attrs", {}),
            )
        except KeyError as err:
            raise JobError(f"output template lacks {err}; plan the job again") from None

    def root_attrs(self) -> Json:
        """Attributes of the root group: CF, Zarr conventions, classes, layout."""
        crs = self.geobox.crs
        box = self.geobox.boundingbox
        attrs: Json = {
            "Conventions": "CF-1.11",
            # xarray's own way of saying which variables are coordinates
            "coordinates": "spatial_ref",
            "zarr_conventions": [convention("proj"), convention("spatial")],
            "proj:wkt2": crs.to_wkt(),
            "spatial:dimensions": ["y", "x"],
            "spatial:shape": list(self.shape),
            "spatial:transform": list(self.transform),
            "spatial:bbox": [box.left, box.bottom, box.right, box.top],
            "spatial:registration": "pixel",
            "geoscale": {"template": self.layout()},
        }
        if crs.epsg is not None:
            attrs["proj:code"] = f"EPSG:{crs.epsg}"
        if self.classes:
            attrs["class_names"] = [c.name for c in self.classes]
            attrs["class_colors"] = [f"#{c}" for c in self.class_colors]
        if self.compared:
            attrs["compared_dates"] = [dict(one) for one in self.compared]
        attrs.update(_clean(dict(self.attrs)))
        return attrs

    def layer_attrs(self, layer: Layer) -> Json:
        """Attributes of one array; what the layer itself says wins."""
        attrs: Json = {"grid_mapping": "spatial_ref"}
        if np.isfinite(layer.fill_value):
            attrs["nodata"] = layer.fill_value
        named = self.of(layer)
        if is_categorical(layer) and named.classes:
            attrs["flag_values"] = [c.value for c in named.classes]
            words = ("_".join(c.name.split()) for c in named.classes)
            attrs["flag_meanings"] = " ".join(words)
            attrs["flag_colors"] = " ".join(f"#{c}" for c in named.class_colors)
        attrs.update(dict(layer.attrs))
        if _is_whole(layer) and ("scale_factor" in attrs or "add_offset" in attrs):
            # Only quantised layers: readers decode these to floats anyway,
            # while class maps must stay integers when xarray opens them.
            attrs["_FillValue"] = layer.fill_value
        return dict(_clean(attrs))

    def coords(self) -> dict[str, tuple[NDArray[Any], tuple[str, ...], Json]]:
        """Values, dims and attributes of every coordinate array.

        ``time`` int64 (time,); ``y`` float64 (y,) and ``x`` float64 (x,), pixel
        centres in CRS units; ``spatial_ref`` int64 ().
        """
        a, _, c, _, e, f = self.transform
        rows, columns = self.shape
        y_attrs, x_attrs = _axis_attrs(self.geobox.crs)
        time, units = encode_times(self.times)
        t_attrs = {"standard_name": "time", "axis": "T", "units": units}
        t_attrs["calendar"] = "proleptic_gregorian"
        return {
            "time": (time, ("time",), t_attrs),
            "y": (f + e * (np.arange(rows) + 0.5), ("y",), y_attrs),
            "x": (c + a * (np.arange(columns) + 0.5), ("x",), x_attrs),
            "spatial_ref": (np.zeros((), np.int64), (), spatial_ref_attrs(self.geobox)),
        }


def is_categorical(layer: Layer) -> bool:
    """Whether a layer's integers name classes, so that no mean may be taken."""
    attrs = dict(layer.attrs)
    if layer.classes or "scale_factor" in attrs or not _is_whole(layer):
        return False
    return layer.name == "classes" or "flag_values" in attrs


def convention(name: str) -> dict[str, str]:
    """Entry of ``zarr_conventions`` for ``proj``, ``spatial`` or ``multiscales``.

    References
    ----------
    .. [1] https://github.com/zarr-conventions, version 0.1 of each.
    """
    path = f"zarr-conventions/{name}"
    return {
        "name": name,
        "uuid": _UUIDS[name],
        "schema_url": f"https://raw.githubusercontent.com/{path}/refs/tags/v0.1/schema.json",
        "spec_url": f"https://github.com/{path}/blob/v0.1/README.md",
    }


def spatial_ref_attrs(geobox: GeoBox) -> Json:
    """Attributes of the CF grid mapping variable, as rioxarray writes them."""
    cf: Json = json.loads(json.dumps(geobox.crs.proj.to_cf()))
    a, b, c, d, e, f = (float(v) for v in tuple(geobox.transform)[:6])
    cf["spatial_ref"] = cf["crs_wkt"]
    # repr of a float round-trips: the affine comes back bit for bit
    cf["GeoTransform"] = " ".join(repr(v) for v in (c, a, b, f, d, e))
    return cf


def _is_whole(layer: Layer) -> bool:
    return np.dtype(layer.dtype).kind in "iu"


def _check_grid(template: OutputTemplate) -> None:
    _, b, _, d, _, _ = template.transform
    block, chunk = template.block_px, template.chunk_px
    if template.geobox.crs is None:
        raise JobError("output grid has no CRS; give `grid: {crs: EPSG:…}`")
    if b or d:
        raise JobError(
            f"output grid is rotated: {template.transform}; choose an unrotated `grid`"
        )
    if min(template.shape) < 1:
        raise JobError(f"output grid is empty: {template.shape} px; check `aoi`")
    if chunk < 1 or block < chunk or block % chunk:
        raise JobError(
            f"block_px {block} is no whole number of chunk_px {chunk}; "
            f"choose a multiple, such as {max(1, block // max(1, chunk)) * chunk}"
        )
    times = parse_times(template.times)
    if not len(times) or (np.diff(times) <= np.timedelta64(0, "us")).any():
        raise JobError(f"times must be one or more and ascend; got {template.times}")
    names = [layer.name for layer in template.layers]
    if not names or len({*names}) != len(names):
        raise JobError(f"output needs layers of different names; got {names}")


def _check_layer(layer: Layer, template: OutputTemplate) -> None:
    if not _NAME.match(layer.name) or layer.name in (*COORDS, "overviews"):
        raise JobError(
            f"layer name `{layer.name}` cannot be used; take letters, digits and "
            f"`_`, and none of {', '.join((*COORDS, 'overviews'))}"
        )
    if _is_whole(layer):
        info = np.iinfo(layer.dtype)
        if not info.min <= layer.fill_value <= info.max or layer.fill_value % 1:
            raise JobError(
                f"fill value {layer.fill_value} of layer `{layer.name}` does not "
                f"fit {layer.dtype}; choose one in [{info.min}, {info.max}]"
            )
    for c in template.classes if is_categorical(layer) else ():
        if c.value == layer.fill_value:
            raise JobError(
                f"fill value {c.value} of layer `{layer.name}` is class `{c.name}`; "
                "nodata must be no class, such as 255"
            )


def _name_crs(crs: Any) -> str:
    return f"EPSG:{crs.epsg}" if crs.epsg is not None else str(crs.to_wkt())


def _axis_attrs(crs: Any) -> tuple[Json, Json]:
    names = ("projection_y_coordinate", "projection_x_coordinate")
    info = crs.proj.axis_info
    units = [info[0].unit_name if info else "metre"] * 2
    if crs.geographic:
        names, units = ("latitude", "longitude"), ["degrees_north", "degrees_east"]
    y, x = (
        {"standard_name": name, "axis": axis, "units": unit}
        for name, axis, unit in zip(names, "YX", units, strict=True)
    )
    return y, x


def _layer_dict(layer: Layer) -> Json:
    fill = layer.fill_value
    return {
        "name": layer.name,
        "dtype": layer.dtype,
        # JSON has no NaN
        "fill_value": fill if np.isfinite(fill) else str(fill),
        "classes": layer.classes,
        "attrs": json.loads(json.dumps(dict(layer.attrs))),
    }


def _layer_from(data: Mapping[str, Any]) -> Layer:
    fill = data["fill_value"]
    return Layer(
        name=data["name"],
        dtype=data["dtype"],
        fill_value=float(fill) if isinstance(fill, str) else fill,
        classes=int(data.get("classes", 0)),
        attrs=tuple(sorted(dict(data.get("attrs", {})).items())),
    )


def _clean(value: Any) -> Any:
    # No signed URL may reach an attribute.
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(k): _clean(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(v) for v in value]
    return value

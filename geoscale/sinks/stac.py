"""STAC of a finished output: what it shows, how it was made, and from what.

One catalogue with one Item per time step. The MLM fields are stated on the Item
without declaring that extension, whose schema describes a model and not a map.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard, OutputClass
from geoscale.errors import OutputError
from geoscale.sinks.cog import slug, slug_time
from geoscale.sinks.footprint import footprint
from geoscale.sinks.layout import load_template
from geoscale.sinks.repository import has_repository
from geoscale.sinks.spans import describe_span, read_label
from geoscale.sinks.stac_facts import add_sources, describe_making, plain
from geoscale.storage import Folder
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Json, Layer
from geoscale.words import redact

_BASE = "https://stac-extensions.github.io"
EXTENSIONS = {
    name: f"{_BASE}/{name}/v{version}/schema.json"
    for name, version in (
        ("projection", "2.0.0"),
        ("classification", "2.0.0"),
        ("processing", "1.2.0"),
        ("file", "2.1.0"),
        ("raster", "2.0.0"),
    )
}
"""Extensions that the Items declare."""
_ALWAYS = (EXTENSIONS["projection"], EXTENSIONS["processing"])
_COG = "image/tiff; application=geotiff; profile=cloud-optimized"
_ZARR = "application/vnd.zarr; version=3"
_ICECHUNK = "application/vnd.zarr+icechunk"


def export_stac(
    out_dir: str | Path,
    zarr_url: str,
    assets: Mapping[str, Sequence[str | Path]] | None = None,
    provenance: Mapping[str, Any] | None = None,
    card: ModelCard | None = None,
    *,
    name: str | None = None,
) -> Path:
    """Describe a finished output as a STAC 1.1 catalogue.

    Parameters
    ----------
    out_dir : str or Path
        Local folder of ``catalog.json`` and ``<id>.json`` of every Item.
    zarr_url : str
        The output.
    assets : mapping, optional
        Layer → COGs of it, one for every time step, in order.
    provenance : mapping, optional
        JSON-able facts, each stored as ``geoscale:<key>``: ``plan_hash``,
        ``model_sha256``, ``precision``, ``device``, ``batch`` and so on. Two are
        also read here: ``versions`` (package → version) becomes
        ``processing:software``; ``sources`` (ids, or mappings with ``id`` and
        ``href``) becomes links ``derived_from`` where a place is known.
    card : ModelCard, optional
        The model.
    name : str, optional
        First part of ids and title; default: the output's own name.

    Returns
    -------
    Path
        The catalogue.

    Raises
    ------
    OutputError
        If there is no output, or the COGs are not one per time step.
    StoppedError
        If there is no room or no right to write.
    """
    import pystac

    template = load_template(zarr_url)
    files = _check_assets(assets or {}, template)
    out = Path(out_dir).resolve()
    stem = name or Path(zarr_url.rstrip("/")).name.removesuffix(".zarr")
    facts = plain(provenance or {})
    catalog = pystac.Catalog(
        id=slug(stem),
        description=f"Map made by geoscale{f' with {card.name}' if card else ''}",
        title=stem,
        href=str(out / "catalog.json"),
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    geometry, bbox = footprint(template.geobox)
    goal = "change" if template.compared else card.task if card else "segmentation"
    goal = "forecasting" if template.forecast_from else goal
    shared = {**_describe_grid(template), **describe_making(facts, card, goal)}
    for time, label in enumerate(template.times):
        span, needs = describe_span(template, time)
        item = pystac.Item(
            id=f"{slug(stem)}_{slug_time(label)}",
            geometry=geometry,
            bbox=bbox,
            datetime=read_label(label),
            properties={**shared, **span},
            stac_extensions=[*_ALWAYS, *needs],
        )
        item.set_self_href(str(out / f"{item.id}.json"))
        _add_assets(item, template, {k: v[time] for k, v in files.items()}, out)
        _add_zarr(item, zarr_url, template, out)
        add_sources(item, facts.get("sources", []))
        catalog.add_item(item, set_parent=True)
        item.set_self_href(str(out / f"{item.id}.json"))
    return _save(catalog, out)


def export_catalog(out_dir: str | Path, parts: Sequence[Path], name: str) -> Path:
    """Put a catalogue above several: one map, cut into UTM zones.

    Parameters
    ----------
    out_dir : str or Path
        Local folder of ``catalog.json``; those of the parts lie in folders below.
    parts : sequence of Path
        Catalogues that `export_stac` wrote.
    name : str
        Id and title.

    Returns
    -------
    Path
        The catalogue.

    Raises
    ------
    StoppedError
        If there is no room or no right to write.
    """
    import pystac

    out = Path(out_dir).resolve()
    catalog = pystac.Catalog(
        id=slug(name),
        description="Map made by geoscale, one catalogue for each UTM zone",
        title=name,
        catalog_type=pystac.CatalogType.SELF_CONTAINED,
    )
    for part in parts:
        title = part.parent.name
        link = pystac.Link("child", _relative(part, out), pystac.MediaType.JSON, title)
        catalog.add_link(link)
    data = catalog.to_dict(include_self_link=False)
    Folder(str(out)).put("catalog.json", json.dumps(data, indent=2).encode())
    return out / "catalog.json"


def describe_classes(template: OutputTemplate, fill: float) -> list[Json]:
    """Classes in the words of the classification extension, nodata included.

    Parameters
    ----------
    template : OutputTemplate
        Holds classes and colours.
    fill : float
        Value of nodata.

    Returns
    -------
    list of dict
        ``classification:classes``.
    """
    found: list[Json] = []
    for c, color in zip(template.classes, template.class_colors, strict=True):
        found.append(describe_class(c, color))
    nodata = {"value": int(fill), "name": "nodata", "description": "no data"}
    return [*found, {**nodata, "nodata": True}]


def describe_class(c: OutputClass, color: str) -> Json:
    """Say one class in the words of the classification extension.

    Parameters
    ----------
    c : OutputClass
        The class.
    color : str
        RRGGBB.

    Returns
    -------
    dict
        One of ``classification:classes``.
    """
    return {
        "value": c.value,
        # the extension allows no other characters in a name
        "name": re.sub(r"[^0-9A-Za-z_-]+", "_", c.name),
        "title": c.title or c.name,
        "description": c.title or c.name,
        "color_hint": color,
    }


def checksum(path: Path) -> str:
    """SHA-256 of a file as a hexadecimal multihash, read piece by piece."""
    with path.open("rb") as file:
        return "1220" + hashlib.file_digest(file, "sha256").hexdigest()


def _check_assets(
    assets: Mapping[str, Sequence[str | Path]], template: OutputTemplate
) -> dict[str, list[Path]]:
    files = {layer: [Path(p) for p in paths] for layer, paths in assets.items()}
    for layer, paths in files.items():
        template.layer(layer)
        if len(paths) != len(template.times):
            raise OutputError(
                f"layer `{layer}` has {len(paths)} COGs, the output has "
                f"{len(template.times)} time steps; export all of them"
            )
        for path in paths:
            if not path.is_file():
                raise OutputError(f"COG {path} is not there; export it first")
    return files


def _describe_grid(template: OutputTemplate) -> Json:
    crs, box = template.geobox.crs, template.geobox.boundingbox
    grid: Json = {"proj:code": f"EPSG:{crs.epsg}" if crs.epsg is not None else None}
    if crs.epsg is None:
        grid["proj:wkt2"] = crs.to_wkt()
    return {
        **grid,
        "proj:shape": list(template.shape),
        "proj:transform": list(template.transform),
        "proj:bbox": [box.left, box.bottom, box.right, box.top],
    }


def _add_assets(
    item: Any, template: OutputTemplate, files: Mapping[str, Path], out: Path
) -> None:
    import pystac

    for name, path in files.items():
        layer = template.layer(name)
        fields = _describe_layer(layer, template)
        fields["file:size"] = path.stat().st_size
        fields["file:checksum"] = checksum(path)
        item.add_asset(
            name,
            pystac.Asset(
                href=_relative(path, out),
                title=dict(layer.attrs).get("long_name", name),
                media_type=_COG,
                roles=["data"],
                extra_fields=fields,
            ),
        )
        _declare(item, "file", *_needs(fields))


def _add_zarr(item: Any, url: str, template: OutputTemplate, out: Path) -> None:
    import pystac

    folder = Folder(url)
    href = _relative(Path(folder.path), out) if folder.is_local else redact(url)
    roles = ["data"]
    kind = _ICECHUNK if has_repository(url) else _ZARR
    asset = pystac.Asset(
        href=href, title="All layers and times", media_type=kind, roles=roles
    )
    for layer in template.layers:
        if is_categorical(layer) and template.classes:
            asset.extra_fields["classification:classes"] = describe_classes(
                template.of(layer), layer.fill_value
            )
            _declare(item, "classification")
            break
    item.add_asset("zarr", asset)


def _describe_layer(layer: Layer, template: OutputTemplate) -> Json:
    attrs, template = dict(layer.attrs), template.of(layer)
    fill = layer.fill_value
    fields: Json = {
        "data_type": layer.dtype,
        "nodata": fill if np.isfinite(fill) else str(fill),
    }
    if "scale_factor" in attrs or "add_offset" in attrs:
        fields["raster:scale"] = float(attrs.get("scale_factor", 1))
        fields["raster:offset"] = float(attrs.get("add_offset", 0))
    if is_categorical(layer) and template.classes:
        fields["classification:classes"] = describe_classes(template, fill)
    if layer.classes:
        known = [c.name for c in template.classes]
        same = len(known) == layer.classes
        names = known if same else [str(i) for i in range(layer.classes)]
        names = attrs.get("axis_names", names)
        fields["bands"] = [{"name": f"{layer.name}-{name}"} for name in names]
    else:
        fields["bands"] = [{"name": layer.name}]
    return fields


def _needs(fields: Json) -> list[str]:
    found = ("classification", "raster")
    return [name for name in found if any(k.startswith(f"{name}:") for k in fields)]


def _declare(item: Any, *names: str) -> None:
    for name in names:
        if EXTENSIONS[name] not in item.stac_extensions:
            item.stac_extensions.append(EXTENSIONS[name])


def _save(catalog: Any, out: Path) -> Path:
    folder = Folder(str(out))
    nodes = [(f"{item.id}.json", item) for item in catalog.get_items()]
    # The catalogue last: what it lists is there.
    for name, node in [*nodes, ("catalog.json", catalog)]:
        data = node.to_dict(include_self_link=False)
        folder.put(name, json.dumps(data, indent=2).encode())
    return out / "catalog.json"


def _relative(path: Path, out: Path) -> str:
    text = os.path.relpath(path.resolve(), out).replace(os.sep, "/")
    return text if text.startswith("../") else f"./{text}"

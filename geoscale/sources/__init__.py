"""Imagery on one grid, from STAC items, raster files, Zarr or xarray.

Importing this package imports no heavy library: each name is loaded on first
use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoscale.sources.aoi import Area, find_aoi
    from geoscale.sources.arrays import ArraySource, ZarrSource
    from geoscale.sources.grid import choose_grid
    from geoscale.sources.items import Asset, Item, normalise_item
    from geoscale.sources.lazy import lazy_stack, lazy_valid
    from geoscale.sources.opening import find_items, open_source, source_from_spec
    from geoscale.sources.raster import RasterSource
    from geoscale.sources.settings import Grid, Imagery

_WHERE = {
    "Area": "aoi",
    "ArraySource": "arrays",
    "Asset": "items",
    "Grid": "settings",
    "Imagery": "settings",
    "Item": "items",
    "RasterSource": "raster",
    "ZarrSource": "arrays",
    "choose_grid": "grid",
    "find_aoi": "aoi",
    "find_items": "opening",
    "lazy_stack": "lazy",
    "lazy_valid": "lazy",
    "normalise_item": "items",
    "open_source": "opening",
    "source_from_spec": "opening",
}

__all__ = [
    "Area",
    "ArraySource",
    "Asset",
    "Grid",
    "Imagery",
    "Item",
    "RasterSource",
    "ZarrSource",
    "choose_grid",
    "find_aoi",
    "find_items",
    "lazy_stack",
    "lazy_valid",
    "normalise_item",
    "open_source",
    "source_from_spec",
]


def __getattr__(name: str) -> Any:
    """Load a public name on first use."""
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)

"""Where finished blocks go: Zarr while running; overviews, COG and STAC after.

Names are loaded on first use; importing this room imports no heavy library.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoscale.sinks.cog import export_cog
    from geoscale.sinks.layout import load_template, open_output
    from geoscale.sinks.overviews import write_overviews
    from geoscale.sinks.stac import export_stac
    from geoscale.sinks.zarr import ZarrSink

__all__ = [
    "ZarrSink",
    "export_cog",
    "export_stac",
    "load_template",
    "open_output",
    "write_overviews",
]

_HOMES = {
    "ZarrSink": "zarr",
    "export_cog": "cog",
    "export_stac": "stac",
    "load_template": "layout",
    "open_output": "layout",
    "write_overviews": "overviews",
}


def __getattr__(name: str) -> Any:
    """Load a public name from its module."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)

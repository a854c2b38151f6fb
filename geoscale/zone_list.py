"""The list of UTM zones above their outputs."""

from __future__ import annotations

import json

from geoscale.errors import OutputError
from geoscale.sources.utm import Zone
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

ROOT = "zarr.json"
"""Metadata of the group above the zones, and the list of them."""


def read_zones(url: str) -> Json | None:
    """Read which zones an output has.

    Parameters
    ----------
    url : str
        Any place.

    Returns
    -------
    dict or None
        ``zones``: name → ``crs`` and ``blocks``, and ``empty``: names; None where
        there is no output of several zones.

    Raises
    ------
    OutputError
        If the list holds other names.
    """
    data = Folder(url).get(ROOT)
    try:
        found = json.loads(data or b"{}")["attributes"]["geoscale"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(found, dict) or "zones" not in found:
        return None
    # names become paths, below which a repair deletes what is damaged
    if not all(Zone.parse(name) for name in found["zones"]):
        raise OutputError(f"{redact(url)}/{ROOT} names what is no UTM zone; restore it")
    return found

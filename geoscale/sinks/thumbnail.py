"""A small picture of a map, from its overviews; of work that goes on too."""

from __future__ import annotations

import base64
import io

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import GeoscaleError
from geoscale.sinks.layout import load_template, open_output
from geoscale.storage import Folder
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Array, Layer

SIDE_PX = 320
"""Longest side of a picture, in px."""
READ_PX = 4_000_000
"""Most pixels that are read for one; a larger map without overviews has none."""
_FIRST = ("change", "classes")


def draw_thumbnail(url: str, time: int = -1) -> str:
    """Draw a map as a data URL.

    Parameters
    ----------
    url : str
        The output.
    time : int
        Number of its time step; default the last.

    Returns
    -------
    str
        ``data:image/png;base64,…``; empty where there is no map yet, where it cannot
        be read, or where that would take long.
    """
    try:
        found = _read(url, time)
    except (GeoscaleError, OSError, KeyError, ValueError):
        # what is shown beside it is worth more than why there is no picture
        return ""
    if found is None:
        return ""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(_paint(*found), "RGBA").save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _read(url: str, time: int) -> tuple[Array, OutputTemplate, Layer] | None:
    """Read a layer of the coarsest level that is still large enough for a picture."""
    best = None
    names = Folder(f"{url}/overviews").names()
    for factor in [1, *sorted(int(n) for n in names if n.isdigit())]:
        group = None if factor == 1 else f"overviews/{factor}"
        template = load_template(url if group is None else f"{url}/{group}")
        large = max(template.shape) >= SIDE_PX
        if template.shape[0] * template.shape[1] <= READ_PX and (large or best is None):
            best = group, template
    if best is None:
        return None
    group, template = best
    flat = [one for one in template.layers if not one.classes]
    if not flat:
        return None
    layer = min(flat, key=lambda one: (one.name not in _FIRST, not is_categorical(one)))
    step = -(-max(template.shape) // SIDE_PX)
    data = open_output(url, group=group)[layer.name][time, ::step, ::step]
    return np.asarray(data.values), template, layer


def _paint(data: Array, template: OutputTemplate, layer: Layer) -> NDArray[np.uint8]:
    """Give classes their colours, and measures greys; nodata is transparent."""
    attrs = template.layer_attrs(layer)
    colors = str(attrs.get("flag_colors", "")).replace("#", "").split()
    if is_categorical(layer) and colors and data.dtype == np.uint8:
        table = np.zeros((256, 4), np.uint8)
        for value, color in zip(attrs["flag_values"], colors, strict=False):
            table[int(value)] = (*bytes.fromhex(color), 255)
        table[int(layer.fill_value)] = 0
        return table[data]
    values = data.astype(np.float32)
    valid = np.isfinite(values) & (data != layer.fill_value)
    painted = np.zeros((*data.shape, 4), np.uint8)
    if valid.any():
        low, high = values[valid].min(), values[valid].max()
        grey = (values - low) / max(high - low, np.float32(1e-9)) * 255
        painted[valid, :3] = grey[valid, None]
        painted[..., 3] = np.where(valid, 255, 0)
    return painted

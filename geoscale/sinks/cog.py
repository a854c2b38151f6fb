"""Cloud Optimized GeoTIFFs of a finished output, one file per time step.

GDAL's own COG driver lays the file out, so that a file that exists is a valid
COG; the pixels pass through a tiled temporary file, one shard at a time.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import numpy as np

from geoscale.errors import OutputError
from geoscale.patience import explain_store_error
from geoscale.sinks.layout import find_store, load_template, read_part
from geoscale.sinks.overviews import find_method
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Layer
from geoscale.windows import Window
from geoscale.words import redact


def export_cog(
    zarr_url: str,
    out_dir: str | Path,
    layer: str = "classes",
    *,
    times: Sequence[int] | None = None,
    name: str | None = None,
) -> list[Path]:
    """Write one layer of a finished output as COGs, one per time step.

    Class layers get their colours as a palette, the class names as tags and in
    a ``.aux.xml`` beside the file (which QGIS and GDAL read), and overviews by
    mode; other layers keep scale and nodata and get overviews by average. A
    class axis becomes bands. A file appears whole or not at all; files of the
    same name are replaced.

    Parameters
    ----------
    zarr_url : str
        A finished output.
    out_dir : str or Path
        Local folder; made where missing.
    layer : str
        Name of the layer.
    times : sequence of int, optional
        Numbers of the time steps; default: all.
    name : str, optional
        First part of the file names; default: the output's own name.

    Returns
    -------
    list of Path
        ``<name>_<time>_<layer>.tif``, in the order of `times`.

    Raises
    ------
    OutputError
        If there is no output, a shard is damaged, or GDAL cannot write.
    JobError
        If the output has no such layer.
    StoppedError
        If there is no room or no right to write.
    """
    template = load_template(zarr_url)
    kind = template.layer(layer)
    out = Path(out_dir)
    stem = slug(name if name is not None else _stem(zarr_url))
    array = _open_array(zarr_url, layer)
    steps = range(len(template.times)) if times is None else times
    done = []
    if out.is_file():
        raise OutputError(f"{out} is a file; give a folder for the COGs")
    try:
        out.mkdir(parents=True, exist_ok=True)
        for time in steps:
            path = out / f"{stem}_{slug_time(template.times[time])}_{layer}.tif"
            _export_one(array, (template, kind), time, path)
            done.append(path)
    except OSError as err:
        raise _explain(err, out) from err
    return done


def slug(text: str) -> str:
    """Turn any text into a part of a file name.

    Examples
    --------
    >>> slug("../a map: Île (1)")
    'a-map-le-1'
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", text)
    return re.sub(r"-+", "-", plain).strip("-._") or "map"


def slug_time(label: str) -> str:
    """Turn an ISO 8601 label into a part of a file name.

    Examples
    --------
    >>> slug_time("2024-05-01T00:00:00"), slug_time("2024-05-01T10:20:30.5")
    ('20240501', '20240501T102030.5')
    """
    plain = slug(label.replace("-", "").replace(":", ""))
    return plain.removesuffix("T000000")


def palette(template: OutputTemplate, fill: float) -> dict[int, tuple[int, ...]]:
    """Colour of every class value; nodata is transparent.

    Parameters
    ----------
    template : OutputTemplate
        Holds classes and colours.
    fill : float
        Value of nodata.

    Returns
    -------
    dict
        Value → (red, green, blue, alpha), each 0..255.
    """
    colors = {
        c.value: (*bytes.fromhex(rgb), 255)
        for c, rgb in zip(template.classes, template.class_colors, strict=True)
    }
    return {**colors, int(fill): (0, 0, 0, 0)}


def iter_windows(shape: tuple[int, int], step: int) -> Iterator[Window]:
    """Cut a map into squares of `step` px, rows first, clipped at the edges.

    Examples
    --------
    >>> [w.as_tuple() for w in iter_windows((3, 2), 2)]
    [(0, 0, 2, 2), (2, 0, 3, 2)]
    """
    for y0 in range(0, shape[0], step):
        for x0 in range(0, shape[1], step):
            yield Window(y0, x0, y0 + step, x0 + step).clip(shape)


def _export_one(
    array: Any, what: tuple[OutputTemplate, Layer], time: int, path: Path
) -> None:
    import rasterio.shutil

    template, layer = what[0].of(what[1]), what[1]
    what = template, layer
    classes = is_categorical(layer)
    # In the target folder, so that the last step is a rename; GDAL may put
    # files of its own beside the temporary ones, and they go with the folder.
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".cog-") as place:
        flat, cog = Path(place) / "flat.tif", Path(place) / path.name
        _write_flat(array, what, time, flat)
        rasterio.shutil.copy(
            str(flat),
            str(cog),
            driver="COG",
            COMPRESS="DEFLATE",
            PREDICTOR="NO" if classes else "YES",
            OVERVIEW_RESAMPLING=find_method(layer).upper(),
            BIGTIFF="IF_SAFER",
        )
        if classes and template.classes:
            aux = path.with_name(f"{path.name}.aux.xml")
            part = Path(place) / aux.name
            part.write_text(_aux_xml(template), encoding="utf-8")
            part.replace(aux)
        cog.replace(path)


def _write_flat(
    array: Any, what: tuple[OutputTemplate, Layer], time: int, path: Path
) -> None:
    import rasterio
    from rasterio.windows import Window as RasterWindow

    template, layer = what
    with rasterio.open(path, "w", **_profile(template, layer)) as file:
        _describe(file, template, layer, time)
        for core in iter_windows(template.shape, template.block_px):
            place = RasterWindow(core.x0, core.y0, core.width, core.height)
            area = (slice(core.y0, core.y1), slice(core.x0, core.x1))
            for band in range(layer.classes or 1):
                at_class = (band,) if layer.classes else ()
                data = read_part(array, (time, *at_class, *area))
                file.write(data, band + 1, window=place)


def _profile(template: OutputTemplate, layer: Layer) -> dict[str, Any]:
    rows, columns = template.shape
    return {
        "driver": "GTiff",
        "height": rows,
        "width": columns,
        "count": layer.classes or 1,
        "dtype": layer.dtype,
        "nodata": layer.fill_value,
        "crs": template.geobox.crs.to_wkt(),
        "transform": template.geobox.transform,
        "tiled": True,
        "blockxsize": 512,
        "blockysize": 512,
        "interleave": "band",
        "compress": "deflate",
        "zlevel": 1,
        "bigtiff": "IF_SAFER",
    }


def _describe(file: Any, template: OutputTemplate, layer: Layer, time: int) -> None:
    attrs = dict(layer.attrs)
    stamp = str(np.datetime64(template.times[time], "s"))
    file.update_tags(
        TIFFTAG_DATETIME=stamp.replace("-", ":").replace("T", " "),
        TIFFTAG_SOFTWARE="geoscale",
        time=template.times[time],
        layer=layer.name,
    )
    if layer.classes:
        # A class axis is that of the model's classes where the lengths agree.
        known = [c.name for c in template.classes]
        names = known if len(known) == layer.classes else []
        names = dict(layer.attrs).get("axis_names", names)
        for band, title in enumerate(names, start=1):
            file.set_band_description(band, title)
    else:
        file.set_band_description(1, layer.name)
    if "scale_factor" in attrs or "add_offset" in attrs:
        file.scales = [float(attrs.get("scale_factor", 1))] * file.count
        file.offsets = [float(attrs.get("add_offset", 0))] * file.count
    if is_categorical(layer) and template.classes:
        titles = {str(c.value): c.title or c.name for c in template.classes}
        file.update_tags(1, classes=json.dumps(titles))
        if layer.dtype == "uint8":
            file.write_colormap(1, palette(template, layer.fill_value))


def _aux_xml(template: OutputTemplate) -> str:
    # GDAL keeps category names of a TIFF only in this file beside it.
    names = {c.value: c.title or c.name for c in template.classes}
    rows = (
        f"      <Category>{escape(names.get(value, ''))}</Category>"
        for value in range(max(names) + 1)
    )
    return "\n".join(
        [
            "<PAMDataset>",
            '  <PAMRasterBand band="1">',
            "    <CategoryNames>",
            *rows,
            "    </CategoryNames>",
            "  </PAMRasterBand>",
            "</PAMDataset>",
            "",
        ]
    )


def _open_array(url: str, layer: str) -> Any:
    import zarr

    try:
        return zarr.open_array(find_store(url), path=layer, mode="r", zarr_format=3)
    except FileNotFoundError:
        raise OutputError(
            f"output {redact(url)} lacks array `{layer}`; run `geoscale repair`"
        ) from None


def _stem(url: str) -> str:
    last = url.rstrip("/").rpartition("/")[2]
    return last.removesuffix(".zarr")


def _explain(err: OSError, out: Path) -> Exception:
    if err.errno is not None:
        return explain_store_error(err, str(out)) or err
    # GDAL's errors carry no number
    return OutputError(
        f"COG in {out} could not be written: {err}; check its room and rights"
    )

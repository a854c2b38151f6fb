"""Scenes of the demo: Sentinel-2 pixels as overlapping COGs with STAC items.

The pixels are real: 300 x 300 px of four bands that the package spyndex
carries. They are mirrored at their edges until they fill the size asked for,
and where they lie on Earth is made up. A later date, with a clear-cut, is simulated.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.errors import JobError, require
from geoscale.windows import Window

if TYPE_CHECKING:
    from affine import Affine

BANDS = {"B02": "blue", "B03": "green", "B04": "red", "B08": "nir"}
"""Asset of every band → its common name."""
EPSG = 32633
"""Made up, like `ORIGIN`: the package does not say where its scene lies."""
ORIGIN = (500_000.0, 4_900_020.0)
"""Upper left corner, in m."""
STEP_M = 10.0
NODATA = 0
MIN_PX, MAX_PX = 300, 20_000
"""Sizes that the demo takes, in px."""
NOTE = (
    "Sentinel-2 sample of 300 x 300 px from the Python package spyndex, mirrored at "
    "its edges; its place and date are made up"
)
"""What must be said wherever the imagery is shown."""

CUT_NOTE = (
    "The later date is simulated: it is the earlier scene once more, in which a forest "
    "stand was given the pixels of bare ground nearby (a made-up clear-cut); nothing "
    "else differs"
)
"""What must be said wherever the later date is shown."""
LATER = "demo_S2_SIMULATED_clear_cut"
"""Id of the later date's item."""
LATER_PX = 1000
"""Most rows and columns of the later date."""
LATER_ITEMS = "items-with-simulated-clear-cut.json"
"""Both dates."""

_ROWS, _COLUMNS = 2, 3
_WHEN = datetime(2024, 6, 15, 10, 0, 31, tzinfo=UTC)
_LATER_WHEN = datetime(2025, 6, 15, 10, 0, 31, tzinfo=UTC)
# rows and columns of the sample: the felled stand, and how far off the ground lies
# whose pixels it gets
_STAND = ((12, 176), (14, 236), (30, 240), (48, 222), (44, 186), (28, 168))
_GROUND = (62, -105)


@dataclass(frozen=True, slots=True)
class Scene:
    """One scene of the layout."""

    name: str
    """Id of its item."""
    window: Window
    """Its pixels on the whole picture."""
    cut: int
    """Legs of the nodata triangle at its lower left corner, in px."""
    when: datetime
    """Time of its item."""


def load_pixels(size: int) -> NDArray[np.uint16]:
    """Mirror the sample until it fills a square.

    Parameters
    ----------
    size : int
        Height and width, in px.

    Returns
    -------
    ndarray of uint16, (band, y, x)
        Reflectance times 10,000, in the order of `BANDS`.

    Raises
    ------
    JobError
        If the size is out of range.
    MissingDependencyError
        If spyndex is not installed.
    """
    if not MIN_PX <= size <= MAX_PX:
        raise JobError(f"--size {size} px: choose {MIN_PX} to {MAX_PX}")
    sample = require("spyndex", extra="demo").datasets.open("sentinel")
    # Its dims are called (x, y), but rows come first.
    pixels = sample.sel(band=list(BANDS)).to_numpy().clip(1, 65535)
    whole = np.pad(
        pixels.astype(np.uint16),
        ((0, 0), (0, max(0, size - 300)), (0, max(0, size - 300))),
        mode="reflect",
    )
    return whole[:, :size, :size]


def fell(pixels: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Simulate a clear-cut: give a forest stand the pixels of bare ground nearby.

    Parameters
    ----------
    pixels : ndarray of uint16, (band, y, x)
        From `load_pixels`.

    Returns
    -------
    ndarray of uint16, (band, y, x)
        A copy that differs in the stand, once: not in its mirror images.
    """
    import rasterio.features

    ring = [(column, row) for row, column in (*_STAND, _STAND[0])]
    stand = rasterio.features.rasterize(
        [{"type": "Polygon", "coordinates": [ring]}], pixels.shape[1:], dtype="uint8"
    )
    rows, columns = np.nonzero(stand)
    felled = pixels.copy()
    y, x = rows + _GROUND[0], columns + _GROUND[1]
    felled[:, rows, columns] = pixels[:, y, x]
    return felled


def lay_out(size: int) -> list[Scene]:
    """Cut the picture into six scenes that overlap their neighbours by an eighth.

    Parameters
    ----------
    size : int
        Height and width of the picture, in px.

    Returns
    -------
    list of Scene
        Together they cover the picture but for its lower left corner.
    """
    scenes = []
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            y0, y1 = _span(size, row, _ROWS)
            x0, x1 = _span(size, column, _COLUMNS)
            number = row * _COLUMNS + column
            scenes.append(
                Scene(
                    name=f"demo_S2_r{row}c{column}",
                    window=Window(y0, x0, y1, x1),
                    # what the neighbours cover, but for one corner of the whole picture
                    cut=size // 8 if (row, column) == (1, 0) else size // 24,
                    when=_WHEN + timedelta(seconds=4 * number),
                )
            )
    return scenes


def _span(size: int, index: int, parts: int) -> tuple[int, int]:
    step, lap = size / parts, size / parts / 16
    first, last = index * step, (index + 1) * step
    return max(0, int(first - lap)), min(size, int(last + lap))


def write_scenes(folder: Path, size: int) -> Path:
    """Write all scenes and the item collections that list them.

    Parameters
    ----------
    folder : Path
        Made where missing; COGs go into its subfolder ``scenes``.
    size : int
        Height and width of the picture, in px.

    Returns
    -------
    Path
        ``items.json``, written last.
    """
    pixels = load_pixels(size)
    items = [_write_scene(folder, pixels, scene, NOTE) for scene in lay_out(size)]
    some = min(size, LATER_PX)
    later = Scene(LATER, Window(0, 0, some, some), cut=0, when=_LATER_WHEN)
    felled = _write_scene(folder, fell(pixels), later, f"{NOTE}. {CUT_NOTE}")
    _write_collection(folder / LATER_ITEMS, [*items, felled])
    return _write_collection(folder / "items.json", items)


def later_bounds(size: int) -> tuple[float, float, float, float]:
    """Tell where the later date lies.

    Parameters
    ----------
    size : int
        Height and width of the picture, in px.

    Returns
    -------
    tuple of float
        Left, bottom, right, top, in the scenes' CRS.
    """
    (west, north), side = ORIGIN, min(size, LATER_PX) * STEP_M
    return west, north - side, west + side, north


def _write_scene(
    folder: Path, pixels: NDArray[np.uint16], scene: Scene, note: str
) -> Any:
    place = folder / "scenes" / scene.name
    place.mkdir(parents=True, exist_ok=True)
    paths = dict(_write_bands(place, pixels, scene))
    return _describe(scene, paths, folder, note)


def _write_collection(path: Path, items: list[Any]) -> Path:
    import pystac

    collection = pystac.ItemCollection(items).to_dict()
    path.write_text(json.dumps(collection, indent=1), encoding="utf-8")
    return path


def _transform(window: Window) -> Affine:
    from affine import Affine

    west, north = ORIGIN
    return Affine(
        STEP_M, 0, west + window.x0 * STEP_M, 0, -STEP_M, north - window.y0 * STEP_M
    )


def _write_bands(
    place: Path, pixels: NDArray[np.uint16], scene: Scene
) -> Iterator[tuple[str, Path]]:
    """Write one COG for each band; yield its name and path."""
    import rasterio

    height, width = scene.window.shape
    rows, columns = np.ogrid[:height, :width]
    outside = (height - 1 - rows) + columns < scene.cut
    for name, band in zip(BANDS, pixels, strict=True):
        path = place / f"{name}.tif"
        data = np.where(
            outside, NODATA, band[scene.window.within(Window(0, 0, *band.shape))]
        )
        with rasterio.open(
            path,
            "w",
            driver="COG",
            height=height,
            width=width,
            count=1,
            dtype="uint16",
            nodata=NODATA,
            crs=f"EPSG:{EPSG}",
            transform=_transform(scene.window),
            COMPRESS="DEFLATE",
            PREDICTOR="YES",
            OVERVIEW_RESAMPLING="AVERAGE",
        ) as file:
            file.write(data.astype(np.uint16), 1)
        yield name, path


def _describe(scene: Scene, paths: dict[str, Path], folder: Path, note: str) -> Any:
    """Make the STAC item of a scene."""
    import pystac
    import rasterio.warp

    affine = _transform(scene.window)
    height, width = scene.window.shape
    west, north = affine @ (0, 0)
    east, south = affine @ (width, height)
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    flat = {"type": "Polygon", "coordinates": [ring]}
    geometry = rasterio.warp.transform_geom(f"EPSG:{EPSG}", "EPSG:4326", flat)
    xs, ys = zip(*geometry["coordinates"][0], strict=True)
    item = pystac.Item(
        id=scene.name,
        geometry=geometry,
        bbox=[min(xs), min(ys), max(xs), max(ys)],
        datetime=scene.when,
        properties={
            "platform": "sentinel-2a",
            "instruments": ["msi"],
            "gsd": STEP_M,
            "description": note,
            "proj:code": f"EPSG:{EPSG}",
            "proj:shape": [height, width],
            "proj:transform": list(affine)[:6],
        },
        stac_extensions=[
            "https://stac-extensions.github.io/projection/v2.0.0/schema.json",
            "https://stac-extensions.github.io/raster/v1.1.0/schema.json",
            "https://stac-extensions.github.io/eo/v1.1.0/schema.json",
        ],
    )
    for name, path in paths.items():
        item.add_asset(name, _asset(name, path.relative_to(folder)))
    return item


def _asset(name: str, path: Path) -> Any:
    import pystac

    return pystac.Asset(
        href=f"./{path.as_posix()}",
        media_type=pystac.MediaType.COG,
        roles=["data", "reflectance"],
        extra_fields={
            "eo:bands": [{"name": name, "common_name": BANDS[name]}],
            "raster:bands": [
                {
                    "nodata": NODATA,
                    "data_type": "uint16",
                    "spatial_resolution": STEP_M,
                    "scale": 0.0001,
                    "offset": 0,
                }
            ],
        },
    )

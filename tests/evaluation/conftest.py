"""Small finished outputs and labels, made of arrays."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from affine import Affine
from odc.geo.geobox import GeoBox

from geoscale.card import OutputClass
from geoscale.engine.journal import Journal
from geoscale.sinks.zarr import ZarrSink
from geoscale.template import OutputTemplate
from geoscale.types import Layer
from geoscale.windows import Window

NAMES = ("land", "water", "bare soil")
UTM = GeoBox((150, 210), Affine(10, 0, 300_000, 0, -10, 5_000_000), "EPSG:32636")
DEGREES = GeoBox((150, 210), Affine(1e-3, 0, 30.5, 0, -1e-3, 45.0), "EPSG:4326")


def quantised(name, classes=0):
    attrs = (("scale_factor", 1 / 254),)
    return Layer(name=name, dtype="uint8", fill_value=255, classes=classes, attrs=attrs)


CLASSES = Layer(name="classes", dtype="uint8", fill_value=255)


def write_output(url, layers, geobox, *, names=NAMES, kinds=None, block=64, times=1):
    """Store arrays (time, [class,] y, x) as a finished output."""
    template = OutputTemplate(
        geobox=geobox,
        times=tuple(f"2024-0{5 + t}-01T00:00:00" for t in range(times)),
        block_px=block,
        chunk_px=block,
        layers=tuple(kinds or (CLASSES,)),
        classes=tuple(OutputClass(value=i, name=n) for i, n in enumerate(names)),
    )
    sink, (rows, columns) = ZarrSink(str(url), template), geobox.shape
    sink.create()
    for time in range(times):
        for y in range(0, rows, block):
            for x in range(0, columns, block):
                core = Window(y, x, y + block, x + block).clip((rows, columns))
                part = (slice(core.y0, core.y1), slice(core.x0, core.x1))
                some = {n: a[time][(..., *part)] for n, a in layers.items()}
                sink.write(time, core, some)
    sink.finalize()
    Journal(str(url)).finish({})
    return str(url)


def write_labels(path, labels, geobox, *, nodata=None, **profile):
    bands = labels if labels.ndim == 3 else labels[None]
    with rasterio.open(
        path, "w", driver="GTiff", height=bands.shape[1], width=bands.shape[2],
        count=len(bands), dtype=bands.dtype, crs=str(geobox.crs),
        transform=geobox.affine, nodata=nodata, **profile,
    ) as file:  # fmt: skip
        file.write(bands)
    return str(path)


def write_shapes(path, geobox, *, seed=0, count=60, crs="EPSG:4326", names=NAMES):
    """Random triangles and squares with a class each, all over a grid."""
    import geopandas
    import shapely

    rng = np.random.default_rng(seed)
    rows, columns = geobox.shape
    corners = rng.random((count, 3, 2)) * 30 + (
        rng.random((count, 1, 2)) * (columns, rows)
    )
    a, _, c, _, e, f = tuple(geobox.affine)[:6]
    rings = [shapely.Polygon([(a * x + c, e * y + f) for x, y in t]) for t in corners]
    table = geopandas.GeoDataFrame(
        {"kind": [names[i] for i in rng.integers(0, len(names), count)]},
        geometry=rings,
        crs=str(geobox.crs),
    ).to_crs(crs)
    if str(path).endswith("parquet"):
        table.to_parquet(path)
    else:
        table.to_file(path)
    return table


def blobs(shape, classes, seed, size=9):
    """Classes in patches, as maps have them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, classes, (shape[0] // size + 2, shape[1] // size + 2))
    return np.kron(coarse, np.ones((size, size), int))[: shape[0], : shape[1]].astype(
        np.uint8
    )


class Scene:
    """A map of three classes with scores and holes, and its truth."""

    def __init__(self, geobox, seed=3):
        rng = np.random.default_rng(seed)
        shape = tuple(geobox.shape)
        self.geobox = geobox
        self.truth = blobs(shape, 3, seed)
        noise = rng.integers(0, 200, (3, *shape))
        hint = 90 * (np.arange(3)[:, None, None] == self.truth)
        self.scores = np.clip(noise + hint, 0, 254).astype(np.uint8)
        self.classes = self.scores.argmax(axis=0).astype(np.uint8)
        self.holes = rng.random(shape) < 0.02
        self.classes[self.holes] = 255
        self.scores[:, self.holes] = 255

    def write(self, url, **changes):
        layers = {"classes": self.classes[None], "scores": self.scores[None]}
        kinds = (CLASSES, quantised("scores", 3))
        return write_output(url, layers, self.geobox, kinds=kinds, **changes)


@pytest.fixture(scope="session")
def utm():
    return Scene(UTM)


@pytest.fixture(scope="session")
def degrees():
    return Scene(DEGREES)


@pytest.fixture(scope="session")
def output(utm, tmp_path_factory):
    """A finished output; read only."""
    return utm.write(tmp_path_factory.mktemp("map") / "map.zarr")


@pytest.fixture
def reference(utm, tmp_path):
    """Its truth on the same grid, a fifth of it unknown."""
    labels = utm.truth.copy()
    labels[:30] = 200
    return write_labels(tmp_path / "labels.tif", labels, utm.geobox, nodata=200)

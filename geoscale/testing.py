"""The kit for tests, ours and yours: fakes that are passed in, and measures.

Every fake satisfies its protocol under mypy; none is a mock of our own code.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from geoscale.card import ModelCard
from geoscale.errors import ReadError, SourceError
from geoscale.types import (
    Array,
    Bool,
    Float,
    Floats,
    Ints,
    Json,
    Pixels,
    Predictor,
    Source,
)
from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox


def toy_geobox(shape: tuple[int, int]) -> GeoBox:
    """Off-centre grid of 10 m pixels in EPSG:32633, (y, x)."""
    from affine import Affine
    from odc.geo.geobox import GeoBox

    affine = Affine(10.0, 0.0, 500_120.0, 0.0, -10.0, 4_700_040.0)
    return GeoBox(shape, affine, "EPSG:32633")


@dataclass
class FakeSource:
    """An array as a source; counts reads, may be made to fail."""

    data: Array
    """Pixels, (time, band, y, x)."""
    valid: Bool
    """Usable pixels, (time, y, x)."""
    fail: dict[Window, int] = field(default_factory=dict)
    """Windows whose reading fails, and how often; -1 for ever."""
    refuse: bool = False
    """Whether any read is an error (to show that nothing is read)."""
    reads: int = 0
    """Windows read so far."""

    @property
    def geobox(self) -> GeoBox:
        """Grid of the array."""
        return toy_geobox((self.data.shape[2], self.data.shape[3]))

    @property
    def times(self) -> tuple[str, ...]:
        """One label a day."""
        return tuple(f"2024-06-{d + 1:02d}T00:00:00" for d in range(len(self.data)))

    @property
    def bands(self) -> tuple[str, ...]:
        """Names ``b0``, ``b1`` and so on."""
        return tuple(f"b{i}" for i in range(self.data.shape[1]))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the array."""
        return self.data.dtype

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Copy a window."""
        if self.refuse:
            raise AssertionError(f"a pixel was read: {window}")
        self.reads += 1
        left = self.fail.get(window, 0)
        if left:
            self.fail[window] = left - 1
            raise ReadError(f"made to fail at {window.as_tuple()}")
        ys, xs = slice(window.y0, window.y1), slice(window.x0, window.x1)
        steps = list(times)
        return Pixels(
            self.data[steps][:, :, ys, xs].copy(), self.valid[steps][:, ys, xs].copy()
        )

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Say yes for every cell."""
        return np.ones((len(ys) - 1, len(xs) - 1), bool)

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair nothing: there are no items."""
        nothing = np.zeros(0, np.intp)
        return nothing, nothing

    @property
    def item_ids(self) -> list[str]:
        """Name no item."""
        return []

    def tables(self) -> dict[str, bytes]:
        """Give nothing: the spec says all."""
        return {}

    def spec(self) -> Json:
        """Describe by content."""
        return {"kind": "fake", "sum": float(np.nansum(self.data))}


_source: type[Source] = FakeSource


def scene(
    shape: tuple[int, int],
    *,
    times: int = 1,
    bands: int = 1,
    nodata: float = 0.0,
    seed: int = 0,
) -> FakeSource:
    """Make a source in which every pixel's value is its own place.

    Parameters
    ----------
    shape : tuple of int, (y, x)
        In px.
    times, bands : int
        Length of the other axes.
    nodata : float
        Share of pixels that are not valid, in blobs of one to a few pixels.
    seed : int
        Of the invalid pixels.

    Returns
    -------
    FakeSource
        float32, values unique and exact below 2**24.

    Raises
    ------
    SourceError
        If the values would not be unique.
    """
    count = times * bands * shape[0] * shape[1]
    if count >= 2**24:
        raise SourceError(f"{count:,} values are not unique in float32; use fewer")
    data = np.arange(1, count + 1, dtype=np.float32).reshape(times, bands, *shape)
    rng = np.random.default_rng(seed)
    valid = rng.random((times, *shape)) >= nodata
    return FakeSource(data, valid)


class FakePredictor:
    """A network made of integers: exact, with a halo and a phase of its own.

    Scores depend on the sum over a square of side ``2 * radius + 1`` and on
    the pixel's place modulo `alignment` within its patch; outside the patch
    everything is 0, as a zero-padded convolution sees it.

    Parameters
    ----------
    classes : int
        Length of the class axis.
    batch : int
        Patches per call.
    radius : int
        Halo that it needs, in px.
    alignment : int
        Period of its phase, in px.
    """

    model_id = "fake"

    def __init__(
        self, classes: int = 3, *, batch: int = 4, radius: int = 2, alignment: int = 1
    ) -> None:
        self.batch = batch
        self.calls = 0
        self._classes = classes
        self._radius = radius
        self._alignment = alignment
        self._lock = threading.Lock()

    def predict(self, patches: Float) -> Float:
        """Score a batch, float32 (n, channel, y, x) → (n, class, y, x)."""
        with self._lock:
            self.calls += 1
        total = box_sum(np.mod(patches, 251).sum(axis=1), self._radius)
        height, width = total.shape[-2:]
        phase = (np.arange(height) % self._alignment)[:, None] + (
            np.arange(width) % self._alignment
        )
        steps = np.stack(
            [
                np.mod(total * (2 * c + 3) + 5 * phase, 97) + 1
                for c in range(self._classes)
            ],
            axis=1,
        )
        shares = steps / steps.sum(axis=1, keepdims=True)
        return np.asarray(shares, np.float32)


_predictor: type[Predictor] = FakePredictor


def box_sum(x: NDArray[Any], radius: int) -> NDArray[Any]:
    """Sum over a square around each pixel, zeros outside; last two axes."""
    for axis in (-2, -1):
        pad = [(0, 0)] * x.ndim
        pad[axis] = (radius + 1, radius)
        sums = np.cumsum(np.pad(x.astype(np.float64), pad), axis=axis)
        size = x.shape[axis]
        ends = np.take(sums, range(2 * radius + 1, 2 * radius + 1 + size), axis)
        x = ends - np.take(sums, range(size), axis)
    return x


def toy_card(
    *,
    bands: int = 1,
    classes: int = 3,
    frames: int = 1,
    patch: dict[str, Any] | None = None,
) -> ModelCard:
    """Card for `FakePredictor` over `scene`."""
    return ModelCard.from_dict(
        {
            "name": "toy",
            "weights": {"href": "toy.onnx"},
            "input": {
                "bands": [f"b{i}" for i in range(bands)],
                "frames": frames,
                "units": "raw",
                "patch": {"size": 16, "halo": 2, **(patch or {})},
            },
            "output": {
                "classes": [{"value": i, "name": f"c{i}"} for i in range(classes)]
            },
        }
    )


@dataclass(frozen=True, slots=True)
class Seams:
    """How much more classes change along patch borders than elsewhere."""

    ratio: float
    """Worst border's changes divided by the median line's; 1 is no seam."""
    worst: int
    """Row or column of the worst border."""
    border: float
    """Changes per pixel along it."""
    median: float
    """Changes per pixel of the median line."""


def measure_seams(
    classes: NDArray[Any], borders: Sequence[int], axis: int, *, ignore: int = 255
) -> Seams:
    """Measure seams of a class map.

    A line's changes are the share of valid pixel pairs across it whose
    classes differ. A map without seams changes along the borders of patches
    as much as along any other line.

    Parameters
    ----------
    classes : ndarray, (y, x)
        Class map.
    borders : sequence of int
        First pixels after each border along `axis`.
    axis : {0, 1}
        0: horizontal borders (rows), 1: vertical borders (columns).
    ignore : int
        Class that is no class.

    Returns
    -------
    Seams
        Of the worst border.

    Raises
    ------
    ValueError
        If there is no border inside the map.
    """
    across = np.moveaxis(np.asarray(classes), axis, 0)
    inside = sorted({b for b in borders if 0 < b < len(across)})
    if not inside:
        raise ValueError(f"no border of {list(borders)} lies inside {len(across)} px")
    a, b = across[1:], across[:-1]
    valid = (a != ignore) & (b != ignore)
    changes = ((a != b) & valid).sum(axis=1) / np.maximum(valid.sum(axis=1), 1)
    others = np.delete(changes, [i - 1 for i in inside])
    median = float(np.median(others)) if len(others) else 0.0
    worst = max(inside, key=lambda i: changes[i - 1])
    border = float(changes[worst - 1])
    ratio = border / median if median else (float("inf") if border else 1.0)
    return Seams(ratio, worst, border, median)


class FakeNvml:
    """Speaks NVML for devices that are none; passed to `geoscale.gauges.Gauge`.

    Parameters
    ----------
    devices : sequence of dict
        Of each: ``uuid``, ``name``, ``busy`` in percent or None (as for a part of a
        device), ``used`` and ``total`` in bytes.
    works : bool
        False: there is the library and no driver.
    """

    def __init__(self, devices: Sequence[Json], *, works: bool = True) -> None:
        self.devices = [dict(one) for one in devices]
        self._works = works
        self.looks = 0

    def nvmlInit(self) -> None:
        """Begin."""
        if not self._works:
            raise RuntimeError("NVML_ERROR_DRIVER_NOT_LOADED")

    def nvmlDeviceGetCount(self) -> int:
        """Count devices."""
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Json:
        """Give a device by its number."""
        return self.devices[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Json:
        """Give a device by its UUID."""
        return next(one for one in self.devices if one["uuid"] == uuid)

    def nvmlDeviceGetUUID(self, handle: Json) -> str:
        """Give its UUID."""
        return str(handle["uuid"])

    def nvmlDeviceGetName(self, handle: Json) -> str:
        """Give its kind."""
        return str(handle["name"])

    def nvmlDeviceGetMemoryInfo(self, handle: Json) -> SimpleNamespace:
        """Tell its memory, in bytes."""
        self.looks += 1
        return SimpleNamespace(used=handle["used"], total=handle["total"])

    def nvmlDeviceGetUtilizationRates(self, handle: Json) -> SimpleNamespace:
        """Tell how busy it is, in percent."""
        if handle["busy"] is None:
            raise RuntimeError("NVML_ERROR_NOT_SUPPORTED")
        return SimpleNamespace(gpu=handle["busy"], memory=0)

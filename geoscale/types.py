"""The protocols through which the rooms meet, and the values they pass.

Sources, models, tasks, sinks and executors never import each other; `api`
introduces them. Contracts are prose here and tests in `geoscale.testing`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from geoscale.windows import Window

if TYPE_CHECKING:
    from odc.geo.geobox import GeoBox

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]
Array = NDArray[Any]
Ints = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Missing:
    """An asset that could not be had; its pixels are nodata, by the user's choice."""

    item: str
    """Id of its item."""
    bands: tuple[str, ...]
    """Bands that it would have given."""
    why: str
    """What was said, without secrets."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """What a source gives for one window."""

    data: Array
    """(time, band, y, x), the stack's dtype; undefined where not valid."""
    valid: Bool
    """(time, y, x), True where every band holds a usable value."""
    missing: tuple[Missing, ...] = ()
    """Assets that could not be had, where the job allows that."""
    shown: Bool | None = None
    """(time, y, x), True where there is imagery, be it of clouds; None: as `valid`."""
    layers: Mapping[str, Array] = field(default_factory=dict)
    """(time, y, x) each: what the output stores of the source's."""


@runtime_checkable
class Source(Protocol):
    """Imagery on one geobox, read by window.

    `read` is called in worker processes from several threads at once, may be
    called again after a retry, and must then give the same bytes. A read that
    fails raises `ReadError`; it never gives zeros or nodata instead. The
    result must not depend on how a caller cuts its windows. A source is
    cheap to make (it opens nothing before the first read) and is rebuilt on
    every worker from `spec()`.
    """

    @property
    def geobox(self) -> GeoBox:
        """CRS, affine and shape of the stack."""
        ...

    @property
    def times(self) -> tuple[str, ...]:
        """ISO 8601 label of every time step, ascending, UTC, no zone suffix."""
        ...

    @property
    def bands(self) -> tuple[str, ...]:
        """Names of the bands, in the order of the data's band axis."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of `Pixels.data`."""
        ...

    def read(self, window: Window, times: Sequence[int]) -> Pixels:
        """Read a window that lies inside the geobox, for some time steps."""
        ...

    def covers_cells(self, ys: Ints, xs: Ints, time: int) -> Bool:
        """Tell without reading which cells of a lattice any imagery may touch.

        `ys` and `xs` are the edges of its cells, ascending; the result is bool
        (len(ys) - 1, len(xs) - 1).
        """
        ...

    def match(self, boxes: Floats, time: int) -> tuple[Ints, Ints]:
        """Pair windows, (n, 4) as y0, x0, y1, x1, with the items that may touch them.

        Numbers of windows, ascending, and of items; see `item_ids`.
        """
        ...

    @property
    def item_ids(self) -> list[str]:
        """Ids of the items, unsigned, in the order of their numbers."""
        ...

    def spec(self) -> Json:
        """Everything needed to rebuild this source elsewhere, as JSON."""
        ...

    def tables(self) -> Mapping[str, bytes]:
        """Give what the spec only names, being too much for JSON: files by name."""
        ...


class Predictor(Protocol):
    """A model held by this process, ready to run batches.

    The engine calls `predict` for one batch at a time per device. The same
    batch gives the same bytes.
    """

    @property
    def batch(self) -> int:
        """Patches per call; the engine pads the last batch to this number."""
        ...

    @property
    def model_id(self) -> str:
        """Hash of the loaded weights; equals the plan's or the run stops."""
        ...

    def predict(self, patches: Float) -> Float:
        """Run a batch: float32 (n, channel, y, x) → float32 (n, class, y, x).

        The result is activated (softmax or sigmoid as the card says), finite,
        and has the patches' height and width.
        """
        ...


class Task(Protocol):
    """Turns merged scores of one block into the layers that are stored."""

    @property
    def layers(self) -> tuple[Layer, ...]:
        """What is stored for every pixel."""
        ...

    @property
    def on_device(self) -> LayerSpec | ChangeSpec | None:
        """What `finish` does, where a device can do it; None: only here."""
        ...

    def finish(self, scores: Float, valid: Bool) -> dict[str, Array]:
        """(class, y, x) scores and (y, x) valid → one array per layer.

        A pixel's layers hang on its own scores alone: the engine asks for any part of
        a block. Where not valid, each layer has its fill value.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSpec:
    """How scores become layers: enough for a device to do it."""

    values: tuple[int, ...]
    """Stored value of each class; the first of equal scores wins."""
    confidence: bool
    """Whether the score of the class in the map is stored."""
    scores: str
    """``uint8`` or ``float16``: how all scores are stored; empty: not at all."""
    steps: int
    """Scores in [0, 1] are stored as whole numbers from 0 to this."""
    nodata: int
    """Stored where not valid; NaN in float16."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeSpec:
    """How scores of unchanged and changed become layers: enough for a device."""

    threshold: float
    """Least score of what counts as changed."""
    probability: str
    """``uint8`` or ``float16``: how that score is stored; empty: not at all."""
    steps: int
    """As in `LayerSpec`."""
    nodata: int
    """As in `LayerSpec`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PixelSpec:
    """How calibrated pixels become a network's input: enough for a device."""

    newest_first: bool
    """Whether the network takes the last date's bands first."""
    fill: tuple[float, ...]
    """By channel: put where not valid, before normalisation."""
    mean: tuple[float, ...] | None
    """By channel: subtracted; None: nothing is."""
    std: tuple[float, ...] | None
    """By channel: divided by; None: nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CanvasSpec:
    """One block, as a device must know it."""

    held: Window
    """Pixels that were read."""
    core: Window
    """Pixels of the block."""
    shape: tuple[int, int]
    """Height and width of the stack, at whose edges patches are mirrored."""
    patch: tuple[int, int]
    """Height and width of every patch."""
    weights: Float | None
    """Weights of one patch that is blended, (y, x); None: patches are cropped."""
    pixels: PixelSpec | None
    """How pixels become input; None: they are input, (1, channel, y, x)."""
    layers: LayerSpec | ChangeSpec
    """How scores become layers."""


class Canvas(Protocol):
    """A block that lives on a device: pixels went up once, layers come down.

    Used by one thread. The calls are, in this order: `usable`, `run` once, while
    the device's lock is held, and `fetch`.
    """

    def usable(self) -> Bool:
        """(y, x) of the core: True where every date holds finite values."""
        ...

    def run(self, patches: Sequence[tuple[Window, Window]], keep: Bool) -> bool:
        """Run patches (window, what it gives) and finish the pixels of `keep`.

        Work may still be under way. False: the device's memory does not do.
        """
        ...

    def fetch(self) -> dict[str, Array]:
        """Wait for the layers and give them.

        What went wrong on the device (NaN, a lost device) is raised here.
        """
        ...


@runtime_checkable
class CanvasPredictor(Protocol):
    """A predictor that can keep whole blocks on its device.

    The layers equal those of `Predictor.predict` merged by the engine, to the
    rounding of the device's arithmetic.
    """

    @property
    def offers_canvas(self) -> bool:
        """Whether blocks are to be kept on the device."""
        ...

    def open_canvas(self, spec: CanvasSpec, data: Array, valid: Bool) -> Canvas | None:
        """Begin to send a block's pixels up; None where memory does not do."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One stored array: (time, y, x), or (time, class, y, x)."""

    name: str
    """Name of the array in the output."""
    dtype: str
    """NumPy name of the stored dtype."""
    fill_value: int | float
    """Written where not valid; never a class."""
    classes: int = 0
    """Length of the class axis; 0 for none."""
    attrs: tuple[tuple[str, Any], ...] = ()
    """Attributes of the array, JSON-able, sorted by name."""

    def block_shape(self, shape: tuple[int, int]) -> tuple[int, ...]:
        """Shape of one block of this layer, without the time axis."""
        return (self.classes, *shape) if self.classes else shape

    @property
    def itemsize(self) -> int:
        """Bytes per pixel and class."""
        return int(np.dtype(self.dtype).itemsize)


class Sink(Protocol):
    """Stores finished blocks.

    `write` is called in worker processes. Each block is a whole number of
    write units, so writers never share one; writing a block twice, late or
    at once, leaves the store as writing it once. Metadata are written by
    `create` and `finalize`, in the driver only.
    """

    def create(self) -> None:
        """Lay out the store; no pixel is written."""
        ...

    def write(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> dict[str, str | None]:
        """Write one block; return stored key → digest (None: not stored)."""
        ...

    def fetch_digest(self, key: str) -> str | None:
        """Digest of what is stored under a key now; None where nothing is."""
        ...

    def drop(self, key: str) -> None:
        """Delete a stored object, so that it can be written again."""
        ...


@runtime_checkable
class EpochSink(Protocol):
    """A sink whose blocks are seen once the driver has committed them, many at a time.

    Workers write bytes apart from what is seen; only the driver commits.
    """

    def write_apart(
        self, time: int, core: Window, layers: Mapping[str, Array]
    ) -> tuple[dict[str, str | None], bytes]:
        """Write one block; return stored key → digest, and what is to be committed."""
        ...

    def commit(self, changes: Sequence[bytes], message: str) -> None:
        """Show blocks, all of them at once."""
        ...


class MayStop(Protocol):
    """Says whether to begin another block."""

    def queue(self, waves: int) -> None:
        """Learn how many blocks follow each other once they were handed out."""
        ...

    def go_on(self) -> bool:
        """Whether to; False for good once it was."""
        ...


class Executor(Protocol):
    """Runs blocks somewhere and gives back one outcome for each."""

    def execute(
        self,
        blocks: Sequence[int],
        attempts: Sequence[int] | None = None,
        stop: MayStop | None = None,
    ) -> Iterator[Outcome]:
        """Run the blocks; yield outcomes in any order, memory bounded.

        `attempts` says which try each is; later tries than the first have a
        worker for themselves. `stop` is asked before blocks are begun: those in
        flight are finished. Closing the iterator stops the rest.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one attempt at one block ended; small enough to send anywhere."""

    block: int
    """Number of the block in the plan."""
    ok: bool
    """Whether every layer is stored."""
    digests: Mapping[str, str | None]
    """Stored key → digest; empty if not ok."""
    stats: Mapping[str, Any]
    """Counters and seconds: patches, valid_px, read_s, predict_s, write_s…"""
    error: str = ""
    """What went wrong, redacted; empty if ok."""
    kind: str = ""
    """``transient``, ``permanent``, ``process``, ``lost`` or ``run``; empty if ok."""
    attempt: int = 1
    """Which try this was."""
    changes: bytes = b""
    """What an `EpochSink` has to commit before the block is seen; some 500 bytes."""
    late: bool = False
    """Whether another worker had made the block already: it is not counted again."""

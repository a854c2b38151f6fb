"""Labelled pixels with their features: the same ones, however the imagery is cut."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import SourceError
from geoscale.fitting.chips import cut_chips
from geoscale.fitting.inputs import has_weights
from geoscale.models.extract import Extractor
from geoscale.models.weights import resolve_weights
from geoscale.parcels import Parcel
from geoscale.plans import InferencePlan
from geoscale.preprocess import Prepared, Preprocessor
from geoscale.sources.shapes import NONE, ShapeFile, Shapes
from geoscale.supply import at_hand, supply
from geoscale.types import Bool, Float, Ints, Source
from geoscale.windows import Window

if TYPE_CHECKING:
    from distributed import Client

    from geoscale.passes import BlockTask

WINDOW_PX = 1024
"""Height and width of what is looked at once for labels, in px."""
SPARE = 2
"""Pixels that are drawn for each that is wanted: some may lie under clouds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Places:
    """Pixels that were drawn, in the order of their rows and columns."""

    y: Ints
    """(pixel,): row."""
    x: Ints
    """(pixel,): column."""
    codes: Ints
    """(pixel,): number of the label."""
    shapes: Ints
    """(pixel,): number of the point or polygon."""
    rank: Ints
    """(pixel,): a random number of each, by which some are taken before others."""
    conflicts: int = 0
    """Pixels in several shapes of different labels; left out."""

    def pick(self, some: Bool | Ints) -> Places:
        """Keep some of them."""
        return Places(
            y=self.y[some], x=self.x[some], codes=self.codes[some],
            shapes=self.shapes[some], rank=self.rank[some], conflicts=self.conflicts,
        )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Pixels for fitting."""

    features: Float
    """(pixel, feature), of the network; for a conv head (pixel, feature, y, x)."""
    bands: Float
    """(pixel, band) or (pixel, band, y, x), as read, in the units of the card; all
    dates."""
    places: Places
    """Where they lie."""
    invalid: int
    """Labelled pixels that were drawn and have no usable imagery; left out."""


def draw_places(
    found: ShapeFile, shape: tuple[int, int], *, per_class: int, seed: int
) -> Places:
    """Draw labelled pixels; no imagery is read.

    Parameters
    ----------
    found : ShapeFile
        Labels on the grid of the imagery.
    shape : tuple of int, (y, x)
        Of the grid, in px.
    per_class : int
        Most pixels of one class. Which ones is drawn by position and seed, so that
        memory is bounded and no cut changes the draw.
    seed : int
        Of the draw.

    Returns
    -------
    Places
        At most `per_class` of each class.
    """
    label = np.array(found.shapes.codes, np.int64)
    # Burnt by shape, not by label: a polygon must not be split between folds.
    burnt = Shapes(found.shapes.geometries, range(len(label)), shape)
    held, conflicts = np.zeros((0, 5), np.int64), 0
    for y in range(0, shape[0], WINDOW_PX):
        for x in range(0, shape[1], WINDOW_PX):
            window = Window(y, x, y + WINDOW_PX, x + WINDOW_PX).clip(shape)
            if not burnt.touches(window):
                continue
            # where shapes of one label overlap, any of them will do
            codes, shapes = found.shapes.read(window), burnt.read(window)
            conflicts += int(((codes < NONE) | ((codes > NONE) & (shapes < 0))).sum())
            ys, xs = np.nonzero((codes > NONE) & (shapes > NONE))
            of = shapes[ys, xs].astype(np.int64)
            ys, xs = ys.astype(np.int64) + window.y0, xs.astype(np.int64) + window.x0
            rank = shuffle(ys * shape[1] + xs, seed)
            more = np.stack([ys, xs, label[of], of, rank], axis=1)
            held = np.concatenate([held, more])
            held = held[take_first(held[:, 2], held[:, 4], per_class)]
    held = held[np.lexsort((held[:, 1], held[:, 0]))]
    return Places(
        y=held[:, 0], x=held[:, 1], codes=held[:, 2], shapes=held[:, 3],
        rank=held[:, 4], conflicts=conflicts,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What every process does in a block with labels."""

    plan: InferencePlan
    """Of the network over the imagery; holds no source."""
    card: ModelCard
    """Of the network alone."""
    with_bands: bool
    """Whether the network's input follows its features."""
    device: str
    """Where it runs."""
    trust_code: bool
    """Allow code outside the known packages."""
    parcels: tuple[Parcel, ...] = ()
    """Files of the model that the driver sends."""
    reach: int = 0
    """Pixels around a labelled pixel that the head sees, on each side."""

    def __call__(
        self, number: int, places: Places, source: Source
    ) -> tuple[Bool, Float, Float]:
        """Read a block; tell which places are usable, and their bands and features."""
        task = self.plan.task(number)
        pixels = source.read(task.read, task.passes[0])
        ys, xs = places.y - task.read.y0, places.x - task.read.x0
        card = at_hand(self.plan.card, self.parcels)
        prepare = Preprocessor.from_card(card, self.trust_code)
        channels = prepare.begin(pixels.data, pixels.valid)
        ok = channels.usable[ys, xs]
        data = pixels.data
        if self.reach:  # what lies beside a valid pixel may be none
            data = np.where(pixels.valid[:, None], data, np.float32(np.nan))
        planes = data.reshape(data.shape[0] * data.shape[1], *data.shape[2:])
        raw = cut_chips(planes, ys[ok], xs[ok], self.reach)
        if not ok.any():
            return ok, raw, raw[:, :0]
        extract, some = self.open(), places.pick(ok)
        return ok, raw, _extract(self.plan, task, channels, extract, some, self.reach)

    def open(self) -> Extractor:
        """Load the network, once in every process."""
        key = (
            self.plan.card.hash(), self.plan.weights_sha256, self.plan.code_sha256,
            self.with_bands, self.device,
        )  # fmt: skip
        with _loading:
            if _held.get("key") != key:
                card = at_hand(self.card, self.parcels)
                path = resolve_weights(card)[0] if has_weights(card) else None
                made = Extractor(
                    card, path, with_bands=self.with_bands, device=self.device,
                    trust_code=self.trust_code,
                )  # fmt: skip
                _held.update(key=key, extract=made)
            found: Extractor = _held["extract"]
        return found


_held: dict[str, Any] = {}
_loading = threading.Lock()


def take_samples(
    look: Look,
    source: Source,
    places: Places,
    *,
    time: int,
    per_class: int,
    client: Client | None = None,
) -> Samples:
    """Read imagery at drawn pixels, and run the network around them.

    Patches are those of the map's own lattice, so the head is fitted to what it will
    see. Where patches overlap, a pixel takes the one that it lies deepest in.

    Parameters
    ----------
    look : Look
        What is done in a block.
    source : Source
        Imagery; blocks without labels are not read.
    places : Places
        Pixels; those that cannot be used are left out.
    time : int
        Time step of the plan.
    per_class : int
        Most pixels of one class.
    client : distributed.Client, optional
        Cluster that reads and runs the network.

    Returns
    -------
    Samples
        Usable pixels.

    Raises
    ------
    SourceError
        If no labelled pixel is valid.
    """
    inside = list(_blocks_of(look.plan, places, time))
    numbers = [number for number, _ in inside]
    parts = [places.pick(some) for _, some in inside]
    found = _map(look, numbers, parts, source, client)
    kept = [some[ok] for (_, some), (ok, _, _) in zip(inside, found, strict=True)]
    invalid = len(places.y) - sum(len(one) for one in kept)
    if invalid == len(places.y):
        raise SourceError(
            f"none of the {invalid:,} labelled pixels is valid in the imagery: the "
            "labels lie on nodata; check the date, the mask and the area"
        )
    where = np.concatenate(kept)
    chosen = places.pick(where)
    first = take_first(chosen.codes, chosen.rank, per_class)
    first = first[np.argsort(where[first])]
    usable = [one for one in found if one[0].any()]
    return Samples(
        features=np.concatenate([one[2] for one in usable])[first],
        bands=np.concatenate([one[1] for one in usable])[first],
        places=chosen.pick(first),
        invalid=invalid,
    )


def _blocks_of(
    plan: InferencePlan, places: Places, time: int
) -> Iterator[tuple[int, Ints]]:
    """Blocks with labels, and which places lie in each."""
    for task in plan.iter_tasks():
        core = task.core
        some = np.flatnonzero(
            (places.y >= core.y0) & (places.y < core.y1)
            & (places.x >= core.x0) & (places.x < core.x1)
        )  # fmt: skip
        if task.time == time and len(some):
            yield task.number, some


def _map(
    look: Look,
    numbers: list[int],
    parts: list[Places],
    source: Source,
    client: Client | None,
) -> list[tuple[Bool, Float, Float]]:
    """Look at blocks here or on a cluster, in their order."""
    if client is None:
        pairs = zip(numbers, parts, strict=True)
        return [look(number, part, source) for number, part in pairs]
    held = client.scatter(source, hash=False, broadcast=True)
    with supply(look.plan, client, trust_code=look.trust_code):
        tasks = client.map(look, numbers, parts, source=held, pure=False)
        found: list[tuple[Bool, Float, Float]] = client.gather(tasks)
    return found


def _extract(
    plan: InferencePlan,
    task: BlockTask,
    channels: Prepared,
    extract: Extractor,
    places: Places,
    reach: int,
) -> Float:
    """Features of some pixels of a block, (pixel, feature); or of chips around them."""
    patches = plan.lattice.touching(task.core)
    owner = np.full(len(places.y), -1)
    deepest = np.full(len(places.y), -1)
    for number, patch in enumerate(patches):
        w, gives = patch.window, patch.gives
        depth = np.minimum(
            np.minimum(places.y - w.y0, w.y1 - 1 - places.y),
            np.minimum(places.x - w.x0, w.x1 - 1 - places.x),
        )
        given = (places.y >= gives.y0) & (places.y < gives.y1) & (
            places.x >= gives.x0) & (places.x < gives.x1)  # fmt: skip
        better = given & (depth > deepest)
        owner[better], deepest[better] = number, depth[better]
    made: Float | None = None
    for number in np.unique(owner):
        window, mine = patches[number].window, owner == number
        seen = np.empty((1, channels.count, *window.shape), np.float32)
        channels.take(task.read, window, plan.shape, seen[0])
        found = extract(seen)[0]
        y, x = places.y[mine] - window.y0, places.x[mine] - window.x0
        chips = cut_chips(found, y, x, reach)
        if made is None:
            made = np.empty((len(owner), *chips.shape[1:]), np.float32)
        made[mine] = chips
    assert made is not None
    return made


def shuffle(place: Ints, seed: int) -> Ints:
    """Give every pixel a random rank of its own.

    References
    ----------
    .. [1] Steele, Lea and Flood, 2014, "Fast splittable pseudorandom number
       generators" (the finalizer of SplitMix64), doi:10.1145/2660193.2660195
    """
    step = (0x9E3779B97F4A7C15 * (seed + 1)) % 2**64
    z = place.astype(np.uint64) + np.uint64(step)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Ints = ((z ^ (z >> np.uint64(31))) >> np.uint64(1)).astype(np.int64)
    return found


def take_first(codes: Ints, rank: Ints, per_class: int) -> Ints:
    """Find the pixels of lowest rank of each class."""
    order = np.lexsort((rank, codes))
    in_order = codes[order]
    starts = np.searchsorted(in_order, in_order, side="left")
    found: Ints = order[np.arange(len(order)) - starts < per_class]
    return found

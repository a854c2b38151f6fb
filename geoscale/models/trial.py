"""Trials: which runtime, precision, patch and batch do most here, and still agree.

A speed is that of *useful* pixels: those that a patch gives to the map. Every
candidate is compared with the network's own library in float32 on real patches
of the job; one that gives other labels is not taken, however fast it is.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import GeoscaleError, PlanError
from geoscale.models.cache import get_predictor
from geoscale.models.device import name_kind, name_machine
from geoscale.models.held import Precision
from geoscale.models.runtimes import (
    Candidate,
    ModelSettings,
    Runtime,
    list_candidates,
    pick_batch,
)
from geoscale.models.versions import handshake
from geoscale.models.weights import resolve_weights
from geoscale.parcels import cache_dir
from geoscale.patches import reflect_index
from geoscale.storage import Folder
from geoscale.types import Array, Float, Json, Predictor

_LOG = logging.getLogger(__name__)

FLOAT32_AGREEMENT = 0.9999
"""Share of labels in which float32 of any runtime must equal the reference."""
CLEARLY = 1.05
"""How much faster than the network's own library another must be to be taken."""
SECONDS, CALLS = 1.0, 3
"""Time, in s, and calls that a candidate is given at least."""
COMPILE_S = 120.0
"""Time that inductor may take for a network on a few cores, in s; each process
pays it. It is tried only where the job is long enough to earn it back tenfold."""
BUDGET_S = 40.0
"""Time after which no further patch size or batch is looked at, in s."""
MAX_BATCH = 64
MAX_CPU_BATCH_PX = 2**20
"""Pixels of the largest batch that is tried on a CPU: more only costs memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """One way to lay the lattice."""

    patch: int
    """Height and width of a patch as planned, in px."""
    shape: tuple[int, int]
    """What the network sees, (y, x); less than `patch` where the stack is small."""
    stride: int
    """Pixels between patches: a patch gives stride x stride px to the map."""
    per_block: int
    """Patches of a usual block."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is to be found out; small enough to send to a worker."""

    card: ModelCard
    """The model."""
    weights_sha256: str
    """Of its weights, as the plan recorded."""
    runtime: str
    """Name, or ``auto``."""
    precision: str
    """Name, or ``auto``."""
    min_agreement: float
    """Of a precision that ``auto`` may take."""
    device: str
    """As in the plan."""
    batch: int | str
    """Number, or ``auto``."""
    sizes: tuple[Size, ...]
    """Lattices to choose from; the first is the default."""
    pixels: int
    """Pixels that the job will make."""
    imagery: str
    """Digest of the job's imagery; what agrees on one need not on another."""
    threads: int | None = None
    """CPU threads of the runtime."""
    trust_code: bool = False
    """Allow Python code that the card names outside known packages."""

    def settings(self, candidate: Candidate, size: Size, batch: int) -> ModelSettings:
        """Give the settings under which a candidate is loaded."""
        return ModelSettings(
            device=self.device,
            precision=candidate.precision,
            runtime=candidate.runtime,
            batch=batch,
            per_block=size.per_block,
            patch=size.shape,
            threads=self.threads,
            trust_code=self.trust_code,
            expected_sha256=self.weights_sha256,
        )

    def key(self, machine: str) -> str:
        """Name under which the answer is kept: model, question and machine."""
        asked = asdict(self) | {"card": self.card.hash(), "machine": machine}
        # an answer for a short job holds for a long one, but for the compilers
        asked["pixels"] = self.pixels > 10_000_000_000
        text = json.dumps(asked | {"versions": handshake()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()


@dataclass(slots=True, kw_only=True)
class Row:
    """What was found about one candidate."""

    runtime: Runtime
    precision: Precision
    size: Size
    batch: int = 0
    mpx_s: float = 0.0
    """Useful pixels per second, in millions; 0 where it cannot be used."""
    agreement: float | None = None
    """Share of labels equal to those of the reference."""
    said: str = ""
    """Why it is not used."""

    def to_json(self) -> Json:
        """Plain form for the plan."""
        return {
            "runtime": self.runtime,
            "precision": self.precision,
            "patch": self.size.patch,
            "stride": self.size.stride,
            "batch": self.batch,
            "mpx_s": round(self.mpx_s, 3),
            "agreement": None if self.agreement is None else round(self.agreement, 6),
            "said": self.said,
        }


def answer(trial: Trial, sample: Float | Callable[[], Float]) -> Json:
    """Measure the candidates in this process, or remember an earlier answer.

    Parameters
    ----------
    trial : Trial
        The question.
    sample : ndarray of float32, (n, channel, y, x), or callable
        Patches of the job in the default size, ready for the network; a callable
        is asked only if something is measured.

    Returns
    -------
    dict
        ``choice`` (runtime, precision, patch, stride, batch, mpx_s, agreement),
        ``rows`` of all candidates, ``machine``, ``reference``, ``seconds``.
    """
    machine = name_machine(trial.device, trial.threads)
    kept, name = Folder(str(cache_dir() / "tuning")), f"{trial.key(machine)}.json"
    found = kept.get(name)
    if found is not None:
        return {**json.loads(found), "remembered": True}
    start = time.perf_counter()
    patches = sample() if callable(sample) else sample
    rows = list(_Bench(trial, patches).run())
    best = _pick(rows, trial)
    told: Json = {
        "choice": best.to_json(),
        "rows": [row.to_json() for row in rows],
        "reference": f"{rows[0].runtime} float32",
        "machine": machine,
        "sample_px": int(patches[:, 0].size),
        "seconds": round(time.perf_counter() - start, 1),
    }
    kept.put(name, json.dumps(told, indent=1).encode())
    return told


class _Bench:
    """Runs one trial; the reference comes first."""

    def __init__(self, trial: Trial, patches: Float) -> None:
        self._trial, self._patches = trial, patches
        self._began = time.perf_counter()
        self._kind = name_kind(trial.device)
        path, _ = resolve_weights(trial.card, expected_sha256=trial.weights_sha256)
        every = list_candidates(trial.card, path, trial.device)
        plain = [c for c in every if c.precision == "float32"]
        # what `native` means: torch where there is a torch network, else ONNX Runtime
        self._native = next(
            c for name in ("torch", "onnx") for c in plain if c.runtime == name
        )
        self._others = [c for c in every if c != self._native and self._is_asked(c)]
        self._wanted: Array | None = None

    def run(self) -> Iterator[Row]:
        """Yield a row for each candidate, then for other sizes and batches."""
        size = self._trial.sizes[0]
        first = self._measure(self._native, size)
        if first.said:
            raise GeoscaleError(first.said)
        rows = [first]
        yield first
        for candidate in sorted(self._others, key=lambda c: c.runtime == "compile"):
            rows.append(self._consider(candidate, size, max(rows, key=_speed)))
            yield rows[-1]
        for size in self._trial.sizes[1:]:
            if self._is_late():
                break
            best = _pick(rows, self._trial)
            rows.append(self._measure(_candidate(best), size))
            yield rows[-1]
        if self._trial.batch == "auto":
            yield from self._batches(_pick(rows, self._trial))

    def _most(self, size: Size) -> int:
        if self._kind != "cpu":
            return MAX_BATCH
        return min(MAX_BATCH, MAX_CPU_BATCH_PX // (size.shape[0] * size.shape[1]))

    def _is_late(self) -> bool:
        return time.perf_counter() - self._began > BUDGET_S

    def _is_asked(self, candidate: Candidate) -> bool:
        trial = self._trial
        asked = self._native.runtime if trial.runtime == "native" else trial.runtime
        return asked in (candidate.runtime, "auto")

    def _consider(self, candidate: Candidate, size: Size, best: Row) -> Row:
        row = Row(runtime=candidate.runtime, precision=candidate.precision, size=size)
        trial = self._trial
        if candidate.reason:
            row.said = candidate.reason
        elif trial.precision not in ("auto", candidate.precision):
            row.said = f"precision is {trial.precision}"
        elif candidate.runtime == "compile" and trial.runtime == "auto":
            left = trial.pixels / 1e6 / best.mpx_s
            if left < 10 * COMPILE_S:
                row.said = f"not tried: {left:.0f} s of work do not earn compiling back"
        return row if row.said else self._measure(candidate, size)

    def _batches(self, best: Row) -> Iterator[Row]:
        """Try larger batches, then smaller ones, as long as they are faster."""
        start = best
        for factor in (2, 0.5):
            batch, last = int(start.batch * factor), best
            while 1 <= batch <= self._most(best.size) and not self._is_late():
                candidate = _candidate(best)
                row = self._measure(candidate, best.size, batch)
                if row.said or row.batch != batch:
                    break
                yield row
                if row.mpx_s < last.mpx_s * 1.02:
                    break
                best = last = row
                batch = int(batch * factor)
            if best is not start:
                return

    def _measure(self, candidate: Candidate, size: Size, batch: int = 0) -> Row:
        """Load a candidate, compare its labels, time it."""
        trial = self._trial
        row = Row(runtime=candidate.runtime, precision=candidate.precision, size=size)
        chosen = batch or trial.batch
        if not isinstance(chosen, int):
            chosen = pick_batch(max(size.shape), self._kind)
        try:
            predictor = get_predictor(
                trial.card, trial.settings(candidate, size, chosen)
            )
            row.batch = predictor.batch
            if size == trial.sizes[0]:
                row.agreement = self._agreement(predictor)
            seconds = self._time(predictor, size.shape)
        except (GeoscaleError, ImportError) as err:
            row.said = str(err).splitlines()[0]
            return row
        used = size.per_block / (-(-size.per_block // row.batch) * row.batch)
        gives = min(size.stride, size.shape[0]) * min(size.stride, size.shape[1])
        row.mpx_s = used * row.batch * gives / 1e6 / seconds
        least = _least(row.precision, trial)
        if row.agreement is not None and row.agreement < least:
            row.said = (
                f"{row.agreement:.4%} of labels agree with float32, {least:.2%} needed"
            )
        _LOG.info("trial %s", row.to_json())
        return row

    def _agreement(self, predictor: Predictor) -> float:
        found = []
        for first in range(0, len(self._patches), predictor.batch):
            part = self._patches[first : first + predictor.batch]
            scores = predictor.predict(_fill(part, predictor.batch))
            found.append(scores[: len(part)].argmax(1))
        labels = np.concatenate(found)
        if self._wanted is None:
            self._wanted = labels
        # the centre: what a patch gives to the map
        size = self._trial.sizes[0]
        ring = (size.patch - size.stride) // 2
        rows, columns = (slice(ring, max(ring + 1, n - ring)) for n in size.shape)
        same = (labels == self._wanted)[:, rows, columns]
        return float(same.mean())

    def _time(self, predictor: Predictor, shape: tuple[int, int]) -> float:
        """Least seconds of one batch: what a busy neighbour disturbs least."""
        batch = _fill(_mirror(self._patches, shape), predictor.batch)
        predictor.predict(batch)
        spent: list[float] = []
        while len(spent) < CALLS or sum(spent) < SECONDS:
            start = time.perf_counter()
            predictor.predict(batch)
            spent.append(time.perf_counter() - start)
        return min(spent)


def _speed(row: Row) -> float:
    return 0.0 if row.said else row.mpx_s


def _candidate(row: Row) -> Candidate:
    return Candidate(runtime=row.runtime, precision=row.precision)


def _least(precision: str, trial: Trial) -> float:
    if precision == "float32":
        return FLOAT32_AGREEMENT
    return trial.min_agreement if trial.precision == "auto" else 0.0


def _pick(rows: list[Row], trial: Trial) -> Row:
    """Fastest row that may be used; the reference unless another clearly is."""
    asked = [
        row
        for row in rows
        if not row.said
        and trial.precision in ("auto", row.precision)
        and (trial.runtime in ("auto", "native", row.runtime))
    ]
    first = rows[0]
    if not asked:
        tried = "; ".join(
            f"{r.runtime} {r.precision}: {r.said}" for r in rows if r.said
        )
        raise PlanError(
            f"nothing here runs `{trial.card.name}` with runtime {trial.runtime} and "
            f"precision {trial.precision} ({tried or 'no such pair is known'}); say "
            "runtime: native and precision: float32"
        )
    best = max(asked, key=lambda row: row.mpx_s)
    near = best.mpx_s < CLEARLY * first.mpx_s and best.size == first.size
    return replace(first) if near and first in asked else best


def _fill(patches: Float, count: int) -> Float:
    """Repeat patches until they make a batch."""
    return np.ascontiguousarray(patches[np.arange(count) % len(patches)])


def _mirror(patches: Float, shape: tuple[int, int]) -> Float:
    """Mirror patches at their edges up to another size, or cut them."""
    rows = reflect_index(0, shape[0], 0, patches.shape[2])
    columns = reflect_index(0, shape[1], 0, patches.shape[3])
    return patches[:, :, rows[:, None], columns]

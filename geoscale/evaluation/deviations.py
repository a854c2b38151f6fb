"""Errors of numbers: added up exactly, and told as a table.

Values are rounded to whole steps before they are added, so that sums know no order:
neither blocks nor workers change a bit.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from geoscale.results.texts import write_texts
from geoscale.types import Float, Ints, Json
from geoscale.words import redact

_STEPS = {"reflectance": 2**20, "raw": 2**4}
"""Steps to 1, by units: a millionth of reflectance, a sixteenth of raw values."""
_MOST = 2**24
"""Most steps of one value, so that sums of squares of a part fit into 64 bits."""
_PART = 2**12
"""Values that are added at a time."""


@dataclass(frozen=True, slots=True)
class Errors:
    """Sums over pixels, in whole steps; those of squares in squares of them."""

    steps: int
    """Steps to 1."""
    pixels: int = 0
    """How many."""
    values: int = 0
    """Sum of what came."""
    squares: int = 0
    """Sum of its squares."""
    off: int = 0
    """Sum of what was said less what came."""
    absolute: int = 0
    """Sum of the same, without its sign."""
    off_squares: int = 0
    """Sum of its squares."""

    @classmethod
    def none(cls, units: str) -> Errors:
        """Make sums over no pixel."""
        return cls(_STEPS[units])

    @classmethod
    def of(cls, said: Float, truth: Float, units: str) -> Errors:
        """Add up some pixels.

        Parameters
        ----------
        said, truth : ndarray of float32, (n,)
            What was said, and what came.
        units : {"reflectance", "raw"}
            Of both.

        Returns
        -------
        Errors
            Exact for values rounded to steps; those beyond 16 of reflectance, or a
            million of raw values, count as these.

        Examples
        --------
        >>> said, came = np.float32([0.5, 0.25]), np.float32([0.25, 0.5])
        >>> e = Errors.of(said, came, "reflectance")
        >>> e.rmse, e.mae, e.bias
        (0.25, 0.25, 0.0)
        """
        steps, sums = _STEPS[units], [0, 0, 0, 0, 0]
        for start in range(0, len(said), _PART):
            part = slice(start, start + _PART)
            y, p = (_round(v[part], steps) for v in (truth, said))
            off = p - y
            for k, found in enumerate((y, y * y, off, np.abs(off), off * off)):
                sums[k] += int(found.sum())
        return cls(steps, len(said), *sums)

    def __add__(self, other: Errors) -> Errors:
        return Errors(
            self.steps,
            self.pixels + other.pixels,
            self.values + other.values,
            self.squares + other.squares,
            self.off + other.off,
            self.absolute + other.absolute,
            self.off_squares + other.off_squares,
        )

    @property
    def rmse(self) -> float | None:
        """Root of the mean squared error; None without pixels."""
        if not self.pixels:
            return None
        return math.sqrt(self.off_squares / self.pixels) / self.steps

    @property
    def mae(self) -> float | None:
        """Mean absolute error."""
        return self.absolute / self.pixels / self.steps if self.pixels else None

    @property
    def bias(self) -> float | None:
        """Mean of what was said less what came."""
        return self.off / self.pixels / self.steps if self.pixels else None

    @property
    def r2(self) -> float | None:
        """Part of the variance that is told: Nash and Sutcliffe's efficiency."""
        spread = self.pixels * self.squares - self.values**2
        return 1 - self.pixels * self.off_squares / spread if spread else None

    @property
    def nnse(self) -> float | None:
        """The same from 0 to 1, ``1 / (2 - r2)``; one half: as good as the mean."""
        return None if self.r2 is None else 1 / (2 - self.r2)

    def to_dict(self) -> Json:
        """Figures, rounded to nine places."""
        names = ("rmse", "mae", "bias", "r2", "nnse")
        found = {name: getattr(self, name) for name in names}
        rounded = {k: None if v is None else round(v, 9) for k, v in found.items()}
        return {"pixels": self.pixels, **rounded}


@dataclass(frozen=True, slots=True, kw_only=True)
class StepErrors:
    """Errors of one date of a forecast."""

    time: str
    """The date."""
    days: float
    """From the last date that was seen."""
    scene: str
    """Date of the imagery that it is held against."""
    bands: tuple[str, ...]
    """Names of the bands."""
    forecast: tuple[Errors, ...]
    """By band."""
    persistence: tuple[Errors, ...]
    """By band, of what each pixel showed last."""

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        made: Json = {"time": self.time, "days": self.days, "scene": self.scene}
        for name in ("forecast", "persistence"):
            parts: tuple[Errors, ...] = getattr(self, name)
            made[name] = add_up(parts).to_dict() | {
                "bands": {
                    b: e.to_dict() for b, e in zip(self.bands, parts, strict=True)
                }
            }
        return made


@dataclass(frozen=True, slots=True, kw_only=True)
class ForecastEvaluation:
    """How near a forecast came, date by date, beside persistence."""

    output: str
    """What was evaluated."""
    model: str
    """Name of its card."""
    seen: str
    """Last date that it saw."""
    without: tuple[str, ...]
    """Dates of the forecast that no scene is of."""
    steps: tuple[StepErrors, ...]
    """The others."""

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        return {
            "output": redact(self.output),
            "model": self.model,
            "seen": self.seen,
            "steps": [step.to_dict() for step in self.steps],
            "without_scene": list(self.without),
        }

    def __str__(self) -> str:
        head = f"forecast by {self.model} after {self.seen[:10]}, and persistence"
        lines = [head, *("  " + "  ".join(row) for row in self._rows(pad=True))]
        if self.without:
            dates = ", ".join(label[:10] for label in self.without[:6])
            lines.append(f"  no scene is of {len(self.without)} dates: {dates}")
        return "\n".join(lines)

    def to_markdown(self) -> str:
        """Table of all dates and bands."""
        head, *rows = self._rows(pad=False)
        told = (
            f"By {self.model}, after {self.seen}; in brackets persistence: what each "
            "pixel showed when it was last seen clearly. Pixels that all know count."
        )
        lines = [
            f"# Forecast `{redact(self.output)}`",
            "",
            told,
            "",
            f"| {' | '.join(head)} |",
            "|---|---|" + "--:|" * (len(head) - 2),
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
        if self.without:
            dates = ", ".join(label[:10] for label in self.without)
            lines += ["", f"No scene is of {dates}."]
        return "\n".join(lines) + "\n"

    def write(self, to: str | Path) -> list[Path]:
        """Write ``forecast.json`` and ``forecast.md`` into a folder.

        Parameters
        ----------
        to : str or path
            Local folder.

        Returns
        -------
        list of Path
            The files.
        """
        text = json.dumps(self.to_dict(), indent=2)
        return write_texts(
            to, {"forecast.json": text, "forecast.md": self.to_markdown()}
        )

    def _rows(self, *, pad: bool) -> list[list[str]]:
        rows = [["date", "band", "RMSE", "MAE", "bias", "R2", "px"]]
        for step in self.steps:
            both = (step.forecast, step.persistence)
            rows.append(_row(step.time[:10], "all", *map(add_up, both)))
            for name, *found in zip(step.bands, *both, strict=True):
                rows.append(_row("", name, *found))
        if not pad:
            return rows
        wide = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
        return [[t.ljust(w) for t, w in zip(row, wide, strict=True)] for row in rows]


def add_up(parts: Sequence[Errors]) -> Errors:
    """Sum over bands."""
    total = parts[0]
    for part in parts[1:]:
        total += part
    return total


def _row(date: str, band: str, one: Errors, other: Errors) -> list[str]:
    names = ("rmse", "mae", "bias", "r2")
    pairs = ((getattr(one, n), getattr(other, n)) for n in names)
    texts = (f"{_say(a)} ({_say(b)})" for a, b in pairs)
    return [date, band, *texts, f"{one.pixels:,}"]


def _say(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _round(values: Float, steps: int) -> Ints:
    whole = np.rint(values.astype(np.float64) * steps)
    return np.clip(whole, -_MOST, _MOST).astype(np.int64)

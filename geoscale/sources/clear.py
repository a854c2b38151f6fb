"""Clear: which pixels of a scene show the ground, by a band or a model that says so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, Protocol

import numpy as np
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from geoscale.errors import SourceError
from geoscale.types import Array, Bool, Json, Missing
from geoscale.windows import Window
from geoscale.words import suggest

SCL: Mapping[str, int] = {
    "no_data": 0, "saturated": 1, "dark": 2, "cloud_shadow": 3, "vegetation": 4,
    "bare": 5, "water": 6, "unclassified": 7, "cloud_medium": 8, "cloud_high": 9,
    "cirrus": 10, "snow": 11,
}  # fmt: skip
"""Classes of Sentinel-2's scene classification (Sen2Cor; ESA S2 MSI Level-2A PSD)."""
QA_PIXEL: Mapping[str, int] = {
    "fill": 0, "dilated_cloud": 1, "cirrus": 2, "cloud": 3, "cloud_shadow": 4,
    "snow": 5, "clear": 6, "water": 7,
}  # fmt: skip
"""Bits of Landsat Collection 2's QA_PIXEL (USGS LSDS-1619, table 6-3)."""
FMASK: Mapping[str, int] = {
    "cirrus": 0, "cloud": 1, "adjacent": 2, "cloud_shadow": 3, "snow": 4, "water": 5,
}  # fmt: skip
"""Bits of HLS's Fmask (HLS v2.0 user guide, table 9)."""
Names = Literal["scl", "qa_pixel", "fmask"]
_NAMES: Mapping[str, Mapping[str, int]] = {
    "scl": SCL, "qa_pixel": QA_PIXEL, "fmask": FMASK
}  # fmt: skip


UNJUDGED = 255
"""Given by a model where it cannot tell; never a class."""


class Mask(BaseModel):
    """Which values of a band, or classes of a model, mean that a pixel is not used."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    asset: str | None = None
    """Band that tells: ``scl``, ``qa_pixel``, ``fmask``, or any other."""
    model: str | None = None
    """Model that tells, instead: a name of the catalogue, or the path of a card."""
    keep: tuple[int | str, ...] | None = None
    """Classes that are clear, by number or name; all others are not."""
    drop: tuple[int | str, ...] | None = None
    """Classes that are not clear; all others are."""
    bits: tuple[int | str, ...] | None = None
    """Bits, from 0 or by name, that must not be set."""
    names: Names | None = None
    """Whose names of classes and bits are meant; default by `asset`, or the model's."""
    dilate: int = Field(default=0, ge=0, le=256)
    """Pixels by which what is not clear grows on every side, in px of the output."""

    @model_validator(mode="after")
    def _has_one_rule(self) -> Mask:
        given = [n for n in ("keep", "drop", "bits") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                f"a mask needs exactly one of keep, drop, bits; got {given or 'none'}"
            )
        if (self.asset is None) == (self.model is None):
            raise ValueError("a mask needs either asset, a band, or model; not both")
        if self.model is None:
            self.numbers()
        elif self.bits is not None or self.names is not None:
            raise ValueError("a model gives classes: say keep or drop, without names")
        return self

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        if data.get("model") is None:
            data.pop("model", None)  # masks of a band keep the form that they have
        return data

    def resolve(self, classes: Mapping[str, int]) -> Mask:
        """Give the mask of a model with numbers in the place of names.

        Parameters
        ----------
        classes : mapping of str to int
            The model's.

        Returns
        -------
        Mask
            Of the same rule.

        Raises
        ------
        SourceError
            If the model has no such class.
        """
        rule = "keep" if self.keep is not None else "drop"
        found = []
        for value in getattr(self, rule):
            number = classes.get(value) if isinstance(value, str) else value
            if number not in classes.values():
                raise SourceError(
                    f"mask.{rule}: `{self.model}` has no class `{value}`"
                    f"{suggest(str(value), classes)}; it has {', '.join(classes)}"
                )
            found.append(number)
        return self.model_copy(update={rule: tuple(found)})

    def numbers(self) -> tuple[int, ...]:
        """Classes or bits of the rule, as numbers."""
        rule = self.keep if self.keep is not None else self.drop
        rule = rule if rule is not None else self.bits or ()
        return tuple(self._number(value) for value in rule)

    def find_clear(self, values: Array) -> Bool:
        """Tell which pixels are clear; nothing is grown.

        Parameters
        ----------
        values : ndarray, (y, x)
            The band, as stored; whole numbers.

        Returns
        -------
        ndarray of bool, (y, x)
            True where the ground is seen.
        """
        stored = np.asarray(values).astype(np.int64)
        numbers = self.numbers()
        if self.bits is not None:
            set_bits = sum(1 << bit for bit in numbers)
            return np.asarray((stored & set_bits) == 0)
        listed = np.isin(stored, numbers)
        return listed if self.keep is not None else ~listed

    def _number(self, value: int | str) -> int:
        if isinstance(value, int):
            return value
        known = self.names or str(self.asset).lower()
        words = _NAMES.get(known)
        if words is None:
            raise ValueError(
                f"`{value}` is a name, and whose classes `{self.asset}` has is not "
                f"known; give numbers, or set mask.names to {', '.join(_NAMES)}"
            )
        if value not in words:
            raise ValueError(
                f"`{value}` is not in {known}{suggest(value, words)}; known are "
                f"{', '.join(words)}"
            )
        return words[value]


class Judge(Protocol):
    """Runs the model of a mask; called by several threads at once.

    What it says of a pixel must not depend on the window that is asked for.
    """

    def __call__(self, step: int, window: Window) -> tuple[Array, tuple[Missing, ...]]:
        """Classes (y, x), 255 where it cannot tell; and what is missing."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Judging:
    """The model of a mask, as a source must know it; part of what names a result."""

    card: Json
    """Of the model."""
    weights_sha256: str
    """Of its weights."""
    code_sha256: str | None
    """Of the user's own Python files that the card names."""
    inference: Json
    """How it is run, resolved."""
    bands: tuple[str, ...]
    """What it reads."""
    units: Literal["raw", "reflectance"]
    """In which units."""
    multiply: float
    """Applied to them."""
    classes: Mapping[str, int]
    """Names of its classes."""

    def to_json(self) -> Json:
        """Write as JSON."""
        return asdict(self) | {"bands": list(self.bands)}

    @classmethod
    def from_json(cls, plain: Json) -> Judging:
        """Read what `to_json` wrote."""
        return cls(**{**plain, "bands": tuple(plain["bands"])})


def grow(unclear: Bool, by: int) -> Bool:
    """Grow what is not clear by a square.

    Parameters
    ----------
    unclear : ndarray of bool, (y, x)
        What is to be grown.
    by : int
        Pixels on every side.

    Returns
    -------
    ndarray of bool, (y, x)
        Of the same shape.

    Examples
    --------
    >>> grow(np.array([[0, 0, 0, 1]], bool), 2).astype(int).tolist()
    [[0, 1, 1, 1]]
    """
    if by == 0 or not unclear.any():
        return unclear
    for axis in (0, 1):
        # a running count is as fast for a wide margin as for a narrow one
        pad = [(0, 0), (0, 0)]
        pad[axis] = (by + 1, by)
        count = np.pad(unclear, pad).cumsum(axis=axis, dtype=np.int32)
        width, length = 2 * by + 1, unclear.shape[axis]
        high = np.take(count, np.arange(width, width + length), axis=axis)
        low = np.take(count, np.arange(length), axis=axis)
        unclear = high > low
    return unclear


def mask_from(plain: Mapping[str, Any] | None) -> Mask | None:
    """Read what ``Mask.model_dump`` wrote.

    Raises
    ------
    SourceError
        If it is no mask.
    """
    if plain is None:
        return None
    try:
        return Mask.model_validate(dict(plain))
    except ValueError as err:
        raise SourceError(f"mask: {err}") from None

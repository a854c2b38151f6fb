"""Calibrated values to the network's input: stack, fill, normalise; only numpy.

No pixel that is invalid reaches the network as NaN: one NaN would spread over
the whole patch and `argmax` would call all of it class 0.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.errors import CardError, StackError
from geoscale.imports import load_object
from geoscale.patches import take_patch
from geoscale.spread import share_rows, spread
from geoscale.types import Array, Bool, Float, PixelSpec
from geoscale.windows import Window

STRIP_VALUES = 2**17
"""Values that are prepared at a time: half a megabyte of float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessor:
    """How one model wants its pixels; made once per process.

    Examples
    --------
    >>> import numpy as np
    >>> prep = Preprocessor(bands=1, mean=np.float32([10]), std=np.float32([2]),
    ...                     fill=np.float32([10]))
    >>> data = np.array([[[[12.0, np.nan]]]])
    >>> x, valid = prep.prepare(data, np.ones((1, 1, 2), bool))
    >>> x.tolist(), valid.tolist()
    ([[[1.0, 0.0]]], [[True, False]])
    """

    bands: int
    """Bands of one frame."""
    frames: int = 1
    """Dates stacked as channels."""
    newest_first: bool = False
    """Whether the network takes the last date's bands first."""
    mean: Float | None = None
    """(channel,) subtracted; None with `function` or without normalisation."""
    std: Float | None = None
    """(channel,) divided by."""
    fill: Float
    """(channel,) put where not valid, before normalisation."""
    least: int | None = None
    """Dates that must hold values at a pixel, each filled by itself; None: all, and
    where one does not, all are filled."""
    function: Callable[[Float], Any] | None = None
    """The model's own normalisation, (channel, y, x) → the same shape."""
    name: str = ""
    """How errors call the model's function."""

    @classmethod
    def from_card(cls, card: ModelCard, trust_code: bool = False) -> Preprocessor:
        """Read a card; import its function where it names one.

        Parameters
        ----------
        card : ModelCard
            Card of the model.
        trust_code : bool
            Allow code outside the known packages.

        Returns
        -------
        Preprocessor
            Ready to use; holds no file.

        Raises
        ------
        CardError
            If the function is not trusted or does not exist, or the number of
            constants is not the number of channels.
        """
        spec, norm = card.input, card.input.normalization
        mean = std = function = None
        if norm.type == "mean-std":
            mean = _per_channel(norm.mean, card, "normalization.mean")
            std = _per_channel(norm.std, card, "normalization.std")
        elif norm.type == "callable":
            assert norm.callable is not None
            function = load_object(norm.callable, base=card.base, trust_code=trust_code)
        fill = np.zeros(spec.channels, np.float32) if mean is None else mean
        if spec.fill is not None:
            fill = _per_channel(spec.fill, card, "fill")
        ahead = card.output.forecast
        return cls(
            least=None if ahead is None else ahead.least_dates,
            bands=len(spec.bands),
            frames=spec.frames,
            newest_first=spec.frame_order == "newest-first",
            mean=mean,
            std=std,
            fill=fill,
            function=function,
            name=norm.callable or "",
        )

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.frames * self.bands

    @property
    def on_device(self) -> PixelSpec | None:
        """What `prepare` does, for a device that does it itself.

        None where the model has its own function, which is Python, or where dates are
        filled each by itself.
        """
        if self.function is not None or self.least is not None:
            return None
        mean, std = (
            None if v is None else tuple(float(x) for x in v)
            for v in (self.mean, self.std)
        )
        return PixelSpec(
            newest_first=self.newest_first,
            fill=tuple(float(v) for v in self.fill),
            mean=mean,
            std=std,
        )

    def prepare(self, data: Array, valid: Bool) -> tuple[Float, Bool]:
        """Make the network's input of one window.

        Parameters
        ----------
        data : ndarray, (time, band, y, x), any real dtype
            Calibrated values times the card's `multiply`, oldest date first;
            never changed.
        valid : ndarray of bool, (time, y, x)
            True where every band holds a value.

        Returns
        -------
        data : ndarray of float32, (channel, y, x)
            Normalised and finite everywhere.
        valid : ndarray of bool, (y, x)
            True where every date is valid and every value is finite.

        Raises
        ------
        StackError
            If the shapes do not fit the model.
        CardError
            If the model's own normalisation fails, changes the shape, or gives
            NaN or infinity at valid pixels.
        """
        made = self._begin(data, valid)
        # always a copy: a user's function may write into what it is given
        x = np.empty((self.channels, *data.shape[-2:]), np.float32)
        whole = Window(0, 0, *x.shape[1:])
        made.take(whole, whole, whole.shape, x)
        if self.function is not None:
            x = self._call(x, made.whole)
        return x, made.usable

    def begin(self, data: Array, valid: Bool) -> Prepared:
        """Make the network's input patch by patch: no copy of the window is made.

        Parameters
        ----------
        data, valid : ndarray
            As `prepare` takes them; not to be changed as long as patches are taken.

        Returns
        -------
        Prepared
            Gives patches.

        Raises
        ------
        StackError, CardError
            As `prepare` does.
        """
        if self.function is None:
            return self._begin(data, valid)
        # what the model's function does to a pixel may hang on the whole window
        x, usable = self.prepare(data, valid)
        return Prepared(x[None], usable, None)

    def clean(self, x: Float, ok: Bool) -> None:
        """Fill what is not valid, normalise; in place.

        Parameters
        ----------
        x : ndarray of float32, (channel, y, x)
            Changed.
        ok : ndarray of bool, (y, x) or (channel, y, x)
            Where it holds values.
        """
        if not ok.all():
            np.copyto(x, self.fill[:, None, None], where=~ok)
        if self.mean is not None and self.std is not None:
            x -= self.mean[:, None, None]
            x /= self.std[:, None, None]

    def _begin(self, data: Array, valid: Bool) -> Prepared:
        self._check_shapes(data, valid)
        ordered = data[::-1] if self.newest_first else data
        if self.least is None:
            return Prepared(ordered, _find_usable(data, valid), self)
        dates = [_find_usable(data[[t]], valid[[t]]) for t in range(len(data))]
        known = np.stack(dates[::-1] if self.newest_first else dates)
        enough: Bool = known.sum(axis=0) >= self.least
        return Prepared(ordered, enough, self, known)

    def _check_shapes(self, data: Array, valid: Bool) -> None:
        wanted = (self.frames, self.bands)
        if data.ndim != 4 or data.shape[:2] != wanted:
            raise StackError(
                f"the model takes {self.frames} date(s) of {self.bands} band(s); "
                f"got an array of shape {data.shape}: give (time, band, y, x)"
            )
        if valid.shape != (data.shape[0], *data.shape[2:]):
            raise StackError(
                f"valid has shape {valid.shape} beside data of {data.shape}; "
                "give (time, y, x)"
            )

    def _call(self, x: Float, ok: Bool) -> Float:
        assert self.function is not None
        shape = x.shape
        try:
            # log(0) and the like are judged by what comes out, at valid pixels
            with np.errstate(all="ignore"):
                out = np.asarray(self.function(x), dtype=np.float32)
        except Exception as err:
            raise CardError(
                f"normalisation `{self.name}` failed on float32 {shape}: {err!r}"
            ) from err
        if out.shape != shape:
            raise CardError(
                f"normalisation `{self.name}` turned shape {shape} into "
                f"{out.shape}; it must keep (channel, y, x)"
            )
        bad = ~np.isfinite(out).all(axis=0)
        if (bad & ok).any():
            raise CardError(
                f"normalisation `{self.name}` gave NaN or infinity at "
                f"{int((bad & ok).sum())} of {int(ok.sum())} valid pixels; check "
                "the units it expects (`input.units`, `input.multiply`) or clip "
                "its input"
            )
        if bad.any():
            out = np.where(bad, np.float32(0), out)
        return out


@dataclass(frozen=True, slots=True)
class Prepared:
    """Pixels of one window on their way to a network; `engine.block.Channels`."""

    frames: Array
    """(time, band, y, x), in the network's order; any real dtype."""
    usable: Bool
    """(y, x): True where every date, or enough of them, hold finite values."""
    recipe: Preprocessor | None
    """What is still to be done to them; None: nothing is."""
    known: Bool | None = None
    """(time, y, x): where each date holds values, if it is filled by itself."""

    @property
    def whole(self) -> Bool:
        """(y, x): True where nothing is filled."""
        return self.usable if self.known is None else np.asarray(self.known.all(axis=0))

    @property
    def count(self) -> int:
        """Channels of the network."""
        return int(self.frames.shape[0] * self.frames.shape[1])

    def take(
        self, held: Window, window: Window, shape: tuple[int, int], out: Float
    ) -> None:
        """Fill and normalise a patch; past the edges of the stack it is mirrored.

        Parameters
        ----------
        held : Window
            What was read; lies inside the stack.
        window : Window
            The patch; may reach past the edges of the stack.
        shape : tuple of int, (y, x)
            Size of the stack, in px.
        out : ndarray of float32, (channel, y, x)
            Filled in place.
        """
        by_date = out.reshape(*self.frames.shape[:2], *out.shape[1:])
        known = self.usable if self.known is None else self.known
        inside = window in held
        if inside:
            ys, xs = window.within(held)
            frames, ok = self.frames[..., ys, xs], known[..., ys, xs]
        else:
            ok = np.empty((*known.shape[:-2], *out.shape[1:]), bool)
            with np.errstate(over="ignore", invalid="ignore"):
                take_patch(self.frames, held, window, shape, by_date)
            take_patch(known, held, window, shape, ok)
        if ok.ndim == 3:
            ok = ok.repeat(self.frames.shape[1], axis=0)
        # Strips that stay in a core's own cache: whole patches would be fetched from
        # memory once for every step.
        rows = max(1, STRIP_VALUES // (out.shape[0] * out.shape[2]))

        def work(part: slice) -> None:
            """Make some rows."""
            for y in range(part.start, part.stop, rows):
                strip = slice(y, min(y + rows, part.stop))
                if inside:
                    with np.errstate(over="ignore", invalid="ignore"):
                        by_date[..., strip, :] = frames[..., strip, :]
                if self.recipe is not None:
                    self.recipe.clean(out[:, strip], ok[..., strip, :])

        spread(work, share_rows(out.shape[1], out[:, 0].nbytes))


def _find_usable(data: Array, valid: Bool) -> Bool:
    """Where every date is valid and every value is finite as float32."""
    ok: Bool = np.asarray(valid.all(axis=0))
    if data.dtype.kind in "ui":
        return ok

    def work(part: slice) -> None:
        """Look at some rows."""
        for band in data[..., part, :].reshape(-1, *ok[part].shape):
            with np.errstate(over="ignore", invalid="ignore"):
                as_read = band.astype(np.float32, copy=False)
            np.logical_and(ok[part], np.isfinite(as_read), out=ok[part])

    spread(work, share_rows(ok.shape[0], data[0, 0, 0].nbytes * data.shape[1]))
    return ok


def _per_channel(values: tuple[float, ...], card: ModelCard, where: str) -> Float:
    if len(values) != card.input.channels:
        raise CardError(
            f"card `{card.name}`: `input.{where}` has {len(values)} values for "
            f"{card.input.channels} channels; give one per channel"
        )
    return np.asarray(values, dtype=np.float32)

"""Dates that a median needs all at once and memory does not hold: kept in a file.

Each date is read once, whatever the number of dates; what is kept lies in the folder
for temporary files (``TMPDIR``), nameless, and is gone with the process.
"""

from __future__ import annotations

import tempfile
from contextlib import AbstractContextManager
from types import TracebackType
from typing import IO

import numpy as np

from geoscale.errors import StoppedError
from geoscale.types import Array, Bool


class Spilled(AbstractContextManager["Spilled"]):
    """Values of dates of one window, written date by date and read row by row.

    Parameters
    ----------
    shape : tuple of int, (band, y, x)
        Of a date.
    dtype : dtype
        Of its values.
    """

    def __init__(self, shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
        self._shape, self._dtype = shape, np.dtype(dtype)
        self._count = 0
        self._file: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115  closed on exit
            prefix="geoscale-dates-"
        )

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Let go of the file."""
        self._file.close()

    @property
    def _date_bytes(self) -> int:
        bands, *size = self._shape
        return int(np.prod(size)) * (bands * self._dtype.itemsize + 1)

    def add(self, values: Array, clear: Bool) -> None:
        """Keep a date.

        Parameters
        ----------
        values : ndarray, (band, y, x)
            Of the dtype.
        clear : ndarray of bool, (y, x)
            Where the ground is seen.

        Raises
        ------
        StoppedError
            If there is no room.
        """
        try:
            for array in (values, clear):
                self._file.write(np.ascontiguousarray(array).data)
            self._file.flush()
        except OSError as err:
            need = self._date_bytes / 1e6
            raise StoppedError(
                f"the dates of a median, {need:,.0f} MB each, cannot be kept in "
                f"{tempfile.gettempdir()} ({err.strerror}, at date {self._count + 1} "
                "of a block); set TMPDIR to a local disk with more room, make blocks "
                "smaller (inference.block_px), or choose composite: mean"
            ) from err
        self._count += 1

    def rows(self, rows: slice) -> tuple[Array, Bool]:
        """Give some rows of all dates.

        Parameters
        ----------
        rows : slice
            With start and stop.

        Returns
        -------
        values : ndarray, (date, band, y, x)
            As they were added.
        clear : ndarray of bool, (date, y, x)
            Where the ground is seen.
        """
        bands, height, width = self._shape
        many = rows.stop - rows.start
        values = np.empty((self._count, bands, many, width), self._dtype)
        clear = np.empty((self._count, many, width), bool)
        row = width * self._dtype.itemsize
        for date in range(self._count):
            start = date * self._date_bytes
            for band in range(bands):
                self._read(
                    start + (band * height + rows.start) * row, values[date, band]
                )
            start += bands * height * row
            self._read(start + rows.start * width, clear[date])
        return values, clear

    def _read(self, at: int, into: Array) -> None:
        self._file.seek(at)
        got = self._file.readinto(into.reshape(-1).view(np.uint8).data)  # type: ignore[attr-defined]
        if got != into.nbytes:
            raise OSError(
                f"{got} of {into.nbytes} bytes came back from a temporary file"
            )

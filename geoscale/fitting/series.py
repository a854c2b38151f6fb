"""Labelled series of pixels in a table: a year of bands beside each label, no imagery.

Such tables are what extraction services give: one row a pixel, one column a band and
date. A head that is fitted to one makes maps of stacks with as many dates.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from geoscale.errors import JobError, SourceError
from geoscale.fitting.asked import Asked
from geoscale.fitting.inputs import BANDS, INDICES, open_input
from geoscale.fitting.judging import Labelled, judge_and_fit
from geoscale.fitting.result import Fitted
from geoscale.fitting.samples import shuffle, take_first
from geoscale.fitting.writing import write_head
from geoscale.models.extract import Extractor
from geoscale.types import Array, Bool, Float, Floats, Json
from geoscale.words import redact, suggest

DEGREES = "EPSG:4326"
EQUAL_AREA = "EPSG:6933"
"""Where blocks of ground are cut: the whole Earth in m."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """Which columns of a table are what."""

    path: str | Path
    """Parquet or CSV."""
    columns: str
    """Names of the columns of pixels: ``B{band}_{date}``; ``*`` is anything."""
    bands: tuple[str, ...] = ()
    """What stands for ``{band}``, in the order of the network; default all, by name."""
    attribute: str = "label"
    """Column of labels."""
    places: tuple[str, str] = ("lon", "lat")
    """Columns of longitude and latitude, in degrees."""
    scale: float = 1.0
    """Reflectance of a stored step."""
    nodata: float | None = None
    """Value that is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """What a table holds."""

    values: Float
    """(pixel, date, band), scaled; NaN where there is none."""
    labels: Array
    """(pixel,) of text."""
    middles: Floats
    """(pixel, 2): x and y, in m."""
    bands: tuple[str, ...]
    """Their names."""


def read_series(table: Table) -> Series:
    """Read a table of series.

    Parameters
    ----------
    table : Table
        Where it is, and which columns are what.

    Returns
    -------
    Series
        Rows with a label and a place, in their order.

    Raises
    ------
    SourceError
        If the file cannot be read, or lacks columns.
    """
    import pandas as pd
    from pyproj import Transformer

    where, path = redact(str(table.path)), str(table.path)
    try:
        read = pd.read_csv if path.lower().endswith(".csv") else pd.read_parquet
        data: Any = read(path)
    except (OSError, ValueError) as err:
        raise SourceError(f"{where} is no table of Parquet or CSV: {err}") from err
    for name in (table.attribute, *table.places):
        if name not in data.columns:
            raise SourceError(
                f"{where} has no column `{name}`{suggest(name, list(data.columns))}; "
                "say attribute, the column of labels, and places, those of longitude "
                "and latitude"
            )
    bands, names = find_columns(table, list(data.columns), where)
    data = data.dropna(subset=[table.attribute, *table.places])
    values = np.stack([data[n].to_numpy(np.float32) for row in names for n in row], 1)
    values = values.reshape(len(data), len(names), len(bands))
    if table.nodata is not None:
        values[values == np.float32(table.nodata)] = np.nan
    move = Transformer.from_crs(DEGREES, EQUAL_AREA, always_xy=True)
    middles = move.transform(*(data[n].to_numpy(np.float64) for n in table.places))
    return Series(
        values=values * np.float32(table.scale),
        labels=data[table.attribute].astype(str).to_numpy(),
        middles=np.stack(middles, 1),
        bands=bands,
    )


def find_columns(
    table: Table, columns: Sequence[str], where: str
) -> tuple[tuple[str, ...], list[list[str]]]:
    """Find the columns of each date and band.

    Parameters
    ----------
    table : Table
        Its `columns` and `bands`.
    columns : sequence of str
        Those of the file.
    where : str
        The file, for messages.

    Returns
    -------
    bands : tuple of str
        In the order of the network.
    names : list of list of str
        By date, earliest first, and band.

    Raises
    ------
    JobError
        If `columns` says neither band nor date.
    SourceError
        If a date lacks a band.

    Examples
    --------
    >>> table = Table(path="x.csv", columns="{band}-ts{date}-*")
    >>> find_columns(table, ["B4-ts0-10m", "B4-ts10-10m", "B4-ts9-10m", "id"], "x.csv")
    (('B4',), [['B4-ts0-10m'], ['B4-ts9-10m'], ['B4-ts10-10m']])
    """
    if not all(table.columns.count(word) == 1 for word in ("{band}", "{date}")):
        raise JobError(
            f"columns `{table.columns}`: write how columns are called, with {{band}} "
            "and {date} once each, such as {band}_{date}, and * for anything"
        )
    text = re.escape(table.columns).replace(r"\*", ".*")
    text = text.replace(r"\{date\}", r"(?P<date>\d+)")
    known = "|".join(map(re.escape, table.bands)) or r"\w+?"
    pattern = re.compile(text.replace(r"\{band\}", f"(?P<band>{known})"))
    found: dict[tuple[int, str], str] = {}
    for name in columns:
        match = pattern.fullmatch(name)
        if match:
            found[int(match["date"]), match["band"]] = name
    if not found:
        raise SourceError(
            f"{where} has no column like `{table.columns}`"
            f"{' of ' + ', '.join(table.bands) if table.bands else ''}; it has "
            f"{', '.join(columns[:6])}…"
        )
    dates = sorted({date for date, _ in found})
    bands = table.bands or tuple(sorted({band for _, band in found}))
    lost = [f"{b} of date {d}" for d in dates for b in bands if (d, b) not in found]
    if lost:
        raise SourceError(
            f"{where} lacks {lost[0]} (and {len(lost) - 1} more): every date needs all "
            "bands; name the bands that it has at all dates"
        )
    return bands, [[found[date, band] for band in bands] for date in dates]


def fill_gaps(data: Any) -> Any:
    """Fill what is missing in time: a straight line between the dates beside it.

    Before the first date and after the last, the nearest one stands. Steps are taken
    as equally long, as those of monthly series are.

    Parameters
    ----------
    data : ndarray of float32, (date, …), or xarray.DataArray with a dim ``time``
        NaN is missing. An array of dask stays lazy.

    Returns
    -------
    ndarray or xarray.DataArray
        NaN only where there is no date at all.

    Examples
    --------
    >>> fill_gaps(np.array([np.nan, 1, np.nan, 3, np.nan], np.float32)).tolist()
    [1.0, 1.0, 2.0, 3.0, 3.0]
    """
    if hasattr(data, "dims"):
        import xarray as xr

        whole = data.chunk(time=-1) if data.chunks is not None else data
        made = xr.apply_ufunc(
            lambda x: np.moveaxis(fill_gaps(np.moveaxis(x, -1, 0)), 0, -1),
            whole, input_core_dims=[["time"]], output_core_dims=[["time"]],
            dask="parallelized", output_dtypes=[np.float32], keep_attrs=True,
        )  # fmt: skip
        return made.transpose(*data.dims)
    dates, ok = len(data), np.isfinite(data)
    step = np.arange(dates).reshape(-1, *[1] * (data.ndim - 1))
    before = np.maximum.accumulate(np.where(ok, step, -1), 0)
    after = np.minimum.accumulate(np.where(ok, step, dates)[::-1], 0)[::-1]
    low = np.take_along_axis(data, np.maximum(before, 0), 0)
    high = np.take_along_axis(data, np.minimum(after, dates - 1), 0)
    share = (step - before) / np.maximum(after - before, 1)
    filled = np.where(share > 0, low + (high - low) * share.astype(np.float32), low)
    filled = np.where(before < 0, high, np.where(after == dates, low, filled))
    return filled.astype(np.float32)


def fit_series(
    table: Table,
    to: str | Path,
    *,
    model: str = BANDS,
    sensor: str | None = None,
    asked: Asked | None = None,
) -> Fitted:
    """Fit a head to labelled series in a table; it makes maps of as many dates.

    Parameters
    ----------
    table : Table
        Where series and labels are.
    to : str or path
        Local folder for the head.
    model : {"features:bands", "features:indices"}
        What the head sees of every date; `Asked.with_bands` gives both.
    sensor : str, optional
        Whose names the bands are.
    asked : Asked, optional
        As `fit` takes it, by name.

    Returns
    -------
    Fitted
        As `fit` gives.

    Raises
    ------
    JobError
        If an option is wrong, or there are too few classes, labels or blocks.
    SourceError
        If the table cannot be read.
    """
    asked = asked or Asked()
    if model not in (BANDS, INDICES):
        raise JobError(
            f"model `{model}`: a table holds no image that a network could see; choose "
            f"{BANDS} or {INDICES}"
        )
    if asked.reach:
        raise JobError(
            "a conv head sees the pixels around a pixel, which a table does not hold; "
            "take logistic, ridge or forest"
        )
    series = read_series(table)
    values = fill_gaps(series.values.transpose(1, 0, 2)).transpose(1, 0, 2)
    ok = np.isfinite(values).all((1, 2)) & ~np.isin(series.labels, asked.ignore)
    _check_ignored(asked.ignore, series.labels)
    labels, codes = np.unique(series.labels, return_inverse=True)
    rows = _draw(codes.reshape(-1), ok, asked)
    dates = values.shape[1]
    card = open_input(model, series.bands, sensor=sensor, frames=dates)
    flat = np.ascontiguousarray(values[rows].reshape(len(rows), -1))
    look = Extractor(card, None, with_bands=asked.with_bands)
    given = Labelled(
        features=look(flat[:, :, None, None])[:, :, 0, 0],
        bands=flat,
        codes=codes.reshape(-1)[rows],
        shapes=rows,
        middles=series.middles,
        labels=tuple(str(one) for one in labels),
    )
    facts = _describe(table, series, card.name, rows)
    judged = judge_and_fit(given, card, asked)
    return write_head(
        Path(to), card, judged, look.tensors(), facts, with_bands=asked.with_bands
    )


def _check_ignored(ignore: Iterable[str], labels: Array) -> None:
    known = sorted({str(one) for one in labels})
    for label in ignore:
        if label not in known:
            raise JobError(
                f"ignore `{label}`: no label is called so{suggest(label, known)}; "
                f"labels are {', '.join(known)}"
            )


def _draw(codes: Array, ok: Array, asked: Asked) -> Array:
    """Rows that are taken, in their order."""
    if not ok.any():
        raise SourceError(
            "no series has a value of every band at any date; check nodata and bands"
        )
    rows = np.flatnonzero(ok)
    rank = shuffle(rows, asked.seed)
    return rows[np.sort(take_first(codes[rows], rank, asked.per_class))]


def _describe(table: Table, series: Series, name: str, rows: Array) -> Json:
    gaps: Bool = np.isnan(series.values[rows])
    never: Bool = np.asarray(np.isnan(series.values).all(axis=1))
    empty = int(np.count_nonzero(never.any(axis=1)))
    notes = []
    if gaps.any():
        notes.append(
            f"{gaps.mean():.1%} of the values were missing; they were filled in time, "
            "and a stack for the map needs the same (fill_gaps)."
        )
    if empty:
        notes.append(f"{empty:,} series lack a band at all dates; they were left out.")
    return {
        "model": name,
        "weights_sha256": None,
        "labels": redact(str(table.path)),
        "imagery_date": f"{series.values.shape[1]} dates of a table",
        "column": table.attribute,
        "labels_crs": DEGREES,
        "shapes": len(series.labels),
        "pixels": len(rows),
        "invalid_pixels": empty,
        "notes": notes,
    }

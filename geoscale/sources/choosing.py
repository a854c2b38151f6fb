"""Choosing: which asset of an item is the band that was asked for."""

from __future__ import annotations

from collections.abc import Sequence

from geoscale.bands import common_name, match_bands
from geoscale.errors import CardError, SourceError
from geoscale.sources.items import Item
from geoscale.words import shorten

Row = tuple[str, ...]
LISTED = 3
"""Ids that are named for each band that is lacking."""


class Chooser:
    """Finds the assets of items one by one.

    Parameters
    ----------
    bands : sequence of str
        Wanted bands.
    sensor : str, optional
        Sensor whose band names `bands` uses.

    Raises
    ------
    SourceError
        If no band is wanted.
    """

    def __init__(self, bands: Sequence[str], sensor: str | None = None) -> None:
        if not bands:
            raise SourceError("no band is asked for; set imagery.bands")
        self._bands, self._sensor = tuple(bands), sensor
        self._known: dict[object, Row | CardError] = {}
        self._lacking: dict[str, tuple[int, list[str]]] = {}
        self._hint = ""
        self._refused = 0

    def choose(self, item: Item) -> Row | None:
        """Give the keys of an item's assets, in the order of the bands.

        Parameters
        ----------
        item : Item
            One of many.

        Returns
        -------
        tuple of str or None
            None where it lacks a band; `check` says so at the end.
        """
        if self._is_unnamed(item):
            raise SourceError(
                f"{item.id}: the file names none of its {len(item.assets)} bands, and "
                f"{', '.join(map(shorten, self._bands[:4]))} of {self._sensor} are "
                "asked for; say in file order what they are, `imagery.band_names: "
                "[…]`, or `imagery.sensor` if it holds all bands of the sensor"
            )
        if self._by_key(item) and all(band in item.assets for band in self._bands):
            return self._bands
        # items of one collection are alike: most are looked up
        what = tuple(
            (key, a.name, a.common_name, a.spectral) for key, a in item.assets.items()
        )
        known = (item.sensor, item.is_numbered, what)
        if known not in self._known:
            self._known[known] = self._find(item)
        found = self._known[known]
        if isinstance(found, CardError):
            self._note(item)
            return None
        return found

    def check(self, count: int) -> None:
        """Refuse items that lack bands.

        Parameters
        ----------
        count : int
            Items that lack none.

        Raises
        ------
        SourceError
            With a table of them.
        """
        if not self._lacking:
            return
        total = count + self._refused
        lines = [
            f"  {number} of {total} items lack `{shorten(band)}`: {', '.join(ids)}"
            + (", …" if number > LISTED else "")
            for band, (number, ids) in self._lacking.items()
        ]
        raise SourceError(
            "\n".join(
                ["items lack bands:", *lines, f"  ({self._hint})",
                 "drop these items, or ask for other bands (imagery.bands)"]
            )
        )  # fmt: skip

    def _find(self, item: Item) -> Row | CardError:
        row = []
        for band in self._bands:
            try:
                row.append(self._find_key(item, band))
            except CardError as err:
                return err
        return tuple(row)

    def _by_key(self, item: Item) -> bool:
        """Whether a key is a name: ``B4`` of a file that names none is its fourth."""
        return self._sensor is None or not item.is_numbered

    def _is_unnamed(self, item: Item) -> bool:
        """Whether nobody can know which of its bands are meant: colours alone tell."""
        if self._by_key(item):
            return False
        told = {asset.common_name for asset in item.assets.values()} - {None}
        wanted = {common_name(band, self._sensor) for band in self._bands}
        return not wanted <= told

    def _find_key(self, item: Item, band: str) -> str:
        if self._by_key(item) and band in item.assets:
            return band
        offered = item.offered()
        wanted, sensor = band, self._sensor
        if sensor is not None and (
            item.is_numbered or item.sensor not in (None, sensor)
        ):
            # B5 of one sensor is not B5 of another; their common name is shared
            wanted = common_name(band, sensor) or band
        numbers = match_bands([wanted], offered, sensor=sensor or item.sensor)
        return offered[numbers[0]].name

    def _note(self, item: Item) -> None:
        self._refused += 1
        for band in self._bands:
            try:
                self._find_key(item, band)
            except CardError as err:
                self._hint = self._hint or str(err)
                number, ids = self._lacking.get(band, (0, []))
                more = [item.id] if number < LISTED else []
                self._lacking[band] = (number + 1, ids + more)

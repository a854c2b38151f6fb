"""Names of bands: what a user says of the sensor, and files that name none."""

from __future__ import annotations

import dataclasses
import logging

from geoscale.bands import SENSORS, common_name
from geoscale.errors import SourceError
from geoscale.sources.items import Item
from geoscale.words import suggest

_LOG = logging.getLogger(__name__)


def with_sensor(item: Item, sensor: str) -> Item:
    """Say of which sensor an item's bands are.

    Parameters
    ----------
    item : Item
        Of a file.
    sensor : str
        Key of `geoscale.bands.SENSORS`.

    Returns
    -------
    Item
        With common names where they follow from the bands' names.

    Raises
    ------
    SourceError
        If there is no such sensor, or as of `name_numbered`.
    """
    if sensor not in SENSORS:
        raise SourceError(
            f"imagery.sensor `{sensor}` is not known{suggest(sensor, SENSORS)}; "
            f"known are {', '.join(SENSORS)}"
        )
    if item.is_numbered:
        item = name_numbered(item, sensor)
    assets = {
        key: dataclasses.replace(
            asset,
            common_name=asset.common_name or common_name(asset.name or key, sensor),
        )
        for key, asset in item.assets.items()
    }
    return dataclasses.replace(item, assets=assets, platform=item.platform or sensor)


def name_numbered(item: Item, sensor: str) -> Item:
    """Name the bands of a file that names none, where it holds all of a sensor.

    Parameters
    ----------
    item : Item
        Of one file, its bands in file order.
    sensor : str
        Key of `geoscale.bands.SENSORS`.

    Returns
    -------
    Item
        With the sensor's names.

    Raises
    ------
    SourceError
        As of `list_in_order`.
    """
    names = list_in_order(len(item.assets), sensor, item.id)
    named = {
        name: dataclasses.replace(asset, name=name)
        for name, asset in zip(names, item.assets.values(), strict=True)
    }
    return dataclasses.replace(item, assets=named, is_numbered=False)


def list_in_order(count: int, sensor: str, where: str) -> tuple[str, ...]:
    """List a sensor's bands in its order, for imagery that holds all and names none.

    Parameters
    ----------
    count : int
        Bands of the imagery.
    sensor : str
        Key of `geoscale.bands.SENSORS`.
    where : str
        Begins the message.

    Returns
    -------
    tuple of str
        Names; that they were taken is logged.

    Raises
    ------
    SourceError
        If it holds fewer or more: which they are, nobody can know.
    """
    names = tuple(SENSORS[sensor])
    if count != len(names):
        raise SourceError(
            f"{where}: it names none of its {count} bands, and {sensor} has "
            f"{len(names)}; say in their order what they are, "
            f"`imagery.band_names: [{names[1]}, {names[2]}, …]`, or leave out the "
            "sensor and choose by number, `imagery.bands: [B1, …]`"
        )
    _LOG.warning(
        "%s names no band; its %d bands are taken for all of %s in order, %s to %s",
        where, count, sensor, names[0], names[-1],
    )  # fmt: skip
    return names

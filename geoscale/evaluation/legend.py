"""Classes of a map, and what the labels of a reference mean in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from geoscale.errors import JobError, SourceError
from geoscale.words import suggest

OTHERS = "*"
"""Stands for all classes that are not named."""
SHOWN = 20


@dataclass(frozen=True, slots=True)
class MapClass:
    """A class of the map, or several that count as one."""

    value: int
    """Value in the map; of several the least."""
    name: str
    """What it is called."""
    members: tuple[int, ...]
    """Values in the map that count as it."""


class Legend:
    """Classes by value and name.

    Parameters
    ----------
    classes : sequence of MapClass
        In the order of the confusion matrix.
    """

    def __init__(self, classes: Sequence[MapClass]) -> None:
        self.classes = tuple(classes)
        self._by_value = {v: i for i, c in enumerate(classes) for v in c.members}
        self._by_name = {_plain(c.name): i for i, c in enumerate(classes)}

    def __len__(self) -> int:
        return len(self.classes)

    def of_value(self, value: int) -> int | None:
        """Give the number of the class of a map's value; None where it has none."""
        return self._by_value.get(value)

    def find(self, label: str) -> int | None:
        """Give the number of the class with this value or name, or None."""
        by_name = self._by_name.get(_plain(label))
        # a merged class has the names of its parts no more, but their values
        return by_name if by_name is not None else self._by_value.get(_whole(label))

    def describe(self) -> str:
        """Say the classes in one line."""
        return ", ".join(
            str(c.value) if str(c.value) == c.name else f"{c.value} {c.name}"
            for c in self.classes
        )

    def merged(self, merge: Mapping[str, str]) -> Legend:
        """Give the legend in which some classes count as one.

        Parameters
        ----------
        merge : mapping of str
            Class, by value or name, → name; ``*`` stands for all others.

        Returns
        -------
        Legend
            Classes that are not named stay.

        Raises
        ------
        JobError
            If a class is not known.
        """
        if not merge:
            return self
        names = {i: c.name for i, c in enumerate(self.classes)}
        if OTHERS in merge:
            names = dict.fromkeys(names, merge[OTHERS])
        for label, name in merge.items():
            number = self.find(label)
            if label != OTHERS and number is None:
                raise JobError(
                    f"merge: the map has no class `{label}`"
                    f"{suggest(label, [c.name for c in self.classes])}; it has "
                    f"{self.describe()}"
                )
            if number is not None:
                names[number] = name
        groups: dict[str, list[int]] = {}
        for number, one in enumerate(self.classes):
            groups.setdefault(names[number], []).extend(one.members)
        return Legend(
            [MapClass(min(v), name, tuple(sorted(v))) for name, v in groups.items()]
        )


def translate(
    legend: Legend,
    found: Mapping[str, int],
    map_labels: Mapping[str, str],
    ignore: Iterable[str],
) -> dict[str, int | None]:
    """Tell what the labels of a reference mean.

    Parameters
    ----------
    legend : Legend
        Classes of the map.
    found : mapping of str to int
        Label → pixels that have it.
    map_labels : mapping of str
        Label → class, by value or name.
    ignore : iterable of str
        Labels that do not count.

    Returns
    -------
    dict
        Label → number of the class, None where it is ignored.

    Raises
    ------
    JobError
        If a label is mapped to a class that is not there.
    SourceError
        If the map knows no class for some labels; lists them.
    """
    for label, target in map_labels.items():
        if legend.find(target) is None:
            names = [c.name for c in legend.classes]
            raise JobError(
                f"map_labels {label}:{target}: the map has no class `{target}`"
                f"{suggest(target, names)}; it has {legend.describe()}"
            )
    ignored = set(ignore)
    meaning = {
        label: None if label in ignored else legend.find(map_labels.get(label, label))
        for label in found
    }
    unknown = {
        label: found[label]
        for label, number in meaning.items()
        if number is None and label not in ignored
    }
    if unknown:
        raise SourceError(_explain_unknown(unknown, legend))
    return meaning


def _explain_unknown(unknown: Mapping[str, int], legend: Legend) -> str:
    most = sorted(unknown.items(), key=lambda pair: -pair[1])
    listed = ", ".join(f"{label} ({n:,} px)" for label, n in most[:SHOWN])
    more = f" and {len(most) - SHOWN} more" if len(most) > SHOWN else ""
    first = most[0][0]
    return (
        f"the reference has labels that the map does not know: {listed}{more}; the "
        f"map has {legend.describe()}; say what they are (--map-labels {first}:CLASS), "
        f"or leave them out (--ignore {first})"
    )


def _plain(name: str) -> str:
    return "_".join(name.casefold().split())


def _whole(label: str) -> int:
    try:
        return int(label)
    except ValueError:
        return -(10**9)

"""What became what: the table, and how it is written down."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from geoscale.results.ground import format_area
from geoscale.results.layers import Flag
from geoscale.results.texts import write_texts
from geoscale.types import Json
from geoscale.words import redact

SHOWN = 12
"""Most transitions that are listed in a terminal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flow:
    """Pixels of one class that have one class later."""

    px: int
    """How many."""
    m2: float
    """Their area on the ellipsoid, in m²."""

    def __add__(self, other: Flow) -> Flow:
        return Flow(px=self.px + other.px, m2=self.m2 + other.m2)


NONE = Flow(px=0, m2=0.0)
Table = tuple[tuple[Flow, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Transitions:
    """How much of each class became which.

    Made by `geoscale.transitions`. Rows are classes of the earlier date, columns those
    of the later, both in the order of ``classes``.
    """

    output: str
    """The map."""
    before: str
    """Label of the earlier date; empty where the output does not say it."""
    after: str
    """Label of the later date."""
    classes: tuple[Flag, ...]
    """All that occur or are known."""
    changed: Table
    """Pixels that count as changed."""
    same: Table
    """Pixels that do not; off the diagonal those whose classes differ, but not surely
    enough for the map's layer ``change``."""

    @property
    def total(self) -> Flow:
        """All pixels that both dates have."""
        return _sum(self.changed) + _sum(self.same)

    @property
    def total_changed(self) -> Flow:
        """All pixels that count as changed."""
        return _sum(self.changed)

    @property
    def doubtful(self) -> Flow:
        """Pixels whose classes differ, and that do not count as changed."""
        found = NONE
        for i, row in enumerate(self.same):
            for j, flow in enumerate(row):
                found += flow if i != j else NONE
        return found

    def cell(self, row: int, column: int) -> Flow:
        """Give what figures show: changed pixels; on the diagonal unchanged ones."""
        here = self.changed[row][column]
        return here + self.same[row][column] if row == column else here

    def largest(self) -> Iterator[tuple[Flag, Flag, Flow]]:
        """Yield what changed, the largest first."""
        found = [
            (-flow.px, i, j)
            for i, row in enumerate(self.changed)
            for j, flow in enumerate(row)
            if flow.px
        ]
        for _, i, j in sorted(found):
            yield self.classes[i], self.classes[j], self.changed[i][j]

    def to_dict(self) -> Json:
        """Plain JSON-able form."""
        return {
            "output": redact(self.output),
            "before": self.before,
            "after": self.after,
            "classes": [{"value": c.value, "name": c.name} for c in self.classes],
            "changed_px": [[flow.px for flow in row] for row in self.changed],
            "changed_m2": [[flow.m2 for flow in row] for row in self.changed],
            "unchanged_px": [[flow.px for flow in row] for row in self.same],
            "unchanged_m2": [[flow.m2 for flow in row] for row in self.same],
            "total_px": self.total.px,
            "total_m2": self.total.m2,
            "total_changed_px": self.total_changed.px,
            "total_changed_m2": self.total_changed.m2,
        }

    def to_markdown(self) -> str:
        """Set as a page for people; figures by name, as `write` stores them."""
        lines = [
            f"# Transitions: {redact(self.output)}",
            "",
            f"{self._say_total()}.",
            "",
        ]
        used = self.used
        names = [self.classes[i].name for i in used]
        lines += [
            "Hectares; rows: before, columns: after; the diagonal did not change."
        ]
        lines += ["", "| | " + " | ".join(names) + " |"]
        lines += ["|---|" + "--:|" * len(used)]
        for i in used:
            cells = [f"{self.cell(i, j).m2 / 1e4:,.2f}" for j in used]
            lines.append(f"| **{self.classes[i].name}** | " + " | ".join(cells) + " |")
        lines += ["", "| from | to | pixels | area |", "|---|---|--:|--:|"]
        for old, new, flow in self.largest():
            area = format_area(flow.m2)
            lines.append(f"| {old.name} | {new.name} | {flow.px:,} | {area} |")
        if self.doubtful.px:
            lines += ["", self._say_doubtful()]
        lines += ["", "![transitions](transitions.svg)"]
        lines += ["", "![flows](flows.svg)"] if self.total_changed.px else []
        return "\n".join([*lines, ""])

    @property
    def used(self) -> list[int]:
        """Numbers of the classes that occur before or after."""
        size = range(len(self.classes))
        return [
            i
            for i in size
            if any(self.cell(i, j).px or self.cell(j, i).px for j in size)
        ]

    def __str__(self) -> str:
        lines = [self._say_total()]
        found = list(self.largest())
        wide = max((len(old.name) for old, *_ in found), default=0)
        other = max((len(new.name) for _, new, _ in found), default=0)
        for old, new, flow in found[:SHOWN]:
            area = format_area(flow.m2)
            lines.append(
                f"  {old.name:<{wide}} → {new.name:<{other}}  {flow.px:>12,} px  {area}"
            )
        if len(found) > SHOWN:
            lines.append(f"  … and {len(found) - SHOWN} more")
        if self.doubtful.px:
            lines.append(f"note: {self._say_doubtful()}")
        return "\n".join(lines)

    def write(self, to: str | Path) -> list[Path]:
        """Write JSON, Markdown and figures into a folder.

        Parameters
        ----------
        to : str or path
            Local folder; made if it is not there.

        Returns
        -------
        list of Path
            ``transitions.json``, ``transitions.md``, ``transitions.svg`` and, where
            anything changed, ``flows.svg``.

        Raises
        ------
        OutputError
            If `to` is a file.
        """
        from geoscale.results.figures import draw_flows, draw_heat_map

        texts = {
            "transitions.json": json.dumps(self.to_dict(), indent=1) + "\n",
            "transitions.md": self.to_markdown(),
            "transitions.svg": draw_heat_map(self),
        }
        if self.total_changed.px:
            texts["flows.svg"] = draw_flows(self)
        return write_texts(to, texts)

    def _say_total(self) -> str:
        share = self.total_changed.px / self.total.px if self.total.px else 0.0
        dates = " to ".join(date[:10] for date in (self.before, self.after) if date)
        changed, total = self.total_changed.m2, self.total.m2
        return (
            f"{dates}: {format_area(changed)} of {format_area(total)} changed "
            f"({share:.2%} of {self.total.px:,} px)"
        )

    def _say_doubtful(self) -> str:
        return (
            f"{self.doubtful.px:,} px ({format_area(self.doubtful.m2)}) have other "
            "classes, but not surely enough to count as changed."
        )


def _sum(table: Table) -> Flow:
    found = NONE
    for row in table:
        for flow in row:
            found += flow
    return found

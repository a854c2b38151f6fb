"""Half-open pixel rectangles; algebra on integers, nothing else."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Window:
    """Half-open rectangle ``[y0, y1) x [x0, x1)`` in pixels of one geobox.

    It may reach outside the stack (a patch at an edge does); `clip` brings
    it back.

    Examples
    --------
    >>> core = Window(0, 0, 8, 8)
    >>> core.grow(2).clip((10, 10))
    Window(y0=0, x0=0, y1=10, x1=10)
    >>> core & Window(4, 6, 20, 20)
    Window(y0=4, x0=6, y1=8, x1=8)
    """

    y0: int
    """First row."""
    x0: int
    """First column."""
    y1: int
    """One past the last row."""
    x1: int
    """One past the last column."""

    @property
    def height(self) -> int:
        """Rows; 0 where empty."""
        return max(0, self.y1 - self.y0)

    @property
    def width(self) -> int:
        """Columns; 0 where empty."""
        return max(0, self.x1 - self.x0)

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width."""
        return self.height, self.width

    @property
    def size(self) -> int:
        """Pixels inside."""
        return self.height * self.width

    @property
    def is_empty(self) -> bool:
        """Whether no pixel is inside."""
        return self.size == 0

    def __and__(self, other: Window) -> Window:
        """Intersect; the result is empty where they do not touch."""
        y0, x0 = max(self.y0, other.y0), max(self.x0, other.x0)
        y1, x1 = min(self.y1, other.y1), min(self.x1, other.x1)
        return Window(y0, x0, max(y0, y1), max(x0, x1))

    def __contains__(self, other: object) -> bool:
        """Tell whether another window lies wholly inside."""
        if not isinstance(other, Window):
            return False
        return (
            self.y0 <= other.y0
            and self.x0 <= other.x0
            and other.y1 <= self.y1
            and other.x1 <= self.x1
        )

    def grow(self, y: int, x: int | None = None) -> Window:
        """Add a ring of `y` rows and `x` columns on every side."""
        x = y if x is None else x
        return Window(self.y0 - y, self.x0 - x, self.y1 + y, self.x1 + x)

    def clip(self, shape: tuple[int, int]) -> Window:
        """Keep the part inside a stack of `shape` (y, x)."""
        return self & Window(0, 0, *shape)

    def shift(self, y: int, x: int) -> Window:
        """Move by whole pixels."""
        return Window(self.y0 + y, self.x0 + x, self.y1 + y, self.x1 + x)

    def within(self, outer: Window) -> tuple[slice, slice]:
        """Slices of this window in an array that holds `outer`."""
        return (
            slice(self.y0 - outer.y0, self.y1 - outer.y0),
            slice(self.x0 - outer.x0, self.x1 - outer.x0),
        )

    def as_tuple(self) -> tuple[int, int, int, int]:
        """``(y0, x0, y1, x1)`` as plain integers."""
        return self.y0, self.x0, self.y1, self.x1


def union(windows: list[Window]) -> Window:
    """Smallest window that holds all of them.

    Raises
    ------
    ValueError
        If there is none.
    """
    if not windows:
        raise ValueError("union of no window")
    return Window(
        min(w.y0 for w in windows),
        min(w.x0 for w in windows),
        max(w.y1 for w in windows),
        max(w.x1 for w in windows),
    )

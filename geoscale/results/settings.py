"""What is asked of polygons, checked before anything is read."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypedDict

from geoscale.errors import JobError
from geoscale.words import suggest

UNITS = {"m2": 1.0, "m²": 1.0, "ha": 1e4, "km2": 1e6, "km²": 1e6}
"""Unit of an area → m²."""
ENDS = {
    ".parquet": "Parquet",
    ".geojson": "GeoJSON",
    ".fgb": "FlatGeobuf",
    ".gpkg": "GPKG",
}
"""How names of files end → driver of GDAL; Parquet is written here."""
_AREA = re.compile(r"^\s*([0-9]+(?:\.[0-9]*)?(?:e-?[0-9]+)?)\s*([a-z0-9²]*)\s*$")


class PolygonOptions(TypedDict, total=False):
    """Options of `polygons`; see `Asked`."""

    layer: str | None
    classes: Iterable[str | int] | None
    time: str | None
    min_area: str | float | None
    simplify: float
    right_angles: bool
    connectivity: int
    split: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """All that decides which polygons there are.

    Raises `JobError` if a value is wrong.
    """

    output: str
    """URL of a finished output."""
    layer: str | None = None
    """Layer of classes; default ``change``, else ``classes``."""
    classes: tuple[str, ...] | None = None
    """Names or values of classes; default 1 of ``change``, else all."""
    time: str | None = None
    """Beginning of the time label of one time step; default all."""
    min_area: tuple[float, bool] = (0.0, False)
    """Smaller polygons are left out: a number, and whether it counts pixels, not m²."""
    simplify: float = 0.0
    """How far an outline may move, in px of the map; 0: exactly the pixels' edges."""
    right_angles: bool = False
    """Whether outlines get right angles, as buildings have them; `simplify` then says
    how far they move about, default 1.5 px."""
    connectivity: int = 4
    """4: pixels of one polygon share edges; 8: corners do."""
    split: bool = False
    """Whether each pair of from and to class has polygons of its own."""

    def __post_init__(self) -> None:
        if self.connectivity not in (4, 8):
            raise JobError(f"connectivity {self.connectivity}: choose 4 or 8")
        if not 0 <= self.simplify < 1e6:
            raise JobError(f"simplify {self.simplify:g} px: must be 0 or more")


def make_asked(output: str, options: PolygonOptions) -> Asked:
    """Take the options of `polygons`.

    Parameters
    ----------
    output : str
        As in `Asked`.
    options : dict
        The rest.

    Returns
    -------
    Asked
        Checked.

    Raises
    ------
    JobError
        If an option is not known or wrong.
    """
    known = PolygonOptions.__annotations__
    for name in options:
        if name not in known:
            raise JobError(
                f"option `{name}` of polygons is not known{suggest(name, known)}; "
                f"known are {', '.join(known)}"
            )
    classes = options.get("classes")
    if isinstance(classes, str | int):
        classes = (classes,)
    return Asked(
        output=output,
        layer=options.get("layer"),
        classes=None if classes is None else tuple(str(one) for one in classes),
        time=options.get("time"),
        min_area=parse_area(options.get("min_area")),
        simplify=float(options.get("simplify", 0.0)),
        right_angles=options.get("right_angles", False),
        connectivity=options.get("connectivity", 4),
        split=options.get("split", False),
    )


def parse_area(asked: str | float | None) -> tuple[float, bool]:
    """Read a smallest area.

    Parameters
    ----------
    asked : str or float, optional
        Such as ``0.5ha``, ``500 m2``, ``10px``; numbers are m².

    Returns
    -------
    tuple of float and bool
        The number, and whether it counts pixels; else it is m².

    Raises
    ------
    JobError
        If it is no area.

    Examples
    --------
    >>> parse_area("0.5 ha"), parse_area("10px")
    ((5000.0, False), (10.0, True))
    """
    found = _AREA.match("0" if asked is None else str(asked).lower())
    unit = found.group(2) if found else ""
    if found is None or unit not in ("", "px", *UNITS):
        raise JobError(
            f"min_area `{asked}` is no area; write a number and m2, ha, km2 or px, "
            "such as 0.5ha"
        )
    number = float(found.group(1))
    return (number, True) if unit == "px" else (number * UNITS.get(unit, 1.0), False)


def choose_driver(name: str) -> str:
    """Tell by a file's name how it is written.

    Parameters
    ----------
    name : str
        Path or URL.

    Returns
    -------
    str
        A value of `ENDS`.

    Raises
    ------
    JobError
        If its end is not known.
    """
    for end, driver in ENDS.items():
        if name.lower().endswith(end):
            return driver
    raise JobError(f"{name}: polygons go to {', '.join(ENDS)}; choose one of these")

"""What is compared with what, and how labels are understood."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypedDict

from geoscale.errors import JobError
from geoscale.words import suggest

Label = int | str


class EvaluateOptions(TypedDict, total=False):
    """Options of `evaluate`; see `Comparison`."""

    layer: str | None
    scores: str | None
    time: str | None
    attribute: str | None
    band: str | None
    nodata: float | Literal["none"] | None
    resampling: str
    map_labels: Mapping[Label, Label] | None
    ignore: Iterable[Label]
    merge: Mapping[Label, Label] | None
    sample: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """All that decides the figures of an evaluation.

    Raises `JobError` if a value is wrong.
    """

    output: str
    """URL of a finished output, or path of a raster of classes."""
    reference: str
    """Path of a raster of labels (globs too), or of a vector file."""
    layer: str | None = None
    """Layer of classes; default the output's first."""
    scores: str | None = None
    """Layer of scores or of a probability; default what the output has."""
    time: str | None = None
    """Beginning of the time label of one time step."""
    attribute: str | None = None
    """Column of a vector file that holds the labels."""
    band: str | None = None
    """Band of a raster, or layer of a vector file, that holds the labels."""
    nodata: float | Literal["none"] | None = None
    """Value of a reference raster that is no label; default what it says."""
    resampling: str = "nearest"
    """``nearest``: the label at the pixel's centre; ``mode``: the most frequent."""
    map_labels: Mapping[str, str] = field(default_factory=dict)
    """Label of the reference → class of the map, by name or value."""
    ignore: tuple[str, ...] = ()
    """Labels of the reference that do not count."""
    merge: Mapping[str, str] = field(default_factory=dict)
    """Class of the map → name of the class that it counts as; ``*``: all others."""
    sample: bool = False
    """Whether the reference is a probability sample: chosen at random, alone or
    within the classes of the map."""

    def __post_init__(self) -> None:
        if self.resampling not in ("nearest", "mode"):
            raise JobError(
                f"resampling `{self.resampling}` would make labels that nobody gave"
                f"{suggest(self.resampling, ('nearest', 'mode'))}; choose nearest or "
                "mode"
            )
        twice = sorted(set(self.ignore) & set(self.map_labels))
        if twice:
            raise JobError(
                f"label {', '.join(twice)} is both mapped and ignored; leave one out"
            )


def make_comparison(
    output: str, reference: str, options: EvaluateOptions
) -> Comparison:
    """Take the options of `evaluate`, labels as text.

    Parameters
    ----------
    output, reference : str
        As in `Comparison`.
    options : dict
        The rest.

    Returns
    -------
    Comparison
        Checked.

    Raises
    ------
    JobError
        If an option is not known or wrong.
    """
    known = EvaluateOptions.__annotations__
    for name in options:
        if name not in known:
            raise JobError(
                f"option `{name}` of evaluate is not known{suggest(name, known)}; "
                f"known are {', '.join(known)}"
            )
    plain = dict(options)
    return Comparison(
        output=output,
        reference=reference,
        map_labels=_texts(options.get("map_labels")),
        merge=_texts(options.get("merge")),
        ignore=tuple(str(label) for label in options.get("ignore") or ()),
        **{
            k: v for k, v in plain.items() if k not in ("map_labels", "merge", "ignore")
        },  # type: ignore[arg-type]
    )


def _texts(labels: Mapping[Label, Label] | None) -> dict[str, str]:
    return {str(old): str(new) for old, new in (labels or {}).items()}

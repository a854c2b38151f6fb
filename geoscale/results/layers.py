"""Layers of classes of a finished output: which there are, and what values mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from geoscale.card_output import PALETTE
from geoscale.engine.journal import Journal
from geoscale.errors import JobError, OutputError
from geoscale.sinks.layout import load_template
from geoscale.template import OutputTemplate, is_categorical
from geoscale.types import Array, Bool, Layer
from geoscale.words import redact, suggest

FROM, TO = "from_class", "to_class"
"""Layers that say what a changed pixel was, and what it became."""
CHANGED = 1
"""Value of ``change`` where something changed."""
BLOCK_PX = 2048
"""Height and width of what is worked on at once, in px, whatever the block."""
FIRST = ("change", "classes")
"""Layers that are meant where none is named, the best first."""
HALF_STEP = 2.0**-24
"""Smallest difference of two float16 in [0, 1]."""
SURE = ("probability", "confidence")
"""Layers that say how sure a class is."""


@dataclass(frozen=True, slots=True)
class Flag:
    """A value of a layer of classes."""

    value: int
    """As stored."""
    name: str
    """What it is called."""
    color: str
    """RRGGBB."""


def load_finished(url: str) -> OutputTemplate:
    """Load the template of an output that is complete.

    Parameters
    ----------
    url : str
        The output.

    Returns
    -------
    OutputTemplate
        Its template.

    Raises
    ------
    OutputError
        If it is not there or not finished.
    """
    template = load_template(url)
    if Journal(url).final() is None:
        raise OutputError(
            f"{redact(url)} is not complete: run its job to the end first"
        )
    return template


def choose_layer(template: OutputTemplate, name: str | None) -> Layer:
    """Choose a layer of classes.

    Parameters
    ----------
    template : OutputTemplate
        Of the output.
    name : str, optional
        Of the layer; default ``change``, else ``classes``, else the first that is one.

    Returns
    -------
    Layer
        The layer.

    Raises
    ------
    JobError
        If there is none of this name.
    """
    fit = {one.name: one for one in template.layers if is_categorical(one)}
    if name is None and fit:
        return next((fit[one] for one in FIRST if one in fit), next(iter(fit.values())))
    if name is None or name not in fit:
        word = "none" if name is None else f"no `{name}`{suggest(name, fit)}"
        raise JobError(
            f"the output has {word} among its layers of classes; it has "
            f"{', '.join(fit) or 'no such layer'}"
        )
    return fit[name]


def choose_time(times: tuple[str, ...], asked: str | None) -> tuple[int, str]:
    """Choose one time step.

    Parameters
    ----------
    times : tuple of str
        Labels of all.
    asked : str, optional
        How the label begins; needed where there are several.

    Returns
    -------
    tuple of int and str
        Number and label.

    Raises
    ------
    JobError
        If none or several are meant.
    """
    fit = [i for i, label in enumerate(times) if label.startswith(asked or "")]
    if len(fit) != 1:
        shown = ", ".join(times[:10]) + (" …" if len(times) > 10 else "")
        word = "several time steps" if fit else f"no time step `{asked}`"
        raise JobError(f"the map has {word}; name one (--time): {shown}")
    return fit[0], times[fit[0]]


def list_flags(template: OutputTemplate, layer: Layer) -> tuple[Flag, ...]:
    """List the values of a layer of classes.

    Parameters
    ----------
    template : OutputTemplate
        Of the output.
    layer : Layer
        A layer of classes; what it says itself wins.

    Returns
    -------
    tuple of Flag
        In the order of the layer.
    """
    attrs = template.layer_attrs(layer)
    values = [int(v) for v in attrs.get("flag_values", ())]
    words = str(attrs.get("flag_meanings", "")).split()
    colors = str(attrs.get("flag_colors", "")).replace("#", "").split()
    titles = {c.value: c.name for c in template.classes}
    flags = []
    for i, value in enumerate(values):
        name = words[i] if i < len(words) else str(value)
        title = titles.get(value)
        # attributes know no spaces, classes do
        if title is not None and "_".join(title.split()) == name:
            name = title
        color = colors[i] if i < len(colors) else PALETTE[i % len(PALETTE)]
        flags.append(Flag(value, name, color))
    return tuple(flags)


def trace_px(template: OutputTemplate) -> int:
    """Tell how high and wide the blocks are in which an output is best read.

    Parameters
    ----------
    template : OutputTemplate
        Of the output.

    Returns
    -------
    int
        A shard, or some of its chunks if it is large, in px.
    """
    chunk = template.chunk_px
    return min(template.block_px, max(chunk, BLOCK_PX // chunk * chunk))


def list_dates(template: OutputTemplate) -> list[tuple[str | None, str]]:
    """List what each time step shows.

    Parameters
    ----------
    template : OutputTemplate
        Of the output.

    Returns
    -------
    list of tuple of str
        Label of the earlier date, None where nothing was compared, and of the step.
    """
    if template.compared:
        return [(one["from"], one["to"]) for one in template.compared]
    return [(None, label) for label in template.times]


def find_flags(flags: Iterable[Flag], names: Iterable[str | int]) -> list[int]:
    """Give the values of some classes.

    Parameters
    ----------
    flags : iterable of Flag
        Of a layer.
    names : iterable of str or int
        Names or values.

    Returns
    -------
    list of int
        Values, ascending.

    Raises
    ------
    JobError
        If a class is not known.
    """
    known = {_plain(one.name): one.value for one in flags}
    known |= {str(value): value for value in known.values()}
    found = set()
    for name in names:
        if _plain(str(name)) not in known:
            shown = ", ".join(f"{one.value} {one.name}" for one in flags)
            raise JobError(
                f"the layer has no class `{name}`{suggest(str(name), known)}; it has "
                f"{shown}"
            )
        found.add(known[_plain(str(name))])
    return sorted(found)


def find_sure(template: OutputTemplate) -> Layer | None:
    """Find the layer that says how sure a class is; None where there is none."""
    fit = {one.name: one for one in template.layers if not one.classes}
    return next((fit[name] for name in SURE if name in fit), None)


def as_steps(layer: Layer, stored: Array) -> tuple[Array, Bool]:
    """Give how sure pixels are as whole numbers, so that sums are exact.

    Parameters
    ----------
    layer : Layer
        From `find_sure`.
    stored : ndarray
        Its values as they are stored: uint8 steps, or float16 in [0, 1].

    Returns
    -------
    tuple of ndarray
        Whole numbers, and whether there is one, both of the shape of `stored`.
    """
    if layer.dtype == "float16":
        known = np.isfinite(stored)
        # every float16 in [0, 1] is a whole number of these
        steps = np.where(known, stored, 0).astype(np.float64) / HALF_STEP
        return steps.astype(np.int64), known
    return stored, stored != int(layer.fill_value)


def step_size(layer: Layer) -> float:
    """Tell how much one step of `as_steps` is."""
    if layer.dtype == "float16":
        return HALF_STEP
    return float(dict(layer.attrs).get("scale_factor", 1.0))


def _plain(name: str) -> str:
    return "_".join(name.casefold().split())

"""What a card says of a forecast: spelt out, and checked."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoscale.card_output import ModelOutput


def spell_forecast(data: dict[str, Any]) -> dict[str, Any]:
    """Spell out what a card of task forecasting may leave out.

    Parameters
    ----------
    data : dict
        The card's fields; not changed.

    Returns
    -------
    dict
        With a time axis, with the input's bands as those of the output, and with
        numbers of bands repeated for every date.

    Examples
    --------
    >>> card = spell_forecast({"input": {"bands": ["red"], "frames": 2, "fill": [0.1]},
    ...                        "output": {"forecast": {"steps": 1, "every_days": 5}}})
    >>> card["output"]["bands"], card["input"]["fill"], card["input"]["pair"]
    ([{'name': 'red'}], [0.1, 0.1], 'time-axis')
    """
    spec, output = data.get("input"), data.get("output", {})
    if not isinstance(spec, dict) or not isinstance(spec.get("bands"), list | tuple):
        return data
    bands, frames = list(spec["bands"]), spec.get("frames")
    spec = {"pair": "time-axis", **spec}

    def repeat(values: Any) -> Any:
        """Repeat numbers of bands for every date; all else stays."""
        same = isinstance(values, list | tuple) and len(values) == len(bands)
        return [*values] * frames if same and isinstance(frames, int) else values

    if "fill" in spec:
        spec["fill"] = repeat(spec["fill"])
    norm = spec.get("normalization")
    if isinstance(norm, dict):
        several = {k: repeat(norm[k]) for k in ("mean", "std") if k in norm}
        spec["normalization"] = {**norm, **several}
    usual = {"bands": [_name_band(b, spec) for b in bands], "activation": "none"}
    return {**data, "input": spec, "output": {**usual, **output}}


def _name_band(band: Any, spec: dict[str, Any]) -> dict[str, Any]:
    """Name a band of the output; what the input was multiplied by is taken off."""
    factor = spec.get("multiply", 1)
    known = isinstance(factor, int | float) and factor not in (0, 1)
    return {"name": str(band)} | ({"multiply": 1 / factor} if known else {})


def check_forecast(frames: int, pair: str | None, output: ModelOutput) -> None:
    """Refuse a card of task forecasting that says too little, or too much.

    Raises
    ------
    ValueError
        Saying what is missing.
    """
    ahead = output.forecast
    if ahead is None:
        raise ValueError(
            "a card of task forecasting says what lies ahead: "
            "`output.forecast: {steps: 20, every_days: 5}`"
        )
    if pair == "two":
        raise ValueError(
            "`input.pair: two` is for cards of `task: change`; dates of a forecast "
            "come as `time-axis` or `channels`"
        )
    if ahead.least_dates > frames:
        raise ValueError(
            f"`output.forecast.least_dates` {ahead.least_dates} is more than the "
            f"{frames} dates of `input.frames`"
        )
    if output.reduction is not None:
        raise ValueError(
            "a forecast has the pixels of its input; leave `output.reduction` out"
        )

"""What a network gives, as its card says it: classes, numbers with units, features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from geoscale.detecting import Detection
from geoscale.heads import Head
from geoscale.schemas import spell_out

CHANGES = (
    {"value": 0, "name": "unchanged", "color": "D9D9D9"},
    {"value": 1, "name": "changed", "color": "D7301F"},
)
"""Classes of every binary change map."""

# Used where a card gives no colour; distinct in print and to most colour-blind
# eyes: Okabe & Ito 2008, https://jfly.uni-koeln.de/color/
PALETTE = tuple(
    "E69F00 56B4E9 009E73 F0E442 0072B2 D55E00 CC79A7 999999".split()  # noqa: SIM905
)
"""RRGGBB of classes without a colour of their own, by their place."""


class Part(BaseModel):
    """Part of a card: nothing that is not known, and never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def without(data: dict[str, Any], *unset: str) -> dict[str, Any]:
    """Leave out what came later and is not used: cards keep the hash they have.

    Examples
    --------
    >>> without({"classes": (), "bands": ()}, "bands")
    {'classes': ()}
    """
    return {k: v for k, v in data.items() if v or k not in unset}


class OutputClass(Part):
    """One class of a map."""

    value: Annotated[int, Field(ge=0, le=254)]
    """Value stored in the map (255 is nodata)."""
    name: str
    """Short name, no spaces."""
    title: str | None = None
    """For people."""
    color: Annotated[str, Field(pattern=r"^[0-9A-Fa-f]{6}$")] | None = None
    """RRGGBB."""


def class_colors(classes: Sequence[OutputClass]) -> tuple[str, ...]:
    """RRGGBB of every class, from the card or from `PALETTE`.

    Examples
    --------
    >>> class_colors([OutputClass(value=1, name="building")])
    ('E69F00',)
    """
    return tuple(
        (c.color or PALETTE[i % len(PALETTE)]).upper() for i, c in enumerate(classes)
    )


class OutputBand(Part):
    """One quantity of a regression."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]
    """Name of the layer."""
    title: str | None = None
    """For people."""
    units: str = "1"
    """As CF and UDUNITS write them: ``m``, ``t ha-1``, ``1`` for shares."""
    multiply: float = 1.0
    """The network's number is multiplied by this, ..."""
    add: float = 0.0
    """... and this is added: then it is in `units`."""


class Forecast(Part):
    """What lies ahead: steps of equal length, after dates that are as far apart."""

    steps: Annotated[int, Field(ge=1, le=1000)]
    """Future time steps that the network gives at once, (n, step, band, y, x)."""
    every_days: Annotated[float, Field(gt=0, le=366)]
    """Days from one time step to the next, of the dates that it sees as well."""
    least_dates: Annotated[int, Field(ge=1)] = 1
    """Dates on which a pixel must be clear to have a forecast; on the others the
    network sees `input.fill` there."""


class ModelOutput(Part):
    """What comes out."""

    classes: tuple[OutputClass, ...] = ()
    """In the order of the network's channels, or ``schema:NAME``; none: a backbone."""
    class_schema: str | None = None
    """Name of the schema that `classes` came from; for messages, not hashed."""
    activation: Literal["softmax", "sigmoid", "none"] = "softmax"
    """Turns what the file returns into scores; ``none`` if it already does. Numbers
    of a regression: default ``none``, or ``sigmoid`` for shares."""
    single: bool = False
    """Whether the network gives one channel, the second of two classes: the first
    has what is left to 1."""
    take: str | None = None
    """Which entry is the output, where the network returns a dict; default ``out``."""

    features: Annotated[int, Field(ge=1)] | None = None
    """Numbers that a backbone gives for each place; None for a map."""
    layer: str | None = None
    """Part of the network whose output the features are; None: they are its own."""
    enlarge: bool = False
    """Whether features are enlarged to a vector for every pixel."""
    reduction: Annotated[int, Field(ge=1)] | Literal["patch"] | None = None
    """Input pixels, along each side, for which the network gives one place; default:
    one. ``patch``: it gives one result for the whole patch, (n, k)."""
    bands: tuple[OutputBand, ...] = ()
    """Quantities of a regression, in the order of the network's channels."""
    forecast: Forecast | None = None
    """Which time steps lie ahead, each with all `bands`; None for any other task."""
    detection: Detection | None = None
    """What a detector gives; None for a map."""
    multilabel: bool = False
    """Whether a place may be of several classes at once, or of none."""
    thresholds: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Least score, by class, of a place that has the label; default 0.5 for all."""
    head: Head | None = None
    """What was fitted to labels, behind the network."""

    @property
    def width(self) -> int:
        """Length of the axis of scores: classes, quantities or features."""
        steps = 1 if self.forecast is None else self.forecast.steps
        return self.features or steps * len(self.bands) or len(self.classes)

    @property
    def channels(self) -> int:
        """Channels of the network's output."""
        return 1 if self.single else self.width

    def places(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Places, (y, x), for which the network gives scores of a patch of (y, x) px.

        Examples
        --------
        >>> ModelOutput(features=8, reduction=16).places((224, 32))
        (14, 2)
        """
        if self.reduction == "patch":
            return (1, 1)
        step = self.reduction or 1
        return tuple(-(-n // step) for n in shape)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        late = ("class_schema", "single", "take", "features", "reduction")
        more = (
            "detection",
            "bands",
            "multilabel",
            "thresholds",
            "head",
            "forecast",
            "layer",
        )
        return without(dump(self), *late, *more, "enlarge")

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, data: Any) -> Any:
        data = spell_out(data)
        if not isinstance(data, dict):
            return data
        if data.get("bands"):
            return {"activation": "none", **data}
        return {"activation": "sigmoid", **data} if data.get("multilabel") else data

    @model_validator(mode="after")
    def _check(self) -> ModelOutput:
        if self.features is not None and not self.classes:
            if self.enlarge and self.reduction is not None:
                raise ValueError("features that are enlarged have no `reduction`")
            return self
        if self.enlarge or self.layer is not None:
            raise ValueError("`layer` and `enlarge` are for `features` of a backbone")
        if self.bands:
            self._check_bands()
            return self
        if self.single and (len(self.classes) != 2 or self.activation == "softmax"):
            raise ValueError(
                f"single: a network of one channel tells two classes apart, by "
                f"activation sigmoid (or none), not {len(self.classes)} by "
                f"{self.activation}"
            )
        values = [c.value for c in self.classes]
        if len(set(values)) != len(values):
            raise ValueError(f"class values repeat: {values}")
        alone = self.multilabel or self.detection is not None
        if len(values) < 2 and not (values and alone):
            raise ValueError("a map needs two classes or more")
        self._check_labels()
        return self

    def _check_bands(self) -> None:
        names = [band.name for band in self.bands]
        if self.classes or len(set(names)) != len(names):
            raise ValueError(
                f"a regression has bands of different names and no classes; got "
                f"{names} and {len(self.classes)} classes"
            )
        if self.activation == "softmax":
            raise ValueError(
                "activation softmax makes shares of classes; of a regression say "
                "`none`, or `sigmoid` for shares in [0, 1]"
            )

    def _check_labels(self) -> None:
        if self.multilabel and self.activation == "softmax":
            raise ValueError(
                "multilabel: softmax lets one class win; say activation sigmoid (or "
                "none, where the file holds it)"
            )
        given = len(self.thresholds)
        if given and (not self.multilabel or given != len(self.classes)):
            raise ValueError(
                f"`thresholds` has {given} values for {len(self.classes)} classes; "
                "give one per class of a card with `multilabel: true`"
            )

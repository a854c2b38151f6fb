"""ModelCard: everything a model needs and gives, as data.

Field names and values follow the STAC Machine Learning Model extension
(https://github.com/stac-extensions/mlm) where it has a word for the thing;
what it lacks (halo, alignment, fixed patch) is added here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from geoscale.bands import check_sensor
from geoscale.card_output import CHANGES as CHANGES
from geoscale.card_output import ModelOutput, Part, without
from geoscale.card_output import OutputBand as OutputBand
from geoscale.card_output import OutputClass as OutputClass
from geoscale.detecting import check_task
from geoscale.errors import CardError
from geoscale.findings import explain_validation as explain_validation
from geoscale.horizons import check_forecast, spell_forecast
from geoscale.imports import is_trusted
from geoscale.plain import read_yaml
from geoscale.schemas import check_channels

TaskName = Literal[
    "segmentation",
    "change",
    "embedding",
    "regression",
    "classification",
    "detection",
    "forecasting",
]
"""What a job makes."""
CardTask = Literal[
    "segmentation",
    "change",
    "backbone",
    "regression",
    "classification",
    "detection",
    "forecasting",
]
"""What a network is for; ``backbone``: features, for task embedding or a head that is
yet to be fit."""
Pair = Literal["channels", "time-axis", "two"]
Units = Literal["raw", "reflectance"]
CODE_FORMATS = ("torchscript", "pt2")
"""Formats of weights that hold the network too."""


class Normalization(Part):
    """What is done to calibrated values before the network sees them."""

    type: Literal["none", "mean-std", "callable"] = "none"
    """``mean-std``: ``(x - mean) / std``; ``callable``: a Python function."""
    mean: tuple[float, ...] = ()
    """One per channel, in the units of the input."""
    std: tuple[float, ...] = ()
    """One per channel; never 0."""
    callable: str | None = None
    """``package.module:function`` or ``file.py:function`` beside the card; takes
    and returns float32 (channel, y, x)."""

    @model_validator(mode="after")
    def _check(self) -> Normalization:
        if self.type == "mean-std" and (
            not self.mean or len(self.mean) != len(self.std) or 0.0 in self.std
        ):
            raise ValueError(
                "mean-std needs `mean` and `std` of equal length, no std of 0; "
                f"got {len(self.mean)} and {len(self.std)} values"
            )
        if self.type == "callable" and not self.callable:
            raise ValueError("type callable needs `callable: module:function`")
        return self


class Patch(Part):
    """The pixels the network sees at once, and what it needs around them."""

    size: Annotated[int, Field(ge=1, le=8192)] = 256
    """Height and width, in px."""
    fixed: bool = False
    """Whether the network takes no other size."""
    multiple_of: Annotated[int, Field(ge=1)] = 1
    """Sizes must be multiples of this, in px."""
    alignment: Annotated[int, Field(ge=1)] = 1
    """Patches start on multiples of this, in px (phase of strided layers)."""
    halo: Annotated[int, Field(ge=0)] | None = None
    """Smallest ring, per side in px, at which a patch equals the whole image;
    None where the network looks at the whole patch (squeeze-excite, attention,
    instance norm) or where it was not measured."""

    @model_validator(mode="after")
    def _check(self) -> Patch:
        for name in ("multiple_of", "alignment"):
            step = getattr(self, name)
            if self.size % step:
                raise ValueError(f"size {self.size} px is no multiple of {name} {step}")
        if self.halo is not None and 2 * self.halo >= self.size:
            raise ValueError(f"halo {self.halo} px leaves nothing of {self.size} px")
        return self


class ModelInput(Part):
    """What goes in."""

    bands: Annotated[tuple[str, ...], Field(min_length=1)]
    """Bands of one date, in the network's order: common or sensor names."""
    sensor: Annotated[str, AfterValidator(check_sensor)] | None = None
    """Sensor whose band names `bands` uses, a key of `geoscale.bands.SENSORS`."""
    frames: Annotated[int, Field(ge=1)] = 1
    """Dates stacked as channels; channels = frames x bands."""
    frame_order: Literal["oldest-first", "newest-first"] = "oldest-first"
    """Which date's bands come first in the network's input."""
    pair: Pair | None = None
    """How a network of task change takes two dates, and one of task forecasting all of
    its own: ``channels``, (n, date x band, y, x); ``time-axis``, (n, date, band, y, x);
    ``two``, of task change, as two arguments (n, band, y, x)."""
    units: Units = "reflectance"
    """``reflectance``: surface or TOA in [0, 1]; ``raw``: values as stored."""
    multiply: float = 1.0
    """Calibrated values are multiplied by this before normalisation (10000
    turns reflectance into harmonised Sentinel-2 digital numbers)."""
    normalization: Normalization = Normalization()
    """Applied last."""
    fill: tuple[float, ...] | None = None
    """Per channel, after `multiply`, for invalid pixels; default: the mean where
    normalisation has one, else 0."""
    patch: Patch = Patch()
    """Size and context."""
    gsd_m: tuple[float, float] | None = None
    """Finest and coarsest ground sampling distance it was made for, in m."""

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.frames * len(self.bands)

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return without(dump(self), "pair")


class Weights(Part):
    """Where the numbers are."""

    href: str
    """Path (relative to the card), URL, or ``package:NAME/file`` in a package."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of the file; without it the plan records what it finds."""
    format: (
        Literal["safetensors", "state-dict", "onnx", "torchgeo", "torchscript", "pt2"]
        | None
    ) = None
    """Default: by the file's suffix. ``torchscript`` and ``pt2`` (torch.export) hold
    the network itself, which is code: they need trust."""


class ModelCard(Part):
    """Card of a pretrained model: data only, no torch.

    Examples
    --------
    >>> card = ModelCard.from_dict({
    ...     "name": "toy", "architecture": "torchgeo.models:FCN",
    ...     "weights": {"href": "toy.safetensors"},
    ...     "input": {"bands": ["red", "nir"]},
    ...     "output": {"classes": [{"value": 0, "name": "land"},
    ...                            {"value": 1, "name": "water"}]}})
    >>> card.input.channels, card.needs_trust
    (2, False)
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:+-]*$")]
    """Name by which it is asked for."""
    title: str | None = None
    """One line for people."""
    task: CardTask = "segmentation"
    """What its output means."""
    architecture: str | None = None
    """``package.module:Name`` or ``file.py:Name`` beside the card; None where the
    file holds the network itself (ONNX)."""
    architecture_args: dict[str, Any] = Field(default_factory=dict)
    """Keyword arguments of the architecture."""
    weights: Weights
    """Where the numbers are."""
    input: ModelInput
    """What goes in."""
    output: ModelOutput
    """What comes out."""
    license: str | None = None
    """SPDX id, ``proprietary``, or None where unknown."""
    citation: str | None = None
    """How to cite it."""
    notes: str | None = None
    """Anything a user must know: training data, agreement, limits."""
    base: str | None = None
    """Folder that relative paths start from; set on loading, not hashed."""

    @model_validator(mode="before")
    @classmethod
    def _usual_output(cls, data: Any) -> Any:
        output = data.get("output", {}) if isinstance(data, dict) else None
        if not isinstance(output, dict):
            return data
        if data.get("task") == "forecasting":
            return spell_forecast(data)
        known: dict[str, dict[str, Any]] = {
            "change": {"classes": CHANGES},
            # one result for the whole patch, unless the card says otherwise
            "classification": {"reduction": "patch"},
        }
        usual = known.get(str(data.get("task")), {})
        return {**data, "output": {**usual, **output}} if usual else data

    @model_validator(mode="after")
    def _check_change(self) -> ModelCard:
        spec, values = self.input, [c.value for c in self.output.classes]
        if self.task == "forecasting":
            check_forecast(spec.frames, spec.pair, self.output)
            return self
        if self.task != "change":
            if spec.pair is not None:
                raise ValueError("`input.pair` is for cards of `task: change`")
            return self
        if spec.frames != 2 or spec.pair is None:
            raise ValueError(
                f"a card of task change takes two dates: it needs `input.frames: 2` "
                "and `input.pair: channels`, `time-axis` or `two`, as its network "
                f"wants them; it has frames {spec.frames} and pair {spec.pair}"
            )
        if values != [0, 1]:
            raise ValueError(
                f"a card of task change has two classes, 0 unchanged and 1 changed, "
                f"not {values}; leave `output.classes` out, and say `output.single: "
                "true` where the network gives one channel"
            )
        return self

    @model_validator(mode="after")
    def _check_output(self) -> ModelCard:
        check_channels(self.output, self.architecture_args)
        check_task(self.task, self.output.features, self.output.detection)
        if (self.task != "forecasting") and self.output.forecast is not None:
            raise ValueError("`output.forecast` is for cards of `task: forecasting`")
        numbers = self.task in ("regression", "forecasting")
        if numbers != bool(self.output.bands):
            raise ValueError(
                "`output.bands` is for cards of `task: regression`, which need it; "
                f"this one has task {self.task} and {len(self.output.bands)} bands"
            )
        if self.output.multilabel and self.task != "classification":
            raise ValueError("`output.multilabel` is for cards of task classification")
        return self

    @property
    def needs_trust(self) -> bool:
        """Whether building or feeding it runs code outside known packages."""
        paths = (self.architecture, self.input.normalization.callable)
        return self.holds_code or any(
            path is not None and not is_trusted(path) for path in paths
        )

    @property
    def holds_code(self) -> bool:
        """Whether the file of the weights is a program (TorchScript, torch.export)."""
        suffix = self.weights.href.rpartition(".")[2].lower()
        return self.weights.format in CODE_FORMATS or (
            self.weights.format is None and suffix == "pt2"
        )

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names in channel order."""
        return tuple(c.name for c in self.output.classes)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-able form, defaults left out."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def hash(self) -> str:
        """sha256 of everything that can change a result; paths do not count."""
        data = self.model_dump(mode="json", exclude={"base", "notes", "citation"})
        data["output"].pop("class_schema", None)
        return hashlib.sha256(
            json.dumps(data, sort_keys=True, separators=(",", ":")).encode()
        ).hexdigest()

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, where: str = "card") -> ModelCard:
        """Check plain data and make a card of it.

        Parameters
        ----------
        data : mapping
            As YAML or JSON gives it.
        where : str
            Named in the error.

        Returns
        -------
        ModelCard
            The card.

        Raises
        ------
        CardError
            If a field is unknown, missing or of the wrong kind.
        """
        try:
            card = cls.model_validate(dict(data))
        except ValidationError as err:
            raise CardError(f"{where}: {explain_validation(err, cls)}") from None
        norm, fill = card.input.normalization, card.input.fill
        if fill is not None and len(fill) != card.input.channels:
            raise CardError(
                f"{where}: `input.fill` has {len(fill)} values for "
                f"{card.input.channels} channels; give one per channel"
            )
        if norm.type == "mean-std" and len(norm.mean) != card.input.channels:
            raise CardError(
                f"{where}: normalisation has {len(norm.mean)} means for "
                f"{card.input.channels} channels; give one per channel"
            )
        return card

    @classmethod
    def from_file(cls, path: str | Path) -> ModelCard:
        """Read a YAML or JSON card from a local file.

        Raises
        ------
        CardError
            If the file is missing, is not plain YAML, or is no card.
        """
        path = Path(path)
        data = read_yaml(path, "model card", CardError)
        if not isinstance(data, dict):
            raise CardError(
                f"model card {path} holds {type(data).__name__}, not fields"
            )
        card = cls.from_dict(data, where=str(path))
        return card.model_copy(update={"base": str(path.resolve().parent)})

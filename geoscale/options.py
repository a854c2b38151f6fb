"""What a user may choose about a run and its output, each with its default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from geoscale.blend import Taper
from geoscale.patches import Merge

Runtime = Literal["native", "auto", "torch", "compile", "openvino", "onnx"]
Method = Literal["network", "classes", "cva", "irmad", "features"]
Precision = Literal["float32", "bfloat16", "float16", "auto"]
Turns = Literal["none", "flips", "rotations", "all"]
RUNS = {"none": 1, "flips": 4, "rotations": 4, "all": 8}
"""How often a network sees each patch, by what `Inference.tta` says."""

SAY_MODEL = (
    "`model` is missing: name one, or find change without a model by `task: change` "
    "and `change.method: cva` or `irmad`"
)


class Inference(BaseModel):
    """How the model is run; every value is resolved once the plan is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    block: Annotated[int, Field(ge=1, le=65536)] | None = None
    """Height and width of a block, in px; default: whole strides, about an eighth of
    the stack, 1024 to 2048 where patches are cropped and 8 strides or more where
    they are blended."""
    patch: Annotated[int, Field(ge=1, le=8192)] | None = None
    """Height and width of a patch, in px; default: the card's, or where the runtime
    is measured and the model takes any size without seams, the fastest."""
    stride: Annotated[int, Field(ge=1)] | None = None
    """Pixels between patches; default: patch less twice the halo (crop), or
    ten elevenths of the patch (blend)."""
    merge: Merge | None = None
    """Default: ``crop`` where the card knows the halo, else ``blend``."""
    taper: Taper = "hann"
    """Shape of the weights of ``blend``."""
    batch: Annotated[int, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Patches that go through the network together."""
    runtime: Runtime = "native"
    """Library that runs the network: ``native`` is ONNX Runtime for ONNX files,
    else torch; ``auto`` measures all that are installed and takes the fastest."""
    precision: Precision = "float32"
    """Arithmetic of the network; ``auto`` may take a lower one that agrees with
    float32 on the job's own pixels in `min_agreement` of the labels."""
    min_agreement: Annotated[float, Field(ge=0.5, le=1.0)] = 0.995
    """Least share of equal labels that ``precision: auto`` accepts."""
    device: Annotated[
        str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", exclude=False)
    ] = "auto"
    """``cuda`` never falls back to the CPU."""
    tta: Turns = "none"
    """Test-time augmentation: scores are means over the patch and its mirror images
    (``flips``), its rotations by quarters, or both (``all``): 4, 4 or 8 runs."""
    mc_dropout: Annotated[int, Field(ge=0, le=1000)] = 0
    """Monte Carlo dropout: scores are means over so many runs, in each of which other
    parts of the network are left out, and how far the runs lie apart is stored too; 0:
    none."""
    in_flight: Annotated[int, Field(ge=1, le=16)] | None = None
    """Blocks a process works on at a time, so that reading and writing overlap
    with inference; default: 2, but 1 where a CPU infers from local files: there
    reading takes the network's own cores."""

    accept_license: Annotated[bool, Field(exclude=True)] = False
    """Whether the user accepts a licence of the weights that is non-commercial or not
    known. Asked when the plan is made; no part of it."""

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # plans that say nothing of it keep the names that they have
        usual = {"tta": "none", "mc_dropout": 0}
        return {k: v for k, v in dump(self).items() if usual.get(k, ...) != v}

    @model_validator(mode="after")
    def _several(self) -> Inference:
        if self.mc_dropout == 1:
            raise ValueError("mc_dropout: one run has no spread; say 2 or more, or 0")
        return self

    @property
    def is_measured(self) -> bool:
        """Whether something of it is chosen by measurement."""
        return "auto" in (self.runtime, self.precision)


class Change(BaseModel):
    """How change between two dates is found; resolved once the plan is made."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: Method | None = None
    """``network``: one that takes both dates, of a card of task change; ``classes``:
    both dates are classified, and compared; ``cva``, ``irmad``: change vectors,
    multivariate alteration detection, no model needed; ``features``: what a layer of
    the model sees at both dates. Default: by the card."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Least probability at which a pixel counts as changed."""
    prior: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """How probable change is before the pixels are looked at; for ``classes``."""
    min_confidence: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Least score that both dates' classes need, for a pixel to count as changed; for
    ``classes``."""
    magnitude: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    """Magnitude of probability 1/2, for ``cva``, ``irmad`` and ``features``; default:
    Otsu's threshold of the whole area."""
    layer: str | None = None
    """Part of the model's network whose output ``features`` compares."""
    coregister: Literal["none", "report", "shift"] = "report"
    """Whether the shift between the dates is looked for, and corrected."""

    @property
    def needs_no_model(self) -> bool:
        """Whether nothing but the pixels is needed."""
        return self.method in ("cva", "irmad")

    @property
    def is_compared(self) -> bool:
        """Whether numbers come from the job's own pixels, not from a trained model."""
        return self.method in ("cva", "irmad", "features")

    @property
    def sees_both(self) -> bool:
        """Whether the network takes both dates at once."""
        return self.method != "classes"


class Embedding(BaseModel):
    """How the features of a backbone become embeddings."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    per: Literal["cell", "patch", "pixel"] = "cell"
    """``cell``: one vector for each place of the network's own grid; ``patch``: one
    for each patch, the mean of its places; ``pixel``: one for each pixel, between
    places bilinear."""
    layer: str | None = None
    """Part inside any network of one date whose output is stored; default: the
    features that a backbone gives."""
    components: Annotated[int, Field(ge=1, le=64)] | None = None
    """Principal components that are kept instead of all features."""
    numbers: dict[str, Any] | None = None
    """Mean, components, scale and offset, as `geoscale.embeddings` finds them in a
    first pass; those of one area make another one comparable with it."""

    def needs_numbers(self, dtype: str | None) -> bool:
        """Whether numbers are still to be found for a way of storing."""
        wanted = self.components is not None or dtype == "int8"
        return wanted and self.numbers is None


class Output(BaseModel):
    """What is stored."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    layers: tuple[str, ...] | None = None
    """Some of classes, confidence, entropy, margin, scores; of several labels at once
    also labels; of a regression its quantities; of embeddings embedding; of change:
    change, probability, from_class, to_class. Default: classes, confidence; of all
    other tasks all of these, but entropy and margin."""
    scores_dtype: Literal["uint8", "float16"] = "uint8"
    """How scores, and probabilities of change, are stored."""
    dtype: Literal["float32", "float16", "int8"] | None = None
    """How numbers are stored: of a regression ``float32`` (default) or ``float16``, of
    embeddings ``float16`` (default), ``float32``, or ``int8`` in even steps."""
    chunk: Annotated[int, Field(ge=1)] | None = None
    """Height and width of a chunk inside a shard, in px; default: a divisor of
    the block, at most 512."""
    overviews: bool = True
    """Whether coarser copies are made for viewing; not in an Icechunk repository."""
    store: Literal["zarr", "icechunk"] = "zarr"
    """``zarr``: readers see each block once it is written; ``icechunk``: the driver
    commits many at a time, and readers see all of a commit or nothing."""
    epoch_s: Annotated[float, Field(gt=0)] = 60.0
    """Time between commits to an Icechunk repository, in s; a kill loses as much."""

    @model_validator(mode="before")
    @classmethod
    def _no_overviews_in_icechunk(cls, data: Any) -> Any:
        if not isinstance(data, dict) or data.get("store") != "icechunk":
            return data
        if data.get("overviews"):
            raise ValueError("an Icechunk repository has no overviews; leave them out")
        return {**data, "overviews": False}

    @model_serializer(mode="wrap")
    def _as_before(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        data: dict[str, Any] = dump(self)
        if data.get("store") == "zarr":
            # plans of plain outputs keep the names that they have
            del data["store"], data["epoch_s"]
        if data.get("dtype") is None:
            data.pop("dtype", None)
        return data

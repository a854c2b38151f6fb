"""A fitting as a YAML file, in the words of other jobs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from geoscale.errors import JobError
from geoscale.findings import explain_validation
from geoscale.fitting.asked import SQUARES, Asked
from geoscale.fitting.calibrating import CalibrationName
from geoscale.fitting.heads import HeadName
from geoscale.fitting.result import Fitted
from geoscale.fitting.run import fit
from geoscale.fitting.series import Table, fit_series
from geoscale.job import parse_job
from geoscale.plain import read_yaml
from geoscale.stacks import open_stack

if TYPE_CHECKING:
    from distributed import Client

SHARED = ("imagery", "grid", "model")
"""Keys that mean what they mean in every job."""


class SeriesColumns(BaseModel):
    """Columns of a table of series; see `geoscale.fitting.series.Table`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: str
    """How they are called: ``B{band}_{date}``, with ``*`` for anything."""
    bands: tuple[str, ...] = ()
    """In the order of the network; default all, by name."""
    places: tuple[str, str] = ("lon", "lat")
    """Columns of longitude and latitude."""
    sensor: str | None = None
    """Whose names the bands are."""
    scale: float = 1.0
    """Reflectance of a stored step."""
    nodata: float | None = None
    """Value that is none."""


class FitJob(BaseModel):
    """A fitting: which labels, on which imagery, with which features, to where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    imagery: dict[str, Any] = {}
    """As in a job."""
    series: SeriesColumns | None = None
    """Instead of imagery: `labels` is a table that holds the pixels too."""
    grid: dict[str, Any] = {}
    """As in a job."""
    model: str | dict[str, Any]
    """As in a job; or ``features:bands``, ``features:indices``."""
    labels: str
    """Vector file; relative to the job file."""
    to: str
    """Folder for the head; relative to the job file."""
    attribute: str | None = None
    """Column of labels."""
    layer: str | None = None
    """Layer of the file."""
    head: HeadName = "logistic"
    """Kind of head."""
    with_bands: bool = False
    """Give the head the network's input too."""
    ignore: list[str] = []
    """Labels to leave out."""
    per_class: int = 1000
    """Most pixels of a class."""
    folds: int = 5
    """Parts of the cross-validation."""
    block_m: float | None = None
    """Side of blocks held out together, in m."""
    blocks: str = SQUARES
    """``squares``, or ``kmeans:K``."""
    calibrate: CalibrationName = "temperature"
    """What makes probabilities of scores."""
    floor: bool = True
    """Judge bands and indices too."""
    seed: int = 0
    """Of the draw."""
    time: int | None = None
    """Time step of the labels."""
    dates: Literal["one", "all"] = "one"
    """``all``: every date's bands are features."""
    units: Literal["reflectance", "raw"] = "reflectance"
    """Of bands and indices."""
    device: str = "cpu"
    """Where the network runs."""


def fit_job(
    path: str | Path,
    *,
    client: Client | None = None,
    trust_code: bool = False,
    accept_license: bool = False,
) -> Fitted:
    """Fit what a YAML file asks for; paths in it are relative to it.

    Parameters
    ----------
    path : str or path
        The file.
    client : distributed.Client, optional
        As for `fit`.
    trust_code, accept_license : bool
        As for `fit`.

    Returns
    -------
    Fitted
        As `fit` gives.

    Raises
    ------
    JobError
        If the file is missing, is not plain YAML, or a key is unknown, missing or of
        the wrong kind.
    """
    where = Path(path)
    data = read_yaml(where, "job file", JobError)
    if not isinstance(data, Mapping):
        raise JobError(f"job file {where}: needs imagery, model, labels and to")
    try:
        job = FitJob.model_validate(dict(data))
    except ValidationError as err:
        raise JobError(f"{where}: {explain_validation(err, FitJob)}") from None
    base = where.resolve().parent
    if bool(job.imagery) == (job.series is not None):
        raise JobError(
            f"{where}: give imagery, or series where labels are a table that holds the "
            "pixels too; one of the two"
        )
    if job.series is not None:
        return _fit_table(job, job.series, base)
    shared = {k: getattr(job, k) for k in SHARED} | {"output": {"to": job.to}}
    read = parse_job(shared, where=str(where), base=base)
    assert read.model is not None
    options = job.model_dump(exclude={*SHARED, "labels", "to", "series"})
    return fit(
        base / job.labels,
        open_stack(read.imagery, grid=read.grid),
        read.model,
        read.output.to,
        sensor=read.imagery.sensor,
        client=client,
        trust_code=trust_code,
        accept_license=accept_license,
        **options,
    )


def _fit_table(job: FitJob, series: SeriesColumns, base: Path) -> Fitted:
    fields = {f.name for f in dataclasses.fields(Asked)}
    options = job.model_dump(include=fields)
    table = Table(
        path=base / job.labels,
        attribute=job.attribute or "label",
        **series.model_dump(exclude={"sensor"}),
    )
    return fit_series(
        table,
        base / job.to,
        model=str(job.model),
        sensor=series.sensor,
        asked=Asked(**{**options, "ignore": tuple(job.ignore)}),
    )

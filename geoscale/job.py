"""The job file: YAML in the words of the design, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from geoscale.card import TaskName, explain_validation
from geoscale.errors import JobError
from geoscale.options import SAY_MODEL, Change, Embedding, Inference, Output
from geoscale.plain import read_yaml
from geoscale.sources.settings import Grid, Imagery, parse_imagery


class JobOutput(Output):
    """Where the map goes, and what is stored."""

    to: str
    """Local folder or fsspec URL; relative to the job file."""


class Job(BaseModel):
    """A job: what to read, on which grid, with which model, to where."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    imagery: Imagery
    """Where pixels come from."""
    grid: Grid = Grid()
    """Grid of the output; default: the imagery's own."""
    model: str | dict[str, Any] | None = None
    """Catalogue name, path or URL of a card, or a card's fields; some ways to find
    change need none."""
    task: TaskName | None = None
    """What to make; default: what the model is for."""
    change: Change | None = None
    """How change is found; for ``task: change``."""
    embedding: Embedding | None = None
    """How embeddings are made; for ``task: embedding``."""
    inference: Inference = Inference()
    """How to run."""
    output: JobOutput
    """Where to."""

    @field_validator("output", mode="before")
    @classmethod
    def _path_alone(cls, value: Any) -> Any:
        return {"to": value} if isinstance(value, str) else value


def load_job(path: str | Path) -> Job:
    """Read and check a job file; paths in it are relative to it.

    Parameters
    ----------
    path : str or Path
        YAML file.

    Returns
    -------
    Job
        Checked; local paths made absolute.

    Raises
    ------
    JobError
        If the file is missing, is not plain YAML, or a key is unknown, missing
        or of the wrong kind.
    """
    path = Path(path)
    data = read_yaml(path, "job file", JobError)
    if not isinstance(data, dict):
        kind = "empty" if data is None else f"a {type(data).__name__}"
        raise JobError(f"job file {path} is {kind}; it needs imagery, model and output")
    return parse_job(data, where=str(path), base=path.resolve().parent)


def parse_job(data: Mapping[str, Any], *, where: str, base: Path) -> Job:
    """Check plain data and make a job of it.

    Parameters
    ----------
    data : mapping
        As YAML gives it.
    where : str
        Named in errors.
    base : Path
        Folder that relative paths start from.

    Returns
    -------
    Job
        Checked; local paths made absolute.

    Raises
    ------
    JobError
        If a key is unknown, missing or of the wrong kind.
    """
    try:
        job = Job.model_validate(dict(data))
    except ValidationError as err:
        raise JobError(f"{where}: {explain_validation(err, Job)}") from None
    if job.model is None and not (job.change and job.change.needs_no_model):
        raise JobError(f"{where}: {SAY_MODEL}")
    aoi = job.grid.aoi  # GeoJSON in the job itself holds words, no paths
    grid = {"aoi": _absolute(aoi, base)} if isinstance(aoi, str) else {}
    model = job.model
    if isinstance(model, str):
        model = _card_path(model, base)
    output = {"to": _absolute(job.output.to, base)}
    return job.model_copy(
        update={
            "imagery": _anchor(job.imagery, base),
            "grid": job.grid.model_copy(update=grid),
            "model": model,
            "output": job.output.model_copy(update=output),
        }
    )


def load_imagery(path: str | Path) -> Imagery:
    """Read which imagery a YAML file names, as a job does or alone.

    Parameters
    ----------
    path : str or Path
        YAML file: a job, or the keys of its `imagery`.

    Returns
    -------
    Imagery
        Checked; local paths made absolute.

    Raises
    ------
    JobError
        If the file is missing, is not plain YAML, or a key is unknown or of the wrong
        kind.
    """
    path = Path(path)
    data = read_yaml(path, "file of imagery", JobError)
    if not isinstance(data, dict):
        raise JobError(f"{path} names no imagery: it needs `imagery:`, as in a job")
    return _anchor(parse_imagery(data.get("imagery", data)), path.resolve().parent)


def _anchor(given: Imagery, base: Path) -> Imagery:
    """Anchor the local paths of imagery."""
    imagery = {
        name: _absolute(value, base)
        for name, value in given.model_dump(exclude_unset=True).items()
        if name in ("items", "zarr", "files")
    }
    mask = given.mask
    if mask is not None and mask.model is not None:
        imagery["mask"] = mask.model_copy(
            update={"model": _card_path(mask.model, base)}
        )
    return given.model_copy(update=imagery)


def _card_path(model: str, base: Path) -> str:
    """Anchor a card's file; names of the catalogue stay."""
    is_file = model.lower().endswith((".yaml", ".yml", ".json"))
    return str(_absolute(model, base)) if is_file else model


def _absolute(value: Any, base: Path) -> Any:
    """Anchor local paths; URLs, absolute paths and other data stay."""
    if isinstance(value, list | tuple):
        return [_absolute(v, base) for v in value]
    if isinstance(value, Mapping):
        return {k: _absolute(v, base) for k, v in value.items()}
    if isinstance(value, str) and "://" not in value and not Path(value).is_absolute():
        return str(base / value)
    return value

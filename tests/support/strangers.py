"""What geoscale does with files of strangers; called by `tests.support.sandbox`.

Texts come as latin-1, so that any bytes can travel in JSON.
"""

from __future__ import annotations

from pathlib import Path


def take(kind: str, text: str, folder: str) -> str:
    """Take a file as far as geoscale goes before it reads pixels."""
    data = text.encode("latin-1")
    return globals()[f"take_{kind}"](data, Path(folder))


def take_item(data: bytes, folder: Path) -> str:
    """Items of a job: normalised, put on a grid, planned, stored and read back."""
    import json

    import numpy as np

    from geoscale.sources import open_source, source_from_spec
    from geoscale.windows import Window

    path = folder / "mutant.json"
    path.write_bytes(data)
    source = open_source({"items": str(path), "bands": ["red"]})
    again = source_from_spec(json.loads(json.dumps(source.spec())), source.tables())
    again.match(np.array([[0.0, 0.0, 10.0, 10.0]]), 0)
    again.calibrated("raw").read(Window(0, 0, 8, 8), [0])
    return "read"


def take_job(data: bytes, folder: Path) -> str:
    """A job file: checked and planned beside the imagery that is there."""
    import geoscale as gs

    path = folder / "mutant.yaml"
    path.write_bytes(data)
    gs.plan_job(path, measure=False).explain(allowed_bytes=2**34)
    return "planned"


def take_card(data: bytes, folder: Path) -> str:
    """A model card: checked, and planned with over the imagery that is there."""
    import geoscale as gs

    path = folder / "mutant-card.yaml"
    path.write_bytes(data)
    card = gs.load_model(path)
    job = gs.load_job(folder / "job.yaml").model_copy(update={"model": str(path)})
    gs.plan_job(job, measure=False)
    return card.hash()


def take_plan(data: bytes, folder: Path) -> str:
    """The stored plan of an output: all that looks at outputs looks at it."""
    import geoscale as gs

    (folder / "out.zarr" / ".geoscale" / "plan.json").write_bytes(data)
    assert gs.status(folder / "out.zarr")["blocks"]
    gs.verify(folder / "out.zarr")
    return "looked at"


def take_area(data: bytes, folder: Path) -> str:
    """An area of interest: read, projected, asked about."""
    import geoscale as gs
    from geoscale.sources.settings import Grid

    path = folder / "mutant.geojson"
    path.write_bytes(data)
    job = gs.load_job(folder / "job.yaml")
    grid = Grid(crs="EPSG:32632", resolution=10, aoi=str(path))
    gs.plan_job(job.model_copy(update={"grid": grid}), measure=False)
    return "planned"


def take_profile(data: bytes, folder: Path) -> str:
    """A profile of a cluster: checked; nothing is started."""
    from geoscale.clusters import load_profile

    path = folder / "mutant-profile.yaml"
    path.write_bytes(data)
    return load_profile(path).type


def take_table(data: bytes, folder: Path) -> str:
    """The table of items beside a plan: every item is what it was."""
    import json

    from geoscale.sources import source_from_spec

    spec = json.loads((folder / "spec.json").read_text())
    source = source_from_spec(spec, {"items.parquet": data})
    found = [[item.to_json() for item in source.items], source.items.boxes.tolist()]
    known = json.loads((folder / "known.json").read_text())
    assert json.loads(json.dumps(found)) == known, "other items"
    return "the same"


def command(words: list[str], path: str, text: str) -> dict[str, object]:
    """Write a file, run a command as `geoscale` does; say how it ended.

    Its streams take no more than those of a terminal do.
    """
    import contextlib
    import io

    from geoscale.cli import main

    Path(path).write_bytes(text.encode("latin-1"))
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(words)
    said = []
    for stream in (out, err):
        stream.flush()
        said.append(stream.buffer.getvalue().decode())  # type: ignore[attr-defined]
    return {"code": code, "out": said[0][-2000:], "err": said[1][-4000:]}

"""The verb: read labelled pixels, judge heads in space, fit one, write its card."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from geoscale.assemble import hash_card_code
from geoscale.card import ModelCard
from geoscale.errors import JobError, SourceError
from geoscale.fitting.asked import SQUARES, Asked
from geoscale.fitting.calibrating import CalibrationName
from geoscale.fitting.chips import check_room
from geoscale.fitting.heads import HeadName
from geoscale.fitting.inputs import has_weights, open_input, with_classes
from geoscale.fitting.judging import Labelled, judge_and_fit
from geoscale.fitting.result import Fitted
from geoscale.fitting.samples import (
    Look,
    Places,
    Samples,
    draw_places,
    take_samples,
)
from geoscale.fitting.writing import write_head
from geoscale.heads import Head
from geoscale.memory import allowed_memory_bytes
from geoscale.models.weights import resolve_weights
from geoscale.options import Inference
from geoscale.planner import make_plan
from geoscale.plans import InferencePlan
from geoscale.sources.shapes import ShapeFile, load_shapes
from geoscale.stacks import as_source, list_bands
from geoscale.supply import find_parcels
from geoscale.types import Floats, Json, Source
from geoscale.windows import Window
from geoscale.words import redact, suggest

if TYPE_CHECKING:
    from distributed import Client


def fit(  # noqa: PLR0913  (one verb, all by name)
    labels: str | Path,
    stack: Any,
    model: str | Path | ModelCard | dict[str, Any],
    to: str | Path,
    *,
    attribute: str | None = None,
    layer: str | None = None,
    head: HeadName = "logistic",
    with_bands: bool = False,
    ignore: Sequence[str] = (),
    per_class: int = 1000,
    folds: int = 5,
    block_m: float | None = None,
    blocks: str = SQUARES,
    calibrate: CalibrationName = "temperature",
    floor: bool = True,
    seed: int = 0,
    time: int | None = None,
    dates: Literal["one", "all"] = "one",
    sensor: str | None = None,
    units: Literal["reflectance", "raw"] = "reflectance",
    device: str = "cpu",
    client: Client | None = None,
    trust_code: bool = False,
    accept_license: bool = False,
) -> Fitted:
    """Fit a head to labelled points or polygons, and say how far to trust it.

    Writes ``card.yaml``, ``head.safetensors``, ``report.json``, ``report.md`` and
    ``report.html`` into a folder; the card is a model like any other.

    Parameters
    ----------
    labels : str or path
        Vector file of points or polygons, in any CRS.
    stack : xarray.DataArray, xarray.Dataset or Source
        From `open_stack`.
    model : str, path, mapping or ModelCard
        Whose features the head sees: a backbone or a segmentation network, as for
        `load_model`; ``features:bands`` or ``features:indices``.
    to : str or path
        Local folder for the head.
    attribute, layer : str, optional
        Column of labels, and layer of the file; default the only one there is.
    head : {"logistic", "ridge", "forest", "conv"}
        Logistic regression, ridge classifier or random forest, of scikit-learn; or a
        small network of convolutions, which sees the pixels around a pixel too.
    with_bands : bool
        Give the head the network's input beside its features.
    ignore : sequence of str
        Labels that are left out.
    per_class : int
        Most pixels of a class, drawn by position and seed.
    folds : int
        Parts of the cross-validation, 2 or more.
    block_m : float, optional
        Side of the blocks of ground that are held out together, in m; default a
        tenth of the labels' extent.
    blocks : str
        ``squares`` of `block_m`, or ``kmeans:K``: K groups of labels that lie together.
    calibrate : {"temperature", "sigmoid", "isotonic", "none"}
        What makes probabilities of scores, found on held-out ground; used where it
        lowers the Brier score there.
    floor : bool
        Judge raw bands and spectral indices in the same folds.
    seed : int
        Of the draw, of a forest, and of a conv head.
    time : int, optional
        Time step of the labels, where the stack has several.
    dates : {"one", "all"}
        With ``all``, bands and indices of every date are features.
    sensor, units : str, optional
        As in a card's ``input``, for bands and indices.
    device : str
        Where the network runs.
    client : distributed.Client, optional
        Cluster that reads the imagery and runs the network; the head is fitted here.
    trust_code, accept_license : bool
        As for `run`.

    Returns
    -------
    Fitted
        Print it; `Fitted.card` is the path of the card.

    Raises
    ------
    JobError
        If an option is wrong, or there are too few classes, labels or blocks.
    SourceError
        If labels or imagery cannot be read, or do not meet.
    CardError
        If the model has code that is not trusted, or a licence not accepted.
    MemoryPlanError
        If the drawn pixels and their features do not fit into memory.
    """
    asked = Asked(
        head=head, with_bands=with_bands, per_class=per_class, folds=folds,
        block_m=block_m, blocks=blocks, seed=seed, ignore=tuple(ignore), floor=floor,
        calibrate=calibrate,
    )  # fmt: skip
    frames = 1
    if dates == "all":
        frames = len(_open(stack, sensor, units).times)
    card = open_input(
        model, list_bands(stack), sensor=sensor, units=units, frames=frames
    )
    source = as_source(stack, card)
    where = redact(str(labels))
    found = load_shapes(str(labels), source.geobox, attribute=attribute, layer=layer)
    _check_meeting(found, source, where)
    path, sha256 = resolve_weights(card) if has_weights(card) else (None, "0" * 64)
    draft = with_classes(
        card, ("0", "1"), Head(kind="linear", inputs=1, reach=asked.reach), with_bands
    )
    plan = make_plan(
        source,
        draft,
        weights_sha256=sha256,
        code_sha256=hash_card_code(card),
        inference=Inference(accept_license=accept_license),
    )
    step = _choose_time(plan, time)
    shape = (int(source.geobox.shape[0]), int(source.geobox.shape[1]))
    places = draw_places(found, shape, per_class=2 * per_class, seed=seed)
    places = _leave_out(places, found, asked.ignore)
    check_room(card, len(places.y), asked.reach, allowed_memory_bytes())
    sent = client is not None and path is not None
    look = Look(
        plan=dataclasses.replace(plan, live=None), card=card, with_bands=with_bands,
        device=device, trust_code=trust_code, reach=asked.reach,
        parcels=find_parcels(plan, trust_code=trust_code) if sent else (),
    )  # fmt: skip
    samples = take_samples(
        look, source, places, time=step, per_class=per_class,
        client=client,
    )  # fmt: skip
    facts: Json = {
        "model": card.name,
        "weights_sha256": None if path is None else sha256,
        "labels": where,
        "imagery_date": plan.times[step],
        **_describe(found, source, samples),
    }
    judged = judge_and_fit(
        Labelled(
            features=samples.features, bands=samples.bands,
            codes=samples.places.codes, shapes=samples.places.shapes,
            middles=_middles(found, source), labels=found.labels,
        ),
        card,
        asked,
    )  # fmt: skip
    return write_head(
        Path(to), card, judged, look.open().tensors(), facts, with_bands=with_bands
    )


def _open(stack: Any, sensor: str | None, units: str) -> Source:
    bands = list_bands(stack)
    card = open_input("features:bands", bands, sensor=sensor, units=units)
    return as_source(stack, card)


def _check_meeting(found: ShapeFile, source: Source, where: str) -> None:
    h, w = (int(n) for n in source.geobox.shape)
    if not found.shapes.touches(Window(0, 0, h, w)):
        west, south, east, north = found.box
        box = source.geobox.geographic_extent.boundingbox
        raise SourceError(
            f"{where} does not meet the imagery: its labels ({found.crs}) lie at "
            f"{west:.4f}..{east:.4f} E, {south:.4f}..{north:.4f} N, the imagery at "
            f"{box.left:.4f}..{box.right:.4f} E, {box.bottom:.4f}..{box.top:.4f} N; "
            "check its CRS and the area"
        )


def _choose_time(plan: InferencePlan, time: int | None) -> int:
    count = len(plan.times)
    if time is None and count > 1:
        raise JobError(
            f"the stack has {count} time steps ({', '.join(plan.times[:6])}); say "
            f"which one the labels are of, time 0 to {count - 1}, or take dates all"
        )
    step = time or 0
    if not 0 <= step < count:
        raise JobError(f"time {step}: the stack has {count} time steps, 0..{count - 1}")
    return step


def _leave_out(places: Places, found: ShapeFile, ignore: tuple[str, ...]) -> Places:
    for label in ignore:
        if label not in found.labels:
            raise JobError(
                f"ignore `{label}`: no label is called so{suggest(label, found.labels)}"
                f"; labels are {', '.join(found.labels)}"
            )
    left = [i for i, label in enumerate(found.labels) if label in ignore]
    return places.pick(~np.isin(places.codes, left))


def _describe(found: ShapeFile, source: Source, samples: Samples) -> Json:
    notes = []
    ours = str(source.geobox.crs)
    if ours != found.crs:
        notes.append(f"Labels ({found.crs}) were projected to the imagery's CRS.")
    if samples.invalid:
        notes.append(
            f"{samples.invalid:,} labelled pixels lie where the imagery has no valid "
            "value; they were left out."
        )
    if samples.places.conflicts:
        notes.append(
            f"{samples.places.conflicts:,} pixels lie in shapes of different labels; "
            "they were left out."
        )
    if found.unlabelled:
        notes.append(f"{found.unlabelled:,} shapes have no label or no geometry.")
    return {
        "column": found.attribute,
        "labels_crs": found.crs,
        "shapes": found.count,
        "pixels": len(samples.places.y),
        "invalid_pixels": samples.invalid,
        "notes": notes,
    }


def _middles(found: ShapeFile, source: Source) -> Floats:
    """Middle of every shape on the ground, in m; x and y."""
    import shapely

    points = shapely.centroid(np.array(found.shapes.geometries, object))
    x, y = metres_per_px(source)
    made: Floats = np.stack([shapely.get_x(points) * x, shapely.get_y(points) * y], 1)
    return made


def metres_per_px(source: Source) -> tuple[float, float]:
    """Width and height of a pixel in the middle of the imagery, in m."""
    from pyproj import Geod

    box = source.geobox
    h, w = (int(n) for n in box.shape)
    if not box.crs.geographic:
        unit = float(box.crs.proj.axis_info[0].unit_conversion_factor)
        return abs(box.resolution.x) * unit, abs(box.resolution.y) * unit
    lon, lat = box.affine * (w / 2, h / 2)
    ground = Geod(ellps="WGS84")
    _, _, wide = ground.inv(lon, lat, lon + abs(box.resolution.x), lat)
    _, _, high = ground.inv(lon, lat, lon, lat + abs(box.resolution.y))
    return float(wide), float(high)

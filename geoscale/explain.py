"""A plan in words: what will be read, run and written, and what it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from geoscale.options import RUNS
from geoscale.sums import count_pixels
from geoscale.tasks.spread import SPREAD, name_spreads
from geoscale.types import Json

if TYPE_CHECKING:
    from geoscale.plans import InferencePlan


def describe_plan(
    plan: InferencePlan,
    *,
    allowed_bytes: int | None,
    mpx_per_s: float | None,
    cost_per_hour: float | None,
) -> str:
    """Describe a plan in about ten lines.

    Parameters
    ----------
    plan : InferencePlan
        The plan.
    allowed_bytes : int or None
        Memory that a worker process may use.
    mpx_per_s, cost_per_hour : float or None
        Speed and price of the whole cluster.

    Returns
    -------
    str
        One fact a line, aligned.
    """
    lines = [
        ("imagery", _imagery(plan)),
        *_dates(plan),
        ("grid", _grid(plan)),
        ("model", _model(plan)),
        *_change(plan),
        *_forecast(plan),
        *_embedding(plan),
        ("patches", _patches(plan)),
        ("blocks", _blocks(plan)),
        ("memory", _memory(plan, allowed_bytes)),
        ("writes", _writes(plan)),
    ]
    if mpx_per_s:
        pixels = count_pixels(plan.runs(), plan.grid)
        lines.append(("time", describe_time(pixels, mpx_per_s, cost_per_hour)))
    lines += [("tuning", text) for text in describe_tuning(plan)]
    lines += [("note", note) for note in plan.notes]
    body = "\n".join(f"  {name:<8} {text}" for name, text in lines)
    return f"InferencePlan  {plan.hash[:12]}\n{body}"


def describe_tuning(plan: InferencePlan) -> list[str]:
    """Say what was measured, best first, and what was not used and why.

    Parameters
    ----------
    plan : InferencePlan
        The plan.

    Returns
    -------
    list of str
        A line each; empty where nothing is measured.
    """
    if plan.asked is None:
        return []
    if plan.tuning is None:
        asked = f"runtime {plan.asked.runtime}, precision {plan.asked.precision}"
        return [f"{asked}: measured where the blocks run, before the first"]
    told = plan.tuning
    rows = sorted(told["rows"], key=lambda row: (bool(row["said"]), -row["mpx_s"]))
    chosen = told["choice"]
    speed = f"{chosen['mpx_s']:.2f} useful Mpx/s on {told['machine']}"
    lines = [f"{_pair(chosen)}: {speed}{_agreement(chosen, told['reference'])}"]
    for row in rows:
        if row == chosen:
            continue
        text = row["said"] or f"{row['mpx_s']:.2f} Mpx/s"
        lines.append(f"  not {_pair(row)}: {text}")
    return lines


def _pair(row: Json) -> str:
    text = f"{row['runtime']} {row['precision']}"
    return text + (f", patch {row['patch']}, batch {row['batch']}" * bool(row["batch"]))


def _agreement(row: Json, reference: str) -> str:
    if row["agreement"] is None:
        return ""
    return f", {row['agreement']:.3%} of labels as by {reference}"


def _imagery(plan: InferencePlan) -> str:
    height, width = plan.shape
    bands, times = len(plan.card.input.bands), len(plan.source_times)
    size = times * bands * height * width * plan.itemsize
    span = plan.source_times[0][:10]
    if times > 1:
        span += f" … {plan.source_times[-1][:10]}"
    return (
        f"{times} time x {bands} band x {height:,} y x {width:,} x  "
        f"{_bytes(size)}  {span}"
    )


def _dates(plan: InferencePlan) -> list[tuple[str, str]]:
    """Say how scenes become images, where they do."""
    source = plan.source
    if source.get("kind") != "composite":
        return []
    votes, mask = source.get("votes"), source["mask"]
    count = sum(len(one[-1]) for one in votes or source["periods"])
    how = "each classified, then they vote" if votes else source["method"]
    periods = len(votes or source["periods"])
    said = f"{count} scenes in {periods} period{'s' * (periods > 1)}  {how}"
    if mask is not None:
        by = mask.get("model") or mask.get("asset")
        said += f"  clear by {by}, {mask['dilate']} px dilated"
    return [("dates", said)]


def _grid(plan: InferencePlan) -> str:
    crs, affine = plan.geobox.crs, plan.geobox.affine
    unit = "deg" if crs is not None and crs.geographic else "m"
    step = f"{affine.a:g}"
    if abs(affine.e) != abs(affine.a):
        step += f" x {abs(affine.e):g}"
    return f"{_crs_name(plan)}  {step} {unit} per pixel"


def _crs_name(plan: InferencePlan) -> str:
    crs = plan.geobox.crs
    text = "no CRS" if crs is None else str(crs)
    return text if len(text) < 40 else "custom CRS"


def _model(plan: InferencePlan) -> str:
    chosen = plan.inference
    return (
        f"{plan.card.name}  {plan.goal}  {_gives(plan)}  "
        f"{chosen.runtime} {chosen.precision} on {chosen.device}  "
        f"sha256:{plan.weights_sha256[:8]}…"
    )


def _embedding(plan: InferencePlan) -> list[tuple[str, str]]:
    """Say where the numbers of embeddings come from, if they have any."""
    told = plan.statistics
    if plan.embedding is None or (plan.is_learned and told is None):
        return []
    if told is None:
        text = "numbers of the whole area: in a first pass, before the first block"
        return [("learned", text)]
    text = f"{told['vectors']:,} vectors of {count_places(told['places'])}"
    if "explained" in told:
        share = sum(told["explained"])
        text += (
            f"  {len(told['explained'])} components hold {share:.1%} of the variance"
        )
    return [("learned", text)]


def _gives(plan: InferencePlan) -> str:
    """Say what the network gives, and for which squares."""
    output = plan.card.output
    text = f"{len(output.classes)} classes"
    if output.bands:
        text = ", ".join(f"{band.name} [{band.units}]" for band in output.bands)
        if output.forecast is not None:
            text += f" at {output.forecast.steps} future dates"
    elif plan.embedding is not None:
        kept = plan.embedding.components
        text = f"{output.features} features" + (f" to {kept}" if kept else "")
    return text + (f" per {plan.cell} x {plan.cell} px" if plan.cell > 1 else "")


def _change(plan: InferencePlan) -> list[tuple[str, str]]:
    """Say which dates are compared and how; nothing of maps of classes."""
    change = plan.change
    if change is None:
        return []
    first = plan.source_times[plan.groups[0][0][0]]
    dates = f"{first[:10]} → {plan.times[0][:10]}"
    if len(plan.times) > 1:
        dates += f", … {len(plan.times)} pairs of neighbours"
    how = {
        "network": "by a network that sees both dates",
        "classes": "by comparing the classes of both dates",
        "cva": "by change vectors on z-scored bands",
        "irmad": "by iteratively reweighted multivariate alteration detection",
        "features": "by the distance between features of both dates",
    }
    method = how.get(str(change.method), str(change.method))
    said = f"{dates}  {method}, from probability {change.threshold:g}"
    if not change.sees_both:
        said += f"  prior {change.prior:g}"
    return [("change", said), *(("learned", text) for text in describe_learned(plan))]


def _forecast(plan: InferencePlan) -> list[tuple[str, str]]:
    """Say which dates a forecast is made of, and which it tells of."""
    ahead = plan.card.output.forecast
    if ahead is None:
        return []
    seen = [plan.source_times[step][:10] for step in plan.groups[0][0]]
    said = f"{len(seen)} dates {seen[0]} … {seen[-1]}"
    said += f" → {ahead.steps} steps of {ahead.every_days:g} days to "
    return [("forecast", said + plan.times[-1][:10])]


def describe_learned(plan: InferencePlan) -> list[str]:
    """Say what was learned of the whole area, or that it will be.

    Parameters
    ----------
    plan : InferencePlan
        The plan.

    Returns
    -------
    list of str
        A line each; empty where nothing is.
    """
    told = plan.statistics
    if told is None:
        if plan.is_learned:
            return []
        return ["numbers of the whole area: in a first pass, before the first block"]
    lines = []
    if "threshold" in told:
        by = {"otsu": "by Otsu's method", "job": "given by the job"}[told["by"]]
        text = f"{told['method']} threshold {told['threshold']:.3g} {by}"
        if "pixels" in told:
            text += f"  {told['pixels']:,} px of {count_places(told['places'])}"
        if "rounds" in told:
            found = ", ".join(f"{rho:.3f}" for rho in told["correlations"])
            text += f"  {told['rounds']} rounds, correlations {found}"
        lines.append(text)
    return lines + [_shift(one, told) for one in told.get("shifts", ())]


def count_places(number: int) -> str:
    """Say how many places there are."""
    return "1 place" if number == 1 else f"{number} places"


def _shift(one: Json, told: Json) -> str:
    ends = f"shift {one['from'][:10]} → {one['to'][:10]}"
    if not one["places"]:
        return f"{ends} not known: no place shows enough texture at both dates"
    return (
        f"{ends} {one['y']:+.2f} px along y, {one['x']:+.2f} px along x (spread "
        f"{one['spread']:.2f} px over {count_places(one['places'])})"
        + (", corrected" if "shifted" in told else "")
    )


def _patches(plan: InferencePlan) -> str:
    height, width = plan.lattice.patch_shape
    least, most = plan.recompute(shared=True), plan.recompute()
    text = (
        f"{plan.count_distinct_patches():,} of {height} x {width} px  "
        f"stride {plan.inference.stride} px  merge {plan.lattice.merge}  "
        f"computed x{least:.2f}"
    )
    if most > 1.01 * least:
        text += f" to x{most:.2f}, the more processes run neighbouring blocks"
    if plan.inference.tta != "none":
        runs = RUNS[plan.inference.tta]
        text += f"  each run {runs} times (tta {plan.inference.tta}): {runs} x the work"
    if plan.inference.mc_dropout:
        runs = plan.inference.mc_dropout
        text += f"  each run {runs} times with dropout: {runs} x the work"
    return text


def _blocks(plan: InferencePlan) -> str:
    counts = np.bincount(plan.states, minlength=3)
    text = f"{counts[0]:,} of {plan.grid.block_px:,} px"
    if counts[1]:
        text += f"  ({counts[1]:,} outside the area of interest)"
    if counts[2]:
        text += f"  ({counts[2]:,} without imagery)"
    return text


def _memory(plan: InferencePlan, allowed: int | None) -> str:
    need = plan.memory()
    of = "" if allowed is None else f" of {allowed / 1e9:.1f} GB allowed"
    return (
        f"projected {need.total / 1e9:.1f} GB a worker{of} (reserved "
        f"{need.reserved / 1e9:.1f}, read {need.read / 1e9:.1f}, prepared "
        f"{need.prepared / 1e9:.1f}, batch {need.batch / 1e9:.1f}, merged "
        f"{need.merged / 1e9:.1f}, kept between blocks {need.cache / 1e9:.1f})"
    )


def _writes(plan: InferencePlan) -> str:
    if plan.card.output.detection is not None:
        parts = f"{len(plan.numbers()):,} parts"
        return f"detections.parquet (GeoParquet), from at most {parts}"
    names = [*plan.layers, *plan.source.get("layers", ())]
    if plan.inference.mc_dropout:
        names += name_spreads(plan.card, plan.layers)
    layers = ", ".join(names)
    size = plan.stored_block
    steps = len(plan.times) // len(plan.groups)  # several of a forecast in a block
    files = len(plan.numbers()) * len(names) * steps
    return (
        f"{layers}  (1, {size}, {size}) shards of {plan.output.chunk} px chunks  "
        f"at most {_bytes(plan.output_bytes(count_planes(plan)))} in {files:,} files"
    )


def count_planes(plan: InferencePlan) -> int:
    """Count bytes per pixel over all layers."""
    size = 2 if plan.output.scores_dtype == "float16" else 1
    stored = {"float32": 4, "float16": 2, "int8": 1}.get(plan.output.dtype or "", 1)
    wide = {"scores": size * len(plan.card.output.classes), "probability": size}
    if plan.card.output.detection is not None:
        return 0  # some hundred bytes an object, whatever the pixels
    extra = 2 * sum(len(s) for s in plan.groups[0]) * len(plan.source.get("layers", ()))
    wide |= {"observations": 2, "labels": len(plan.card.output.classes)}
    wide |= {band.name: stored for band in plan.card.output.bands}
    wide["forecast"] = stored * len(plan.card.output.bands)
    if plan.embedding is not None:
        kept = plan.embedding.components or plan.card.output.width
        wide["embedding"] = stored * kept
    if plan.inference.mc_dropout:
        beside = plan.layers if plan.card.output.bands else (SPREAD,)
        extra += sum(wide.get(name, 1) for name in beside)
    return sum(wide.get(name, 1) for name in plan.layers) + extra


def describe_time(pixels: int, mpx_per_s: float, cost: float | None) -> str:
    """Say how long so many pixels take, and at a price per hour what they cost."""
    hours = pixels / 1e6 / mpx_per_s / 3600
    text = f"{hours:.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
    text += f" at {mpx_per_s:g} Mpx/s"
    return text if cost is None else f"{text}, cost {hours * cost:,.2f}"


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} TB"

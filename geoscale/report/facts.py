"""What pages of all outputs say: of what, whether complete, how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from geoscale.engine.dates import list_unclear, say_unclear
from geoscale.engine.journal import Journal, Ledger
from geoscale.errors import OutputError
from geoscale.explain import describe_learned
from geoscale.gauges import say_after, sum_gpus
from geoscale.plans import InferencePlan
from geoscale.report.timing import HEIGHT, WIDTH, measure_timing
from geoscale.sources.opening import list_sources
from geoscale.storage import Folder
from geoscale.types import Json
from geoscale.words import redact

SHOWN = 200
"""Most source items and failures that a page lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What is stored of a run."""

    plan: InferencePlan
    """What was to be made."""
    ledger: Ledger
    """What was made."""
    final: Json | None
    """``final.json``; None where the output is not complete."""


def gather_run(url: str) -> tuple[Json, Run]:
    """Gather what the page of any output says.

    Parameters
    ----------
    url : str
        The output.

    Returns
    -------
    dict, Run
        Facts for a template, and what they are of.

    Raises
    ------
    OutputError
        If nothing was begun there.
    """
    journal = Journal(url)
    plan = journal.load_plan()
    if plan is None:
        raise OutputError(
            f"{redact(url)} is no output of geoscale: it holds no plan; check the path"
        )
    ledger, final = journal.read(), journal.final()
    total, items = len(plan.numbers()), list_sources(plan)
    done = sum(int(n) in ledger.done for n in plan.numbers())
    facts: Json = {
        "name": url.rpartition("/")[2].removesuffix(".zarr"),
        "place": url,
        "is_local": Folder(url).is_local,
        "is_icechunk": plan.output.store == "icechunk",
        "complete": final is not None,
        "blocks": {"total": total, "done": done, "side": plan.grid.block_px},
        "card": plan.card,
        "task": plan.goal,
        "time": name_day(plan.times[-1]),
        "since": "",
        "seen": name_day(plan.times[-1]),
        "times": len(plan.times),
        "timing": measure_timing(ledger.sample),
        "gpus": say_after(sum_gpus(ledger.sample)),
        "plot": {"width": WIDTH, "height": HEIGHT},
        "failed": _failures(plan, ledger)[:SHOWN],
        "unclear": [say_unclear(row) for row in list_unclear(plan, ledger)][:SHOWN],
        "grid": _describe_grid(plan),
        "made": _describe_making(plan, final),
        "versions": {k: v for k, v in (final or {}).get("versions", {}).items() if v},
        "items": items[:SHOWN],
        "item_count": len(items),
    }
    return facts, Run(plan=plan, ledger=ledger, final=final)


def name_day(label: str) -> str:
    """Give the day of a time, such as 2024-06-01."""
    return str(np.datetime64(label, "D"))


def redact_all(value: Any) -> Any:
    """Take credentials out of every text in nested data."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {key: redact_all(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [redact_all(one) for one in value]
    return value


def _failures(plan: InferencePlan, ledger: Ledger) -> list[Json]:
    return [
        {"block": plan.grid.name(number), "error": failure["error"]}
        for number, failure in sorted(ledger.failed.items())
    ]


def _describe_grid(plan: InferencePlan) -> dict[str, str]:
    crs, box = plan.geobox.crs, plan.geobox.boundingbox
    unit = "°" if crs is not None and crs.geographic else "m"
    return {
        "CRS": f"EPSG:{crs.epsg}" if crs is not None and crs.epsg else "custom",
        "pixel": f"{abs(plan.stored_geobox.affine.a):g} {unit}",
        "left, bottom": f"{box.left:,.6g}, {box.bottom:,.9g}",
        "right, top": f"{box.right:,.6g}, {box.top:,.9g}",
    }


def _describe_making(plan: InferencePlan, final: Json | None) -> dict[str, str]:
    chosen, facts = plan.inference, final or {}
    return {
        "plan": plan.hash,
        "model": plan.card.name,
        "weights sha256": plan.weights_sha256,
        "model licence": plan.card.license or "unknown",
        "cite": plan.card.citation or "",
        "about the model": plan.card.notes or "",
        "patches": f"{plan.lattice.patch_shape[0]} px, stride {chosen.stride} px, "
        f"merge {chosen.merge}",
        "arithmetic": f"{chosen.precision}, runtime {chosen.runtime}, "
        f"device {facts.get('device', chosen.device)}",
        "made on": ", ".join(facts.get("processors", [])),
        "workers": str(facts.get("workers") or "this process"),
        "learned": "; ".join(describe_learned(plan)),
        "to be known": "; ".join(plan.notes),
    }

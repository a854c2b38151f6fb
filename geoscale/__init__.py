"""geoscale: pretrained models over more imagery than fits in one machine.

Names are loaded on first use, so that ``import geoscale`` costs nothing:
neither torch nor dask nor xarray is imported.
"""

from __future__ import annotations

import importlib
import sys
from typing import TYPE_CHECKING, Any

from geoscale.redaction import clean_logs

__version__ = "0.1.0"

_FACE = {
    "open_stack": "geoscale.stacks",
    "load_model": "geoscale.api",
    "plan": "geoscale.api",
    "plan_job": "geoscale.api",
    "run": "geoscale.api",
    "run_job": "geoscale.api",
    "load_job": "geoscale.job",
    "predict": "geoscale.accessor",
    "open_output": "geoscale.sinks.layout",
    "status": "geoscale.outputs",
    "verify": "geoscale.outputs",
    "repair": "geoscale.outputs",
    "export": "geoscale.outputs",
    "evaluate": "geoscale.evaluation.run",
    "fit": "geoscale.fitting.run",
    "polygons": "geoscale.results.polygons",
    "transitions": "geoscale.results.transitions",
    "connect": "geoscale.clusters",
    "submit": "geoscale.submitting",
    "list_models": "geoscale.models",
    "ModelCard": "geoscale.card",
    "InferencePlan": "geoscale.plans",
    "RunReport": "geoscale.ending",
    "GeoscaleError": "geoscale.errors",
}

__all__ = [
    "GeoscaleError",
    "InferencePlan",
    "ModelCard",
    "RunReport",
    "__version__",
    "connect",
    "evaluate",
    "export",
    "fit",
    "list_models",
    "load_job",
    "load_model",
    "open_output",
    "open_stack",
    "plan",
    "plan_job",
    "polygons",
    "predict",
    "repair",
    "run",
    "run_job",
    "status",
    "submit",
    "transitions",
    "verify",
]

if TYPE_CHECKING:
    from geoscale.accessor import predict
    from geoscale.api import load_model, plan, plan_job, run, run_job
    from geoscale.card import ModelCard
    from geoscale.clusters import connect
    from geoscale.ending import RunReport
    from geoscale.errors import GeoscaleError
    from geoscale.evaluation.run import evaluate
    from geoscale.fitting.run import fit
    from geoscale.job import load_job
    from geoscale.models import list_models
    from geoscale.outputs import export, repair, status, verify
    from geoscale.plans import InferencePlan
    from geoscale.results.polygons import polygons
    from geoscale.results.transitions import transitions
    from geoscale.sinks.layout import open_output
    from geoscale.stacks import open_stack
    from geoscale.submitting import submit


def __getattr__(name: str) -> Any:
    """Load a public name on first use (PEP 562)."""
    if name not in _FACE:
        raise AttributeError(f"module `geoscale` has no `{name}`")
    value = getattr(importlib.import_module(_FACE[name]), name)
    if name in ("open_stack", "plan", "run"):
        importlib.import_module("geoscale.accessor")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """List the public names."""
    return sorted(__all__)


# Libraries log signed URLs; whoever imports this is not to read them anywhere.
clean_logs()

if "xarray" in sys.modules:
    # `stack.geoscale` exists from the moment that both are imported; the other
    # way round, the first use of any name here brings it.
    importlib.import_module("geoscale.accessor")

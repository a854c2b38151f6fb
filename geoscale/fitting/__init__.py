"""Few labels to a map: a head fitted to labelled pixels, and how far to trust it."""

from geoscale.fitting.job import fit_job
from geoscale.fitting.result import Fitted
from geoscale.fitting.run import fit

__all__ = ["Fitted", "fit", "fit_job"]

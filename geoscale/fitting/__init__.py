"""Few labels to a map: a head fitted to labelled pixels, and how far to trust it."""

from geoscale.fitting.run import fit

__all__ = ["fit"]

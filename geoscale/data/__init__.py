"""Weights that travel with the package: the demo's land-cover network."""

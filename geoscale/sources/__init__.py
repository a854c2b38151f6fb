"""Imagery on one grid, from STAC items, raster files, Zarr or xarray."""

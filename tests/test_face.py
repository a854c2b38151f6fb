"""The face: few names, all there; importing it costs nothing."""

from __future__ import annotations

import subprocess
import sys

import geoscale

HEAVY = ("torch", "dask", "distributed", "xarray", "rasterio", "zarr", "pandas")


def imported_by(code):
    script = f"{code}\nimport sys; print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def test_every_public_name_is_there():
    assert len(geoscale.__all__) <= 25
    for name in geoscale.__all__:
        assert getattr(geoscale, name) is not None
    assert sorted(geoscale.__all__) == sorted(set(geoscale._FACE) | {"__version__"})
    assert callable(geoscale.plan)


def test_import_brings_no_heavy_library():
    assert imported_by("import geoscale") == "[]"


def test_loading_a_card_brings_no_heavy_library():
    code = "import geoscale; geoscale.load_model('s2-landcover-unet')"
    assert imported_by(code) == "[]"


def test_the_accessor_is_there_whichever_is_imported_first():
    for order in ("import xarray, geoscale", "import geoscale, xarray"):
        code = f"{order}; geoscale.open_stack; print(xarray.DataArray.geoscale)"
        subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)

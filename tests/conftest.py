from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest

# OpenVINO reports its import over the network; geoscale stops that, but a test may
# import OpenVINO first.
sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]

hypothesis.settings.register_profile("dev", max_examples=50, deadline=None)
hypothesis.settings.register_profile(
    "ci", max_examples=200, deadline=None, derandomize=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "dev")

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """Folder of real imagery and weights; tests that need it skip without."""
    path = Path(os.environ.get("GEOSCALE_TEST_DATA", ROOT.parent / "shared" / "data"))
    if not (path / "README.md").is_file():
        pytest.skip(f"no test data at {path}; set GEOSCALE_TEST_DATA")
    return path


@pytest.fixture
def share():
    """Part of the tries of a proof: all for the page of results, a tenth by default."""
    return float(os.environ.get("GEOSCALE_PROOF_SHARE", "0.1"))


@pytest.fixture
def proof(record_property):
    """Record what a proof tried; `tools/reliability.py` adds it up."""

    def record(*, faults, compared, wrong=0):
        for name, value in (
            ("faults", faults),
            ("compared", compared),
            ("wrong", wrong),
        ):
            record_property(name, value)

    return record


@pytest.fixture(scope="session")
def taizhou(data_dir):
    """Both dates, (band, y, x) float32, and labels: 1 changed, 0 not, -1 unknown."""
    rasterio = pytest.importorskip("rasterio")
    found = []
    for name in ("2000TM", "2003TM", "change.bmp", "unchanged.bmp"):
        # ENVI's header lies beside; geoscale tells GDAL not to look around
        look = rasterio.Env(GDAL_DISABLE_READDIR_ON_OPEN="FALSE")
        with warnings.catch_warnings(), look:
            warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
            with rasterio.open(data_dir / "taizhou" / name) as file:
                found.append(file.read())
    labels = np.where(found[2][0] > 0, 1, np.where(found[3][0] > 0, 0, -1))
    return found[0].astype(np.float32), found[1].astype(np.float32), labels

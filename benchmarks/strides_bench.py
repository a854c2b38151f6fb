"""Strides: what the overlap of blended patches buys on the cloud model's own scene."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import Options, context, median, say, test_data
from benchmarks.quality import kappa
from benchmarks.workloads import BANDS

CARD, PATCH = "ukis-csmask-6b-l1c", 256
STRIDES = (192, 202, 203, 216, 217, 228, 229, 232, 233, 240, 241, 256)
"""Even and odd: layers of stride 2 have a phase."""
SHIFTS = (0, 3, 8, 13, 18, 23, 28)
"""Rows and columns that are cut off, so that patches fall elsewhere, in px."""


def run(options: Options) -> dict[str, Any]:
    """Every stride at every shift: kappa against the label, and seams."""
    before = context()
    scene = load_scene()
    if scene is None:
        why = "GEOSCALE_TEST_DATA holds no ukis_csmask/sentinel2.npz"
        return {"context": before, "rows": [], "why": why}
    strides = STRIDES[7:10] if options.quick else STRIDES
    shifts = SHIFTS[:1] if options.quick else SHIFTS
    rows = [measure(stride, shifts, *scene) for stride in strides]
    return {"context": before, "repeat": len(shifts), "patch": PATCH, "rows": rows}


def load_scene() -> tuple[np.ndarray, np.ndarray] | None:
    """Reflectance (band, y, x), float32, and the label in the network's classes."""
    path = test_data() / "ukis_csmask" / "sentinel2.npz"
    if not path.is_file():
        return None
    with np.load(path) as file:
        image = next(file[k] for k in file.files if file[k].shape[-1] == 6)
        label = next(file[k] for k in file.files if file[k].shape[-1] != 6)
    # the label's codes → the network's: background, clouds, shadows
    truth = np.array([2, 0, 0, 0, 1], np.uint8)[np.squeeze(label).astype(int)]
    return np.moveaxis(image, -1, 0).astype(np.float32), truth


def measure(
    stride: int, shifts: tuple[int, ...], image: np.ndarray, truth: np.ndarray
) -> dict[str, Any]:
    """One stride: the mean of the shifts, and the worst."""
    scores, worst, patches = [], [], 0
    for shift in shifts:
        labels, lines, patches = predict(image[:, shift:, shift:], stride)
        scores.append(kappa(truth[shift:, shift:], labels))
        worst.append(seam(labels, lines))
    row = {
        "stride_px": stride,
        "patches": patches,
        "kappa_mean": round(float(np.mean(scores)), 4),
        "kappa_least": round(min(scores), 4),
        "seam_mean": round(float(np.mean(worst)), 3),
        "seam_median": round(median(worst), 3),
        "seam_worst": round(max(worst), 3),
    }
    say(f"stride {stride}: kappa {row['kappa_mean']}, seams {row['seam_mean']}")
    return row


def predict(image: np.ndarray, stride: int) -> tuple[np.ndarray, list[list[int]], int]:
    """Class map (y, x), the patch borders along y and x, and how many patches."""
    import xarray as xr
    from odc.geo.xr import xr_coords

    import geoscale as gs
    from geoscale.testing import toy_geobox

    array = xr.DataArray(
        image,
        dims=("band", "y", "x"),
        coords={"band": list(BANDS), **xr_coords(toy_geobox(image.shape[1:]))},
        attrs={"scale": 1.0},
    )
    plan = gs.plan(array, CARD, stride_px=stride)
    borders = []
    for along in (plan.lattice.y, plan.lattice.x):
        starts = [along.start(k) for k in range(along.count)]
        found = {*starts, *(s + along.patch for s in starts)}
        size = image.shape[1]
        borders.append(sorted(n for n in found if 0 < n < size))
    labels = gs.predict(array, CARD, stride_px=stride).values.squeeze()
    return labels, borders, plan.lattice.y.count * plan.lattice.x.count


def seam(labels: np.ndarray, borders: list[list[int]]) -> float:
    """Changes of class at the worst border over the median of all other lines."""
    from geoscale.testing import measure_seams

    ratios = [
        measure_seams(labels, lines, axis).ratio for axis, lines in enumerate(borders)
    ]
    return max(ratios)

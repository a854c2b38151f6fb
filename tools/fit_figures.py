"""Write docs/fit-figures.md: heads of few labels on real imagery and real series.

    python -m tools.fit_figures DATA

Land use of eo-learn's patch in Slovenia on one date of Sentinel-2, by Dynamic World's
scores, raw bands and indices; crops of WorldCereal's public series. Every row is the
mean of several draws of labels, since one draw of ten says little.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import rasterio
import shapely

import geoscale as gs
from geoscale.fitting.asked import Asked
from geoscale.fitting.series import Table, fit_series
from tests.support.cards import dynamic_world

LAND = (2, 3, 4, 8)
"""Forest, grassland, shrubland, artificial surface: codes of eo-learn."""
COLUMNS = "OPTICAL-{band}-ts{date}-*"
CROPS = ("sorghum", "maize")
DRAWS = 5
HEAD = """\
# Few labels, in figures

Made by `python -m tools.fit_figures`, on real data, whatever came out. Accuracy and
mean F1 are of held-out blocks of ground; each figure is the mean of {draws} draws of
labels, ± their standard deviation. [fit.md](fit.md) says what the words mean.

"""


def main() -> None:
    """Fit, count, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of test data")
    parser.add_argument("--to", type=Path, default=Path("docs/fit-figures.md"))
    parser.add_argument("--draws", type=int, default=DRAWS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        lines = [
            *write_land(args.data, Path(folder), args.draws),
            *write_series(args.data, Path(folder), args.draws),
            *write_calibration(args.data, Path(folder), args.draws),
        ]
    args.to.write_text(HEAD.format(draws=args.draws) + "\n".join(lines) + "\n")


def draw_points(data: Path, to: Path, per_class: int, seed: int) -> Path:
    """Draw some pixels of each class, as points."""
    with rasterio.open(data / "eolearn" / "LULC.tif") as file:
        truth, affine, crs = file.read(1), file.transform, file.crs
    rng = np.random.default_rng(seed)
    codes, places = [], []
    for code in LAND:
        ys, xs = np.nonzero(truth == code)
        for k in rng.permutation(len(ys))[:per_class]:
            codes.append(code)
            places.append(shapely.Point(*(affine * (xs[k] + 0.5, ys[k] + 0.5))))
    gpd.GeoDataFrame({"lulc": codes}, geometry=places, crs=crs).to_file(to)
    return to


def write_land(data: Path, folder: Path, draws: int) -> Iterator[str]:
    """Land use by one date, by features and head."""
    stack = gs.open_stack(
        data / "eolearn" / "S2L1C_20150711T100008.tif",
        sensor="sentinel-2", scale=1e-4, source_nodata="none",
    )  # fmt: skip
    yield "## Land use by one date of Sentinel-2"
    yield ""
    yield (
        "eo-learn's patch in Slovenia: 1 km², four classes, blocks of 100 m in 4 "
        "folds; Dynamic World's nine scores with and without the bands beside them."
    )
    yield ""
    yield from start(
        "labels a class", "head", "Dynamic World", "with bands", "bands", "indices"
    )
    card = dynamic_world(data)
    for per_class in (10, 50):
        for head in ("logistic", "forest", "conv"):
            found: dict[str, list[Any]] = {}
            for seed in range(draws):
                labels = draw_points(data, folder / "l.gpkg", per_class, seed)
                for with_bands in (False, True):
                    made = gs.fit(
                        labels, stack, card, folder / "head", head=head,
                        with_bands=with_bands, folds=4, block_m=100, seed=seed,
                        trust_code=True,
                    )  # fmt: skip
                    held = made.report["features"]
                    found.setdefault(f"chosen {with_bands}", []).append(held["chosen"])
                    if not with_bands:
                        for name in ("bands", "indices"):
                            found.setdefault(name, []).append(held[name])
            names = ("chosen False", "chosen True", "bands", "indices")
            yield row(str(per_class), head, *(say(found[name]) for name in names))
    yield ""


def write_table(data: Path, to: Path, dates: tuple[int, ...]) -> Table:
    """Keep two crops and some months of WorldCereal's public series."""
    found = pd.read_parquet(data / "worldcereal" / "test_public_extractions.parquet")
    keep = [
        name
        for name in found.columns
        if name in ("lon", "lat", "balancing_class")
        or any(f"-ts{t}-" in name for t in dates)
    ]
    found[found["balancing_class"].isin(CROPS)][keep].to_parquet(to)
    return Table(
        path=to, columns=COLUMNS, attribute="balancing_class", scale=1e-4, nodata=65535
    )


def write_series(data: Path, folder: Path, draws: int) -> Iterator[str]:
    """Two crops by the year, by features and head."""
    yield "## Sorghum or maize, by twelve months of Sentinel-2"
    yield ""
    yield (
        "WorldCereal's public extractions in East Africa (402 series of these crops), "
        "ten bands, blocks of 20 km in 4 folds. `all` is 97 and 305 series: there, "
        "always saying sorghum has an accuracy of 0.759 and a mean F1 of 0.431. Bands "
        "of July alone show what the course of the year is worth."
    )
    yield ""
    yield from start(
        "labels a class", "head", "indices + bands", "bands", "indices", "July's bands"
    )
    year = write_table(data, folder / "year.parquet", tuple(range(12)))
    month = write_table(data, folder / "month.parquet", (7,))
    for per_class in (10, 50, 1000):
        for head in ("logistic", "forest"):
            found: dict[str, list[Any]] = {}
            for seed in range(draws if per_class < 1000 else 1):
                shared = {
                    "head": head, "per_class": per_class, "folds": 4, "seed": seed,
                    "block_m": 20_000,
                }  # fmt: skip
                tried = {
                    "both": (year, "indices", Asked(with_bands=True, **shared)),
                    "indices": (year, "indices", Asked(**shared)),
                    "month": (month, "bands", Asked(floor=False, **shared)),
                }
                for name, (table, model, asked) in tried.items():
                    made = fit_series(
                        table, folder / "head", model=f"features:{model}",
                        sensor="sentinel-2", asked=asked,
                    )  # fmt: skip
                    held = made.report["features"]
                    found.setdefault(name, []).append(held["chosen"])
                    if name == "both":
                        found.setdefault("bands", []).append(held["bands"])
            names = ("both", "bands", "indices", "month")
            labels = "all" if per_class == 1000 else str(per_class)
            yield row(labels, head, *(say(found[name]) for name in names))
    yield ""


def write_calibration(data: Path, folder: Path, draws: int) -> Iterator[str]:
    """How well probabilities hold, before and after."""
    yield "## Calibration"
    yield ""
    yield (
        "Sorghum or maize, 97 labels a class, bands and indices of all months. "
        "Expected calibration error and Brier score, before and after, each fold "
        "calibrated by what the others say; kept: in how many draws it lowered the "
        "Brier score, and so became part of the head."
    )
    yield ""
    yield from start("head", "by", "ECE", "after", "Brier", "after", "kept")
    year = write_table(data, folder / "year.parquet", tuple(range(12)))
    for head in ("logistic", "ridge", "forest"):
        for way in ("temperature", "sigmoid", "isotonic"):
            found = []
            for seed in range(draws):
                asked = Asked(
                    head=head, per_class=97, folds=4, block_m=20_000, seed=seed,
                    with_bands=True, calibrate=way, floor=False,
                )  # fmt: skip
                made = fit_series(
                    year, folder / "head", model="features:indices",
                    sensor="sentinel-2", asked=asked,
                )  # fmt: skip
                found.append(made.report["features"]["chosen"]["calibration"])
            cells = [
                f"{np.mean([one[when][what] for one in found]):.3f}"
                for what in ("error", "brier")
                for when in ("before", "after")
            ]
            kept = sum(one["kept"] for one in found)
            yield row(head, way, *cells, f"{kept} of {draws}")


def say(found: list[Any]) -> str:
    """Say accuracy and mean F1 of some draws."""
    said = []
    for name in ("accuracy", "f1_macro"):
        values = [one["pooled"][name] for one in found]
        spread = f" ± {np.std(values):.2f}" if len(values) > 1 else ""
        said.append(f"{np.mean(values):.3f}{spread}")
    return ", ".join(said)


def start(*names: str) -> Iterator[str]:
    """Begin a table."""
    yield row(*names)
    yield row(*("---" if i < 1 else "--:" for i in range(len(names))))


def row(*cells: str) -> str:
    """Write a row."""
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()

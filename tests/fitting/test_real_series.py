"""Monthly series of single pixels, as WorldCereal extracts them: dates as features."""

import numpy as np
import pytest

from geoscale.fitting.crossing import cross_validate
from geoscale.fitting.folds import deal_blocks

pytest.importorskip("sklearn")

OPTICAL = ("B02", "B03", "B04", "B08", "B11", "B12")
NODATA = 65535


def read_series(data_dir):
    """(pixel, month, band) of Sentinel-2, sorghum or not, and places in m."""
    import pandas as pd
    from pyproj import Transformer

    path = data_dir / "worldcereal" / "test_public_extractions.parquet"
    table = pd.read_parquet(path)
    names = set(table.columns)
    bands = [b for b in OPTICAL if any(n.startswith(f"OPTICAL-{b}-ts") for n in names)]

    def column(band, month):
        found = [n for n in names if n.startswith(f"OPTICAL-{band}-ts{month}-")]
        return table[found[0]].to_numpy(np.float32)

    x = np.stack([[column(b, t) for b in bands] for t in range(12)], 0).transpose(
        2, 0, 1
    )
    x = np.where(x == NODATA, np.nan, x)
    # what is missing is what the months around it say: the mean of the pixel's year
    keep = np.isfinite(x).any(1).all(1)
    x, table = x[keep], table[keep]
    x = np.where(np.isfinite(x), x, np.nanmean(x, 1, keepdims=True))
    crop = (table["balancing_class"] == "sorghum").to_numpy().astype(int)
    move = Transformer.from_crs(4326, 6933, always_xy=True).transform
    places = np.stack(move(table["lon"].to_numpy(), table["lat"].to_numpy()), 1)
    return x, crop, places


def test_a_year_tells_sorghum_from_other_land_and_a_month_less_so(data_dir):
    x, crop, places = read_series(data_dir)
    fold, blocks = deal_blocks(
        places,
        crop,
        np.arange(len(crop)),
        block_m=20_000,
        folds=4,
        names=("other", "sorghum"),
    )
    print(f"{len(crop)} series, {crop.mean():.0%} sorghum, {blocks} blocks of 20 km")
    found = {}
    for name, values in (("one month", x[:, 6]), ("all months", x.reshape(len(x), -1))):
        for head in ("logistic", "forest"):
            one = cross_validate(head, values, crop, fold, ("other", "sorghum"))
            found[name, head] = one["pooled"]["kappa"]
            print(f"{name}, {head}: accuracy {one['pooled']['accuracy']:.3f}, "
                  f"kappa {one['pooled']['kappa']:.3f}")  # fmt: skip
    assert found["all months", "forest"] > found["one month", "forest"]
    assert found["all months", "forest"] > 0.2

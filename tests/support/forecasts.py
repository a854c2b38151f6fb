"""Cards, weights and imagery of forecasts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from geoscale.card import ModelCard
from geoscale.stamps import add_days
from geoscale.testing import FakeSource, scene

NETS = Path(__file__).resolve().parent / "forecast_nets.py"
BANDS = ("blue", "green", "red", "nir")


class Series(FakeSource):
    """Dates that are some days apart."""

    every = 5.0

    @property
    def times(self) -> tuple[str, ...]:
        """One label for each."""
        first, count = "2024-03-02T10:20:31", len(self.data)
        return tuple(add_days(first, n * self.every) for n in range(count))

    @property
    def bands(self) -> tuple[str, ...]:
        """As EarthNet has them."""
        return BANDS[: self.data.shape[1]]


def series(dates: int = 4, shape: tuple[int, int] = (53, 61), every: float = 5):
    """Give some dates of four bands in reflectance, with clouds."""
    made = scene(shape, times=dates, bands=4, nodata=0.2, seed=5)
    made.data[:] = np.mod(made.data, 251) / 500
    found = Series(data=made.data, valid=made.valid)
    found.every = every
    return found


def forecast_card(folder: Path, net: str = "SmallConvLstm", **more: Any) -> ModelCard:
    """Card of one of the networks, with seeded weights."""
    import torch
    from safetensors.torch import save_file

    from tests.support import forecast_nets

    torch.manual_seed(11)
    args = {"steps": 3}
    module = getattr(forecast_nets, net)(**args)
    weights = folder / f"{net}.safetensors"
    save_file(module.state_dict(), weights)
    ahead = {"steps": 3, "every_days": 5, **more.pop("forecast", {})}
    patch = more.pop("patch", {"size": 32})
    return ModelCard.from_dict(
        {
            "name": net.lower(),
            "task": "forecasting",
            "architecture": f"{NETS}:{net}",
            "architecture_args": args,
            "weights": {"href": str(weights)},
            "input": {
                "bands": list(BANDS), "frames": 4, "fill": [0.1, 0.1, 0.1, 0.3],
                "patch": patch, **more,
            },
            "output": {"forecast": ahead},
        }
    )  # fmt: skip

from __future__ import annotations

import pickle
import threading
from pathlib import Path

import numpy as np
import pytest

from geoscale.errors import WeightsError
from geoscale.models import (
    ModelSettings,
    clear,
    device_lock,
    get_predictor,
    handshake,
    loads,
)
from geoscale.models.runtimes import pick_batch
from tests.models.test_build import write_card

SETTINGS = ModelSettings(device="cpu", trust_code=True, batch=1)


def test_many_threads_share_one_model(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    found: list[object] = []
    gate = threading.Barrier(8)

    def ask() -> None:
        gate.wait()
        found.append(get_predictor(card, SETTINGS))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len({id(p) for p in found}) == 1
    assert loads() == 1


def test_other_settings_are_another_model_and_old_ones_go(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    first = get_predictor(card, SETTINGS)
    for batch in (2, 3):
        get_predictor(card, ModelSettings(device="cpu", trust_code=True, batch=batch))
    assert loads() == 3
    assert get_predictor(card, SETTINGS) is not first
    assert loads() == 4
    clear()
    assert loads() == 0


def test_a_failure_is_not_kept(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    moved = (tmp_path / "w.safetensors").rename(tmp_path / "away")
    with pytest.raises(WeightsError, match="do not exist"):
        get_predictor(card, SETTINGS)
    moved.rename(tmp_path / "w.safetensors")
    x = np.zeros((1, 2, 16, 16), np.float32)
    assert get_predictor(card, SETTINGS).predict(x).shape == x.shape


def test_the_plans_hash_is_checked_on_every_load(tmp_path: Path) -> None:
    card = write_card(tmp_path)
    good = get_predictor(card, SETTINGS).model_id
    settings = ModelSettings(
        device="cpu", trust_code=True, batch=1, expected_sha256=good
    )
    assert get_predictor(card, settings).model_id == good
    clear()
    data = bytearray((tmp_path / "w.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(WeightsError, match=f"the plan asks for {good}"):
        get_predictor(card, settings)


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
@pytest.mark.parametrize("patch", [1, 32, 100, 256, 512, 1024, 8192])
def test_the_batch_is_a_small_power_of_two(patch: int, device: str) -> None:
    batch = pick_batch(patch, device)
    assert 1 <= batch <= 64
    assert batch & (batch - 1) == 0


def test_a_device_has_one_lock() -> None:
    assert device_lock("cuda") is device_lock("cuda:0")
    assert device_lock("cuda:1") is not device_lock("cuda:0")


def test_settings_travel() -> None:
    assert pickle.loads(pickle.dumps(SETTINGS)) == SETTINGS


def test_the_handshake_names_versions() -> None:
    versions = handshake()
    assert {"geoscale", "python", "torch", "numpy", "zarr", "gdal"} <= set(versions)
    assert versions["numpy"] == np.__version__

"""A model's files for workers that do not see the driver's disk."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from geoscale.clusters import Courier
from geoscale.errors import CardError, WeightsError
from geoscale.parcels import (
    CHUNK,
    Parcel,
    find_lacking,
    find_path,
    receive,
    wait_for_files,
)
from geoscale.supply import at_hand, find_parcels
from tests.support.cards import simplecnn
from tests.support.workers import empty_cluster, start_worker

DATA = bytes(range(256)) * 20_000
"""Three pieces, the last one smaller."""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOSCALE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def pack(source: Path, data: bytes = DATA, *, seen: bool = False) -> Parcel:
    """A file of the driver; under its path nobody sees it, unless asked for."""
    sha256 = hashlib.sha256(data).hexdigest()
    source.write_bytes(data)
    named = source if seen else source.parent / "elsewhere" / source.name
    place = f"weights/{sha256}.safetensors"
    return Parcel("weights.href", str(named), sha256, place, len(data))


def send(parcel: Parcel, pieces, sender: str = "one") -> None:
    for start, data in pieces:
        asyncio.run(receive(parcel, sender, start, data))


def cut(data: bytes) -> list[tuple[int, bytes]]:
    return [(i, data[i : i + CHUNK]) for i in range(0, len(data), CHUNK)]


def test_pieces_become_the_file(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    assert len(cut(DATA)) == 3
    assert asyncio.run(find_lacking([parcel]))[1] == [parcel.place]
    send(parcel, cut(DATA))
    assert find_path(parcel).read_bytes() == DATA
    assert find_path(parcel) == cache / parcel.place
    assert asyncio.run(find_lacking([parcel]))[1] == []
    assert not list(cache.rglob("*.part"))


def test_a_file_that_is_seen_is_not_asked_for(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors", seen=True)
    assert asyncio.run(find_lacking([parcel]))[1] == []
    assert find_path(parcel) == tmp_path / "w.safetensors"


def test_another_content_is_refused_and_nothing_of_it_stays(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    torn = DATA[:-1] + b"x"
    with pytest.raises(WeightsError, match="changed since the job was planned"):
        send(parcel, cut(torn))
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_a_missing_piece_is_refused(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    first, _, last = cut(DATA)
    with pytest.raises(WeightsError, match=f"{CHUNK} of {2 * CHUNK} bytes came"):
        send(parcel, [first, last])
    assert [p for p in cache.rglob("*") if p.is_file()] == []


def test_a_damaged_file_in_the_cache_is_sent_again(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    send(parcel, cut(DATA))
    (cache / parcel.place).write_bytes(DATA[:-1])
    assert asyncio.run(find_lacking([parcel]))[1] == [parcel.place]
    send(parcel, cut(DATA))
    assert find_path(parcel).read_bytes() == DATA


def test_what_a_dead_driver_left_is_swept_away(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    send(parcel, cut(DATA)[:1], sender="dead")
    (left,) = cache.rglob("*.part")
    os.utime(left, (0, 0))
    send(parcel, cut(DATA))
    assert not left.exists()


def test_a_worker_waits_as_long_as_something_comes(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")

    def slowly():
        for piece in cut(DATA):
            time.sleep(0.5)
            send(parcel, [piece])

    thread = threading.Thread(target=slowly)
    thread.start()
    wait_for_files([parcel], patience_s=1.0)
    assert find_path(parcel) is not None
    thread.join()


def test_a_worker_says_what_did_not_come(cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    with pytest.raises(
        WeightsError, match=r"w\.safetensors is not seen by this worker"
    ):
        wait_for_files([parcel], patience_s=0.3)
    wait_for_files([parcel._replace(size=-1)])  # nobody can send it


@pytest.fixture
def plan(data_dir):
    """What is asked of a plan: a card of the user's own, and its hashes."""

    class Plan:
        card = simplecnn(data_dir)
        weights_sha256 = "a" * 64
        code_sha256 = "b" * 64
        source: ClassVar[dict] = {}

    return Plan()


def test_code_is_packed_only_where_it_is_trusted(plan):
    weights, code = find_parcels(plan, trust_code=True)
    assert weights.place == f"weights/{'a' * 64}.safetensors"
    assert weights.size == Path(plan.card.weights.href).stat().st_size
    assert code.place == f"code/{'b' * 64}/simplecnn.py"
    with pytest.raises(CardError, match="--trust-code"):
        find_parcels(plan, trust_code=False)


def test_models_of_packages_and_urls_are_fetched_by_the_workers(plan):
    for href in ("package:torchgeo/w.pt", "https://example.org/w.pt", "torchgeo:X.Y"):
        weights = plan.card.weights.model_copy(update={"href": href})
        plan.card = plan.card.model_copy(update={"weights": weights})
        fields = [one.field for one in find_parcels(plan, trust_code=True)]
        assert fields == ["architecture"]


def test_a_card_names_files_as_this_process_sees_them(plan, cache, tmp_path):
    parcel = pack(tmp_path / "w.safetensors")
    code = pack(tmp_path / "net.py", b"x = 1\n")
    code = code._replace(field="architecture", place=f"code/{code.sha256}/net.py")
    send(parcel, cut(DATA))
    send(code, [(0, b"x = 1\n")])
    found = at_hand(plan.card, [parcel, code])
    assert found.weights.href == str(cache / parcel.place)
    assert found.architecture == f"{cache / code.place}:SimpleCNN"
    assert at_hand(plan.card, find_parcels(plan, trust_code=True)) == plan.card


def test_each_cache_gets_a_file_once_and_workers_that_come_later_too(
    tmp_path, monkeypatch, caplog
):
    monkeypatch.setenv("GEOSCALE_CACHE", str(tmp_path / "driver"))
    caplog.set_level(logging.INFO, "geoscale.clusters.courier")
    sources = tmp_path / "driver"
    sources.mkdir()
    monkeypatch.chdir(sources)
    pack(sources / "w.safetensors")
    # workers are in another folder, and so do not see it
    parcel = pack(Path("w.safetensors"), seen=True)
    folders = [tmp_path / name for name in ("a", "b")]

    def kept(folder):
        return [p.read_bytes() for p in folder.rglob("*.safetensors")]

    with empty_cluster() as cluster:
        from distributed import Client

        one = start_worker(cluster, tmp_path, GEOSCALE_CACHE=str(folders[0]))
        two = start_worker(cluster, tmp_path, GEOSCALE_CACHE=str(folders[0]))
        late = start_worker(cluster, tmp_path, GEOSCALE_CACHE=str(folders[1]))
        with Client(cluster) as client, one, two, Courier(client, [parcel]):
            assert kept(folders[0]) == [DATA]
            with late:
                until = time.monotonic() + 30
                while not kept(folders[1]):
                    assert time.monotonic() < until
                    time.sleep(0.1)
                assert kept(folders[1]) == [DATA]
    assert caplog.text.count("to 1 workers") == 2

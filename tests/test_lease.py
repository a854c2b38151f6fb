"""Two drivers of one output: the second is refused, the dead are not waited for."""

from __future__ import annotations

import json
import subprocess
import sys
import threading

import pytest

from geoscale import patience
from geoscale.engine import lease as module
from geoscale.engine.lease import TTL_S, Lease, describe_process
from geoscale.errors import OutputError
from geoscale.testing_store import Faults
from tests.support.clock import Clock

DIE_WITH_IT = """
import sys
from geoscale.engine.lease import Lease
Lease(sys.argv[1]).take()
"""
ELSEWHERE = {"host": "other", "boot": "b", "space": "s", "pid": 7, "started": "1"}


def make(url, **more):
    time = more.pop("time", Clock())
    return Lease(str(url), clock=time, sleep=time.sleep, **more)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.0)


def test_it_is_given_back(tmp_path):
    with make(tmp_path):
        assert list((tmp_path / ".geoscale").glob("lease-*"))
    assert not list((tmp_path / ".geoscale").glob("lease-*"))


def test_a_live_driver_of_another_host_is_left_alone(tmp_path):
    other = make(tmp_path, process=ELSEWHERE)
    other.take()
    mine = make(tmp_path, time=Clock(meanwhile=other.beat))
    with pytest.raises(OutputError, match=r"another run works on .*process 7 on other"):
        mine.take()
    assert other._is_mine(other._load())


def test_a_driver_of_another_host_that_shows_no_sign_is_taken_over(tmp_path):
    other = make(tmp_path, process=ELSEWHERE)
    other.take()
    time = Clock()
    mine = make(tmp_path, time=time)
    mine.take()
    assert time.now >= TTL_S
    assert mine._is_mine(mine._load())
    # it was only suspended: its next sign of life tells it
    other.beat()
    assert other.is_lost
    assert mine._is_mine(mine._load()), "a suspended driver takes nothing back"


def test_a_suspended_driver_is_told_to_stop(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BEAT_S", 0.02)
    told, event = [], threading.Event()

    def on_lost(why):
        told.append(why)
        event.set()

    with make(tmp_path, process=ELSEWHERE, on_lost=on_lost):
        make(tmp_path)._folder.put("lease-driver.json", b'{"run": "another"}')
        assert event.wait(5)
    assert told == ["another run has taken over the output"]
    assert json.loads((tmp_path / ".geoscale/lease-driver.json").read_text()), (
        "the lease of the other is not deleted"
    )


def test_a_dead_process_of_this_host_is_not_waited_for(tmp_path):
    done = subprocess.run(
        [
            sys.executable, "-c",
            DIE_WITH_IT, str(tmp_path),
        ],
        check=True,
    )  # fmt: skip
    assert done.returncode == 0
    time = Clock()
    make(tmp_path, time=time).take()
    assert time.now < 1


def test_a_number_that_another_process_got_since_is_not_the_driver(tmp_path):
    gone = describe_process() | {"started": "1"}
    make(tmp_path, process=gone).take()
    time = Clock()
    make(tmp_path, time=time).take()
    assert time.now < 1


def test_of_many_that_begin_at_once_one_goes_on(tmp_path):
    # all see a free lease: what they then do is what has to tell them apart
    many = [make(tmp_path) for _ in range(12)]
    for lease in many:
        lease._load = lambda: None
    ready, won, refused = threading.Barrier(len(many)), [], []

    def begin(lease):
        ready.wait()
        try:
            lease.take()
        except OutputError:
            refused.append(lease)
        else:
            won.append(lease)

    threads = [threading.Thread(target=begin, args=(lease,)) for lease in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 11)
    del won[0]._load
    assert won[0]._is_mine(won[0]._load())
    assert len(list((tmp_path / ".geoscale").iterdir())) == 1, "nothing is left over"


def begin_at_once(faults, count=2):
    """Let some take a lease that each of them saw free; give them, and who won."""
    many = [make(faults.url("out.zarr")) for _ in range(count)]
    for lease in many:
        lease._load = lambda: None
    won = []
    for lease in many:
        try:
            lease.take()
        except OutputError:
            continue
        won.append(lease)
    for lease in many:
        del lease._load
    return many, won


def test_of_two_that_begin_at_once_in_an_object_store_one_goes_on(tmp_path):
    many, won = begin_at_once(Faults(tmp_path))
    assert won == many[:1]
    assert won[0]._is_mine(won[0]._load())


def test_a_store_without_conditions_is_seen_through_and_the_last_one_has_it(tmp_path):
    faults = Faults(tmp_path)
    faults.is_conditional = False
    first, second = make(faults.url("out.zarr")), make(faults.url("out.zarr"))
    assert first._folder.create("probe", b"1") is None
    time = Clock(meanwhile=lambda: second.beat())
    first._sleep, first._clock = time.sleep, time
    with pytest.raises(OutputError, match="another run works on"):
        first.take()
    assert second._is_mine(second._load())


def test_who_took_it_without_being_told_has_it_all_the_same(tmp_path):
    # the answer to the first put is lost; asked again, the store says: it is there
    faults = Faults(tmp_path)
    faults.script = ["lost"]
    lease = make(faults.url("out.zarr"))
    lease.take()
    assert faults.seen["lost"] == 1
    assert lease._is_mine(lease._load())
    with pytest.raises(OutputError, match="another run works on"):
        make(faults.url("out.zarr"), time=Clock(meanwhile=lease.beat)).take()


def test_parts_of_a_job_array_do_not_hinder_each_other(tmp_path):
    with make(tmp_path, name="shard-0-of-2"), make(tmp_path, name="shard-1-of-2"):
        assert len(list((tmp_path / ".geoscale").glob("lease-*"))) == 2


def test_a_lease_that_cannot_be_read_is_watched_not_believed(tmp_path):
    folder = tmp_path / ".geoscale"
    folder.mkdir()
    (folder / "lease-driver.json").write_bytes(b"\x00 no json")
    time = Clock()
    make(tmp_path, time=time).take()
    assert time.now >= TTL_S

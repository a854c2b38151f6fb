"""Outputs in S3: fast ones, on fakes, over a server that may fail."""

from __future__ import annotations

import dataclasses
import threading

import pytest

from geoscale import patience
from geoscale.engine import lease as module
from geoscale.engine.block import run_block
from geoscale.engine.drive import drive
from geoscale.engine.failures import RUN
from geoscale.engine.journal import Journal
from geoscale.engine.lease import Lease
from geoscale.engine.loop import LoopExecutor
from geoscale.engine.verify import verify_blocks
from geoscale.errors import OutputError, StoppedError
from geoscale.patience import PATIENCE
from geoscale.sinks.icechunk import IcechunkSink
from geoscale.storage import Folder
from tests.infra.conftest import KEY, SECRET, reach
from tests.infra.proxy import Proxy, passing
from tests.support.clock import Clock
from tests.support.toy import run_toy, stored_bytes, toy_kernel, toy_plan, toy_sink

pytestmark = pytest.mark.infra


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.0)


def test_a_map_in_s3_equals_the_one_on_disk(s3, clean, proof):
    assert run_toy(s3.url("out.zarr"), in_flight=3).computed == 64
    assert stored_bytes(s3.url("out.zarr")) == clean
    assert run_toy(s3.url("out.zarr")).computed == 0
    proof(faults=0, compared=sum(map(len, clean.values())))


def test_a_stopped_run_goes_on_and_only_its_rest_is_computed(s3, clean):
    url, plan = s3.url("out.zarr"), toy_plan()
    toy_sink(plan, url).create()

    class Stop(Exception):
        pass

    def stop(tally, outcome):
        if tally.computed == 20:
            raise Stop

    with pytest.raises(Stop):
        drive(plan, Journal(url), LoopExecutor(toy_kernel(plan, url)), progress=stop)
    assert run_toy(url).computed == 44
    assert stored_bytes(url) == clean


@pytest.mark.parametrize("mode", ["503", "lost"])
def test_puts_that_fail_lose_no_block(s3, clean, monkeypatch, mode, proof):
    proxy = Proxy(s3.endpoint, mode, 0.15)
    with passing(proxy) as endpoint:
        reach(endpoint, monkeypatch)
        tally = run_toy(s3.url("out.zarr"), in_flight=3)
        assert stored_bytes(s3.url("out.zarr")) == clean
    assert (tally.computed, tally.failures) == (64, 0)
    assert proxy.seen[mode] > 10
    assert proxy.unchecked == [], "every put carries a checksum of its body"
    proof(faults=proxy.seen[mode], compared=sum(map(len, clean.values())))


def test_a_put_that_is_forbidden_stops_the_run_at_once(s3, monkeypatch):
    url, plan = s3.url("out.zarr"), toy_plan()
    toy_sink(plan, url).create()
    journal = Journal(url)
    journal.begin(plan)
    proxy, before = Proxy(s3.endpoint, "403", 1.0), PATIENCE.again
    with passing(proxy) as endpoint:
        reach(endpoint, monkeypatch)
        executor = LoopExecutor(toy_kernel(plan, url))
        words = r"not allowed to write to s3://lab/out\.zarr.*must allow to list, get"
        with pytest.raises(StoppedError, match=words):
            drive(plan, journal, executor)
    # one shard, and the record of its failure
    assert proxy.seen["put"] <= 2
    assert PATIENCE.again == before


def test_a_bucket_that_is_not_there_is_named(s3):
    words = r"there is no bucket `nowhere`, which s3://nowhere/out\.zarr"
    plan = toy_plan()
    with pytest.raises(OutputError, match=words):
        Journal("s3://nowhere/out.zarr").load_plan()
    with pytest.raises(OutputError, match=words):
        toy_sink(plan, "s3://nowhere/out.zarr").create()


def test_credentials_that_are_not_there_are_asked_for(s3, monkeypatch):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    reach(s3.endpoint, monkeypatch)
    with pytest.raises(StoppedError, match="no usable credentials for s3://lab/x"):
        Folder(s3.url("x")).put("a", b"1")


def test_a_changed_byte_is_found_and_only_its_block_is_made_again(s3, clean):
    url, plan = s3.url("out.zarr"), toy_plan()
    run_toy(url)
    sink, journal = toy_sink(plan, url), Journal(url)
    key = next(iter(sink.keys()))
    data = bytearray(s3.read(f"out.zarr/{key}"))
    data[len(data) // 2] ^= 1
    s3.write(f"out.zarr/{key}", bytes(data))
    found = verify_blocks(plan, journal, sink)
    assert [(d.key, d.reason) for d in found.damaged] == [(key, "changed")]
    sink.drop(key)
    journal.begin(plan)
    journal.undo(found.blocks())
    assert run_toy(url).computed == 1
    assert stored_bytes(url) == clean


def test_what_others_store_is_listed_at_once(s3):
    folder = Folder(s3.url("out"))
    folder.put("a/1", b"")
    assert (folder.names(), folder.find(), folder.exists("a/2")) == (
        ["a"], ["a/1"], False,
    )  # fmt: skip
    s3.write("out/a/2", b"")
    s3.write("out/b", b"")
    assert folder.names() == ["a", "b"]
    assert folder.find() == ["a/1", "a/2", "b"]
    assert folder.exists("a/2")
    s3.client.delete_object(Bucket="lab", Key="out/b")
    assert not folder.exists("b")
    assert folder.get("b") is None


def take_at_once(url, count):
    """Let some drivers take a lease that all of them see free."""
    many = [Lease(url, process={"pid": n}, sleep=Clock().sleep) for n in range(count)]
    for lease in many:
        lease._load = lambda: None
    ready, won = threading.Barrier(count), []

    def begin(lease):
        ready.wait()
        try:
            lease.take()
        except OutputError:
            return
        won.append(lease)

    threads = [threading.Thread(target=begin, args=(lease,)) for lease in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for lease in many:
        del lease._load
    return won


def test_of_many_drivers_that_begin_at_once_one_has_the_lease(s3):
    won = take_at_once(s3.url("out.zarr"), 12)
    assert len(won) == 1
    assert won[0]._is_mine(won[0]._load())


def test_who_got_the_lease_without_being_told_has_it(s3, monkeypatch):
    proxy = Proxy(s3.endpoint)
    proxy.script = ["lost"]
    with passing(proxy) as endpoint:
        reach(endpoint, monkeypatch)
        lease = Lease(s3.url("out.zarr"))
        lease.take()
        assert proxy.seen["lost"] == 1
        assert lease._is_mine(lease._load())
        time = Clock(meanwhile=lease.beat)
        other = Lease(s3.url("out.zarr"), clock=time, sleep=time.sleep)
        with pytest.raises(OutputError, match="another run works on s3://lab"):
            other.take()


def test_a_driver_that_shows_no_sign_is_taken_over_and_told(s3):
    first = Lease(s3.url("out.zarr"), process={"pid": 1, "host": "elsewhere"})
    first.take()
    time = Clock()
    second = Lease(s3.url("out.zarr"), clock=time, sleep=time.sleep)
    second.take()
    assert time.now >= module.TTL_S
    first.beat()
    assert first.is_lost
    assert second._is_mine(second._load())


def test_what_workers_hand_back_for_a_commit_holds_no_secret(s3):
    pytest.importorskip("icechunk")
    url, plan = s3.url("out.ice"), toy_plan()
    sink = IcechunkSink(url, toy_sink(plan, url).template)
    sink.create()
    kernel = dataclasses.replace(toy_kernel(plan, url), sink=sink)
    outcome = run_block(kernel, 20)
    assert 100 < len(outcome.changes) < 2000
    assert KEY.encode() not in outcome.changes
    assert SECRET.encode() not in outcome.changes
    sink.commit([outcome.changes], "one")
    for key, digest in outcome.digests.items():
        assert sink.fetch_digest(key) == digest
    assert s3.find(KEY, SECRET) == []


def test_an_icechunk_output_says_what_is_wrong_as_any_other(s3, monkeypatch):
    pytest.importorskip("icechunk")
    plan = toy_plan()
    template = toy_sink(plan, "x").template
    with pytest.raises(OutputError, match="there is no bucket `nowhere`"):
        IcechunkSink("s3://nowhere/out.ice", template).create()
    sink = IcechunkSink(s3.url("out.ice"), template)
    sink.create()
    with passing(Proxy(s3.endpoint, "403", 1.0)) as endpoint:
        reach(endpoint, monkeypatch)
        kernel = dataclasses.replace(
            toy_kernel(plan, "x"), sink=IcechunkSink(s3.url("out.ice"), template)
        )
        outcome = run_block(kernel, 20)
    assert outcome.kind == RUN, outcome.error
    assert "not allowed to write to s3://lab/out.ice" in outcome.error


def test_another_library_may_serve_the_same_urls(s3, clean, monkeypatch):
    """obstore's adapter ignores the condition of a put: the lease sees through it."""
    adapter = pytest.importorskip("obstore.fsspec")
    import s3fs
    from fsspec import register_implementation

    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")
    adapter.register("s3")
    try:
        assert run_toy(s3.url("out.zarr"), in_flight=3).computed == 64
        assert stored_bytes(s3.url("out.zarr")) == clean
        assert Folder(s3.url("x")).create("a", b"1") is None
        with pytest.raises(OutputError, match="there is no bucket `nowhere`"):
            toy_sink(toy_plan(), "s3://nowhere/out.zarr").create()
    finally:
        register_implementation("s3", s3fs.S3FileSystem, clobber=True)

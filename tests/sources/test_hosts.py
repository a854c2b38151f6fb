"""A server that is down is asked now and then, by one thread."""

from __future__ import annotations

import threading

import pytest

from geoscale.errors import ReadError
from geoscale.sources.hosts import (
    CONNECTIONS,
    FAILURES,
    LONGEST_PAUSE_S,
    PATIENCE_S,
    Host,
    find_host,
)
from tests.support.clock import Clock


def make():
    time = Clock()
    return Host("e.org", clock=time, sleep=time.sleep), time


def fail(host, times):
    for _ in range(times):
        with host.visit():
            host.note(ok=False)


def test_some_failures_are_not_waited_for():
    host, time = make()
    fail(host, FAILURES - 1)
    with host.visit():
        host.note(ok=True)
    fail(host, FAILURES - 1)
    assert time.now == 0


def test_a_server_that_keeps_failing_is_left_alone_longer_and_longer():
    host, time = make()
    fail(host, FAILURES)
    waits = []
    for _ in range(8):
        before = time.now
        fail(host, 1)
        waits.append(time.now - before)
    assert 0 < waits[0] <= 3
    assert waits[0] < waits[2] < waits[4]
    assert max(waits) <= LONGEST_PAUSE_S + 1
    with host.visit():
        host.note(ok=True)
    before = time.now
    fail(host, FAILURES - 1)
    assert time.now == before, "one answer and it is as before"


def test_only_one_asks_whether_it_is_back():
    host, time = make()
    fail(host, FAILURES)
    time.now += LONGEST_PAUSE_S
    with host.visit():
        with pytest.raises(ReadError, match=r"e\.org has failed 8 times in a row"):
            host._wait()
        assert time.now >= PATIENCE_S
    with host.visit():
        host.note(ok=True)


def test_a_probe_that_ends_otherwise_lets_the_next_one_ask():
    host, time = make()
    fail(host, FAILURES)
    time.now += LONGEST_PAUSE_S
    with pytest.raises(ValueError), host.visit():  # noqa: PT011
        raise ValueError
    before = time.now
    with host.visit():
        assert time.now == before


def test_so_many_at_a_time():
    host, inside = Host("e.org"), threading.Semaphore(0)
    leave = threading.Event()

    def go():
        with host.visit():
            inside.release()
            leave.wait(10)

    threads = [threading.Thread(target=go) for _ in range(CONNECTIONS + 1)]
    for thread in threads:
        thread.start()
    for _ in range(CONNECTIONS):
        assert inside.acquire(timeout=5)
    assert not inside.acquire(timeout=0.2)
    leave.set()
    assert inside.acquire(timeout=5)
    for thread in threads:
        thread.join()


def test_local_files_have_no_host():
    assert find_host("/data/a.tif") is None
    assert find_host("file:///data/a.tif") is None
    assert find_host("s3://bucket/a.tif") is find_host("s3://bucket/b.tif")

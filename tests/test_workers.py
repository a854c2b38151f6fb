"""Workers that cannot run blocks, that hang or are slow: no block suffers for it."""

from __future__ import annotations

import errno
import logging
import os
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

from geoscale.assemble import build_kernel, check_versions, make_sink
from geoscale.clusters import connect
from geoscale.engine.distributed import DaskExecutor
from geoscale.engine.drive import drive, finalize
from geoscale.engine.journal import Journal
from geoscale.engine.remote import run_remote
from geoscale.engine.roster import CRASHES, GRACE_S, Roster
from geoscale.engine.runs import Run
from geoscale.engine.stragglers import COPIES, LEAST_BLOCKS, Patience, Sent
from geoscale.errors import StoppedError, WeightsError
from geoscale.models import handshake
from geoscale.testing import FakePredictor, scene
from tests.support.toy import run_toy, stored_bytes, toy_kernel, toy_plan, toy_sink
from tests.support.workers import empty_cluster, fake_package, start_worker

BLOCKS = 64
ERRORS = {
    "missing": WeightsError("weights /models/net.pt do not exist"),
    "hash": WeightsError("weights have sha256 1234, not 5678"),
    "memory": MemoryError("no memory for the model"),
    "torch": ImportError("libtorch_cpu.so: undefined symbol"),
    "disk": OSError(errno.ENOSPC, "No space left on device"),
    "unforeseen": ZeroDivisionError("oh"),
}


@pytest.fixture(scope="module")
def two():
    """Two worker processes; every test leaves them as they were."""
    with connect(2, threads=2) as client:
        client.wait_for_workers(2)
        yield client


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


def begin(url):
    plan, journal = toy_plan(), Journal(url)
    sink = toy_sink(plan, url)
    sink.create()
    journal.begin(plan)
    return plan, journal, sink


def end(plan, journal, sink):
    assert finalize(plan, journal, sink, {}).is_sound
    sink.finalize()


def claim(url, word):
    """Whether this process is the one that a word belongs to: whoever comes first."""
    path = Path(f"{url}.{word}")
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        pass
    else:
        path.write_text(str(os.getpid()))
    while not path.read_text():
        time.sleep(0.01)
    return int(path.read_text()) == os.getpid()


def note(url, word):
    folder = Path(f"{url}.{word}")
    folder.mkdir(exist_ok=True)
    (folder / f"{os.getpid()}-{len(list(folder.iterdir()))}").touch()


def noted(url, word):
    folder = Path(f"{url}.{word}")
    if not folder.is_dir():
        return Counter()
    return Counter(int(p.name.partition("-")[0]) for p in folder.iterdir())


def records(url):
    found = Counter()
    for path in (Path(url) / ".geoscale" / "ledger").glob("*.jsonl"):
        for line in path.read_text().splitlines():
            found[int(line.split(",")[0].removeprefix('{"b":'))] += 1
    return found


# workers that cannot make the kernel


def build_or_fail(url, plan_hash, who, error):
    note(url, "builds")
    plan = Journal(url).load_plan()
    if who == "all" or (who == "one" and claim(url, "bad")):
        raise ERRORS[error]
    if who == "at first" and noted(url, "builds")[os.getpid()] == 1:
        raise OSError(errno.ECONNRESET, "connection reset")
    return toy_kernel(plan, url, 0.02)


@pytest.mark.parametrize("error", list(ERRORS))
def test_a_worker_that_cannot_load_the_model_gets_no_block(
    error, tmp_path, two, clean, caplog
):
    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)
    executor = DaskExecutor(
        two, build_or_fail, url, plan.hash, extra=("one", error), stall_s=60
    )
    with caplog.at_level(logging.WARNING, "geoscale"):
        tally = drive(plan, journal, executor)
    assert tally.computed == BLOCKS
    assert tally.failures == 0, "its tasks count against no block"
    assert records(url) == dict.fromkeys(range(BLOCKS), 1)
    bad = int(Path(f"{url}.bad").read_text())
    assert noted(url, "builds") == dict.fromkeys(noted(url, "builds"), 1)
    assert len(noted(url, "builds")) == 2
    (said,) = [r.getMessage() for r in caplog.records if "gets no block" in r.msg]
    assert str(ERRORS[error].args[-1]) in said
    assert "tcp://127.0.0.1" in said
    end(plan, journal, sink)
    assert stored_bytes(url) == clean
    assert bad in two.run(os.getpid).values(), "it lives, for other jobs"


def test_a_run_without_any_worker_that_can_stops_at_once(tmp_path, two):
    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)
    executor = DaskExecutor(two, build_or_fail, url, plan.hash, extra=("all", "hash"))
    with pytest.raises(StoppedError, match="have sha256 1234, not 5678") as caught:
        drive(plan, journal, executor)
    assert "geoscale doctor --cluster" in str(caught.value)
    assert "same command" in str(caught.value)
    assert caught.value.exit_code == 4
    assert noted(url, "builds").total() == 2, "each worker tries once"
    assert not records(url)
    # somebody has mended it: the same workers are asked again
    executor = DaskExecutor(two, build_or_fail, url, plan.hash, extra=("none", "hash"))
    assert drive(plan, journal, executor).computed == BLOCKS
    end(plan, journal, sink)


def test_what_passes_while_a_kernel_is_made_is_tried_again(tmp_path, two, caplog):
    url = str(tmp_path / "out.zarr")
    plan, journal, _ = begin(url)
    executor = DaskExecutor(
        two, build_or_fail, url, plan.hash, extra=("at first", "hash")
    )
    tally = drive(plan, journal, executor)
    assert (tally.computed, tally.failures) == (BLOCKS, 0)
    assert set(noted(url, "builds").values()) == {2}
    assert "gets no block" not in caplog.text


def test_a_kernel_that_cannot_be_made_costs_no_block_of_the_run():
    calls = []

    def refuse(url, plan_hash):
        calls.append(url)
        raise StoppedError("no plan here")

    call = (refuse, "nowhere", "0", 1, (), "this run")
    for _ in range(3):
        reply = run_remote((5, 6, 7), 1, call)
        assert reply.found == []
        assert reply.unfit == "no plan here"
    assert len(calls) == 1
    run_remote((5, 6, 7), 1, (*call[:-1], "another run"))
    assert len(calls) == 2


def test_workers_are_told_of_once_for_a_host_and_a_reason():
    said = []
    roster = Roster(say=said.append)
    for worker in ("a:1", "a:2", "a:1"):
        roster.set_aside(worker, "nid1", "no file")
    roster.set_aside("b:1", "nid2", "no file")
    roster.set_aside("b:2", "nid2", "no memory")
    assert len(said) == 3
    assert roster.pick({"a:1": 1, "a:2": 1, "b:1": 1, "c:1": 3}) == {"c:1": 3}
    assert not roster.is_waiting({"a:1": 1, "c:1": 3}, 2, 1e9)


def test_a_host_on_which_processes_only_die_is_left_out_while_others_work():
    said = []
    roster = Roster(say=said.append)
    there = {"tcp://a:9": 1, "tcp://b:1": 2}
    for port in range(CRASHES - 1):
        roster.note_death(f"tcp://a:{port}")
        roster.note_death(f"tcp://a:{port}")  # one death loses several tasks
    roster.note_answer("tcp://b:1")
    assert roster.pick(there) == there
    roster.note_death("tcp://a:7")
    assert roster.pick(there) == {"tcp://b:1": 2}
    assert len(said) == 1
    assert "workers on a get no block: 3 of them died" in said[0]
    assert roster.pick({"tcp://a:9": 1}) == {"tcp://a:9": 1}, "somebody must do it"


def test_a_host_that_worked_once_is_not_left_out_nor_the_only_one():
    roster = Roster(say=pytest.fail)
    for port in range(9):
        roster.note_death(f"tcp://a:{port}")
    assert roster.pick({"tcp://a:10": 1}) == {"tcp://a:10": 1}
    roster = Roster(say=pytest.fail)
    for host in "ab":
        roster.note_answer(f"tcp://{host}:1")
    for port in range(9):
        roster.note_death(f"tcp://a:{port}")
    assert len(roster.pick({"tcp://a:10": 1, "tcp://b:1": 1})) == 2


def build_or_die(url, plan_hash):
    if os.environ.get("TEST_DIES"):
        note(url, "died")
        os.abort()
    return toy_kernel(Journal(url).load_plan(), url, 0.1)


@pytest.mark.slow
def test_a_host_whose_workers_crash_while_loading_gets_no_more_blocks(
    tmp_path, caplog, clean
):
    from distributed import Client

    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)
    with (
        empty_cluster() as cluster,
        start_worker(cluster, tmp_path, nanny=True, host="127.0.0.2", TEST_DIES="1"),
        start_worker(cluster, tmp_path),
        Client(cluster) as client,
    ):
        executor = DaskExecutor(client, build_or_die, url, plan.hash, stall_s=120)
        tally = drive(plan, journal, executor)
    assert tally.computed == BLOCKS
    assert not tally.quarantined
    # a task that was on its way may still cost one more
    assert CRASHES <= len(noted(url, "died")) <= CRASHES + 1
    assert not tally.attempts
    end(plan, journal, sink)
    assert stored_bytes(url) == clean


def test_others_that_are_to_come_are_waited_for_a_while():
    roster = Roster(say=lambda _: None)
    roster.set_aside("a:1", "nid1", "no file")
    there = {"a:1": 1}
    assert roster.is_waiting(there, coming=2, waited=GRACE_S - 1)
    for coming, waited in ((2, GRACE_S), (1, 0.0), (0, 0.0)):
        with pytest.raises(StoppedError, match=r"no file \(on nid1\)"):
            roster.is_waiting(there, coming, waited)
    assert not Roster().is_waiting({}, 0, 1e9), (
        "nobody refused: Dask may still bring some"
    )


# workers that hang


class Sleeper(FakePredictor):
    """Hangs on one process until it is released; quick on the others."""

    def __init__(self, url):
        super().__init__()
        self.url = url

    def predict(self, patches):
        time.sleep(0.02)
        if claim(self.url, "slow") and not Path(f"{self.url}.woke").exists():
            Path(f"{self.url}.asleep").touch()
            while not Path(f"{self.url}.release").exists():
                time.sleep(0.02)
            Path(f"{self.url}.woke").touch()
        return super().predict(patches)


def build_sleeper(url, plan_hash):
    return toy_kernel(Journal(url).load_plan(), url, predictor=Sleeper(url))


def wait_for(found, seconds=30):
    until = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_run_ends_while_a_worker_still_hangs(tmp_path, two, clean, caplog):
    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)
    executor = DaskExecutor(two, build_sleeper, url, plan.hash, slow_s=0.5)
    try:
        tally = drive(plan, journal, executor)
        assert Path(f"{url}.asleep").exists()
        assert not Path(f"{url}.woke").exists(), "it hangs to this moment"
    finally:
        Path(f"{url}.release").touch()
    assert tally.computed == BLOCKS
    assert tally.failures == 0
    assert records(url) == dict.fromkeys(range(BLOCKS), 1)
    said = [
        r.getMessage() for r in caplog.records if "another worker" in r.getMessage()
    ]
    assert 1 <= len(said) <= COPIES
    assert "longer than" in said[0]
    # what the sleeper had begun is written late, and changes nothing
    wait_for(Path(f"{url}.woke").exists)
    wait_for(lambda: not any(two.processing().values()))
    end(plan, journal, sink)
    assert stored_bytes(url) == clean


def test_who_ends_late_is_recorded_and_not_counted(tmp_path, two, clean):
    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)
    executor = DaskExecutor(two, build_sleeper, url, plan.hash, slow_s=2.0)
    told = []

    def release(tally, outcome):
        told.append(outcome)
        if tally.done == BLOCKS:
            Path(f"{url}.release").touch()

    tally = drive(plan, journal, executor, progress=release)
    assert tally.computed == BLOCKS
    assert len(told) == BLOCKS + 1, "once at the start, once a block"
    found = records(url)
    assert set(found) == set(range(BLOCKS))
    assert sum(count == 2 for count in found.values()) >= 1, "the sleeper's own record"
    assert max(found.values()) == 2
    end(plan, journal, sink)
    assert stored_bytes(url) == clean


def build_suspended(url, plan_hash):
    """One process stops itself for good once it has begun a block."""
    kernel = toy_kernel(Journal(url).load_plan(), url, 0.02)
    if claim(url, "slow"):
        os.kill(os.getpid(), signal.SIGSTOP)
    return kernel


@pytest.mark.slow
@pytest.mark.parametrize("then", [signal.SIGCONT, signal.SIGKILL])
def test_a_suspended_worker_holds_nothing_up_whether_it_wakes_or_dies(
    then, tmp_path, clean, proof, caplog
):
    url = str(tmp_path / "out.zarr")
    plan, journal, sink = begin(url)

    def act(tally, outcome):
        # the copies are on their way, or done
        if "another worker" in caplog.text and not Path(f"{url}.done").exists():
            Path(f"{url}.done").touch()
            if then == signal.SIGKILL:
                os.kill(int(Path(f"{url}.slow").read_text()), then)

    with connect(2, threads=2) as client:
        executor = DaskExecutor(
            client, build_suspended, url, plan.hash, slow_s=0.5, stall_s=60
        )
        try:
            tally = drive(plan, journal, executor, progress=act)
        finally:
            if then == signal.SIGCONT:
                os.kill(int(Path(f"{url}.slow").read_text()), then)
    assert Path(f"{url}.done").exists()
    assert tally.computed == BLOCKS
    assert (tally.attempts, tally.losses, tally.shared) == ({}, {}, {})
    assert records(url) == dict.fromkeys(range(BLOCKS), 1)
    end(plan, journal, sink)
    found = stored_bytes(url)
    assert found == clean
    proof(faults=1, compared=sum(map(len, found.values())))


def sent(since, **fields):
    return Sent(Run((7,)), since, **fields)


def test_nothing_is_late_before_ten_blocks_and_half_of_all_have_ended():
    for total, needed in ((12, LEAST_BLOCKS), (100, 50)):
        patience = Patience()
        patience.expect(total)
        for ended in range(total):
            late = patience.find_late([sent(0.0)], 1e9)
            assert bool(late) == (ended >= needed), (total, ended)
            patience.note(1.0, 1)


def test_three_times_the_usual_is_late_and_half_a_minute_at_least():
    patience = Patience()
    patience.expect(20)
    for seconds in [1.0] * 5 + [2.0] + [100.0] * 5:
        patience.note(seconds, 1)
    assert patience.seconds == 30.0
    for _ in range(10):
        patience.note(100.0, 1)
    assert patience.seconds == 300.0
    assert patience.find_late([sent(0.0)], 299.0) == []
    old, older = sent(10.0), sent(0.0)
    assert patience.find_late([old, older], 311.0) == [older, old]


def test_a_task_is_sent_to_few_workers_and_not_once_it_is_over():
    patience = Patience()
    patience.note(1.0, LEAST_BLOCKS)
    assert patience.find_late([sent(0.0, copies=COPIES)], 99.0) == []
    assert patience.find_late([sent(0.0, is_over=True)], 99.0) == []
    assert len(patience.find_late([sent(0.0, copies=COPIES - 1)], 99.0)) == 1


def test_a_round_of_retries_knows_what_the_first_one_learned():
    patience = Patience()
    patience.expect(64)
    for _ in range(64):
        patience.note(1.0, 1)
    patience.expect(2)
    assert patience.seconds == 30.0


def test_one_line_says_what_is_late_and_where():
    patience = Patience()
    patience.note(20.0, LEAST_BLOCKS)
    both = [Sent(Run((3,)), 0.0), Sent(Run((7, 8)), 0.0)]
    said = patience.describe(both, {"tcp://a:1"})
    assert said.startswith("3 blocks (3 to 8) take longer than 60 s on tcp://a:1")
    assert "usual: 20.0 s" in said
    assert "\n" not in said


def test_who_is_late_is_passed_over_until_it_answers():
    roster = Roster()
    there = {"a": 2, "b": 2}
    roster.note_late(["a"])
    assert roster.pick(there) == {"b": 2}
    roster.note_late(["b"])
    assert roster.pick(there) == there, "somebody must do it"
    roster.note_answer("b")
    assert roster.pick(there) == {"b": 2}


# versions


@pytest.fixture(scope="module")
def small_plan():
    import geoscale as gs

    source = scene((300, 250), bands=4)
    return gs.plan(source, "s2-landcover-unet", block_px=100, merge="crop")


@pytest.mark.slow
def test_a_run_on_workers_of_other_versions_is_refused(tmp_path, small_plan):
    from distributed import Client

    import geoscale as gs

    other = fake_package(tmp_path, "torch", "9.9")
    with (
        empty_cluster() as cluster,
        start_worker(cluster, tmp_path),
        start_worker(cluster, tmp_path, path=other),
        Client(cluster) as client,
        pytest.raises(StoppedError, match=r"torch is 9\.9 there") as caught,
    ):
        gs.run(small_plan, tmp_path / "out.zarr", client=client)
    assert str(caught.value).count("tcp://") == 1, "the other worker is fine"
    assert "one environment for the driver and all workers" in str(caught.value)
    assert not records(str(tmp_path / "out.zarr"))


@pytest.mark.slow
def test_a_worker_of_other_versions_that_comes_later_gets_no_block(
    tmp_path, small_plan, caplog
):
    from distributed import Client

    url, plan = str(tmp_path / "out.zarr"), small_plan
    sink, journal = make_sink(plan, url), Journal(url)
    sink.create()
    journal.begin(plan)
    other = fake_package(tmp_path, "torch", "9.9")
    with (
        empty_cluster() as cluster,
        start_worker(cluster, tmp_path, path=other),
        start_worker(cluster, tmp_path),
        Client(cluster) as client,
    ):
        source = client.scatter(plan.live, broadcast=True, hash=False)
        executor = DaskExecutor(
            client,
            build_kernel,
            url,
            plan.hash,
            extra=(False, 1, handshake(), (), source),
            stall_s=60,
        )
        tally = drive(plan, journal, executor)
    assert tally.computed == tally.total == 9
    assert tally.failures == 0
    assert "it has other versions than the driver: torch 9.9 (driver:" in caplog.text


def test_a_kernel_is_not_made_where_versions_differ():
    check_versions(None)
    check_versions(handshake())
    with pytest.raises(StoppedError, match=r"numpy .* \(driver: 0\.1\)"):
        check_versions(handshake() | {"numpy": "0.1"})

"""A link between two hosts that is cut in mid-run: complete and equal, or words.

The hosts are network namespaces of this machine, joined by a cable of their own; only
root may make them. Scheduler and driver run in one, the worker in the other, and they
speak TLS only, as our own clusters do beyond one machine.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from geoscale.clusters.tls import make_security_in
from geoscale.engine.journal import Journal
from tests.support.cluster import OutsideCluster, start_toy
from tests.support.toy import run_toy, stored_bytes

pytestmark = [pytest.mark.infra, pytest.mark.slow]

PATIENCE_S = 150
QUICK = {
    # the network is held to be broken sooner than by default, which takes minutes
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "12s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "15s",
}
HERE, THERE = "10.77.0.1", "10.77.0.2"


def encrypt(folder):
    """Variables by which all of a cluster speak TLS only, with a key of its own."""
    made = make_security_in(folder)
    roles = ("CLIENT", "SCHEDULER", "WORKER")
    tls = "DASK_DISTRIBUTED__COMM__TLS"
    return {
        "DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION": "True",
        "DASK_DISTRIBUTED__COMM__DEFAULT_SCHEME": "tls",
        f"{tls}__CA_FILE": made.tls_ca_file,
        **{f"{tls}__{role}__CERT": made.tls_client_cert for role in roles},
        **{f"{tls}__{role}__KEY": made.tls_client_key for role in roles},
    }


def ip(*words, check=True):
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert not check or done.returncode == 0, done.stderr
    return done


class Cable:
    """Two network namespaces, and what joins them."""

    def __init__(self):
        self.ends = [f"geoscale-{os.getpid()}-{name}" for name in "ab"]

    def __enter__(self):
        if shutil.which("ip") is None:
            pytest.skip("there is no `ip`")
        a, b = self.ends
        first = ip("netns", "add", a, check=False)
        if first.returncode:
            pytest.skip(f"no network namespaces: {first.stderr.strip()}")
        ip("netns", "add", b)
        ip("link", "add", "eth0", "netns", a, "type", "veth",
           "peer", "name", "eth0", "netns", b)  # fmt: skip
        for end, address in zip(self.ends, (HERE, THERE), strict=True):
            ip("-n", end, "addr", "add", f"{address}/24", "dev", "eth0")
            ip("-n", end, "link", "set", "lo", "up")
            ip("-n", end, "link", "set", "eth0", "up")
        return self

    def __exit__(self, *_):
        for end in self.ends:
            ip("netns", "del", end, check=False)

    def cut(self):
        ip("-n", self.ends[1], "link", "set", "eth0", "down")

    def mend(self):
        ip("-n", self.ends[1], "link", "set", "eth0", "up")

    def prefix(self, number):
        return ["ip", "netns", "exec", self.ends[number]]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    url = str(tmp_path_factory.mktemp("clean") / "out.zarr")
    run_toy(url)
    return stored_bytes(url)


def run_over_a_cut(tmp_path, seconds, then, stall_s):
    """Cut the cable for some seconds in mid-run; give the code and the words."""
    url = str(tmp_path / "out.zarr")
    env = QUICK | encrypt(tmp_path) | {"GEOSCALE_TOY_STALL": str(stall_s)}
    with Cable() as cable:
        prefixes = (cable.prefix(0), cable.prefix(1))
        with OutsideCluster(
            tmp_path, 1, env=env, prefixes=prefixes, host=HERE
        ) as cluster:
            address = cluster.ensure()
            assert address.startswith(f"tls://{HERE}:")
            driver = start_toy(url, address, 0.1, env=env, prefix=cable.prefix(0))
            assert driver.stdout.readline() == "start\n", driver.stderr.read()[-3000:]
            while len(Journal(url).read().done) < 3:
                time.sleep(0.05)
            cable.cut()
            try:
                time.sleep(seconds)
                kept = len(Journal(url).read().done)
                assert 3 <= kept < 64, "the cut comes in mid-run"
            finally:
                cable.mend()
            then(cluster)
            said, why = driver.communicate(timeout=PATIENCE_S)
    print(f"{seconds} s, {kept} blocks before: {driver.returncode} {said.strip()}")
    return driver.returncode, why


def end(tmp_path, clean, proof):
    """Run the same command once more: the map is what it would have been."""
    url = str(tmp_path / "out.zarr")
    again = run_toy(url)
    assert again.done == again.total
    assert stored_bytes(url) == clean
    proof(faults=1, compared=sum(map(len, clean.values())))
    return again.computed


def test_a_short_cut_is_ridden_out(tmp_path, clean, proof):
    code, why = run_over_a_cut(tmp_path, 3, lambda _: None, 60)
    assert code == 0, why
    assert end(tmp_path, clean, proof) == 0


def test_after_a_long_cut_a_worker_that_is_started_again_goes_on(
    tmp_path, clean, proof
):
    """Dask's worker ends when it has lost its scheduler; others start it anew."""

    def supervise(cluster):
        for worker in cluster.nannies.values():
            worker.wait(timeout=PATIENCE_S)
        cluster.ensure()

    code, why = run_over_a_cut(tmp_path, 60, supervise, 120)
    assert code == 0, why
    assert end(tmp_path, clean, proof) == 0


def test_after_a_long_cut_a_run_without_workers_stops_with_words(
    tmp_path, clean, proof
):
    code, why = run_over_a_cut(tmp_path, 30, lambda _: None, 25)
    assert code != 0
    assert "no block ended for 25 s; 0 workers: none" in why
    assert "then run the same command again" in why
    assert 0 < end(tmp_path, clean, proof) < 64

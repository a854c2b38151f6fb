"""Small objects in a folder: there whole, or as they were before; asked for again."""

from __future__ import annotations

import errno
import os

import pytest

from geoscale import patience
from geoscale.engine.failures import RUN, TRANSIENT, classify
from geoscale.errors import OutputError, StoppedError, StoreError
from geoscale.patience import PATIENCE, TRIES, ask, explain_store_error
from geoscale.storage import Folder
from geoscale.testing_store import Faults


@pytest.fixture(autouse=True)
def at_once(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 0.0)


def test_a_put_that_fails_half_way_leaves_the_old_object(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.put("a/b", b"old")

    def fail(_number):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StoreError, match="Input/output"):
        folder.put("a/b", b"new and longer")
    with pytest.raises(StoreError, match="Input/output"):
        folder.put("a/c", b"new")
    monkeypatch.undo()
    assert folder.get("a/b") == b"old"
    assert folder.get("a/c") is None
    assert folder.find() == ["a/b"], "nothing is left behind"


def test_a_file_where_a_folder_would_be_holds_nothing(tmp_path):
    (tmp_path / "x").write_bytes(b"a file")
    assert Folder(str(tmp_path)).get("x/zarr.json") is None


@pytest.mark.parametrize("mode", ["fail", "lost", "torn", "late"])
def test_a_put_that_fails_for_a_moment_is_made_again(tmp_path, mode):
    faults = Faults(tmp_path)
    faults.script = [mode] * (TRIES - 1)
    folder, before = Folder(faults.url("out")), PATIENCE.again
    folder.put("a/b", b"what was meant")
    assert (tmp_path / "out/a/b").read_bytes() == b"what was meant"
    assert PATIENCE.again - before == TRIES - 1
    faults.deliver()
    assert folder.get("a/b") == b"what was meant"


def test_a_store_that_never_answers_is_given_up_for_now(tmp_path):
    faults = Faults(tmp_path, {"fail": 1.0})
    with pytest.raises(StoreError, match=rf"failed {TRIES} times.*slow down") as caught:
        Folder(faults.url("out")).put("a", b"1")
    assert faults.seen["put"] == TRIES
    assert classify(caught.value) == TRANSIENT, "the block is tried again, later"


def test_pauses_grow_and_nobody_comes_back_in_step(monkeypatch):
    monkeypatch.setattr(patience, "FIRST_S", 1.0)
    slept = []

    def fail():
        raise OSError(errno.EIO, "slow down")

    for _ in range(200):
        with pytest.raises(StoreError):
            ask(fail, "s3://b/k", sleep=slept.append)
    waves = [slept[i :: TRIES - 1] for i in range(TRIES - 1)]
    assert [max(w) <= 2**i for i, w in enumerate(waves)] == [True] * (TRIES - 1)
    assert [max(w) > 0.9 * 2**i for i, w in enumerate(waves)] == [True] * (TRIES - 1)
    assert all(min(w) < 0.1 * 2**i for i, w in enumerate(waves))


@pytest.mark.parametrize(
    ("spoil", "words", "kind"),
    [
        (lambda f: setattr(f, "room", 10), r"no room left at faulty://", RUN),
        (lambda f: setattr(f, "is_readonly", True), r"not allowed to write to", RUN),
    ],
)
def test_what_every_put_would_meet_stops_at_once(tmp_path, spoil, words, kind):
    faults = Faults(tmp_path)
    spoil(faults)
    with pytest.raises(StoppedError, match=words) as caught:
        Folder(faults.url("out")).put("a", bytes(11))
    assert faults.seen["put"] == 1
    assert classify(caught.value) == kind


class NoCredentialsError(Exception):
    """As botocore has it: no OSError, and known by its name only."""


class EndpointConnectionError(Exception):
    __module__ = "botocore.exceptions"


class ClientError(Exception):
    def __init__(self):
        self.response = {"Error": {"Code": "NoSuchBucket"}}


def raised(error, cause=None):
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (
            NoCredentialsError("none"),
            StoppedError,
            "no usable credentials for s3://b/k",
        ),
        (PermissionError("Forbidden"), StoppedError, "must allow to list, get, put"),
        (
            raised(FileNotFoundError("x"), ClientError()),
            OutputError,
            "there is no bucket `b`, which s3://b/k names",
        ),
        (EndpointConnectionError("down"), type(None), ""),
        (FileNotFoundError("x"), type(None), ""),
        (TypeError("a bug of ours"), type(None), ""),
    ],
)
def test_errors_of_stores_say_what_to_do(error, kind, words):
    found = explain_store_error(error, "s3://b/k")
    assert isinstance(found, kind)
    assert words in str(found or "")


@pytest.mark.parametrize(
    ("error", "tries"),
    [
        (EndpointConnectionError("down"), TRIES),
        (OSError(errno.EIO, "503"), TRIES),
        (FileNotFoundError("x"), 1),
        (TypeError("a bug of ours"), 1),
    ],
)
def test_only_what_may_pass_is_asked_again(error, tries):
    asked = []

    def fail():
        asked.append(1)
        raise error

    with pytest.raises(StoreError if tries > 1 else type(error)):
        ask(fail, "s3://b/k")
    assert len(asked) == tries


def test_a_broken_local_disk_is_not_asked_again():
    asked = []

    def fail():
        asked.append(1)
        raise OSError(errno.ENAMETOOLONG, "File name too long")

    with pytest.raises(OSError, match="too long"):
        ask(fail, "/data/out.zarr")
    assert len(asked) == 1


def test_reads_and_listings_are_asked_again(tmp_path):
    faults = Faults(tmp_path)
    folder = Folder(faults.url("out"))
    folder.put("a/b", b"1")
    faults.reads = 0.3
    for _ in range(20):
        assert folder.get("a/b") == b"1"
        assert folder.get("a/c") is None
        assert folder.find() == ["a/b"]
        assert folder.names() == ["a"]
    assert faults.seen["unread"] > 5


def test_an_output_with_a_password_in_its_url_is_refused():
    with pytest.raises(OutputError, match=r"carries credentials.*environment") as told:
        Folder("s3://KEY:CANARY@bucket/out.zarr")
    assert "CANARY" not in str(told.value)

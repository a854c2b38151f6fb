"""Small objects in a folder: there whole, or as they were before."""

from __future__ import annotations

import errno
import os

import pytest

from geoscale.storage import Folder


def test_a_put_that_fails_half_way_leaves_the_old_object(tmp_path, monkeypatch):
    folder = Folder(str(tmp_path))
    folder.put("a/b", b"old")

    def fail(_number):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        folder.put("a/b", b"new and longer")
    with pytest.raises(OSError, match="Input/output"):
        folder.put("a/c", b"new")
    monkeypatch.undo()
    assert folder.get("a/b") == b"old"
    assert folder.get("a/c") is None
    assert folder.find() == ["a/b"], "nothing is left behind"


def test_a_file_where_a_folder_would_be_holds_nothing(tmp_path):
    (tmp_path / "x").write_bytes(b"a file")
    assert Folder(str(tmp_path)).get("x/zarr.json") is None

"""Damaged files, codec by codec: every window is right or an error; nothing crashes.

What TIFF has no checksum for cannot be noticed (`is_noticeable`): there, only crashes,
hangs and errors without words count.
"""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.sandbox import Sandbox
from tests.support.tiffs import (
    CODECS,
    KINDS,
    SHARES,
    damage,
    is_noticeable,
    write_scene,
)

SEED = int(os.environ.get("GEOSCALE_SEED", "20"))


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    with Sandbox("tests.support.tiffs:compare") as found:
        yield found


def try_codec(
    codec: str, kinds: list[str], sandbox: Sandbox, folder: Path, proof: Any
) -> None:
    clean = folder / f"{codec}.tif"
    if not write_scene(clean, codec, SEED):
        pytest.skip(f"this GDAL has no {codec}")
    data, rng = clean.read_bytes(), random.Random(f"{SEED} {codec}")
    seen: Counter[str] = Counter()
    for number, kind in enumerate(kinds):
        bad, tag = damage(data, kind, rng)
        path = folder / f"{number}.tif"
        path.write_bytes(bad)
        found = sandbox.ask(str(path), str(clean), codec)
        path.unlink()
        assert found["ended"] == "returned", (codec, kind, number, found)
        counts = found["value"]
        if is_noticeable(codec, kind, tag):
            assert not counts["other"], (codec, kind, number, tag)
            seen["compared"] += counts["pixels"]
        else:
            seen["other, as nobody can tell"] += counts["other"]
        seen["refused"] += counts["refused"]
        seen["same"] += counts["same"]
    print(f"{codec}: seed {SEED}, {len(kinds)} files, windows: {dict(seen)}")
    assert seen["refused"], "no damage was noticed"
    proof(faults=len(kinds), compared=seen["compared"])


@pytest.mark.parametrize("codec", CODECS)
def test_some_damages_are_noticed_and_none_crashes(
    codec: str, sandbox: Sandbox, tmp_path: Path, proof: Any
) -> None:
    try_codec(codec, ["cut", "index", "pixels"], sandbox, tmp_path, proof)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
def test_of_480_damaged_files_none_is_read_wrongly_or_crashes(
    codec: str, sandbox: Sandbox, tmp_path: Path, proof: Any, share: float
) -> None:
    kinds = [kind for kind in KINDS for _ in range(max(1, round(share * SHARES[kind])))]
    try_codec(codec, kinds, sandbox, tmp_path, proof)


def test_a_child_that_crashes_or_hangs_is_told_from_one_that_errs() -> None:
    with Sandbox("tests.support.sandbox:misbehave", patience_s=1.0) as child:
        assert child.ask("refuse")["kind"] == "SourceError"
        assert child.ask("err")["ended"] == "escaped"
        assert child.started == 1
        assert child.ask("crash")["ended"] == "died"
        assert child.ask("hang")["ended"] == "hung"
        assert child.started == 2

from __future__ import annotations

import hashlib
import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from geoscale.card import ModelCard
from geoscale.errors import CardError, MissingDependencyError, WeightsError
from geoscale.models import resolve_weights
from geoscale.models.state import load_strict, read_state_dict

torch = pytest.importorskip("torch")
nn = torch.nn


def card_of(
    href: str, sha256: str | None = None, base: Path | None = None
) -> ModelCard:
    card = ModelCard.from_dict(
        {
            "name": "m",
            "weights": {"href": href, **({"sha256": sha256} if sha256 else {})},
            "input": {"bands": ["red"]},
            "output": {"classes": [{"value": i, "name": f"c{i}"} for i in (0, 1)]},
        }
    )
    return card.model_copy(update={"base": str(base) if base else None})


def net() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 3, 1))


def test_a_path_is_relative_to_its_card(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    path, sha256 = resolve_weights(card_of("w.bin", base=tmp_path))
    assert path == tmp_path / "w.bin"
    assert sha256 == hashlib.sha256(b"weights").hexdigest()


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "are empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 9\n",
            r"is a Git-LFS pointer \(64 bytes\).*git lfs pull",
        ),
        (b"<!DOCTYPE html><html>login</html>", "is HTML.*'<!DOCTYPE html>'"),
        (b"\xef\xbb\xbf\n<html>", "is HTML"),
        (b"<?xml version='1.0'?><Error>AccessDenied</Error>", "is HTML or XML"),
    ],
)
def test_placeholders_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "model.pt").write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        resolve_weights(card_of("model.pt", base=tmp_path))


def test_missing_files_and_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match=r"no\.pt do not exist; put the file there"):
        resolve_weights(card_of("no.pt", base=tmp_path))
    with pytest.raises(WeightsError, match="are a folder"):
        resolve_weights(card_of(".", base=tmp_path))


def test_another_hash_is_refused_by_card_and_by_plan(tmp_path: Path) -> None:
    (tmp_path / "w.bin").write_bytes(b"weights")
    found, wanted = hashlib.sha256(b"weights").hexdigest(), "0" * 64
    with pytest.raises(WeightsError, match=f"{found}, but card `m` asks for {wanted}"):
        resolve_weights(card_of("w.bin", wanted, tmp_path))
    with pytest.raises(WeightsError, match=f"the plan asks for {wanted}"):
        resolve_weights(card_of("w.bin", base=tmp_path), expected_sha256=wanted)


def test_a_file_in_a_package_needs_no_import() -> None:
    path, _ = resolve_weights(card_of("package:geoscale/words.py"))
    assert path.name == "words.py"


@pytest.mark.parametrize("href", ["package:geoscale", "package:geoscale/../../x"])
def test_a_package_path_cannot_leave_the_package(href: str) -> None:
    with pytest.raises(CardError, match="names no file in a package"):
        resolve_weights(card_of(href))


def test_a_missing_package_is_named_with_what_to_install() -> None:
    with pytest.raises(MissingDependencyError, match="pip install no-such-package"):
        resolve_weights(card_of("package:no_such_package/x.onnx"))


def test_a_url_is_fetched_once(server: Any, tmp_path: Path) -> None:
    (tmp_path / "www" / "w.onnx").write_bytes(b"weights")
    first, sha256 = resolve_weights(card_of(f"{server.url}/w.onnx"))
    assert first.name == f"{sha256}.onnx"
    assert resolve_weights(card_of(f"{server.url}/w.onnx")) == (first, sha256)
    assert resolve_weights(card_of(f"{server.url}/other.onnx", sha256))[0] == first
    assert server.asked == ["/w.onnx"]
    # a cached file that rotted is fetched again
    first.write_bytes(b"rotten")
    assert resolve_weights(card_of(f"{server.url}/w.onnx", sha256))[0] == first
    assert first.read_bytes() == b"weights"
    assert [p.suffix for p in sorted(first.parent.iterdir())].count(".part") == 0


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("none.pt?sig=secret", "cannot be fetched: .*404"),
        ("cut.pt", "10 of 1000 bytes|cannot be fetched"),
        ("page.pt", "is HTML"),
    ],
)
def test_a_bad_download_leaves_nothing(
    server: Any, tmp_path: Path, name: str, match: str
) -> None:
    (tmp_path / "www" / "page.pt").write_bytes(b"<!doctype html>")
    with pytest.raises(WeightsError, match=match) as info:
        resolve_weights(card_of(f"{server.url}/{name}"))
    assert "secret" not in str(info.value)
    assert list((tmp_path / "cache" / "weights").iterdir()) == []


def test_a_download_of_another_hash_is_refused(server: Any, tmp_path: Path) -> None:
    (tmp_path / "www" / "w.pt").write_bytes(b"weights")
    with pytest.raises(WeightsError, match="the file at that address changed"):
        resolve_weights(card_of(f"{server.url}/w.pt", "0" * 64))


def test_other_schemes_are_refused() -> None:
    with pytest.raises(WeightsError, match="scheme s3 is not read here"):
        resolve_weights(card_of("s3://bucket/w.pt"))


class Evil:
    """Runs a command when a careless reader unpickles it."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.canary}",)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("raw", [False, True])
def test_a_malicious_pickle_is_refused_and_does_not_run(
    tmp_path: Path, nested: bool, raw: bool
) -> None:
    canary, path = tmp_path / "canary", tmp_path / "evil.pt"
    thing: Any = Evil(canary)
    thing = {"state_dict": {"w": torch.zeros(1)}, "x": thing} if nested else thing
    if raw:
        path.write_bytes(pickle.dumps(thing))
    else:
        torch.save(thing, path)
    with pytest.raises(WeightsError, match=r"needs code execution.*re-save"):
        read_state_dict(path)
    assert not canary.exists()


def test_a_pickled_module_is_refused_with_the_way_out(tmp_path: Path) -> None:
    torch.save(net(), tmp_path / "m.pt")
    with pytest.raises(WeightsError, match=r"pickled Module or object \(`torch\.nn"):
        read_state_dict(tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("w.safetensors", b"not safetensors at all", "no readable safetensors"),
        ("w.pt", b"garbage garbage", "is damaged, or a pickled"),
        ("w.pt", b"PK\x03\x04 cut zip", "damaged or no checkpoint"),
    ],
)
def test_damaged_files_are_refused(
    tmp_path: Path, name: str, content: bytes, match: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(WeightsError, match=match):
        read_state_dict(tmp_path / name)


def test_things_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    torch.save({"lr": 0.1, "w": torch.zeros(1)}, tmp_path / "mixed.pt")
    with pytest.raises(WeightsError, match="holds list, not tensors by name"):
        read_state_dict(tmp_path / "list.pt")
    with pytest.raises(WeightsError, match=r"1 entries that are no tensor \(lr\)"):
        read_state_dict(tmp_path / "mixed.pt")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {f"module.{k}": v for k, v in s.items()},
        lambda s: {f"_orig_mod.{k}": v for k, v in s.items()},
        lambda s: {f"module.model.{k}": v for k, v in s.items()},
        lambda s: {
            "state_dict": {
                **{f"model.{k}": v for k, v in s.items()},
                "criterion.weight": torch.zeros(3),
            },
            "hyper_parameters": {"lr": 0.1},
        },
    ],
    ids=["plain", "nested", "parallel", "compiled", "both", "lightning"],
)
def test_what_trainers_wrap_around_weights_is_taken_off(
    tmp_path: Path, wrap: Any
) -> None:
    source, target = net(), net()
    with torch.no_grad():
        target[0].weight += 1
    torch.save(wrap(source.state_dict()), tmp_path / "w.ckpt")
    load_strict(target, read_state_dict(tmp_path / "w.ckpt"), tmp_path / "w.ckpt")
    assert torch.equal(source[0].weight, target[0].weight)


def test_missing_and_extra_keys_are_named_and_counted() -> None:
    state = net().state_dict()
    del state["0.weight"]
    state |= {f"extra{i}": torch.zeros(1) for i in range(7)}
    with pytest.raises(
        WeightsError,
        match=r"1 missing \(0\.weight\); 7 extra \(extra0, .*, extra4, …\)",
    ):
        load_strict(net(), state, Path("w.pt"))


def test_a_tensor_of_another_shape_is_named() -> None:
    other = nn.Sequential(nn.Conv2d(5, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1))
    with pytest.raises(
        WeightsError,
        match=r"`0\.weight` is \(4, 5, 3, 3\) in the file, \(4, 2, 3, 3\) in the net",
    ):
        load_strict(net(), other.state_dict(), Path("w.pt"))


def test_one_scalar_of_shape_is_not_broadcast() -> None:
    state = net().state_dict() | {"2.bias": torch.zeros(1)}
    with pytest.raises(WeightsError, match=r"`2\.bias` is \(1,\)"):
        load_strict(net(), state, Path("w.pt"))

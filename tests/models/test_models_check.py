"""`models check`, `add`, licences, Hugging Face, and networks that are programs."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from geoscale.admission import admit, needs_acceptance
from geoscale.card import ModelCard
from geoscale.cli import main
from geoscale.errors import CardError, WeightsError
from geoscale.models import (
    ModelSettings,
    cache,
    find_card,
    get_predictor,
    resolve_weights,
)
from geoscale.models.check import check_model
from geoscale.models.rewrite import write_context
from tests.support import cards

torch = pytest.importorskip("torch")

CARD: dict[str, Any] = {
    "name": "mine",
    "architecture": "torchgeo.models:FCN",
    "architecture_args": {"in_channels": 2, "classes": 2, "num_filters": 4},
    "weights": {"href": "w.safetensors"},
    "input": {"bands": ["red", "nir"], "patch": {"size": 32}},
    "output": {"classes": cards.classes("land", "water")},
    "license": "CC-BY-4.0",
}


@pytest.fixture(autouse=True)
def _own_shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GEOSCALE_MODELS", str(tmp_path / "shelf"))


def write_model(folder: Path, prefix: str = "", **change: Any) -> Path:
    """A small FCN of torchgeo with its card, in a folder."""
    from safetensors.torch import save_file
    from torchgeo.models import FCN

    folder.mkdir(exist_ok=True)
    torch.manual_seed(2)
    state = FCN(**CARD["architecture_args"]).state_dict()
    save_file({prefix + k: v for k, v in state.items()}, folder / "w.safetensors")
    path = folder / "card.yaml"
    path.write_text("# mine\n" + yaml.safe_dump({**CARD, **change}, sort_keys=False))
    return path


def unknown(card: ModelCard) -> ModelCard:
    """The card without what is to be found."""
    patch = card.input.patch.model_copy(
        update={"halo": None, "alignment": 1, "multiple_of": 1, "size": 64}
    )
    spec = card.input.model_copy(update={"patch": patch})
    return card.model_copy(update={"input": spec})


@pytest.mark.parametrize(
    ("make", "halo", "alignment"),
    [(cards.simplecnn, 4, 1), (cards.dynamic_world, 22, 2)],
)
def test_halo_and_alignment_are_found_without_being_told(
    data_dir: Path, make: Any, halo: int, alignment: int
) -> None:
    card = unknown(make(data_dir))
    found = check_model(card, trust_code=True, limit=24)
    assert (found.halo, found.alignment) == (halo, alignment)
    assert found.output == (1, len(card.output.classes), 64, 64)
    assert found.dtype == "float32"
    assert found.mpx_s > 0


def test_the_command_checks_and_writes(tmp_path: Path, capsys: Any) -> None:
    path = write_model(tmp_path / "m", prefix="model.")
    assert main(["models", "check", str(path), "--write"]) == 0
    said = capsys.readouterr().out
    assert "all there, none left over" in said
    assert "prefix `model.` taken off" in said
    assert "1 x 2 x 32 x 32 gave 1 x 2 x 32 x 32 float32" in said
    patch = find_card(path).input.patch
    assert (patch.halo, patch.alignment, patch.size) == (5, 1, 32)
    assert path.read_text().startswith("# mine\n")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("input:\n  bands: [a]  # two\n",
         "input:\n  patch: {halo: 2, alignment: 4}\n  bands: [a]  # two\n"),
        ("input: {bands: [a], patch: {size: 8}}\n",
         "input: {bands: [a], patch: {halo: 2, alignment: 4, size: 8}}\n"),
        ("input:\n  bands: [a]\n  patch:\n    halo: 9 # old\n",
         "input:\n  bands: [a]\n  patch:\n    alignment: 4\n    halo: 2 # old\n"),
        ("input: {bands: [a], patch: {}}\n",
         "input: {bands: [a], patch: {halo: 2, alignment: 4}}\n"),
    ],
)  # fmt: skip
def test_what_is_written_leaves_the_rest_alone(
    tmp_path: Path, before: str, after: str
) -> None:
    rest = yaml.safe_dump({k: v for k, v in CARD.items() if k != "input"})
    path = tmp_path / "c.yaml"
    path.write_text(before + rest)
    write_context(path, halo=2, alignment=4)
    assert path.read_text() == after + rest


def test_what_cannot_be_written_is_said(tmp_path: Path, capsys: Any) -> None:
    assert main(["models", "check", "s2-landcover-unet", "--no-measure", "--write"])
    assert "`s2-landcover-unet` is none; give its path" in capsys.readouterr().err
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({"name": "x"}))
    with pytest.raises(CardError, match="has no `input` to write into"):
        write_context(path, halo=2, alignment=4)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git-LFS pointer"),
        (b"<!DOCTYPE html><html>", "is HTML or XML"),
        (b"", "are empty"),
    ],
)
def test_a_file_that_is_no_weights_is_named(
    tmp_path: Path, capsys: Any, content: bytes, match: str
) -> None:
    path = write_model(tmp_path / "m")
    (path.parent / "w.safetensors").write_bytes(content)
    assert main(["models", "check", str(path)]) != 0
    assert match in capsys.readouterr().err


def test_added_models_have_names(tmp_path: Path, capsys: Any) -> None:
    path = write_model(tmp_path / "m")
    (path.parent / "broken.yaml").write_text("name: [")
    assert main(["models", "add", str(path.parent)]) == 2
    assert "left out" in capsys.readouterr().err
    card = find_card("mine")
    assert card.weights.href == str(path.parent / "w.safetensors")
    assert check_model(card, measure=False).output == (1, 2, 32, 32)
    assert main(["models", "list"]) == 0
    assert "mine  mine" in capsys.readouterr().out
    for words, match in (
        ([str(path)], "there is a model `mine` already"),
        ([str(path), "--name", "s2-landcover-unet"], "is a model of the catalogue"),
        ([str(tmp_path)], "holds no card"),
    ):
        assert main(["models", "add", *words]) == 2
        assert match in capsys.readouterr().err
    assert main(["models", "add", str(path), "--replace"]) == 0


@pytest.mark.parametrize(
    ("licence", "href", "why"),
    [
        ("CC-BY-NC-4.0", "w.pt", "licence CC-BY-NC-4.0 forbids commercial use"),
        ("non-commercial", "torchgeo:X", "forbids commercial use"),
        (None, "https://example.org/w.pt", "licence is not known"),
        (None, "w.pt", ""),
        ("CC-BY-4.0", "torchgeo:X", ""),
        ("OpenRAIL", "hf:a/b/c", ""),
    ],
)
def test_which_licences_must_be_accepted(
    licence: str | None, href: str, why: str
) -> None:
    card = ModelCard.from_dict({**CARD, "license": licence, "weights": {"href": href}})
    found = needs_acceptance(card)
    assert found.endswith(why)
    assert bool(found) is bool(why)
    admit(card, accept_license=True)
    if why:
        with pytest.raises(CardError, match=r"accept it with --accept-license"):
            admit(card)


def test_a_job_needs_the_licence_accepted(tmp_path: Path) -> None:
    import geoscale as gs
    from geoscale.testing import scene

    path = write_model(tmp_path / "m", license="CC-BY-NC-4.0")
    stack = scene((64, 64), bands=2)
    with pytest.raises(CardError, match=r"forbids commercial use \(weights `mine`\)"):
        gs.plan(stack, path)
    made = gs.plan(stack, path, accept_license=True)
    assert any("accepted it" in note for note in made.notes)
    free = write_model(tmp_path / "n")
    assert gs.plan(stack, free).hash == gs.plan(stack, free, accept_license=True).hash


COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Hugging Face of this machine: files of me/fields, nothing else."""
    pytest.importorskip("huggingface_hub")
    folder = tmp_path / "hub"
    folder.mkdir()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.answer(body=False)

        def do_GET(self) -> None:
            self.answer(body=True)

        def answer(self, *, body: bool) -> None:
            owner, _, rest = self.path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            file = folder / name.partition("?")[0]
            code, why = 200, ""
            if owner != "/me/fields":
                code, why = 404, "RepoNotFound"
            elif revision not in ("main", COMMIT):
                code, why = 404, "RevisionNotFound"
            elif not file.is_file():
                code, why = 404, "EntryNotFound"
            data = file.read_bytes() if code == 200 else b""
            self.send_response(code)
            if why:
                self.send_header("X-Error-Code", why)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{len(data)}-{name}"'.replace("/", "-"))
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if body:
                self.wfile.write(data)

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hf"))
    yield folder
    server.shutdown()
    server.server_close()


def test_a_hugging_face_repository_with_a_card(hub: Path) -> None:
    path = write_model(hub, license=None)
    (hub / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n# Fields\n")
    path.rename(hub / "geoscale.yaml")
    card = find_card("hf:me/fields")
    assert card.license == "cc-by-nc-4.0"
    assert card.weights.href == f"hf:me/fields@{COMMIT}/w.safetensors"
    assert "forbids commercial use" in needs_acceptance(card)
    out = get_predictor(card, ModelSettings(device="cpu", batch=1)).predict(
        np.ones((1, 2, 32, 32), np.float32)
    )
    assert out.shape == (1, 2, 32, 32)


@pytest.mark.parametrize(
    ("href", "match"),
    [
        ("hf:me/fields", "holds no card"),
        ("hf:me/fields@v9", "has no revision `v9`"),
        ("hf:me/nothing", "no such repository, or it is private or gated"),
        ("hf:me", "names no Hugging Face repository"),
        ("hf:me/fields@main/../x", "names no Hugging Face repository"),
    ],
)
def test_a_repository_without_a_card_is_named(hub: Path, href: str, match: str) -> None:
    with pytest.raises(CardError, match=match):
        find_card(href)


def test_a_card_of_a_repository_may_not_reach_here(hub: Path) -> None:
    for change, match in (
        ({"architecture": "net.py:Net"}, "names a local file"),
        ({"weights": {"href": "/etc/passwd"}}, "names a local file"),
    ):
        text = json.dumps({**CARD, **change})
        (hub / "geoscale.yaml").write_text(text)
        with pytest.raises(CardError, match=match):
            find_card(f"hf:me/fields@{COMMIT}")
        (hub.parent / "hf").rename(hub.parent / f"gone{len(text)}")
    gone = ModelCard.from_dict({**CARD, "weights": {"href": "hf:me/fields/no.pt"}})
    with pytest.raises(WeightsError, match="no such file"):
        resolve_weights(gone)


class Pair(torch.nn.Module):
    """Two classes of two bands; its origin is forgotten in the files below."""

    def forward(self, x: Any) -> Any:
        return torch.stack([x[:, 0] - x[:, 1], x[:, 1] - x[:, 0]], dim=1)


@pytest.mark.parametrize("kind", ["torchscript", "pt2"])
def test_a_file_that_holds_its_network_runs_if_trusted(
    tmp_path: Path, kind: str
) -> None:
    path, given = tmp_path / "net.pt2", torch.rand(1, 2, 32, 32)
    if kind == "pt2":
        torch.export.save(torch.export.export(Pair().eval(), (given,)), path)
    else:
        torch.jit.save(torch.jit.trace(Pair().eval(), given), path)
    fields = {**CARD, "weights": {"href": str(path), "format": kind}}
    card = ModelCard.from_dict({**fields, "architecture": None})
    assert card.needs_trust
    with pytest.raises(CardError, match=r"is a program .*--trust-code"):
        get_predictor(card, ModelSettings(device="cpu", batch=1))
    trusted = ModelSettings(device="cpu", batch=1, trust_code=True)
    out = get_predictor(card, trusted).predict(given.numpy())
    want = Pair()(given).softmax(1).numpy()
    np.testing.assert_allclose(out, want, atol=1e-6)
    path.write_bytes(b"PK nothing")
    cache.clear()
    with pytest.raises(WeightsError, match=f"is no {kind} file"):
        get_predictor(card, trusted)


SMALL = {
    "Unet": {}, "UnetPlusPlus": {}, "Linknet": {}, "FPN": {}, "PSPNet": {}, "PAN": {},
    "DeepLabV3": {}, "DeepLabV3Plus": {}, "UPerNet": {}, "Segformer": {},
    "MAnet": {},
}  # fmt: skip


@pytest.mark.parametrize(
    "name", ["Unet", "DeepLabV3Plus", *(
        pytest.param(n, marks=pytest.mark.slow)
        for n in SMALL if n not in ("Unet", "DeepLabV3Plus"))],
)  # fmt: skip
def test_what_segmentation_models_builds_runs_by_name(
    tmp_path: Path, name: str
) -> None:
    import segmentation_models_pytorch as smp

    args = {"encoder_name": "resnet18", "in_channels": 4, "classes": 3}
    torch.manual_seed(1)
    network = getattr(smp, name)(encoder_weights=None, **args).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    card = ModelCard.from_dict(
        {
            **CARD,
            "architecture": f"segmentation_models_pytorch:{name}",
            "architecture_args": args,
            "weights": {"href": str(tmp_path / "w.pt")},
            "input": {
                "bands": ["blue", "green", "red", "nir"],
                "patch": {"size": 128, "multiple_of": 32, "alignment": 32},
            },
            "output": {"classes": cards.classes("a", "b", "c")},
        }
    )
    x = np.random.default_rng(0).normal(size=(1, 4, 128, 128)).astype(np.float32)
    out = get_predictor(card, ModelSettings(device="cpu", batch=1)).predict(x)
    with torch.inference_mode():
        want = network(torch.from_numpy(x)).softmax(1).numpy()
    np.testing.assert_allclose(out, want, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "args"),
    [
        (
            "FarSeg",
            {"backbone": "resnet18", "classes": 3, "backbone_pretrained": False},
        ),
        ("FCN", {"in_channels": 3, "classes": 3, "num_filters": 8}),
    ],
)
def test_torchgeos_own_networks_run_by_name(
    tmp_path: Path, name: str, args: dict[str, Any]
) -> None:
    import torchgeo.models

    network = getattr(torchgeo.models, name)(**args).eval()
    torch.save(network.state_dict(), tmp_path / "w.pt")
    card = ModelCard.from_dict(
        {
            **CARD,
            "architecture": f"torchgeo.models:{name}",
            "architecture_args": args,
            "weights": {"href": str(tmp_path / "w.pt")},
            "input": {"bands": ["red", "green", "blue"], "patch": {"size": 64}},
            "output": {"classes": cards.classes("a", "b", "c")},
        }
    )
    x = np.zeros((1, 3, 64, 64), np.float32)
    out = get_predictor(card, ModelSettings(device="cpu", batch=1)).predict(x)
    assert out.shape == (1, 3, 64, 64)

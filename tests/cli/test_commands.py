"""Commands: help, exit codes, and the words of every bad input."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from geoscale.cli import main
from geoscale.cli.say import say
from tests.cli.conftest import environment, geoscale

COMMANDS = (
    "demo", "plan", "run", "repair", "export", "status", "verify", "view", "doctor",
    "schema", "models", "models list", "models show", "models check", "models add",
    "models export-mlm",
)  # fmt: skip
JOB = """\
imagery: {{items: items.json}}
model: {model}
output: {{to: out.zarr}}
{more}
"""


def write_job(folder, model="s2-landcover-unet", more=""):
    path = folder / "job.yaml"
    path.write_text(JOB.format(model=model, more=more))
    return str(path)


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from geoscale.cli import main\n"
        f"for words in {COMMANDS!r}:\n"
        "    assert main([*words.split(), '--help']) == 0, words\n"
        "heavy = {'torch', 'dask', 'distributed', 'xarray', 'rasterio', 'numpy'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize("words", COMMANDS)
def test_every_help_shows_an_example(words, capsys):
    assert main([*words.split(), "--help"]) == 0
    assert f"geoscale {words.split()[0]}" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("geoscale 0.")


def test_an_unknown_command_is_bad_input(capsys):
    assert main(["paln", "job.yaml"]) == 2
    assert "paln" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_missing_job_file(command, tmp_path, capsys):
    assert main([command, str(tmp_path / "no.yaml")]) == 2
    said = capsys.readouterr()
    assert "no.yaml does not exist" in said.err
    assert "Traceback" not in said.err
    assert not said.out


def test_an_unknown_key_names_the_nearest(tmp_path, capsys):
    job = write_job(tmp_path, more="inference: {strid: 64}")
    assert main(["plan", job]) == 2
    assert "unknown key `inference.strid`; did you mean `stride`?" in (
        capsys.readouterr().err
    )


def test_a_missing_key_is_named(tmp_path, capsys):
    path = tmp_path / "job.yaml"
    path.write_text("model: s2-landcover-unet\noutput: out.zarr\n")
    assert main(["plan", str(path)]) == 2
    assert "`imagery` is missing" in capsys.readouterr().err


def test_an_unknown_model_names_the_nearest(tmp_path, capsys):
    assert main(["plan", write_job(tmp_path, model="s2-landcover-une")]) == 2
    assert "did you mean `s2-landcover-unet`?" in capsys.readouterr().err
    assert main(["models", "show", "ukis-csmask-6b-l1x"]) == 2
    assert "did you mean `ukis-csmask-6b-l1c`?" in capsys.readouterr().err


def test_missing_items_are_bad_input(tmp_path, capsys):
    assert main(["plan", write_job(tmp_path)]) == 2
    assert "items.json" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["status", "verify", "repair", "view"])
def test_an_output_that_is_something_else(command, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    assert main([command, str(tmp_path)]) == 2
    assert "is no output of geoscale" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["notes.txt"]


def test_shards_are_checked(demo, capsys):
    for text, words in (("3", "write I/N"), ("4/4", "choose 0 to 3")):
        assert main(["run", demo["job"], "--shard", text]) == 2
        assert words in capsys.readouterr().err


def test_workers_do_not_go_with_a_scheduler(demo, capsys):
    args = ["run", demo["job"], "--cluster", "tcp://127.0.0.1:1", "--workers", "2"]
    assert main(args) == 2
    assert "leave one of them out" in capsys.readouterr().err


def test_a_bug_is_one_line_and_debug_shows_where(monkeypatch, capsys):
    def broken(_path):
        raise RuntimeError("half a bug at https://x.org/a?sig=SECRET")

    monkeypatch.setattr("geoscale.api.load_job", broken)
    assert main(["plan", "job.yaml"]) == 1
    said = capsys.readouterr().err
    assert "error: RuntimeError: half a bug" in said
    assert "--debug" in said
    assert "Traceback" not in said
    assert main(["plan", "job.yaml", "--debug"]) == 1
    said += capsys.readouterr().err
    assert "Traceback" in said
    assert "SECRET" not in said


def test_nothing_that_is_said_moves_the_cursor(capsys):
    say("a \x1b[2Jname\x00 of\u202e \ud800 \x1b[31mstrangers\x1b[0m", err=True)
    assert capsys.readouterr().err == (
        "a \ufffd[2Jname\ufffd of\ufffd \ufffd strangers\n"
    )


def test_schema_is_json_schema(capsys):
    assert main(["schema"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["required"]) == {"imagery", "output"}  # cva needs no model


def test_models_are_listed_and_shown(capsys):
    assert main(["models", "list", "--json"]) == 0
    names = [row["name"] for row in json.loads(capsys.readouterr().out)]
    assert "s2-landcover-unet" in names
    assert main(["models", "list"]) == 0
    assert "s2-landcover-unet" in capsys.readouterr().out
    assert main(["models", "show", "s2-landcover-unet"]) == 0
    text = capsys.readouterr().out
    for words in ("blue, green, red, nir", "28 px of context", "Apache-2.0", "trees"):
        assert words in text


@pytest.mark.parametrize(
    ("licence", "words"),
    [
        (None, "UNKNOWN"),
        ("CC-BY-NC-4.0", "NOT for commercial use"),
        ("proprietary", "NOT for commercial use"),
        ("MIT", "licence     MIT"),
    ],
)
def test_a_licence_is_said_plainly(licence, words):
    from geoscale.cli.cards import describe_card
    from geoscale.models import find_card

    card = find_card("s2-landcover-unet").model_copy(update={"license": licence})
    assert words in "\n".join(describe_card(card))


def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m geoscale.cli schema | head -1"
    ended = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert ended.stdout == "{\n"
    assert not ended.stderr


def test_module_and_script_are_one():
    assert geoscale("--version").stdout.startswith("geoscale ")

"""What the documents say runs as written, and what they link to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from geoscale.card import ModelCard
from geoscale.job import load_job, parse_job
from geoscale.looking import choose_features
from geoscale.models import load_model

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name} → {target}"


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    folder = tmp_path_factory.mktemp("readme")
    prepare(folder, 600)
    return folder


def test_the_readmes_five_lines_run(demo_folder, monkeypatch):
    monkeypatch.chdir(demo_folder)
    code = blocks(ROOT / "README.md", "python")[0]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["report"].complete
    assert names["classes"].dims == ("time", "y", "x")


def test_the_page_on_python_runs(demo_folder, tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.chdir(tmp_path)
    for name in demo_folder.glob("*"):
        (tmp_path / name.name).symlink_to(name)
    (tmp_path / "clusters").symlink_to(ROOT / "clusters")
    text = (ROOT / "docs" / "python.md").read_text()
    names: dict = {}
    for code in re.findall(r"(?<!<!-- slurm -->)\n```python\n(.*?)```", text, re.S):
        exec(compile(code, "python.md", "exec"), names)
    assert names["report"].complete
    assert names["report"].dashboard.startswith("http://127.0.0.1:")
    assert names["classes"].dims == ("time", "y", "x")
    assert 0 <= float(names["share"]) <= 1
    assert "found" not in names, "a snippet for Slurm ran"


def test_the_readmes_job_file_runs(demo_folder, tmp_path):
    import geoscale as gs

    text = blocks(ROOT / "README.md", "yaml")[0]
    path = demo_folder / "readme.yaml"
    path.write_text(text.replace("landcover.zarr", str(tmp_path / "map.zarr")))
    assert gs.run_job(path).complete


def test_every_key_of_the_job_page_is_known(tmp_path):
    text = blocks(ROOT / "docs" / "job.md", "yaml")[0]
    path = tmp_path / "job.yaml"
    path.write_text(text)
    assert load_job(path).inference.stride == 200
    for line in re.findall(r"^  # ([a-z_]+: .*?)(?:  #.*)?$", text, re.M):
        assert yaml.safe_load(line)


def test_the_card_of_the_models_page_is_a_card():
    one, geotorch, scenes, pair = blocks(ROOT / "docs" / "models.md", "yaml")
    assert ModelCard.from_dict(yaml.safe_load(one)).input.channels == 4
    assert ModelCard.from_dict(yaml.safe_load(geotorch)).output.channels == 3
    assert ModelCard.from_dict(yaml.safe_load(scenes)).output.places((64, 64)) == (1, 1)
    assert ModelCard.from_dict(yaml.safe_load(pair)).input.channels == 8


def test_the_card_of_the_detection_page_is_a_card_whose_network_is_built():
    from geoscale.models.build import call_factory
    from geoscale.models.detectors import detector

    (text,) = blocks(ROOT / "docs" / "detection.md", "yaml")
    card = ModelCard.from_dict(yaml.safe_load(text))
    assert card.output.detection.suppression.method == "nms"
    network = call_factory(card.architecture, card.architecture_args, detector)
    assert network.backbone.body.conv1.in_channels == card.input.channels


def test_the_cards_and_the_job_of_the_page_on_tasks_are_what_they_say(tmp_path):
    parts = blocks(ROOT / "docs/tasks.md", "yaml")
    scenes, numbers, ahead, ahead_job, job, inside = parts
    card = ModelCard.from_dict(yaml.safe_load(scenes))
    assert (card.output.reduction, card.output.activation) == ("patch", "sigmoid")
    assert len(card.output.classes) == 19
    assert len(ModelCard.from_dict(yaml.safe_load(numbers)).output.bands) == 2
    seen = ModelCard.from_dict(yaml.safe_load(ahead))
    assert (seen.input.channels, seen.output.width) == (40, 80)
    parse_job(yaml.safe_load(ahead_job), where="tasks.md", base=tmp_path)
    looks = parse_job(yaml.safe_load(inside), where="tasks.md", base=tmp_path)
    found = choose_features(load_model(looks.model), looks.embedding, looks.task)
    assert found.output.features > 3
    asked = parse_job(yaml.safe_load(job), where="tasks.md", base=tmp_path)
    assert (asked.embedding.components, asked.output.dtype) == (16, "int8")


def test_the_page_of_schemas_names_them_all():
    from geoscale.schemas import list_schemas

    text = (ROOT / "docs" / "models.md").read_text()
    assert [name for name in list_schemas() if f"`{name}`" not in text] == []


def test_the_parts_of_the_quality_page_are_of_a_job(tmp_path):
    layers, turns, drops = blocks(ROOT / "docs" / "quality.md", "yaml")
    path = tmp_path / "job.yaml"
    path.write_text("imagery: {files: a.tif}\nmodel: ukis\n" + layers + turns)
    job = load_job(path)
    assert job.inference.tta == "flips"
    path.write_text("imagery: {files: a.tif}\nmodel: ukis\noutput: b.zarr\n" + drops)
    assert load_job(path).inference.mc_dropout == 20
    assert job.output.layers[2:] == ("entropy", "margin")


def test_the_jobs_of_the_fit_page_are_jobs(tmp_path):
    from geoscale.fitting.job import FitJob

    fitting, mapping, series = blocks(ROOT / "docs" / "fit.md", "yaml")
    assert FitJob.model_validate(yaml.safe_load(fitting)).attribute == "landuse"
    table = FitJob.model_validate(yaml.safe_load(series))
    assert (table.series.bands, table.series.nodata) == (("B04", "B08"), 65535)
    path = tmp_path / "job.yaml"
    path.write_text(mapping)
    assert load_job(path).model == str(tmp_path / "head" / "card.yaml")


def test_the_job_of_the_change_page_is_a_job(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(blocks(ROOT / "docs" / "change.md", "yaml")[0])
    job = load_job(path)
    assert (job.task, job.change.threshold) == ("change", 0.5)
    assert list(job.imagery.periods) == ["before", "after"]


def test_the_jobs_of_the_change_page_are_jobs(tmp_path):
    texts = blocks(ROOT / "docs" / "change.md", "yaml")
    least = {"imagery": {"files": "*.tif"}, "output": "x"}
    jobs = [
        parse_job(least | yaml.safe_load(text), where="change.md", base=tmp_path)
        for text in texts
    ]
    methods = [job.change.method for job in jobs]
    assert methods == [None, "irmad", "features"]


def test_the_makefile_has_the_readmes_words():
    words = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.M)
    named = set(re.findall(r"make (\w+)", (ROOT / "README.md").read_text()))
    assert named <= set(words)
    assert {"demo", "install", "check", "test", "slow", "bench", "docs"} <= set(words)


def test_the_profiles_of_the_gateways_page_are_profiles(tmp_path):
    from geoscale.clusters import load_profile

    for number, text in enumerate(blocks(ROOT / "docs" / "gateway.md", "yaml")):
        path = tmp_path / f"{number}.yaml"
        path.write_text(text)
        assert load_profile(path).type == "gateway"


def test_the_script_of_the_page_on_batch_systems_is_the_one_that_is_submitted():
    from geoscale.clusters import Script, load_profile, write_script

    page = ROOT / "docs" / "hpc.md"
    fields = yaml.safe_load(blocks(page, "yaml")[0])
    profile = load_profile({**fields, "python": "/opt/geoscale/bin/python"})
    folder = "/scratch/me/map.zarr/.geoscale/jobs"
    script = Script(
        kind="driver",
        name="geoscale-map",
        what="/home/me/job.yaml",
        cluster=f"{folder}/cluster.yaml",
        folder=folder,
    )
    assert blocks(page, "text")[0] == write_script(profile, script)

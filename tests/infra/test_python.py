"""The page on Python, run as it stands, with a real Slurm."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import geoscale as gs

pytestmark = pytest.mark.infra

PAGE = Path(__file__).resolve().parents[2] / "docs" / "python.md"
PROFILE = {
    "type": "slurm",
    "walltime": "10m",
    "cores": 1,
    "memory": "3GB",
    "driver": {"memory": "3GB"},
    "interface": "lo",
}


def test_a_plan_is_submitted_waited_for_and_opened(slurm, tmp_path, monkeypatch):
    pytest.importorskip("spyndex")
    from geoscale.demo.run import prepare

    prepare(tmp_path, 600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOSCALE_CPUS", "1")
    monkeypatch.setenv("PYTHONPATH", str(PAGE.parents[1]))
    (tmp_path / "slurm.yaml").write_text(yaml.safe_dump(PROFILE))
    text = PAGE.read_text()
    first = re.search(r"```python\n(.*?)```", text, re.S)[1]
    names: dict = {}
    exec(compile(first, "python.md", "exec"), names)
    early = None
    for code in re.findall(r"<!-- slurm -->\n```python\n(.*?)```", text, re.S):
        exec(compile(code, "python.md", "exec"), names)
        early = early or names["job"]._repr_html_()
    assert "slurm" in early
    found = names["found"]
    assert found["complete"], found
    assert found["done"] == found["blocks"]
    dataset = names["dataset"]
    assert not dataset["classes"].variable._in_memory
    html = names["job"]._repr_html_()
    assert "data:image/png;base64," in html
    assert "100 %" in html
    # the same plan, here
    gs.run(names["plan"], "here.zarr")
    here = gs.open_output("here.zarr")
    assert dataset["classes"].identical(here["classes"])

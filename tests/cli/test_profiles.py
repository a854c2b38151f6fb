"""Profiles of batch systems: what is shipped is valid, what is wrong is named."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest
import yaml

from geoscale.clusters import BatchProfile, connect, find_shipped, load_profile
from geoscale.clusters.kubernetes import make_spec
from geoscale.durations import parse_duration
from geoscale.errors import JobError, MissingDependencyError
from tests.cli.conftest import ROOT, geoscale

KNOWN = ("local", "local-gpu", "slurm", "pbs", "lsf", "sge", "htcondor", "ssh",
         "gateway", "kubernetes", "scheduler")  # fmt: skip
SLURM = "type: slurm\nwalltime: 4h\ncores: 8\nmemory: 32GB\n"


def test_every_kind_is_shipped():
    assert {path.stem for path in (ROOT / "clusters").glob("*.yaml")} == set(KNOWN)
    for name in KNOWN:
        assert load_profile(find_shipped(name)).type == name


@pytest.mark.parametrize("name", KNOWN)
def test_keys_that_are_commented_out_are_known_too(name, tmp_path):
    # "# key: value   # what it is", and lists and texts below a key
    lines = []
    for line in find_shipped(name).read_text().splitlines():
        key = line.removeprefix("# ")
        word = key.split(":")[0]
        if line.startswith("# ") and word.isidentifier() and ": " in key + " ":
            model = type(load_profile(find_shipped(name)))
            assert word in {*model.model_fields, "partition"}, line
            lines.append(word)
    assert name in ("gateway", "kubernetes") or lines


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (SLURM + "partiton: gpu", r"`partiton`; did you mean `partition`\?"),
        (SLURM + "driver: {walltme: 1h}", r"`driver.walltme`; did you mean `walltime`"),
        ("type: slurm\ncores: 8\nmemory: 32GB", "`walltime` is missing"),
        ("type: slurm\nwalltime: 4h\ncores: 8", "`memory` is missing"),
        (SLURM.replace("4h", "soon"), "time soon: write a time such as 3h50m"),
        (SLURM.replace("4h", "30s"), "is over before a model is loaded"),
        (SLURM + "driver: {walltime: 5s}", "`driver.walltime: 5s` is over"),
        (SLURM + "shape: aray", "`shape`: input should be 'driver-and-workers'"),
        (SLURM + "shape: array", "needs two `jobs` at least"),
        (SLURM + "partition: 'a; rm -rf /'", "`partition`"),
        (SLURM + "extra: [\"--x\\nrm -rf /\"]", "`extra.0`"),
        (SLURM.replace("32GB", "much"), "`memory`"),
        ("type: slurmm", r"did you mean `slurm`\?"),
        ("type: htcondor\nwalltime: 1h\ncores: 1\nmemory: 1GB\nshape: one-allocation",
         "`shape`"),
        ("type: ssh\nhosts: []", "`hosts`"),
        ("type: ssh\nhosts: ['-oProxyCommand=x y']\ninsecure: true", "`hosts.0`"),
    ],
)  # fmt: skip
def test_mistakes_are_named(text, words, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(JobError, match=words) as info:
        load_profile(path)
    assert "mine.yaml" in str(info.value)


def test_a_partition_is_a_queue_and_survives_being_written_down(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(SLURM + "partition: gpu\nlogs: logs\n")
    found = load_profile(path)
    assert isinstance(found, BatchProfile)
    assert found.queue == "gpu"
    assert found.logs == str(tmp_path / "logs")
    assert load_profile(found.model_dump()) == found


def test_walltimes_are_read_as_batch_systems_write_them():
    for text, seconds in (("4h", 14400), ("01:30:00", 5400), ("2-00:00:00", 172_800)):
        assert parse_duration(text) == seconds
    with pytest.raises(JobError, match="walltime 1:2:3: write a time"):
        parse_duration("1:2:3", "walltime")


def test_kubernetes_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "dask_kubernetes", None)
    cluster = connect(find_shipped("kubernetes"))
    with (
        pytest.raises(MissingDependencyError, match=r"geoscale\[kubernetes\]"),
        cluster,
    ):
        pass


def test_a_cluster_of_the_operator_is_described_by_its_own_schema():
    """Against the resource definition in dask-kubernetes; nothing of it is imported."""
    jsonschema = pytest.importorskip("jsonschema")
    found = importlib.util.find_spec("dask_kubernetes")
    if found is None or found.origin is None:
        pytest.skip(
            "the operator's schema comes with dask-kubernetes: pip install --no-deps "
            "--target DIR dask-kubernetes, and put DIR on PYTHONPATH"
        )
    folder = Path(found.origin).parent / "operator" / "deployment" / "helm"
    (path,) = folder.rglob("crds/daskcluster.yaml")
    resource = yaml.safe_load(path.read_text())
    (version,) = resource["spec"]["versions"]
    schema = close(version["schema"]["openAPIV3Schema"]["properties"]["spec"])
    profile = load_profile(find_shipped("kubernetes"))
    more = profile.model_copy(update={"gpus": 2, "memory": "16GiB"})
    for one in (profile, more):
        spec = make_spec(one, "geoscale-x", 2)
        jsonschema.validate(spec["spec"], schema)
    assert (spec["kind"], spec["apiVersion"]) == (
        resource["spec"]["names"]["kind"],
        f"{resource['spec']['group']}/{version['name']}",
    )
    (node,) = spec["spec"]["worker"]["spec"]["containers"]
    limits = {"cpu": "4", "memory": str(16 * 2**30), "nvidia.com/gpu": "2"}
    assert node["resources"]["limits"] == limits
    node["portz"] = []
    with pytest.raises(jsonschema.ValidationError, match="portz"):
        jsonschema.validate(spec["spec"], schema)


def close(schema):
    """A server prunes fields that it does not know; here they are mistakes."""
    if isinstance(schema, list):
        return [close(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: close(value) for key, value in schema.items()}
    if isinstance(made.get("properties"), dict) and "type" in made:
        made.setdefault("additionalProperties", False)
    return made


def test_shapes_that_need_a_job_or_no_client_say_so(monkeypatch):
    fields = {"type": "slurm", "walltime": "4h", "cores": 1, "memory": "4GB", "jobs": 2}
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    for shape, words in (
        ("array", "without Dask, so there is nothing to connect to"),
        ("one-allocation", "inside a batch job, and this is none"),
    ):
        with pytest.raises(JobError, match=words), connect({**fields, "shape": shape}):
            pass


def test_a_machine_without_the_batch_system_is_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    pytest.importorskip("dask_jobqueue")
    cluster = connect(find_shipped("slurm"))
    with pytest.raises(JobError, match="`sbatch` is not on this machine"), cluster:
        pass


def test_profiles_are_shown_to_be_kept():
    shown = geoscale("cluster", "show", "slurm")
    assert shown.returncode == 0
    assert shown.stdout == find_shipped("slurm").read_text()
    missing = geoscale("cluster", "show", "slurmm")
    assert missing.returncode == 2
    assert "did you mean `slurm`?" in missing.stderr

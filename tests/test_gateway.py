"""Profiles of gateways, who asks, and the cluster of an output; without a gateway."""

from __future__ import annotations

import json
import logging

import pytest

from geoscale.attaching import find_cluster
from geoscale.clusters import connect, load_profile
from geoscale.clusters.identity import make_auth
from geoscale.errors import JobError, OutputError, StoppedError

NOWHERE = "http://127.0.0.1:9"
SECRETS = (
    "GEOSCALE_GATEWAY_PASSWORD",
    "GEOSCALE_GATEWAY_TOKEN",
    "JUPYTERHUB_API_TOKEN",
)


@pytest.fixture(autouse=True)
def nobody(monkeypatch):
    for name in (*SECRETS, "GEOSCALE_GATEWAY_USER"):
        monkeypatch.delenv(name, raising=False)


def gateway(**fields):
    return load_profile({"type": "gateway", "address": NOWHERE, **fields})


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"address": "gateway.example.org"}, "`address`"),
        ({"address": "https://me:pw@gateway.example.org"}, "`address`"),
        ({"password": "x"}, "unknown key `password`"),
        ({"auth": "oauth"}, "`auth`"),
        ({"workers": 4, "maximum": 2}, "`maximum: 2` is less than `workers: 4`"),
        ({"wait": "soon"}, "write a time such as"),
        ({"image": "a", "options": {"image": "b"}}, "`image` is given twice"),
        ({"forward": ["A-B"]}, "`forward"),
    ],
)
def test_a_wrong_profile_says_what_is_wrong(fields, said):
    with pytest.raises(JobError, match=said) as told:
        gateway(**fields)
    assert "pw@" not in str(told.value)


def test_secrets_in_a_profile_are_refused_and_not_repeated():
    environment = {"AWS_SECRET_ACCESS_KEY": "CANARYsecret"}
    with pytest.raises(JobError, match="name it in `forward`") as told:
        connect(gateway(environment=environment).model_dump()).__enter__()
    assert "CANARY" not in str(told.value)


@pytest.mark.parametrize(
    ("auth", "variable"),
    zip(("basic", "token", "jupyterhub"), SECRETS, strict=True),
)
def test_who_asks_is_read_from_the_environment_only(auth, variable, monkeypatch):
    pytest.importorskip("dask_gateway")
    with pytest.raises(JobError, match=f"{variable} is not set"):
        make_auth(gateway(auth=auth))
    monkeypatch.setenv(variable, "CANARYsecret")
    monkeypatch.setenv("GEOSCALE_GATEWAY_USER", "alice")
    headers, _ = make_auth(gateway(auth=auth)).pre_request(None)
    (value,) = headers.values()
    assert (
        value
        == {
            "basic": "Basic YWxpY2U6Q0FOQVJZc2VjcmV0",
            "token": "Bearer CANARYsecret",
            "jupyterhub": "jupyterhub CANARYsecret",
        }[auth]
    )
    assert "CANARY" not in repr(gateway(auth=auth))


def test_a_gateway_that_nobody_encrypts_is_warned_of(monkeypatch, caplog):
    pytest.importorskip("dask_gateway")
    monkeypatch.setenv("GEOSCALE_GATEWAY_PASSWORD", "CANARYsecret")
    caplog.set_level(logging.WARNING)
    profile = gateway(address="http://gateway.invalid", wait="10s")
    with pytest.raises(StoppedError, match="no Dask Gateway answers at"):
        connect(profile.model_dump()).__enter__()
    assert "http://gateway.invalid is not encrypted" in caplog.text
    assert "CANARY" not in caplog.text
    assert not gateway().is_open
    assert not gateway(address="https://gateway.example.org").is_open


def test_an_output_without_a_cluster_says_what_to_do(tmp_path):
    with pytest.raises(OutputError, match="names no cluster that outlives its driver"):
        find_cluster(tmp_path)


@pytest.mark.parametrize(
    "told", [b"{", b"[]", b'{"type": "local"}', b'{"type": "gateway"}']
)
def test_a_note_that_is_no_gateways_is_refused(told, tmp_path):
    (tmp_path / ".geoscale").mkdir()
    (tmp_path / ".geoscale" / "cluster.json").write_bytes(told)
    with pytest.raises(OutputError, match="name the cluster with --cluster"):
        find_cluster(tmp_path)


def test_the_cluster_of_an_output_is_found(tmp_path):
    (tmp_path / ".geoscale").mkdir()
    told = {"type": "gateway", "address": NOWHERE, "name": "0a1b", "keep": False}
    (tmp_path / ".geoscale" / "cluster.json").write_text(json.dumps(told))
    found = find_cluster(tmp_path)
    assert (found.name, found.keep, found.address) == ("0a1b", False, NOWHERE)

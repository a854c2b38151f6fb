"""Files of strangers, a little wrong somewhere: taken, or refused with words.

Never another exception, a crash, a hang of ten seconds, or a message without end.
"""

from __future__ import annotations

import json
import os
import random
import re
from collections import Counter
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings

import geoscale as gs
from geoscale.card import ModelCard
from geoscale.engine.journal import Journal
from geoscale.sources import open_source
from tests.support.mutants import mutants, torn, write
from tests.support.sandbox import Sandbox

SEED = int(os.environ.get("GEOSCALE_SEED", "20"))
LONGEST_MESSAGE = 4000
UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\ud800-\udfff]")
BANDS = ("blue", "green", "red", "nir")
DATA = Path(gs.__file__).parent / "data"


def make_item():
    """An item in which nothing is left out, over a file that is there."""
    red = {"nodata": 0, "data_type": "uint16", "scale": 1e-4, "offset": 0.0}
    assets = {
        name: {
            "href": "./scene.tif",
            "type": "image/tiff; application=geotiff",
            "roles": ["data"],
            "gsd": 10,
            "eo:bands": [{"name": f"B0{number}", "common_name": name}],
            "raster:bands": [red | {"spatial_resolution": 10}],
        }
        for number, name in enumerate(BANDS, start=2)
    }
    assets["red"] |= {
        "proj:epsg": 32632,
        "proj:shape": [64, 64],
        "proj:transform": [10, 0, 600000, 0, -10, 5000000, 0, 0, 1],
    }
    assets["thumbnail"] = {"href": "t.png", "type": "image/png", "roles": ["thumbnail"]}
    ring = [[10.2, 45.1], [10.3, 45.1], [10.3, 45.2], [10.2, 45.2], [10.2, 45.1]]
    return {
        "type": "Feature",
        "stac_version": "1.0.0",
        "id": "S2A_32TPQ_20240501",
        "collection": "sentinel-2-l2a",
        "bbox": [10.2, 45.1, 10.3, 45.2],
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "datetime": "2024-05-01T10:00:00Z",
            "platform": "sentinel-2a",
            "proj:epsg": 32632,
            "proj:shape": [64, 64],
            "proj:transform": [10, 0, 600000, 0, -10, 5000000],
            "s2:processing_baseline": "05.10",
            "earthsearch:boa_offset_applied": True,
        },
        "links": [{"rel": "self", "href": "https://x.org/item.json"}],
        "assets": assets,
    }


JOB = {
    "imagery": {
        "files": "scene.tif",
        "band_names": list(BANDS),
        "times": ["2024-05-01"],
        "scale": 1e-4,
        "offset": 0.0,
        "groupby": "solar_day",
        "resampling": {"red": "nearest"},
        "on_missing": "nodata",
        "max_missing": 3,
    },
    "grid": {
        "crs": "EPSG:32632",
        "resolution": 10,
        "bounds": [6e5, 4999400, 600600, 5e6],
    },
    "model": "s2-landcover-unet",
    "task": "segmentation",
    "inference": {
        "block": 256,
        "patch": 312,
        "stride": 256,
        "merge": "crop",
        "batch": 2,
    },
    "output": {"to": "out.zarr", "layers": ["classes", "confidence"], "chunk": 64},
}  # fmt: skip

AREA = {
    "type": "FeatureCollection",
    "crs": {"type": "name", "properties": {"name": "urn:ogc:def:crs:OGC:1.3:CRS84"}},
    "features": [
        {
            "type": "Feature",
            "properties": {"name": "field"},
            "geometry": {
                "type": "Polygon",
                "coordinates": [
                    [[10.272, 45.146], [10.276, 45.146], [10.276, 45.149],
                     [10.272, 45.149], [10.272, 45.146]]
                ],
            },
        }
    ],
}  # fmt: skip
PROFILE = {"type": "local", "workers": 2, "threads_per_worker": 1, "memory": "4GB"}
KNOWN = {"job": JOB, "area": AREA, "profile": PROFILE}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A job that works, and an output that was begun."""
    import rasterio
    from affine import Affine

    here = tmp_path_factory.mktemp("strangers")
    pixels = np.random.default_rng(SEED).integers(1, 4000, (4, 64, 64), dtype="uint16")
    with rasterio.open(
        here / "scene.tif", "w", driver="GTiff", width=64, height=64, count=4,
        dtype="uint16", crs="EPSG:32632", nodata=0, tiled=True, blockxsize=32,
        blockysize=32, compress="deflate", transform=Affine(10, 0, 6e5, 0, -10, 5e6),
    ) as file:  # fmt: skip
        file.write(pixels)
    (here / "job.yaml").write_text(json.dumps(JOB))
    (here / "items.json").write_text(json.dumps(make_item()))
    job = gs.load_job(here / "job.yaml")
    from geoscale.assemble import make_sink

    plan = gs.plan_job(job)
    make_sink(plan, job.output.to).create()
    Journal(job.output.to).begin(plan)
    return here


@pytest.fixture(scope="module")
def ask(folder):
    with Sandbox("tests.support.strangers:take") as sandbox:
        yield lambda kind, data: sandbox.ask(kind, data.decode("latin-1"), str(folder))


def make_card():
    card = yaml.safe_load((DATA / "s2-landcover-unet.yaml").read_text())
    card["weights"]["href"] = str(DATA / card["weights"]["href"])
    return ModelCard.from_dict(card).to_dict()


def original(kind, folder):
    if kind == "plan":
        path = folder / "out.zarr" / ".geoscale" / "plan.json"
        kept = folder / "plan.kept"
        if not kept.exists():
            kept.write_bytes(path.read_bytes())
        return json.loads(kept.read_text())
    makers = {"item": make_item, "card": make_card}
    return makers[kind]() if kind in makers else KNOWN[kind]


def judge(found, data):
    """Taken or refused, with words that fit on a screen."""
    shown = data[:3000]
    assert found["ended"] in ("returned", "refused"), (found, shown)
    if found["ended"] == "refused":
        text = found["text"]
        assert 10 < len(text) < LONGEST_MESSAGE, (len(text), text[:300], shown)
        assert found["kind"] != "HungError"


KINDS = ("item", "job", "card", "plan", "area", "profile")


def try_mutants(kind, folder, ask, count, proof):
    """Hypothesis tries, and shrinks what it finds."""
    seen = {"returned": 0, "refused": 0}

    @hypothesis.seed(SEED)
    @settings(
        max_examples=count,
        database=None,
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    @given(mutants(original(kind, folder)))
    def each(mutant):
        data = write(mutant).encode()
        found = ask(kind, data)
        judge(found, data)
        seen[found["ended"]] += 1

    whole = write(original(kind, folder)).encode()
    assert ask(kind, whole)["ended"] == "returned", ask(kind, whole)
    each()
    print(f"{kind}: seed {SEED}, {seen}")
    assert seen["refused"], "nothing was wrong with any"
    proof(faults=sum(seen.values()), compared=0)


@pytest.mark.parametrize("kind", KINDS)
def test_some_mutants_are_taken_or_refused_with_words(kind, folder, ask, proof):
    try_mutants(kind, folder, ask, 15, proof)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_mutants_are_taken_or_refused_with_words(kind, folder, ask, share, proof):
    try_mutants(kind, folder, ask, max(20, round(200 * share)), proof)


@pytest.mark.parametrize("kind", KINDS)
def test_torn_texts_are_refused_with_words(kind, folder, ask):
    @hypothesis.seed(SEED)
    @settings(max_examples=15, database=None, suppress_health_check=list(HealthCheck))
    @given(torn(write(original(kind, folder))))
    def each(data):
        judge(ask(kind, data), data)

    each()


@pytest.mark.parametrize("word", ["a", "a-", "?a", "x-api-"])
def test_a_word_without_end_is_refused_at_once(word, ask):
    value = word * (200_000 // len(word))
    data = json.dumps({"type": "local", "memory": [value]}).encode()
    found = ask("profile", data)
    judge(found, data)
    assert found["ended"] == "refused"


@pytest.fixture(scope="module")
def table(folder):
    """The table of 300 items beside a plan, and what is in it."""
    raws = []
    for number in range(300):
        raw = make_item() | {"id": f"S2A_{number:04d}"}
        for asset in raw["assets"].values():
            place = [10, 0, 600000 + 37 * number, 0, -10, 5000000]
            asset |= {"proj:transform": place, "proj:shape": [64, 64]}
        raws.append(raw)
    (folder / "many.json").write_text(json.dumps(raws))
    source = open_source({"items": str(folder / "many.json"), "bands": ["red"]})
    known = [[item.to_json() for item in source.items], source.items.boxes.tolist()]
    (folder / "known.json").write_text(json.dumps(known))
    (folder / "spec.json").write_text(json.dumps(source.spec()))
    return source.tables()["items.parquet"]


def flip_bits(table, ask, count, proof):
    print(f"seed {SEED}")
    rng, seen = random.Random(SEED), Counter()
    for _ in range(count):
        data = bytearray(table)
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        found = ask("table", bytes(data))
        assert found["ended"] in ("returned", "refused"), found
        seen[found["ended"]] += 1
    print(dict(seen))
    assert seen["refused"]
    proof(faults=count, compared=seen["returned"] * len(table))


def test_one_bit_of_the_table_of_items_is_noticed_or_nothing(table, ask, proof):
    assert ask("table", table)["ended"] == "returned"
    flip_bits(table, ask, 20, proof)


@pytest.mark.slow
def test_many_bits_of_the_table_of_items(table, ask, share, proof):
    flip_bits(table, ask, max(30, round(1000 * share)), proof)


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{i}: &a{i} [{','.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
)
YAMLS = {
    "a tag": ("!!python/object/apply:os.system ['touch hacked']", "not plain YAML"),
    "a bomb of aliases": (BOMB + "imagery: *a11\n", "aliases"),
    "a list that holds itself": ("model: &a [*a]", "nested"),
    "depths": ("[" * 20_000, "nested"),
    "too many bytes": ("#" * 300_000, "larger than"),
    "month 13": ("model: 2024-13-45", "does not fit its type"),
    "no number": ("model: !!int ''", "does not fit its type"),
    "a number without end": ("model: " + "9" * 9999, "does not fit its type"),
    "no text": ("\x00\x01", "not plain YAML"),
}


@pytest.mark.parametrize("kind", ["job", "card"])
@pytest.mark.parametrize("name", YAMLS)
def test_hostile_yaml_is_refused(kind, name, folder, ask):
    text, words = YAMLS[name]
    found = ask(kind, text.encode())
    judge(found, text.encode())
    assert found["ended"] == "refused"
    assert words in found["text"]
    assert not Path("hacked").exists()


COMMANDS = {
    "job": (["plan", "{folder}/cli.yaml"], "cli.yaml"),
    "item": (["plan", "{folder}/of-items.yaml"], "cli.json"),
    "card": (["models", "show", "{folder}/cli-card.yaml"], "cli-card.yaml"),
    "plan": (["status", "{folder}/out.zarr"], "out.zarr/.geoscale/plan.json"),
}
"""What → words of a command, and the file that it meets."""


def try_commands(kind, folder, count, proof):
    """Exit code 2 and words, or the command does what it does; never a traceback."""
    words, name = COMMANDS[kind]
    words = [word.format(folder=folder) for word in words]
    of_items = JOB | {"imagery": {"items": "cli.json"}}
    (folder / "of-items.yaml").write_text(json.dumps(of_items))
    seen = Counter()

    @hypothesis.seed(SEED)
    @settings(
        max_examples=count, database=None, suppress_health_check=list(HealthCheck)
    )
    @given(mutants(original(kind, folder)))
    def each(mutant):
        text = write(mutant)
        found = sandbox.ask(words, str(folder / name), text)
        assert found["ended"] == "returned", (found, text[:1000])
        code, said = found["value"]["code"], found["value"]["err"]
        seen[code] += 1
        assert code in (0, 2, 3), (found, text[:1000])  # 3: a map is not complete
        assert "Traceback" not in said
        assert ("error:" in said) == (code == 2), said
        assert not UNPRINTABLE.search(said), repr(said)

    with Sandbox("tests.support.strangers:command") as sandbox:
        each()
    print(f"{kind}: seed {SEED}, exit codes {dict(seen)}")
    assert seen[2]
    proof(faults=sum(seen.values()), compared=0)


@pytest.mark.parametrize("kind", COMMANDS)
def test_commands_end_with_words_and_2(kind, folder, proof):
    try_commands(kind, folder, 8, proof)


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_many_commands_end_with_words_and_2(kind, folder, share, proof):
    try_commands(kind, folder, max(10, round(60 * share)), proof)

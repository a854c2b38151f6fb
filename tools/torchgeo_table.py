"""Write docs/torchgeo-weights.md: every weight of the installed torchgeo, tried.

Each network is built, given seeded weights in torch's cache, and run over a patch of
a real scene of its sensor; then the file is deleted. One at a time: the largest
takes 2.5 GB of disk and 6 GB of memory.

    TORCH_HOME=$(mktemp -d) python tools/torchgeo_table.py DATA --rows rows.jsonl
"""

from __future__ import annotations

import argparse
import gc
import json
import re
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
import torch
import torchgeo

from geoscale.admission import judge_license
from geoscale.bands import Band, common_name, match_bands
from geoscale.card import ModelCard
from geoscale.errors import GeoscaleError
from geoscale.models import find_card, list_models
from geoscale.models.build import build_module
from geoscale.models.check import make_image
from geoscale.models.seeding import hub_path, seed_weights
from geoscale.preprocess import Preprocessor

S2 = [f"B{n}" for n in (*range(1, 9), "8A", *range(9, 13))]
SCENES: dict[str, tuple[str, list[str], float]] = {
    # file, bands, what turns its values into reflectance (0: as stored)
    "sentinel-2": ("sen1floods11/Spain_7370579_S2Hand.tif", S2, 1e-4),
    "sentinel-1": ("sen1floods11/Spain_7370579_S1Hand.tif", ["VV", "VH"], 0),
    "landsat-8": ("scikit_eo/LC08_232066_20190727.tif", [f"B{n}" for n in range(2, 8)],
                  1e-4),
    "landsat-tm": ("stars_l7/L7_ETMs.tif", ["B1", "B2", "B3", "B4", "B5", "B7"],
                   0.4 / 255),
    "rgb": ("fair_buildings/kampala_A.tif", ["red", "green", "blue"], 0),
}  # fmt: skip
HEAD = """\
# Weights of torchgeo

Every weight of torchgeo {version}, as geoscale asks for it: `torchgeo:NAME`. Made by
`tools/torchgeo_table.py`: each network was built, given random weights in torch's
cache (the real ones are tens of GB), loaded with every key accounted for, and run over
one patch of a real scene of its sensor. Weights of one network, size and input share a
run: with equal random numbers it would be the same one. What a map of the real weights
looks like is not said here.

- **works**: a patch of the scene gave finite numbers of the shape that its card says.
- **works on noise**: the network runs; the scene at hand lacks a band it asks for.
- **refused**: it cannot be run over imagery, and says why.

Backbones give features, not classes. The random or photographic heads that torchgeo's
builders keep are never used; a job that names a backbone is refused: *use task
embedding or fit a head*. Of torchgeo's transforms only numbers are taken: they resize,
crop and normalise in place. Licences that forbid commercial use (NC) or are not known
(?) need `--accept-license` in a job. `geoscale models show torchgeo:NAME` says units,
scaling and what else to know.

{counts}

| weights | gives | bands | GSD, m | pixels, before (x - mean) / std | licence | MB | result |
|---|---|---|--:|---|---|--:|---|
"""  # noqa: E501  (rows of a table)


def main() -> None:
    """Try each weight and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="folder of test data")
    parser.add_argument("--rows", type=Path, required=True, help="tried so far")
    parser.add_argument("--only", default="", help="names that match")
    parser.add_argument("--to", type=Path, default=Path("docs/torchgeo-weights.md"))
    args = parser.parse_args()
    known = {}
    if args.rows.is_file():
        lines = args.rows.read_text().splitlines()
        known = {row["name"]: row for row in map(json.loads, lines)}
    twins = {key_of(name): name for name in known}
    entries = [e for e in list_models(backbones=True) if e.origin == "torchgeo"]
    for entry in entries:
        if entry.name in known or not re.search(args.only, entry.name):
            continue
        start = time.monotonic()
        twin = known.get(twins.get(key_of(entry.name), ""), {})
        # equal cards and seeds give equal bits: one run stands for both
        row = {**twin, "name": entry.name, "license": entry.license}
        row |= {} if twin else try_one(entry.name, args)
        twins[key_of(entry.name)] = entry.name
        known[entry.name] = row
        with open(args.rows, "a") as file:
            file.write(json.dumps(row) + "\n")
        print(f"{entry.name}  {row['result']}  {time.monotonic() - start:.1f} s")
        gc.collect()
    rows = [known[e.name] for e in entries if e.name in known]
    args.to.write_text(write_table(rows))


def key_of(name: str) -> str:
    """Digest of all of a card that the run over a patch depends on."""
    try:
        card = find_card(name)
    except GeoscaleError:
        return name
    kept = {"architecture", "architecture_args", "input", "output"}
    return json.dumps(card.model_dump(mode="json", include=kept), sort_keys=True)


def try_one(name: str, args: Any) -> dict[str, Any]:
    """Try one weight; whatever happens becomes its row."""
    try:
        card = find_card(name)
    except GeoscaleError as err:
        why = str(err).removeprefix(f"`{name.removeprefix('torchgeo:')}` ")
        return {"result": f"refused: {why}", "task": "none"}
    spec = card.input
    row: dict[str, Any] = {
        "task": card.task,
        "bands": list(spec.bands),
        "frames": spec.frames,
        "sensor": spec.sensor,
        "gsd": spec.gsd_m,
        "units": spec.units + (f" x {spec.multiply:g}" if spec.multiply != 1 else ""),
        "features": card.output.features or len(card.output.classes),
    }
    path = hub_path(card)
    try:
        seeded = seed_weights(card, path)
        row["mb"] = round(path.stat().st_size / 1e6)
        module = build_module(seeded, path)
        try:
            image, how = read_scene(card, args.data), "works"
        except GeoscaleError as err:
            size = spec.patch.size
            image, how = make_image(card, size, size), f"works on noise: {err}"
        with torch.inference_mode():
            out = module(torch.from_numpy(image[None])).numpy()
        row["result"] = judge(card, out, how)
    except GeoscaleError as err:
        row["result"] = f"refused: {err}"
    except Exception:
        row["result"] = f"TRACEBACK {traceback.format_exc(limit=-1)}"
        traceback.print_exc()
    finally:
        path.unlink(missing_ok=True)
    return row


def read_scene(card: ModelCard, data: Path) -> np.ndarray:
    """Read one patch of a scene of the card's sensor, bands as the card asks."""
    spec = card.input
    kind = spec.sensor if spec.bands[0] not in ("red", "green", "blue") else "rgb"
    file, names, scale = SCENES[kind or "rgb"]
    offered = [Band(n, common_name(n, spec.sensor) or n, n) for n in names]
    index = match_bands(spec.bands, offered, sensor=spec.sensor)
    size = spec.patch.size
    with rasterio.open(data / file) as scene:
        pixels = scene.read([i + 1 for i in index]).astype(np.float32)
    if spec.units == "reflectance":
        pixels *= scale
    # scenes of test data may be smaller than a patch: they are mirrored
    short = [(0, 0), *((0, max(0, size - n)) for n in pixels.shape[1:])]
    pixels = np.pad(np.nan_to_num(pixels), short, mode="symmetric")[:, :size, :size]
    stack = np.repeat(pixels[None] * np.float32(spec.multiply), spec.frames, axis=0)
    valid = np.ones((spec.frames, size, size), bool)
    before = stack.copy()
    made = Preprocessor.from_card(card).prepare(stack, valid)[0]
    assert (stack == before).all(), "normalised in place"
    return made


def judge(card: ModelCard, out: np.ndarray, how: str) -> str:
    """Hold the output against the card."""
    side, step = card.input.patch.size, card.output.reduction or 1
    count = card.output.features or len(card.output.classes)
    wanted = (1, count, side // step, side // step)
    if out.shape != wanted:
        return f"TRACEBACK shape {out.shape}, card says {wanted}"
    if not np.isfinite(out).all():
        return "TRACEBACK not finite"
    if float(out.std()) == 0:
        return "TRACEBACK constant"
    return how


def write_table(rows: list[dict[str, Any]]) -> str:
    """Write the page."""
    counts: dict[str, int] = {}
    for row in rows:
        word = row["result"].partition(":")[0]
        counts[word] = counts.get(word, 0) + 1
    said = ", ".join(f"{n} {word}" for word, n in counts.items())
    text = HEAD.format(
        version=torchgeo.__version__, counts=f"{len(rows)} weights: {said}."
    )
    return text + "".join(_line(row) for row in rows)


def _line(row: dict[str, Any]) -> str:
    mark = {"unknown": "?", "non-commercial": " **NC**", "": ""}
    licence = (row["license"] or "") + mark[judge_license(row["license"])]
    gives = {"none": "", "backbone": f"{row.get('features')} features"}.get(
        row["task"], f"{row.get('features')} classes"
    )
    gsd = row.get("gsd") or ("", "")
    span = f"{gsd[0]:g}" if gsd[0] == gsd[1] and gsd[0] else f"{gsd[0]}-{gsd[1]}"
    bands = " ".join(row.get("bands", ()))
    if row.get("frames", 1) > 1:
        bands += f", {row['frames']} dates"
    result = row["result"].replace("|", "/").replace("\n", " ")
    cells = [
        row["name"].removeprefix("torchgeo:"),
        gives,
        f"{row.get('sensor') or ''} {bands}".strip(),
        span.strip("-"),
        row.get("units", ""),
        licence,
        str(row.get("mb", "")),
        result,
    ]
    return "| " + " | ".join(cells) + " |\n"


if __name__ == "__main__":
    main()

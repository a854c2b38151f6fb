"""Train the demo's 4-band land-cover network as a student of Dynamic World.

The teacher (Google, nine Sentinel-2 L1C bands) labels the real chips under
GEOSCALE_TEST_DATA; the student sees four bands only. What the student is
compared with afterwards is the teacher, never ground truth.

    python tools/train_landcover_student.py --epochs 14

The teacher wants top-of-atmosphere (L1C) reflectance. L2A chips are given a
typical clear atmosphere before it labels them (it calls a Belgian village
grassland otherwise), and the student sees every chip anywhere between surface
and top of atmosphere, so that it can be fed either product.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from geoscale.models.unet import SmallUNet  # noqa: E402
from tools.landcover_chips import (  # noqa: E402
    CLASSES,
    DATA,
    F32,
    HELD_EOLEARN,
    PASS,
    PATH,
    STUDENT,
    Chip,
    Teacher,
    read_chips,
    to_toa,
)

BANDS = ["blue", "green", "red", "nir"]
MEAN = [0.08, 0.09, 0.09, 0.24]
STD = [0.05, 0.05, 0.06, 0.10]
# -1 blue .. 1 SWIR, and red against blue within the visible (red soils)
SLOPE = np.array([-1, -0.8, -0.6, -0.4, -0.2, -0.1, 0, 0.7, 1])[:, None, None]
REDDEN = np.array([-1, -0.3, 1, 0.7, 0.2, 0, 0, 0, 0])[:, None, None]
CROP = 96
SPAIN_HELD = 256  # the south-east quarter starts here ...
SPAIN_GUARD = 24  # ... and training stays this much away from it


def random_crop(chip: Chip, rng: np.random.Generator) -> F32:
    """Cut a turned, mirrored crop that keeps away from what is held out."""
    height, width = chip.surface.shape[1:]
    while True:
        y = int(rng.integers(0, height - CROP + 1))
        x = int(rng.integers(0, width - CROP + 1))
        edge = SPAIN_HELD - SPAIN_GUARD
        if chip.site != "spain" or y + CROP <= edge or x + CROP <= edge:
            break
    crop = chip.surface[:, y : y + CROP, x : x + CROP]
    crop = np.rot90(crop, int(rng.integers(4)), (1, 2))
    return crop[:, :, ::-1] if rng.random() < 0.5 else crop


def vary(crop: F32, other: F32, rng: np.random.Generator) -> F32:
    """Make new spectra from old; the teacher labels these, so labels stay true."""
    if rng.random() < 0.4:
        return crop
    if rng.random() < 0.4:
        share = rng.uniform(0.3, 0.9)
        crop = share * crop + (1 - share) * other
    tint = rng.normal(0, 0.2) + rng.normal(0, 0.2) * SLOPE
    return crop * np.exp(tint + rng.normal(0, 0.2) * REDDEN)


def make_pool(
    chips: list[Chip], teacher: Teacher, count: int, rng: np.random.Generator
) -> tuple[Tensor, Tensor]:
    """Crops (surface, four bands) with the teacher's probabilities, in half floats."""
    sites = ["spain", "eolearn", "worldcereal"]
    by_site = {s: [c for c in chips if c.site == s and not c.held] for s in sites}

    def draw() -> F32:
        site = by_site[str(rng.choice(sites, p=[0.5, 0.15, 0.35]))]
        return random_crop(site[int(rng.integers(len(site)))], rng)

    inputs, labels = [], []
    for _ in range(0, count, 16):
        batch = np.stack([vary(draw(), draw(), rng) for _ in range(16)])
        inputs.append(torch.from_numpy(batch[:, STUDENT].astype(np.float16)))
        labels.append(teacher(to_toa(batch)).half())
    return torch.cat(inputs), torch.cat(labels)


def as_seen(surface: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised student input: any haze between none and L1C, gains, noise."""
    n = len(surface)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    # a quarter of the crops exactly L2A, a quarter exactly L1C
    haze = (torch.rand(n, 1, 1, 1, generator=generator) * 2 - 0.5).clamp(0, 1)
    toa = surface * torch.from_numpy(PASS[STUDENT]) + torch.from_numpy(PATH[STUDENT])
    x = surface + haze * (toa - surface)
    x = x * torch.exp(0.1 * normal(n, 1, 1, 1) + 0.04 * normal(n, 4, 1, 1))
    x = x + 0.003 * normal(*x.shape)
    return normalise(x)


def normalise(reflectance: Tensor) -> Tensor:
    """``(reflectance - mean) / std`` for each band."""
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    return (reflectance - mean[:, None, None]) / std[:, None, None]


def turn(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both turned and mirrored alike."""
    quarter, mirror = torch.randint(0, 4, (2,), generator=generator).tolist()
    x, y = (torch.rot90(t, quarter, (2, 3)) for t in (x, y))
    return (x.flip(3), y.flip(3)) if mirror < 2 else (x, y)


def train(net: SmallUNet, pool: tuple[Tensor, Tensor], epochs: int, seed: int) -> None:
    """Soft distillation with a share of plain cross-entropy."""
    generator = torch.Generator().manual_seed(seed)
    steps = len(pool[0]) // 16
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3, weight_decay=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=3e-3, total_steps=epochs * steps, pct_start=0.15
    )
    net.train().to(memory_format=torch.channels_last)
    start = time.perf_counter()
    for epoch in range(epochs):
        total = 0.0
        order = torch.randperm(len(pool[0]), generator=generator)
        for pick in order[: steps * 16].split(16):
            x, soft = turn(pool[0][pick].float(), pool[1][pick].float(), generator)
            scores = net(as_seen(x, generator)).log_softmax(1)
            distil = functional.kl_div(scores, soft, reduction="none").sum(1).mean()
            loss = 0.7 * distil + 0.3 * functional.nll_loss(scores, soft.argmax(1))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1}: loss {total / steps:.4f}, {seconds:.0f} s")
    net.eval().to(memory_format=torch.contiguous_format)


def predict(net: nn.Module, reflectance: F32) -> Tensor:
    """Logits of one (4, y, x) image of reflectance."""
    with torch.no_grad():
        logits: Tensor = net(normalise(torch.from_numpy(reflectance))[None])
    return logits[0]


def agreement(truth: NDArray[Any], guess: NDArray[Any]) -> dict[str, Any]:
    """Agreement of two class maps; IoU over the classes that the teacher uses."""
    n = len(CLASSES)
    table = np.bincount(truth.ravel() * n + guess.ravel(), minlength=n * n)
    table = table.reshape(n, n)
    hit, true, said = table.diagonal(), table.sum(1), table.sum(0)
    classes = {
        name: {
            "pixels": int(true[i]),
            "student_pixels": int(said[i]),
            "iou": round(float(hit[i] / (true[i] + said[i] - hit[i])), 4),
            "recall": round(float(hit[i] / true[i]), 4),
        }
        for i, name in enumerate(CLASSES)
        if true[i]
    }
    return {
        "pixels": int(table.sum()),
        "accuracy": round(float(hit.sum() / table.sum()), 4),
        "mean_iou": round(float(np.mean([c["iou"] for c in classes.values()])), 4),
        "per_class": classes,
    }


def score(net: nn.Module, teacher: Teacher, chips: list[Chip]) -> dict[str, Any]:
    """Agreement with the teacher on each held-out group and on all together."""
    groups: dict[str, list[tuple[NDArray[Any], NDArray[Any]]]] = {}
    notes = {
        "spain": "south-east quarter: near the training pixels, apart from them",
        "eolearn": f"date {HELD_EOLEARN}: same place as in training, another date",
        "worldcereal": "2021-06 and 2021-10: same place, other months",
        "bigearthnet": "another site, nothing of it seen in training",
    }
    for chip in chips:
        if not chip.held and chip.site != "spain":
            continue
        seen = chip.toa if chip.level == "L1C" else chip.surface
        truth = teacher(chip.toa[None])[0].argmax(0).numpy()
        guess = predict(net, seen[STUDENT]).argmax(0).numpy()
        if chip.site == "spain":
            quarter = (slice(SPAIN_HELD, None), slice(SPAIN_HELD, None))
            truth, guess = truth[quarter], guess[quarter]
        groups.setdefault(chip.site, []).append((truth, guess))
    result = {}
    pairs = [(t.ravel(), g.ravel()) for group in groups.values() for t, g in group]
    for site, group in [*groups.items(), ("all", pairs)]:
        truth = np.concatenate([t.ravel() for t, _ in group])
        guess = np.concatenate([g.ravel() for _, g in group])
        result[site] = {"what": notes.get(site, "all of the above together")}
        result[site] |= agreement(truth, guess)
    return result


def look(net: nn.Module) -> dict[str, float] | None:
    """Class fractions on the demo's image: looked at, never trained on."""
    try:
        import spyndex
    except ImportError:
        return None
    image = spyndex.datasets.open("sentinel").values.astype(np.float32) / 1e4
    classes = predict(net, image).argmax(0)
    fractions = {n: float((classes == i).float().mean()) for i, n in enumerate(CLASSES)}
    print("spyndex", fractions)
    return {name: round(value, 4) for name, value in fractions.items()}


def measure_halo(net: SmallUNet, image: F32) -> tuple[int, float]:
    """Find the smallest aligned halo whose 64 px tiles equal the whole image."""
    whole = predict(net, image)
    size, step = image.shape[1], net.alignment
    for halo in range(0, 64, step):
        worst = 0.0
        for y in range(0, size, 64):
            for x in range(0, size, 64):
                top, left = max(y - halo, 0), max(x - halo, 0)
                tile = image[:, top : y + 64 + halo, left : x + 64 + halo]
                inner = predict(net, np.ascontiguousarray(tile))
                inner = inner[:, y - top : y - top + 64, x - left : x - left + 64]
                gap = (inner - whole[:, y : y + 64, x : x + 64]).abs().max()
                worst = max(worst, float(gap))
        print(f"halo {halo}: largest logit difference {worst:.2g}")
        if worst < 1e-4:
            return halo, worst
    raise AssertionError("no halo below 64 px is enough")


def structural_radius(width: int) -> int:
    """How far one input pixel reaches, whatever the weights and pooling phase."""
    net = SmallUNet(width=width).double().eval()
    reach = 0
    with torch.no_grad():
        # positive weights and no biases: nothing cancels, nothing drowns
        for name, parameter in net.named_parameters():
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        for phase in range(net.alignment):
            x = torch.zeros(1, 4, 128, 128, dtype=torch.float64)
            x[..., 64 + phase, 64 + phase] = 1.0
            rows = (net(x) > 0).any(dim=3).any(dim=1)[0].nonzero()
            reach = max(reach, int((rows - 64 - phase).abs().max()))
    return reach


def save(net: SmallUNet, path: Path, probe: F32) -> dict[str, Any]:
    """Write the weights, read them back and check that nothing changed."""
    # the counter of batches is no weight, but a strict load asks for it
    state = {k: v.contiguous() for k, v in net.state_dict().items()}
    meta = {"bands": ",".join(BANDS), "mean": str(MEAN), "std": str(STD)}
    save_file(state, path, metadata=meta | {"classes": ",".join(CLASSES)})
    again = SmallUNet(width=net.head.in_channels)
    again.load_state_dict(load_file(path), strict=True)
    assert torch.equal(predict(again.eval(), probe), predict(net, probe))
    return {
        "bytes": path.stat().st_size,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
    }


def main() -> None:
    """Train, score, save."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=14)
    parser.add_argument("--pool", type=int, default=2400, help="crops labelled")
    parser.add_argument("--width", type=int, default=24)
    parser.add_argument("--seed", type=int, default=20251)
    parser.add_argument("--threads", type=int, default=2)
    out = ROOT / "geoscale" / "data" / "s2-landcover-unet.safetensors"
    parser.add_argument("--out", type=Path, default=out)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    data = os.environ.get("GEOSCALE_TEST_DATA", str(ROOT.parent / "shared" / "data"))
    start = time.perf_counter()
    chips, teacher = read_chips(Path(data)), Teacher(Path(data))
    pool = make_pool(chips, teacher, args.pool, rng)
    print(f"labelled {len(pool[0])} crops in {time.perf_counter() - start:.0f} s")
    net = SmallUNet(width=args.width)
    train(net, pool, args.epochs, args.seed)
    seconds = round(time.perf_counter() - start)
    held = score(net, teacher, chips)
    for site, figures in held.items():
        print(site, {k: v for k, v in figures.items() if k != "per_class"})
    spain = np.ascontiguousarray(chips[0].toa[STUDENT][:, :256, :256])
    halo, worst = measure_halo(net, spain)
    metrics = {
        "architecture": "geoscale.models.unet:SmallUNet",
        "arguments": {"in_channels": 4, "classes": 9, "width": args.width},
        "bands": BANDS,
        "input": "reflectance 0..1, L2A or L1C, baseline offset applied",
        "mean": MEAN,
        "std": STD,
        "classes": [{"name": n, "color": f"#{c}"} for n, c in CLASSES.items()],
        "parameters": sum(p.numel() for p in net.parameters()),
        "weights": save(net, args.out, spain),
        "alignment": net.alignment,
        "halo": {
            "measured_px": halo,
            "largest_logit_difference": worst,
            "receptive_field_radius_px": structural_radius(args.width),
        },
        "teacher": "Dynamic World (google/dynamicworld model/forward, Apache-2.0)",
        "held_out_agreement_with_teacher": held,
        "note": "agreement with the teacher, not accuracy against ground truth",
        "spyndex_class_fractions": look(net),
        "data": DATA,
        "training": {
            "seconds": seconds,
            "epochs": args.epochs,
            "crops": args.pool,
            "seed": args.seed,
            "torch": torch.__version__,
            "threads": args.threads,
        },
    }
    target = args.out.with_suffix(".metrics.json")
    target.write_text(json.dumps(metrics, indent=1) + "\n")
    print(f"wrote {args.out.name} and {target.name}; {seconds} s")


if __name__ == "__main__":
    main()

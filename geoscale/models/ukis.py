"""Cards of the networks of the package ukis-csmask: clouds and their shadows."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path

from geoscale.card import ModelCard
from geoscale.errors import MissingDependencyError

UKIS = {
    f"ukis-csmask-{n}b-{level}": f"Clouds and shadows, {n} bands, {level.upper()}"
    for n in (4, 6)
    for level in ("l1c", "l2a")
}
"""Name → title of each network of the package."""

_UKIS_CLASSES = ("background", "clouds", "cloud_shadows")
_UKIS_COLORS = ("2E7D32", "ECEFF1", "455A64")


def ukis_card(name: str) -> ModelCard:
    """Make a card of the JSON that lies beside the package's ONNX file.

    Parameters
    ----------
    name : str
        Key of `UKIS`.

    Returns
    -------
    ModelCard
        The model.

    Raises
    ------
    MissingDependencyError
        If the package is not installed.
    """
    spec = importlib.util.find_spec("ukis_csmask")
    if spec is None or spec.origin is None:
        raise MissingDependencyError(
            f"`ukis_csmask`, which carries `{name}`, is not installed; "
            "run: pip install 'geoscale[onnx]'"
        )
    _, _, bands, level = name.split("-")
    stem = f"model_{bands}_{level}"
    path = Path(spec.origin).with_name(f"{stem}.json")
    meta = json.loads(path.read_text(encoding="utf-8"))
    data, stats = meta["data"], meta["data"]["dataset_statistics"]
    version = importlib.metadata.version("ukis-csmask")
    return ModelCard.from_dict(
        {
            "name": name,
            "title": UKIS[name],
            "weights": {"href": f"package:ukis_csmask/{stem}.onnx", "format": "onnx"},
            "input": {
                "bands": stats["band_names"],
                "units": "reflectance",
                "normalization": {
                    "type": "mean-std",
                    "mean": stats["img"][0],
                    "std": stats["img"][1],
                },
                "patch": {"size": data["target_size"][0], "fixed": True},
                "gsd_m": (10.0, 30.0),
            },
            "output": {
                "classes": [
                    {"value": i, "name": label, "color": color}
                    for i, (label, color) in enumerate(
                        zip(_UKIS_CLASSES, _UKIS_COLORS, strict=True)
                    )
                ],
                "activation": "softmax",
            },
            "license": _spdx(importlib.metadata.metadata("ukis-csmask")["License"]),
            "citation": "Wieland, Fichtner, Martinis 2022, "
            "doi:10.5194/isprs-archives-XLIII-B3-2022-217-2022",
            "notes": f"ukis-csmask {version}, network {meta['model']['version']}; "
            f"expects {level.upper()} reflectance near 30 m. Its squeeze-excite "
            "looks at the whole patch: no halo makes tiles equal, blend them.",
        },
        where=name,
    )


def _spdx(text: str | None) -> str | None:
    """``Apache 2.0`` → ``Apache-2.0``."""
    return text.replace(" ", "-") if text else None

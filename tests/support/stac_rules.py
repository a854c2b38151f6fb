"""What the extensions that our Items declare ask of them.

No installed package carries the schemas of extensions, and none is copied here: what
they ask of fields is said again. Core is checked by the schemas that pystac bundles.
"""

from __future__ import annotations

from typing import Any

_BASE = "https://stac-extensions.github.io"


def _exactly(prefix: str, fields: dict[str, Any]) -> dict[str, Any]:
    """A schema of fields of one prefix, and of no others of that prefix."""
    return {
        "type": "object",
        "properties": {f"{prefix}:{name}": rule for name, rule in fields.items()},
        "patternProperties": {f"^(?!{prefix}:)": {}},
        "additionalProperties": False,
    }


def _numbers(*counts: int) -> dict[str, Any]:
    some = [{"minItems": n, "maxItems": n} for n in counts]
    return {"type": "array", "items": {"type": "number"}, "oneOf": some}


_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
_CLASS = {
    "type": "object",
    "required": ["value", "name"],
    "properties": {
        "value": {"type": "integer"},
        "name": {"type": "string", "pattern": "^[0-9A-Za-z-_]+$"},
        "title": _TEXT,
        "description": _TEXT,
        "color_hint": {"type": "string", "pattern": "^[0-9A-Fa-f]{6}$"},
        "nodata": {"type": "boolean"},
        "percentage": {"type": "number"},
        "count": {"type": "integer"},
    },
    "additionalProperties": False,
}
_COLUMN = {
    "type": "object",
    "required": ["name"],
    "properties": {"name": _TEXT, "description": _TEXT, "type": _TEXT},
}
RULES = {
    f"{_BASE}/projection/v2.0.0/schema.json": _exactly(
        "proj",
        {
            "code": {"type": ["string", "null"], "pattern": "^[A-Z]+:.+$"},
            "wkt2": {"type": ["string", "null"]},
            "bbox": _numbers(4, 6),
            "shape": {**_numbers(2), "items": {"type": "integer"}},
            "transform": _numbers(6, 9),
        },
    ),
    f"{_BASE}/processing/v1.2.0/schema.json": _exactly(
        "processing",
        {
            "lineage": _TEXT,
            "software": {"type": "object", "additionalProperties": _TEXT},
        },
    ),
    f"{_BASE}/file/v2.1.0/schema.json": _exactly(
        "file",
        {"checksum": {**_TEXT, "pattern": "^[a-f0-9]+$"}, "size": _COUNT},
    ),
    f"{_BASE}/classification/v2.0.0/schema.json": _exactly(
        "classification",
        {"classes": {"type": "array", "minItems": 1, "items": _CLASS}},
    ),
    f"{_BASE}/raster/v2.0.0/schema.json": _exactly(
        "raster", {"scale": {"type": "number"}, "offset": {"type": "number"}}
    ),
    f"{_BASE}/table/v1.2.0/schema.json": _exactly(
        "table",
        {
            "row_count": _COUNT,
            "primary_geometry": _TEXT,
            "columns": {"type": "array", "minItems": 1, "items": _COLUMN},
        },
    ),
}
"""Extension → schema of the fields of properties and of each asset."""


def check_item(item: dict[str, Any]) -> None:
    """Hold an Item against the core, and against every extension that it declares.

    A prefix of ours that is used is declared, but for MLM, which describes models.
    """
    from jsonschema import Draft7Validator
    from pystac.validation.local_validator import LocalValidator

    wrong = [
        str(e.message) for e in LocalValidator().item_validator().iter_errors(item)
    ]
    parts = {"properties": item["properties"], **item["assets"]}
    for url, rules in RULES.items():
        for name, part in parts.items():
            if url in item["stac_extensions"]:
                found = Draft7Validator(rules).iter_errors(part)
                wrong += [f"{name}: {error.message}" for error in found]
            else:
                prefix = next(iter(rules["properties"])).partition(":")[0]
                wrong += [f"{name}: {k} is not declared" for k in part
                          if k.startswith(f"{prefix}:")]  # fmt: skip
    unknown = set(item["stac_extensions"]) - set(RULES)
    assert not wrong, wrong
    assert not unknown, unknown

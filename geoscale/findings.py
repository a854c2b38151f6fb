"""What pydantic found wrong, as sentences."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

from geoscale.words import nearest_key, redact, shorten

MOST_FINDINGS = 8
"""Wrong fields that a message names; a broken file may have thousands."""


def explain_validation(err: ValidationError, model: type[BaseModel]) -> str:
    """Put pydantic's findings into one sentence each, with the nearest key.

    Parameters
    ----------
    err : ValidationError
        What pydantic raised.
    model : type
        The model that was asked for.

    Returns
    -------
    str
        One line per finding: where, what, got, what to do.
    """
    lines = []
    findings = err.errors()
    for item in findings[:MOST_FINDINGS]:
        where = shorten(".".join(str(part) for part in item["loc"])) or "top level"
        if item["type"] == "extra_forbidden":
            lines.append(f"unknown key `{where}`{nearest_key(item['loc'], model)}")
        elif item["type"] == "missing":
            lines.append(f"`{where}` is missing")
        else:
            got = shorten(redact(repr(item.get("input"))))
            text = item["msg"].removeprefix("Value error, ")
            lines.append(f"`{where}`: {text[0].lower()}{text[1:]}; got {got}")
    if len(findings) > MOST_FINDINGS:
        lines.append(f"and {len(findings) - MOST_FINDINGS} more of this kind")
    return "; ".join(lines)

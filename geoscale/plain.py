"""Plain data out of YAML that anybody may have written: no code, no bombs, no depths.

A short file can stand for terabytes: an alias names a list of aliases, and so on.
PyYAML shares them, whatever walks them afterwards does not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from geoscale.errors import GeoscaleError

LARGEST_BYTES = 2**18
"""Size of a job file, card or profile beyond which it is something else."""
MOST_VALUES = 100_000
"""Values in a file, aliases written out."""
DEEPEST = 50
"""Lists and mappings inside each other."""


def read_yaml(path: str | Path, what: str, error: type[GeoscaleError]) -> Any:
    """Read a small YAML or JSON file.

    Parameters
    ----------
    path : str or Path
        Local file.
    what : str
        What it is, for messages: ``job file``.
    error : type
        What is raised.

    Returns
    -------
    object
        Plain data; whatever stands at the top.

    Raises
    ------
    GeoscaleError
        Of the kind asked for: it is missing, too large, or not plain YAML.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(LARGEST_BYTES + 1)
    except FileNotFoundError:
        raise error(f"{what} {path} does not exist") from None
    except (OSError, ValueError) as err:
        raise error(f"{what} {path} cannot be read: {err}") from None
    return parse_yaml(data, f"{what} {path}", error)


def parse_yaml(data: bytes, where: str, error: type[GeoscaleError]) -> Any:
    """Parse YAML or JSON of limited size, depth and number of values.

    Parameters
    ----------
    data : bytes
        UTF-8.
    where : str
        Begins the message.
    error : type
        What is raised.

    Returns
    -------
    object
        Plain data.

    Raises
    ------
    GeoscaleError
        Of the kind asked for.
    """
    if len(data) > LARGEST_BYTES:
        raise error(
            f"{where} is larger than {LARGEST_BYTES >> 10} kB; it should hold a few "
            "settings, and name other files"
        )
    try:
        loader = yaml.SafeLoader(data.decode("utf-8"))
        node = loader.get_single_node()
        if node is None:
            return None
        _measure(node, {}, 0)
        return loader.construct_document(node)
    except RecursionError:
        why = f"lists and mappings are nested more than {DEEPEST} deep"
    except yaml.YAMLError as err:
        why = " ".join(str(err).split())[:300]
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as err:
        # what PyYAML itself trips over: `!!int ""`, month 13, numbers without end
        why = f"a value does not fit its type ({' '.join(str(err).split())[:200]})"
    raise error(f"{where} is not plain YAML: {why}")


def _measure(node: yaml.Node, known: dict[int, int], depth: int) -> int:
    """Count the values below a node, those that aliases repeat too."""
    if depth > DEEPEST:  # also where a list holds itself
        raise RecursionError
    if id(node) in known:
        return known[id(node)]
    count = 1
    if isinstance(node, yaml.SequenceNode):
        count += sum(_measure(one, known, depth + 1) for one in node.value)
    elif isinstance(node, yaml.MappingNode):
        pairs = [one for pair in node.value for one in pair]
        count += sum(_measure(one, known, depth + 1) for one in pairs)
    if count > MOST_VALUES:
        raise yaml.YAMLError(
            f"it holds more than {MOST_VALUES:,} values, aliases written out"
        )
    known[id(node)] = count
    return count

"""Python objects by dotted path or from a file, only where trusted.

A card may name an architecture or a function. Names in a few well-known
packages are imported as they are; anything else is somebody's code and runs
only with `trust_code`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from geoscale.errors import CardError
from geoscale.words import suggest

TRUSTED_PACKAGES = (
    "geoscale",
    "segmentation_models_pytorch",
    "torchgeo",
    "torchvision",
)
"""Packages whose objects a card may name without `trust_code`."""


def is_trusted(path: str) -> bool:
    """Whether ``package.module:name`` lies in a package known to be safe.

    Examples
    --------
    >>> is_trusted("torchgeo.models:FCN"), is_trusted("net.py:Net")
    (True, False)
    """
    module = path.partition(":")[0]
    return not module.endswith(".py") and module.split(".")[0] in TRUSTED_PACKAGES


def load_object(path: str, *, base: str | None = None, trust_code: bool = False) -> Any:
    """Import what a card names.

    Parameters
    ----------
    path : str
        ``package.module:name``, or ``file.py:name`` relative to `base`.
    base : str, optional
        Folder of the card.
    trust_code : bool
        Allow code outside `TRUSTED_PACKAGES`.

    Returns
    -------
    object
        The class or function.

    Raises
    ------
    CardError
        If the path has no name, is not trusted, or does not exist.
    """
    module_path, _, name = path.partition(":")
    if not name:
        raise CardError(f"`{path}` names no object; write `module:Name`")
    check_trust(path, trust_code=trust_code)
    module = (
        _load_file(Path(base or ".") / module_path)
        if module_path.endswith(".py")
        else _import(module_path)
    )
    if not hasattr(module, name):
        public = [n for n in vars(module) if not n.startswith("_")]
        raise CardError(f"`{module_path}` has no `{name}`{suggest(name, public)}")
    return getattr(module, name)


def check_trust(path: str, *, trust_code: bool) -> None:
    """Refuse somebody's code that nobody allowed; nothing is imported.

    Raises
    ------
    CardError
        Naming it, and how it is allowed.
    """
    if not is_trusted(path) and not trust_code:
        raise CardError(
            f"`{path}` is Python code outside {', '.join(TRUSTED_PACKAGES)}; "
            "read it, then allow it with `--trust-code` (Python: trust_code=True)"
        )


def hash_code(path: str, *, base: str | None = None) -> str | None:
    """Hash the file behind ``file.py:name``; None for an installed module."""
    module_path = path.partition(":")[0]
    if not module_path.endswith(".py"):
        return None
    file = Path(base or ".") / module_path
    if not file.is_file():
        raise CardError(f"Python file {file} does not exist")
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as err:
        raise CardError(f"module `{name}` cannot be imported: {err}") from err


def _load_file(file: Path) -> ModuleType:
    """Run a file once per content; the same content gives the same module."""
    if not file.is_file():
        raise CardError(f"Python file {file} does not exist")
    digest = hashlib.sha256(file.read_bytes()).hexdigest()[:16]
    name = f"_geoscale_user_{file.stem}_{digest}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as err:
        del sys.modules[name]
        raise CardError(f"{file} failed on import: {err!r}") from err
    return module

"""Signing hrefs where they are opened; what is stored is never signed.

A signer is ``planetary-computer`` or ``package.module:function``, which takes an href
and returns it signed. It is called at every opening, in the worker that opens, so it
may keep what it was given for as long as that is good. Where a server refuses the
signature all the same, the signer is told to forget it: a function may have an
attribute ``renew`` for that, a function without arguments.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any, cast

from geoscale.errors import SourceError, require

_ALIASES = {"planetary-computer": "planetary_computer:sign_url"}


def sign(href: str, signer: str | None) -> str:
    """Sign an href by the named signer, or give it back.

    Parameters
    ----------
    href : str
        Unsigned.
    signer : str or None
        ``planetary-computer``, or ``package.module:function`` that takes an
        href and returns it signed.

    Returns
    -------
    str
        To be opened now, and stored nowhere.

    Raises
    ------
    SourceError
        If there is no such signer.
    """
    return href if signer is None else str(find_signer(signer)(href))


def renew(signer: str | None) -> None:
    """Let a signer forget what it keeps, since a server refuses it.

    Parameters
    ----------
    signer : str or None
        As for `sign`.
    """
    if signer is None:
        return
    forget: Any = getattr(find_signer(signer), "renew", None)
    if signer == "planetary-computer":
        # tokens were seen that had expired when they were issued
        forget = importlib.import_module("planetary_computer.sas").TOKEN_CACHE.clear
    if forget is not None:
        forget()


def find_signer(signer: str) -> Callable[[str], str]:
    """Import a signer.

    Raises
    ------
    SourceError
        If there is none of this name.
    """
    module_name, _, name = _ALIASES.get(signer, signer).partition(":")
    if not name:
        raise SourceError(
            f"imagery.signer `{signer}` is neither `planetary-computer` nor "
            "`package.module:function`"
        )
    if module_name == "planetary_computer":
        module = require(module_name, extra="azure")
    else:
        try:
            module = importlib.import_module(module_name)
        except ImportError as err:
            raise SourceError(f"imagery.signer `{signer}`: {err}") from err
    found = getattr(module, name, None)
    if not callable(found):
        raise SourceError(f"imagery.signer `{signer}`: {module_name} has no `{name}`")
    return cast("Callable[[str], str]", found)
